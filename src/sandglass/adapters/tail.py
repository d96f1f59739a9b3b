"""What a stream of the engine holds from a sequence on, and what comes after it, in order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from sandglass.adapters.nats import CALL_S, Connection
from sandglass.errors import NotFoundError, SandglassError

logger = logging.getLogger(__name__)

PENDING_BYTES_MAX: Final = 64 * 1024 * 1024
HEARTBEAT_S: Final = 1.0
"""How often a tail hears that there is nothing, unless it is told otherwise."""

HEARTBEAT_COUNT: Final = 2.5
"""A tail that missed so many has lost its consumer, which is then made anew."""

AGAIN_S: Final = 1.0
"""Between two tries to make one, and while it lies on an engine that is going."""

FIRST_S: Final = 2.0
"""A consumer that has something to tell, and tells nothing for so long, lies on an engine that
has gone a moment ago. The next one has twice as long: the machine may be slow."""

GONE_S: Final = 3.0
"""A stream that isn't there is asked for again after so long."""

UNKNOWN: Final = "unknown"
"""The life of an engine of which nothing is heard."""

MOVE_BYTES: Final = 16 * 1024 * 1024
"""A tail through which so much came from another node's engine tries to lie on its own: the
engine chooses by chance, and each message would go over one engine more."""

MOVE_COUNT: Final = 8
"""So often it tries: the stream may not be there at all."""

IDLE_S: Final = 10.0
"""The engine drops a consumer of ours that nobody listened to for so long."""


@dataclass(frozen=True, slots=True)
class Found:
    """A message of a stream."""

    sequence: int
    subject: str
    data: bytes
    headers: Mapping[str, str]
    is_last: bool
    """When it was sent, the stream held nothing after it."""


@dataclass(slots=True, eq=False)
class Tail:
    """
    A stream from a sequence on, in order, for as long as it is open. `open` once, `close` once.

    `on_found` is awaited for each message, one after the other. A consumer of the engine that
    fell silent, left something out, or lies on an engine that has gone, is replaced by another
    that begins where the last message ended. A heartbeat of an idle stream is most of what it
    costs: so where there are many, they come seldom. `on_gone` is
    told, again and again, when there is no such stream any more.
    """

    connection: Connection
    stream: str
    on_found: Callable[[Found], Awaitable[None]]
    next_sequence: int = 1
    heartbeat_s: float = HEARTBEAT_S
    on_gone: Callable[[], None] = lambda: None
    _subscription: Subscription | None = None
    _consumer: str = ""
    _engine: str = ""
    """On which the consumer lies."""
    _engine_life: str = UNKNOWN
    """As it was known when the consumer was made."""
    _is_awaited: bool = False
    """The consumer had something to tell when it was made, and has told nothing yet."""
    _first_s: float = field(default_factory=lambda: FIRST_S)
    _far_bytes: int = 0
    """What came from another engine since it has chosen."""
    _move_count: int = 0
    _turn: int = 0
    _delivered: int = 0
    _heard_s: float = 0.0
    _watch: asyncio.Task[None] | None = None
    _suspected: asyncio.Event = field(default_factory=asyncio.Event)
    _turning: asyncio.Lock = field(default_factory=asyncio.Lock)
    _is_closed: bool = False

    @property
    def is_lost(self) -> bool:
        """The engine on which its consumer lies is gone, or has begun anew."""
        life = self.connection.engines.get(self._engine, UNKNOWN)
        return not life or life != self._engine_life

    @property
    def is_near(self) -> bool:
        """Its consumer lies on the engine of this node, or nobody knows where."""
        return self._engine in {"", self.connection.name}

    async def open(self) -> None:
        """
        Begins.

        Raises:
            NotFoundError: there is no such stream.
            UnavailableError: the engine doesn't answer.
        """
        async with self._turning:
            await self._begin()
        self.connection.tails.add(self)
        self._watch = asyncio.create_task(self._guard(), name=f"tail {self.stream}")

    async def close(self) -> None:
        """Ends; `on_found` is not called any more."""
        self._is_closed = True
        self.connection.tails.discard(self)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        async with self._turning:
            await self._end()

    async def anew(self) -> None:
        """
        Lets another consumer of the engine go on where the last message ended: for whoever
        knows that this one must have told more. It goes with the engine that it lies on, and
        its silence is noticed late.

        Raises:
            NotFoundError: there is no such stream any more.
            UnavailableError: the engine doesn't answer.
        """
        async with self._turning:
            if not self._is_closed:
                await self._end()
                await self._begin()

    def suspect(self) -> None:
        """There may be nobody any more who would tell something: another consumer is made."""
        self._heard_s = -inf
        self._suspected.set()

    async def _begin(self) -> None:
        client = self.connection.client
        inbox = client.new_inbox()
        self._delivered = 0
        self._heard_s = asyncio.get_running_loop().time()
        self._turn += 1
        turn = self._turn

        async def on_msg(msg: Msg) -> None:
            if turn == self._turn and not self._is_closed:
                await self._on_msg(msg)

        subscription = await client.subscribe(
            inbox, cb=on_msg, pending_bytes_limit=PENDING_BYTES_MAX
        )
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, self.next_sequence),
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(self.heartbeat_s * 1e9),
            "inactive_threshold": int(IDLE_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        self._subscription = subscription
        try:
            made = await self.connection.call(
                f"CONSUMER.CREATE.{self.stream}",
                {"stream_name": self.stream, "config": config},
                tries_s=(CALL_S,),
            )
        except BaseException:
            await self._end()
            raise
        self._consumer = made["name"]
        self._is_awaited = made.get("num_pending", 0) > 0 and not self._delivered
        self._engine = made.get("cluster", {}).get("leader", "")
        self._engine_life = self.connection.engines.get(self._engine, UNKNOWN)

    async def _end(self) -> None:
        self._turn += 1
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with suppress(nats.errors.Error):
                await subscription.unsubscribe()
        consumer, self._consumer = self._consumer, ""
        if consumer and self.connection.is_up:
            with suppress(nats.errors.Error):
                await self.connection.client.publish(
                    f"$JS.API.CONSUMER.DELETE.{self.stream}.{consumer}"
                )

    @property
    def _patience_s(self) -> float:
        """After so long it is looked whether all is well."""
        if self._subscription is None or self.is_lost:
            return AGAIN_S
        return min(self.heartbeat_s, self._first_s) if self._is_awaited else self.heartbeat_s

    async def _guard(self) -> None:
        """Makes the consumer anew when it fell silent, or may have been lost."""
        loop = asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s):
                    await self._suspected.wait()
            self._suspected.clear()
            silence_s = loop.time() - self._heard_s
            is_mute = self._is_awaited and silence_s >= self._first_s
            is_silent = is_mute or silence_s > self.heartbeat_s * HEARTBEAT_COUNT
            if self._subscription is not None and not is_silent and not self.is_lost:
                continue
            if is_mute:
                self._first_s *= 2
            try:
                await self.anew()
            except NotFoundError:
                logger.warning("stream %s is gone", self.stream)
                self.on_gone()
                await asyncio.sleep(GONE_S)
            except SandglassError as error:
                logger.debug("tail of %s: %s", self.stream, error)

    async def _on_msg(self, msg: Msg) -> None:
        self._heard_s = asyncio.get_running_loop().time()
        if not msg.data and msg.headers and "Status" in msg.headers:
            if int(msg.headers.get("Nats-Last-Consumer", 0)) > self._delivered:
                self.suspect()  # something was sent that never came
            if msg.reply:  # flow control: all before it was taken
                await self.connection.client.publish(msg.reply)
            elif stalled := msg.headers.get("Nats-Consumer-Stalled"):
                await self.connection.client.publish(stalled)
            return
        parts = msg.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<times>.<stream sequence>.<consumer sequence>.<ns>.<left>
        sequence, delivered, left = int(parts[-4]), int(parts[-3]), int(parts[-1])
        if delivered != self._delivered + 1:
            self._turn += 1  # something was left out: what follows it isn't wanted
            self.suspect()
            return
        self._delivered = delivered
        self._is_awaited, self._first_s = False, FIRST_S
        await self.on_found(
            Found(sequence, msg.subject, msg.data, msg.headers or {}, is_last=left == 0)
        )
        self.next_sequence = sequence + 1
        self._move_near(len(msg.data))

    def _move_near(self, size_bytes: int) -> None:
        if self.is_near or self._move_count == MOVE_COUNT:
            return
        self._far_bytes += size_bytes
        if self._far_bytes >= MOVE_BYTES:
            self._move_count += 1
            self._far_bytes = 0
            self.suspect()
