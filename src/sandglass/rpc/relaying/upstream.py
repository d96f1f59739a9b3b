"""
One client's session at another node: a stream of frames that this node opens for it.

It greets, and greets again when the stream breaks, so that the session there goes on within its
grace. Items are gathered and leave in one frame a pass of the event loop. What is sent and
unanswered is remembered, since the client has to be told how it ended:

1. Outcomes go again when the session is resumed. That a lease is lost then says nothing: the
   first answer may have been lost on the way.
2. Produces have an unknown result when the stream breaks, and are never sent twice.
3. Extensions are simply over; a client extends again.

A node that says that it is going down is left by the owner: it waits for its streams.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import Message

from sandglass.core import limits
from sandglass.errors import SandglassError, UnavailableError
from sandglass.rpc.outbox import ITEM_BYTES
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2 as pb

WELCOME_S: Final = 2.0
AGAIN_S_MIN: Final = 0.05
AGAIN_S_MAX: Final = 1.0
HEARTBEAT_S: Final = 4.0
GOODBYE_S: Final = 1.0

QUEUE_BYTES_MAX: Final = limits.OUTBOX_BYTES_MAX
UNANSWERED_COUNT_MAX: Final = 50_000
"""Outcomes and extensions that may wait for an answer before a client's next frame is read."""

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Sent:
    """
    An outcome that is unanswered: of the client's `subscription_id`. Times are monotonic: until
    when it may wait for a leader, and before which it isn't sent again. One that `is_repeated`
    may have been taken before.
    """

    item: pb.Outcome
    subscription_id: int
    until_ms: int
    not_before_ms: int = 0
    is_repeated: bool = False


@dataclass(slots=True, eq=False)
class Waiting:
    """A produce for one partition: `answered` is told once. `until_ms` is monotonic."""

    request: pb.ProduceRequest
    number: int
    until_ms: int
    answered: Callable[[pb.ProduceReply], None]


class Owner(Protocol):
    """What a stream tells, in the order of things."""

    def opened(self, upstream: Upstream, welcome: pb.Welcome) -> None:
        """The node greets: nothing has been sent yet in this stream."""
        ...

    def received(self, upstream: Upstream, frame: pb.ServerFrame) -> None:
        """A frame has come."""
        ...

    def broken(self, upstream: Upstream) -> None:
        """The stream is over, or didn't come about; it will be tried again."""
        ...


class Upstream:
    """
    See the head of the file. `open` it, then `leave` it for a while, or `close` it.

    Args:
        dial: opens a stream to the node; nothing is connected yet.
    """

    def __init__(
        self, address: str, dial: Callable[[], Any], client_name: str, owner: Owner
    ) -> None:
        self.address = address
        self.trouble = "no connection yet"
        self.is_open = False
        self.draining_ms: int | None = None
        """Since when its node is known to be going down, monotonic; while the stream lasts."""
        self.settled = asyncio.Event()
        """The node has greeted, or a try has failed."""
        self.outcomes: dict[int, Sent] = {}
        self.extends: dict[int, int] = {}
        """Tokens of those that are unanswered, by request id."""
        self.produces: dict[int, Waiting] = {}
        self.has_room = asyncio.Event()
        self._dial = dial
        self._client_name = client_name
        self._owner = owner
        self._session_id = ""
        self._frame = pb.ClientFrame()
        self._frame_bytes = 0
        self._full: deque[tuple[pb.ClientFrame, int]] = deque()
        self._queued_bytes = 0
        self._is_beating = False
        self._is_leaving = False
        self._cut = asyncio.Event()
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.has_room.set()

    # --- the stream's life --------------------------------------------------------------------

    def open(self) -> None:
        """Connects, and goes on doing so."""
        self.settled.clear()
        self._task = asyncio.create_task(self._run(), name="session-upstream")

    async def leave(self) -> None:
        """Breaks the stream: the session there waits for its grace. What is unanswered is
        forgotten."""
        self.outcomes.clear()
        self.extends.clear()
        self.produces.clear()
        await self._end()

    def cut(self) -> None:
        """Breaks the stream, and opens another when the node is back."""
        self._cut.set()

    async def close(self) -> None:
        """Says goodbye: what the session holds there is given back at once."""
        if self.is_open and self._task is not None:
            self._frame.is_goodbye = True
            self._is_leaving = True
            self._kick.set()
            await asyncio.wait({self._task}, timeout=GOODBYE_S)
        await self._end()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._reset()

    async def _run(self) -> None:
        failure_count = 0
        while True:
            try:
                await self._serve()
                is_draining = self.draining_ms is not None
                self.trouble = "it is going down" if is_draining else "the session was ended"
            except grpc.aio.AioRpcError as failure:
                error = status.from_rpc_error(failure)
                self.trouble = error.message
                if failure.code() is grpc.StatusCode.PERMISSION_DENIED:
                    self._session_id = ""
            except (SandglassError, TimeoutError, asyncio.InvalidStateError) as error:
                self.trouble = str(error) or "it does not answer"
            was_open = self.is_open
            self._reset()
            if self._is_leaving:
                return
            if was_open:
                logger.info("a session's way to %s broke: %s", self.address, self.trouble)
                failure_count = 0
            self._owner.broken(self)
            self.settled.set()
            pause_s = min(AGAIN_S_MAX, AGAIN_S_MIN * 2 ** min(failure_count, 10))
            failure_count += 1
            await asyncio.sleep(pause_s)

    async def _serve(self) -> None:
        stream = self._dial()
        try:
            async with asyncio.timeout(WELCOME_S):
                hello = pb.Hello(session_id=self._session_id, client_name=self._client_name)
                await stream.write(pb.ClientFrame(hello=hello).SerializeToString())
                welcome, frame = await self._greeting(stream)
            self._session_id = welcome.session_id
            self.is_open = True
            self._owner.opened(self, welcome)
            self.settled.set()
            self._owner.received(self, frame)
            await self._exchange(stream)
        finally:
            stream.cancel()

    async def _greeting(self, stream: Any) -> tuple[pb.Welcome, pb.ServerFrame]:
        """The welcome, with all its leases, and the frame in which the last of them came."""
        frame: Any = await stream.read()
        if not isinstance(frame, pb.ServerFrame) or not frame.HasField("welcome"):
            raise UnavailableError("it does not greet")
        welcome = frame.welcome
        while len(welcome.open_leases) < welcome.open_lease_count:
            frame = await stream.read()
            if not isinstance(frame, pb.ServerFrame):
                raise UnavailableError("it does not greet in full")
            welcome.open_leases.extend(frame.open_leases)
        return welcome, frame

    async def _exchange(self, stream: Any) -> None:
        parts = {
            asyncio.create_task(self._read(stream)),
            asyncio.create_task(self._write(stream)),
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._cut.wait()),
        }
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in parts:
                task.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def _read(self, stream: Any) -> None:
        while isinstance(frame := await stream.read(), pb.ServerFrame):
            self._owner.received(self, frame)

    async def _write(self, stream: Any) -> None:
        while True:
            await self._kick.wait()
            await asyncio.sleep(0)  # what else this pass of the loop brings goes along
            self._kick.clear()
            while (frame := self._next_frame()) is not None:
                await stream.write(frame.SerializeToString())
            if self._is_leaving:
                await stream.done_writing()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._is_beating = True
            self._kick.set()

    def _next_frame(self) -> pb.ClientFrame | None:
        if self._full:
            frame, size_bytes = self._full.popleft()
        elif self._frame_bytes or self._is_beating or self._frame.is_goodbye:
            frame, size_bytes = self._frame, self._frame_bytes
            self._frame, self._frame_bytes = pb.ClientFrame(), 0
        else:
            return None
        self._is_beating = False
        self._queued_bytes -= size_bytes
        self._fit()
        return frame

    def _reset(self) -> None:
        self.is_open, self.draining_ms = False, None
        self._cut.clear()
        self._full.clear()
        self._frame, self._frame_bytes, self._queued_bytes = pb.ClientFrame(), 0, 0
        self._fit()

    # --- items --------------------------------------------------------------------------------

    @property
    def is_owed(self) -> bool:
        """The node has yet to answer something."""
        return bool(self.outcomes or self.extends or self.produces)

    @property
    def is_full(self) -> bool:
        """The node takes what is sent more slowly than it comes."""
        return self._queued_bytes > QUEUE_BYTES_MAX

    def settle(self, sent: Sent) -> None:
        """Sends an outcome; it goes again after a break, if an answer is wanted."""
        if sent.item.request_id:
            self.outcomes[sent.item.request_id] = sent
        if self.is_open:
            self._room_for(sent.item).outcomes.append(sent.item)

    def release(self, subscription_id: int, place: int, token: int) -> None:
        """Gives a delivery back, in this stream only; nobody waits for an answer."""
        if self.is_open:
            item = pb.Outcome(
                subscription_id=subscription_id,
                partition_number=place,
                token=token,
                kind=pb.OUTCOME_RELEASE,
            )
            self._room_for(item).outcomes.append(item)

    def extend(self, item: pb.Extend) -> None:
        """Sends an extension; nothing comes of it while there is no connection."""
        if not self.is_open:
            return
        if item.request_id:
            self.extends[item.request_id] = item.token
        self._room_for(item).extends.append(item)

    def produce(self, waiting: Waiting) -> None:
        """Sends a produce. Only while the stream is open."""
        assert self.is_open, "a produce is never sent again"
        self.produces[waiting.request.request_id] = waiting
        self._room_for(waiting.request).produces.append(waiting.request)

    def credit(self, item: pb.Credit) -> None:
        """Grants credit, in this stream only."""
        if self.is_open:
            self._room_for(item).credits.append(item)

    def subscribe(self, item: pb.Subscribe) -> None:
        """Asks for a subscription, in this stream only."""
        if self.is_open:
            self._room_for(item).subscribes.append(item)

    def unsubscribe(self, subscription_id: int) -> None:
        """Leaves a subscription, in this stream only."""
        if self.is_open:
            item = pb.Unsubscribe(subscription_id=subscription_id)
            self._room_for(item).unsubscribes.append(item)

    def repeat(self) -> None:
        """The session goes on: what is unanswered is sent again."""
        for sent in self.outcomes.values():
            sent.is_repeated = True
            self._room_for(sent.item).outcomes.append(sent.item)

    def _room_for(self, item: Message) -> pb.ClientFrame:
        size_bytes = item.ByteSize() + ITEM_BYTES
        if self._frame_bytes and self._frame_bytes + size_bytes > limits.FRAME_BYTES_MAX:
            self._full.append((self._frame, self._frame_bytes))
            self._frame, self._frame_bytes = pb.ClientFrame(), 0
        self._frame_bytes += size_bytes
        self._queued_bytes += size_bytes
        self._kick.set()
        self._fit()
        return self._frame

    def _fit(self) -> None:
        """See `has_room`."""
        count = len(self.outcomes) + len(self.extends)
        if self.is_full or count > UNANSWERED_COUNT_MAX:
            self.has_room.clear()
        else:
            self.has_room.set()

    def answered(self) -> None:
        """Answers have come: there may be room again."""
        self._fit()
