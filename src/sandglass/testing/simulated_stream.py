"""
Replicated logs of a simulated cluster whose topics move, and the replicas that lead them.

The protocol that keeps deposed leaders out is simulated elsewhere, entry by entry
(`sandglass.testing.simulated_cluster`). Here it counts as right, in its simplest form: a log
takes what comes under its highest epoch, where the writer says that it goes, and nothing else.
Entries lie about, answers are lost, and a leader that has none for long leads no longer.

A replica does what `sandglass.cluster.replica` does when it leads: it opens its epoch, carries
out all before it, waits for the promise, and lets a real `NodeLoop` write from there on.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_store import MemoryStore
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.replica import YIELD_S, State, lead_until_over
from sandglass.errors import NotFoundError, SandglassError, UnavailableError
from sandglass.ports import Clock
from sandglass.replication.reader import Mark
from sandglass.testing.simulated_bucket import ANSWER_S, Network
from sandglass.testing.virtual_time import life
from sandglass.wire.convert import slice_body

AGAIN_S = 0.1


is_growing: ContextVar[bool] = ContextVar("is_growing", default=False)
"""Whoever makes streams does it for a topic that grows, before its entry names them."""


class Stream:
    """One log, as the engine has it: records, and the epoch in which it is written."""

    def __init__(self, number: int, on_stored: Callable[[int, Sequence[bytes]], None]) -> None:
        self.number = number
        self.records: list[bytes] = []
        self.epoch = 0
        self.stale_count = 0
        self._on_stored = on_stored

    def open(self, epoch: int, record: bytes) -> int:
        """Opens an epoch, with its first record; returns that one's position, or 0."""
        if epoch <= self.epoch:
            return 0
        self.epoch = epoch
        self._store([record])
        return len(self.records)

    def publish(self, epoch: int, first: int, records: Sequence[bytes]) -> bool:
        """Takes records from position `first` on, or refuses them."""
        if epoch != self.epoch or first != len(self.records) + 1:
            self.stale_count += 1
            return False
        self._store(records)
        return True

    def _store(self, records: Sequence[bytes]) -> None:
        self.records += records
        self._on_stored(self.number, records)


class Streams:
    """All logs, by number; and what `adapters.jetstream.Stream` asks of a connection."""

    def __init__(
        self, network: Network, on_stored: Callable[[int, Sequence[bytes]], None]
    ) -> None:
        self.network = network
        self.of: dict[int, Stream] = {}
        self.deleted: set[int] = set()
        self.excused: set[int] = set()
        """Those that may be left over: made for a topic that grows, or after all was over."""
        self._on_stored = on_stored

    async def call(self, method: str, request: Any = None) -> dict[str, Any]:
        """A call of the engine's interface."""
        _, verb, name = method.split(".")
        number = int(name.removeprefix("SANDGLASS_"))
        if is_growing.get():
            self.excused.add(number)
        return await self.network.ask(lambda: self._carry_out(verb, number))

    def _carry_out(self, verb: str, number: int) -> dict[str, Any]:
        if verb == "CREATE":
            self.excused |= self.deleted & {number}
            self.of.setdefault(number, Stream(number, self._on_stored))
        elif verb == "DELETE":
            self.deleted.add(number)
            if self.of.pop(number, None) is None:
                raise NotFoundError(f"there is no stream of {number}")
        elif number not in self.of:
            raise NotFoundError(f"there is no stream of {number}")
        return {"config": {"num_replicas": 0}}


class LeaderLog:
    """The `PipelinedLog` of one leader, from the record that opened its epoch on."""

    def __init__(self, stream: Stream, epoch: int, network: Network) -> None:
        self.stream = stream
        self.epoch = epoch
        self.on_durable: Callable[[], None] = lambda: None
        self.on_deposed: Callable[[], None] = lambda: None
        self._network = network
        owner = life()
        assert owner is not None
        self._owner = owner
        self._last = self._durable = len(stream.records)
        self._arrives_ms = 0
        self._is_closed = False

    @property
    def first_position(self) -> int:
        """See `Log`."""
        return 1

    @property
    def last_position(self) -> int:
        """See `Log`."""
        return self._last

    @property
    def durable_position(self) -> int:
        """See `Log`."""
        return self._durable

    @property
    def room_bytes(self) -> int:
        """See `PipelinedLog`."""
        return 1 << 20 if self._last - self._durable < 20 else 0

    def append(self, records: Sequence[bytes], *, may_use_reserve: bool = False) -> int:
        """See `Log`: it goes out at once, behind what went before."""
        del may_use_reserve
        first, entry = self._last + 1, [*records]
        self._last += len(entry)

        def arrived() -> None:
            is_taken = self.stream.publish(self.epoch, first, entry)
            self._network.reply(self._owner, lambda: self._answered(first, entry, is_taken))
            if is_taken:
                self._network.on_step(self._owner)

        now_ms = self._network.loop.now_ms
        hop_ms = self._network.send(
            self._owner, arrived, after_ms=max(0, self._arrives_ms - now_ms)
        )
        if hop_ms >= 0:
            self._arrives_ms = now_ms + hop_ms
        self._owner.after(ANSWER_S * 1000, lambda: self._look(first))
        return self._last

    def _answered(self, first: int, entry: Sequence[bytes], is_taken: bool) -> None:
        if self._is_closed:
            return
        if not is_taken:
            self.on_deposed()
        elif self._durable < first + len(entry) - 1:
            # What came before it is stored, too, or it wouldn't be.
            self._durable = first + len(entry) - 1
            self.on_durable()

    def _look(self, first: int) -> None:
        if not self._is_closed and self._durable < first:
            self.on_deposed()

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """See `Log`."""
        yield from enumerate(self.stream.records[position - 1 :], position)

    def trim(self, position: int) -> None:
        """See `Log`: that is for snapshots."""

    def sync(self) -> int:
        """See `PipelinedLog`: nobody calls it."""
        raise AssertionError("it sees to that by itself")

    async def synced(self) -> int:
        """See `PipelinedLog`."""
        while self._durable < self._last:
            if self._is_closed:
                raise UnavailableError("it leads no longer", is_result_unknown=True)
            await asyncio.sleep(0.002)
        return self._durable

    def close(self) -> None:
        """Nothing that comes back counts any more."""
        self._is_closed = True


class SimulatedReplica:
    """A replica of one log on one node, as `Leaders` and `Holding` have it."""

    def __init__(
        self,
        stream_of: Callable[[], Stream | None],
        number: int,
        store: MemoryStore,
        network: Network,
        *,
        clock: Clock,
        may_serve: Callable[[], bool],
        session_grace_ms: int,
        make_loop: Callable[..., NodeLoop],
        on_leading: Callable[[Any], Coroutine[Any, Any, None]],
        on_ended: Callable[[Any], None],
    ) -> None:
        self.number = number
        self.state = State.STARTING
        self.trouble = ""
        self.epoch = 0
        self.loop: NodeLoop | None = None
        self.store = store
        self._stream_of = stream_of
        self._network = network
        self._clock = clock
        self._may_serve = may_serve
        self._session_grace_ms = session_grace_ms
        self._make_loop = make_loop
        self._on_leading = on_leading
        self._on_ended = on_ended
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._failed: asyncio.Future[BaseException] | None = None
        self._ended: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def mark(self) -> Mark:
        """Where it stands: it has read what there is."""
        stream = self._stream_of()
        return Mark() if stream is None else Mark(epoch=stream.epoch)

    @property
    def is_current(self) -> bool:
        """It could lead."""
        return self.state is State.FOLLOWING and self._stream_of() is not None

    @property
    def is_called(self) -> bool:
        """It was told to lead."""
        return self._wanted.is_set()

    def start(self) -> None:
        """Follows its log."""
        owner = life()
        assert owner is not None
        self._task = owner.spawn(self._run())

    async def stop(self) -> None:
        """Hands over, and ends."""
        await self.yield_()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def lead(self, epoch: int) -> None:
        """It is its turn."""
        self.epoch = epoch
        self._unwanted.clear()
        self._wanted.set()

    async def yield_(self) -> None:
        """Leads no longer, once what is queued is finished."""
        self._wanted.clear()
        self._unwanted.set()
        if self._ended is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(YIELD_S):
                    await asyncio.shield(self._ended)

    def drop(self) -> None:
        """Leads no longer, at once."""
        self._wanted.clear()
        self._unwanted.set()
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(UnavailableError("another node leads this partition"))

    # --- its life -----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self._follow_and_lead()
            except (SandglassError, TimeoutError) as error:
                self.trouble = str(error)
                self._wanted.clear()
                await asyncio.sleep(AGAIN_S)

    async def _follow_and_lead(self) -> None:
        self.state = State.STARTING
        loop = self.loop = self._make_loop(
            MemoryLog(),
            self.store,
            self._clock,
            slice_body,
            may_serve=self._may_serve,
            session_grace_ms=self._session_grace_ms,
        )
        loop.open()
        await asyncio.sleep(self._network.chance.choice((0.001, 0.02, 0.2)))
        self.state = State.FOLLOWING
        await self._wanted.wait()
        self.state = State.OPENING
        stream = await self._open_epoch(loop)
        await self._lead(loop, stream)

    async def _open_epoch(self, loop: NodeLoop) -> Stream:
        stream = self._stream_of()
        if stream is None:
            raise NotFoundError("its stream is gone")
        # What it has read is carried out first: the record says what the log said before it.
        self._replay(loop, stream)
        epoch, record = self.epoch, loop.opening(self.epoch)
        await self._network.ask(lambda: stream.open(epoch, record))
        if stream.epoch != epoch or self._unwanted.is_set():
            raise UnavailableError("another node leads this partition")
        self._replay(loop, stream)
        return stream

    def _replay(self, loop: NodeLoop, stream: Stream) -> None:
        applied = loop.applier.applied
        for position, raw in enumerate(stream.records[applied:], applied + 1):
            loop.applier.replay(position, raw)
        loop.applier.write_replayed(b"read")

    async def _lead(self, loop: NodeLoop, stream: Stream) -> None:
        log = LeaderLog(stream, self.epoch, self._network)
        running = asyncio.get_running_loop()
        failed = self._failed = running.create_future()
        ended = self._ended = running.create_future()

        def fail(error: BaseException) -> None:
            if not failed.done():
                failed.set_result(error)

        log.on_deposed = lambda: fail(UnavailableError("another node leads this partition"))
        loop.on_failure = fail
        try:
            await loop.take_over(log, lambda _: b"read")
            self.state = State.LEADING
            await lead_until_over(loop, self._on_leading(self), self._unwanted, failed)
        finally:
            self._on_ended(self)
            self._wanted.clear()
            ended.set_result(None)
            log.close()
            loop.abandon(
                UnavailableError("another node leads this partition", is_result_unknown=True)
            )
