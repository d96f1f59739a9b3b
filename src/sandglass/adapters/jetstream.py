"""
Replicated logs: each a stream of the cluster's engine, read by all replicas, written by one.

- `Stream`: makes a log's stream, and tells what it holds.
- `Follower`: reads it, and hands on what counts.
- `JetStreamLog`: the `Log` of the node that leads it.

What counts, and what is sent again, is decided in `sandglass.replication`; here is the way to
the engine and back.
"""

import asyncio
import logging
from base64 import b64decode
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sandglass.adapters.nats import CALL_S, Connection, Stored, led
from sandglass.adapters.tail import Found, Tail
from sandglass.core import limits
from sandglass.errors import (
    CorruptError,
    NotFoundError,
    SandglassError,
    UnavailableError,
)
from sandglass.ports import Clock
from sandglass.replication.reader import Accepted, Frozen, Mark, Reader
from sandglass.replication.writer import Outgoing, Phase, Writer

logger = logging.getLogger(__name__)

SILENCE_MS: Final = 2500
"""An entry that isn't answered for so long is in doubt."""

DOUBT_S: Final = 0.25
"""Between two attempts to end a doubt: elections of the engine take seconds."""

HEARTBEAT_S: Final = 5.0
"""Of what a follower reads by: hundreds of them were half of what idle partitions cost. That it
was lost is noticed sooner where it matters: by who is to lead, and when an engine goes."""

HEARD_S: Final = 0.2
"""A fence that is stored, and isn't read back within this, says that its reader is deaf: what
it reads by may lie on an engine that has gone."""

FENCE_S: Final = 1.0
"""A fence that isn't read back within this is sent once more: it is the same. One that was not
answered is sent sooner: who chooses a leader has none a moment before it has one."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds: see `Reader.check_stream`."""

    first_sequence: int
    last_sequence: int
    identity: str
    size_bytes: int = 0
    count: int = 0
    """Of messages."""
    replica_count: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream of one log, by the number of its partition."""

    connection: Connection
    number: int

    @property
    def name(self) -> str:
        """Of the stream, in the engine."""
        return f"SANDGLASS_{self.number}"

    @property
    def subject(self) -> str:
        """What its entries are published under."""
        return f"sandglass.log.{self.number}"

    async def create(self, replica_count: int) -> None:
        """
        Makes it, if there is none.

        Raises:
            PreconditionError: the engine has fewer members than that.
            UnavailableError: no quorum.
        """
        await self.connection.call(
            f"STREAM.CREATE.{self.name}",
            {
                "name": self.name,
                "subjects": [self.subject],
                "num_replicas": replica_count,
                "storage": "file",
                "retention": "limits",
                "discard": "new",
                "duplicate_window": limits.DUPLICATE_WINDOW_MS * 1_000_000,
                "allow_direct": False,
            },
        )

    async def replicate(self, replica_count: int) -> None:
        """
        Lets so many members hold it.

        Raises:
            NotFoundError: there is none.
            PreconditionError: the engine has fewer members than that.
            UnavailableError: no quorum.
        """
        info = await self.info()
        if info["config"]["num_replicas"] != replica_count:
            config = {**info["config"], "num_replicas": replica_count}
            await self.connection.call(f"STREAM.UPDATE.{self.name}", config)

    async def delete(self) -> None:
        """Takes it away; without one nothing happens."""
        with suppress(NotFoundError):
            await self.connection.call(f"STREAM.DELETE.{self.name}")

    async def info(self) -> dict[str, Any]:
        """
        What the engine says of it, asked of the stream's leader.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no quorum.
        """
        return led(await self.connection.call(f"STREAM.INFO.{self.name}"))

    async def state(self) -> StreamState:
        """
        What it holds.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no quorum.
        """
        info = await self.info()
        state = info["state"]
        return StreamState(
            state["first_seq"],
            state["last_seq"],
            info["created"],
            state["bytes"],
            state["messages"],
            info["config"]["num_replicas"],
        )

    async def check(self, reader: Reader) -> StreamState:
        """
        What it holds, looked at by `reader`: if that isn't what was read, the reader is frozen.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no quorum.
        """
        state = await self.state()
        at_mark = None
        if 0 < reader.mark.sequence <= state.last_sequence:
            at_mark = await self.entry(reader.mark.sequence)
        reader.check_stream(
            first_sequence=state.first_sequence,
            last_sequence=state.last_sequence,
            stream=state.identity,
            at_mark=at_mark,
        )
        return state

    async def trim(self, sequence: int) -> None:
        """
        Lets it begin at `sequence`; what stands there stays.

        Raises:
            NotFoundError: there is none.
            UnavailableError: no quorum.
        """
        await self.connection.call(f"STREAM.PURGE.{self.name}", {"seq": sequence})

    async def entry(self, sequence: int) -> bytes | None:
        """
        What stands at a sequence, asked of the stream's leader; None if it is not kept.

        Raises:
            UnavailableError: no quorum.
        """
        try:
            answer = await self.connection.call(
                f"STREAM.MSG.GET.{self.name}", {"seq": sequence}
            )
        except NotFoundError:
            return None
        return b64decode(answer["message"].get("data", ""))


class Follower:
    """
    Reads a log from where `reader` stands. `open` once, `close` once.

    `on_accepted` is awaited for each entry that counts, in order; `on_frozen` is told, once,
    why nothing more will come; `on_gone` if there is no such stream any more.
    """

    def __init__(
        self,
        stream: Stream,
        reader: Reader,
        on_accepted: Callable[[Accepted], Awaitable[None]],
        on_frozen: Callable[[Frozen], None],
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self.stream = stream
        self.reader = reader
        self.end = 0
        """The stream's end when reading began."""
        self.replica_count = 0
        """How many members held the stream then."""
        self._on_accepted = on_accepted
        self._on_frozen = on_frozen
        self._on_gone = on_gone
        self._tail: Tail | None = None
        self._at_end = asyncio.Event()

    @property
    def is_current(self) -> bool:
        """It has read all that the stream held when reading began."""
        return self._at_end.is_set()

    async def open(self) -> None:
        """
        Begins.

        Raises:
            NotFoundError: the stream is gone.
            UnavailableError: the engine doesn't answer.
        """
        state = await self.stream.check(self.reader)
        if self.reader.frozen is not None:
            self._freeze()
            return
        self.end, self.replica_count = state.last_sequence, state.replica_count
        self._look()
        self._tail = Tail(
            self.stream.connection,
            self.stream.name,
            self._on_found,
            next_sequence=self.reader.sequence + 1,
            heartbeat_s=HEARTBEAT_S,
            on_gone=self._on_gone,
        )
        await self._tail.open()

    async def close(self) -> None:
        """Ends; nothing is told any more."""
        if self._tail is not None:
            await self._tail.close()

    async def listen_anew(self) -> None:
        """It must have heard more than it has: see `Tail.anew`. It is repeated if it fails."""
        if self._tail is not None:
            with suppress(SandglassError):
                await self._tail.anew()

    async def current(self) -> None:
        """Waits until all is read that the stream held when reading began."""
        await self._at_end.wait()

    async def _on_found(self, found: Found) -> None:
        if self.reader.frozen is not None:
            return
        accepted = self.reader.take(found.sequence, found.data)
        if self.reader.frozen is not None:
            self._freeze()
        elif accepted is not None:
            await self._on_accepted(accepted)
        self._look()

    def _look(self) -> None:
        if self.reader.sequence >= self.end:
            self._at_end.set()

    def _freeze(self) -> None:
        assert self.reader.frozen is not None
        self._at_end.set()
        self._on_frozen(self.reader.frozen)


@dataclass(slots=True, eq=False)
class JetStreamLog:
    """
    The `Log` of the node that leads a replicated log, in one epoch.

    `lead` opens the epoch; from then on it takes records. It ends for good when another's fence
    is read: everything that waits is told, and `is_deposed`.

    Invariant: `durable_position` is what every replica will accept.
    """

    stream: Stream
    writer: Writer
    clock: Clock
    on_deposed: Callable[[], None] = lambda: None
    on_durable: Callable[[], None] = lambda: None
    _outbox: deque[Outgoing] = field(default_factory=deque)
    _sent_ms: dict[int, int] = field(default_factory=dict)
    """By n: when it was first sent."""
    _marks: deque[Mark] = field(default_factory=deque)
    _mark_before: Mark = field(default_factory=Mark)
    """Of what stood before the fence."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: asyncio.Event = field(default_factory=asyncio.Event)
    """Something is under way: it is watched."""
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    _is_closed: bool = False

    # --- the port -----------------------------------------------------------------------------

    @property
    def first_position(self) -> int:
        """What is before it lies with the replicas."""
        return self.last_position + 1

    @property
    def last_position(self) -> int:
        """The highest position given out."""
        return self.writer.last_position

    @property
    def durable_position(self) -> int:
        """The highest position that a majority has, and every replica accepts."""
        return self.writer.committed_position

    @property
    def room_bytes(self) -> int:
        """How much more goes out at once. See `PipelinedLog`."""
        return self.writer.room_bytes

    def append(self, records: Sequence[bytes], *, may_use_reserve: bool = False) -> int:
        """Takes records, and sends them on; each record is atomic. See `Log.append`."""
        self._check_alive()
        for record in records:
            self.writer.append((record,))
        self._pump()
        return self.writer.last_position

    def sync(self) -> int:
        """Not here: see `synced`."""
        raise AssertionError("a replicated log is awaited, not synced in a thread")

    async def synced(self) -> int:
        """
        Waits until what was appended is durable; returns `durable_position`.

        Raises:
            UnavailableError: another leads; what isn't durable may be there or not.
        """
        wanted = self.writer.last_position
        while self.writer.committed_position < wanted:
            self._check_alive()
            self._changed.clear()
            await self._changed.wait()
        return self.writer.committed_position

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """Nothing: whoever begins to lead has applied all before."""
        assert position == self.last_position + 1, "the leader is behind its log"
        return iter(())

    def trim(self, position: int) -> None:
        """The stream is trimmed behind snapshots, not here."""

    def close(self) -> None:
        """Ends; what isn't durable is unknown."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        self._changed.set()

    # --- leading ------------------------------------------------------------------------------

    @property
    def is_deposed(self) -> bool:
        """Another has opened an epoch."""
        return self.writer.phase is Phase.DEPOSED

    async def open_epoch(
        self, record: bytes, on_unheard: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """
        Sends the fence until it is read back: the follower tells `writer.observe`, and
        whoever waits here, by `observed`.

        Args:
            on_unheard: awaited when the fence is stored, and the follower doesn't bring it.

        Raises:
            CorruptError: the stream no longer holds what was read from it; whoever begins to
                read it again is frozen.
            UnavailableError: another's fence came first.
        """
        fence = self.writer.fence(record)
        while self.writer.phase is Phase.FENCING:
            await self._check_mark(self.writer.mark)
            is_stored = False
            with suppress(SandglassError):
                await self.stream.connection.store(
                    self.stream.subject, fence.raw, {"Nats-Msg-Id": fence.message_id}
                )
                is_stored = True
            if is_stored and on_unheard is not None and not await self._is_read_back(HEARD_S):
                await on_unheard()
            await self._is_read_back(FENCE_S if is_stored else HEARD_S)
        if self.writer.phase is Phase.DEPOSED:
            raise UnavailableError("another node has begun to lead")
        # A fence that lay about may have taken a lost place, and its repeat the next one.
        await self._check_mark(self._mark_before)

    async def _is_read_back(self, within_s: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.writer.phase is Phase.FENCING:
                    self._changed.clear()
                    await self._changed.wait()
        return self.writer.phase is not Phase.FENCING

    async def _check_mark(self, mark: Mark) -> None:
        """
        Is the stream still what was read? If the engine lost the entry at the mark, the fence
        itself may have taken its place, and the follower, which is beyond, never reads it back.
        """
        reader = Reader(mark)
        with suppress(SandglassError):
            await self.stream.check(reader)
        if reader.frozen is not None and not reader.frozen.needs_snapshot:
            raise CorruptError(f"log {self.stream.number}: {reader.frozen.reason}")

    def observed(self, accepted: Accepted) -> None:
        """A follower of the log has accepted this; see `Writer.observe`."""
        if self.writer.phase is Phase.FENCING:
            self._mark_before = self.writer.mark
        self.writer.observe(accepted)
        self._changed.set()

    def start(self) -> None:
        """
        Begins to send: the epoch is open, and nothing else reads for this log.

        Raises:
            UnavailableError: another has opened one since.
        """
        self._check_alive()
        assert self.writer.phase is Phase.LEADING
        self._marks.append(self.writer.mark)
        self._tasks = [
            asyncio.create_task(self._send(), name=f"send {self.stream.name}"),
            asyncio.create_task(self._watch(), name=f"watch {self.stream.name}"),
        ]

    def mark_at(self, position: int) -> Mark:
        """
        The mark at a position that was durable once, and of which no earlier one is asked for
        any more.

        Raises:
            LookupError: no entry ends there.
        """
        while self._marks and self._marks[0].position < position:
            self._marks.popleft()
        if not self._marks or self._marks[0].position != position:
            raise LookupError(f"no entry ends at position {position}")
        return self._marks[0]

    # --- the way out and back -----------------------------------------------------------------

    def _pump(self) -> None:
        outgoing = self.writer.pack()
        if outgoing:
            self._outbox.extend(outgoing)
            self._wake.set()

    async def _send(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                await self._publish(self._outbox.popleft())

    async def _publish(self, outgoing: Outgoing) -> None:
        headers = {"Nats-Msg-Id": outgoing.message_id}
        if outgoing.expected_last_sequence is not None:
            headers["Nats-Expected-Last-Sequence"] = str(outgoing.expected_last_sequence)
        self._sent_ms.setdefault(outgoing.n, self.clock.monotonic_ms())
        self._busy.set()
        try:
            await self.stream.connection.publish(
                self.stream.subject, outgoing.raw, headers, partial(self._answered, outgoing)
            )
        except UnavailableError as error:
            self.writer.failed(outgoing, error.message)

    def _answered(self, outgoing: Outgoing, answer: Stored | SandglassError) -> None:
        if self._is_closed:
            return
        before = self.writer.mark
        if isinstance(answer, Stored):
            self.writer.acknowledged(outgoing, answer.sequence)
        else:
            self.writer.failed(outgoing, answer.message)
        if self.writer.mark is not before:
            self._committed()

    def _committed(self) -> None:
        mark = self.writer.mark
        for n in [n for n in self._sent_ms if n <= mark.n]:
            del self._sent_ms[n]
        self._marks.append(mark)
        self._changed.set()
        self._pump()
        self.on_durable()

    # --- doubt --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Finds silence, and ends doubt."""
        while True:
            if self.writer.phase is Phase.LEADING and self.writer.is_idle:
                self._busy.clear()
                await self._busy.wait()
            await asyncio.sleep(DOUBT_S)
            if self.writer.phase is Phase.LEADING and self._is_silent():
                oldest = self.writer.oldest
                if oldest is not None:
                    self.writer.failed(oldest, f"no answer for {SILENCE_MS} ms")
            if self.writer.phase is not Phase.DOUBT:
                continue
            logger.warning("log %d is in doubt: %s", self.stream.number, self.writer.doubt)
            try:
                await self._end_doubt()
            except NotFoundError:
                logger.error("log %d has no stream any more", self.stream.number)
                self.close()
                self.on_deposed()
                return
            except (SandglassError, TimeoutError) as error:
                logger.warning("log %d stays in doubt: %s", self.stream.number, error)
            if self.is_deposed:
                self._changed.set()
                self.on_deposed()
                return

    def _is_silent(self) -> bool:
        first_ms = min(self._sent_ms.values(), default=None)
        return first_ms is not None and self.clock.monotonic_ms() - first_ms > SILENCE_MS

    async def _end_doubt(self) -> None:
        """Reads the log from the last certain entry on, and sends what isn't there."""
        reader = Reader(self.writer.mark)
        frozen: list[Frozen] = []

        async def on_accepted(accepted: Accepted) -> None:
            self.writer.observe(accepted)

        follower = Follower(self.stream, reader, on_accepted, frozen.append)
        try:
            await follower.open()
            async with asyncio.timeout(4 * CALL_S):
                await follower.current()
        finally:
            await follower.close()
        if frozen and frozen[0].needs_snapshot:
            # Others have led, made snapshots and trimmed: what isn't there never will be.
            self.close()
            self.on_deposed()
            return
        if frozen:
            raise CorruptError(f"log {self.stream.number}: {frozen[0].reason}")
        if self.is_deposed:
            return
        self._outbox.clear()
        now_ms = self.clock.monotonic_ms()
        again = self.writer.resolve(reader)
        self._committed()
        for outgoing in again:
            self._sent_ms[outgoing.n] = now_ms
        self._outbox.extendleft(reversed(again))
        self._wake.set()

    def _check_alive(self) -> None:
        if self._is_closed or self.is_deposed:
            raise UnavailableError("another node leads this partition", is_result_unknown=True)
