"""
What goes to the client of a session, gathered into frames.

1. A frame is cut at `limits.FRAME_BYTES_MAX`, between items.
2. Answers leave before deliveries, and that a subscription has ended after what it was given.
3. What waits or is being written counts as held, in the node's room for what clients don't
   take: `sandglass.broker.outgoing`.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import Message

from sandglass.broker.outgoing import Flow
from sandglass.core import limits
from sandglass.surface.consume import bytes_at_most
from sandglass.wire.v1 import broker_pb2 as pb

ITEM_BYTES: Final = 8
"""What an item takes in a frame besides itself, at most: its tag and length."""


class Outbox:
    """Of one stream; `flow` is what it holds of the node's room."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._reply = pb.ServerFrame()
        """The frame of answers that is being filled."""
        self._reply_bytes = 0
        self._has_reply = False
        self._full: deque[pb.ServerFrame] = deque()
        """Frames of answers that go before it."""
        self._has_room = asyncio.Event()
        self._deliveries: deque[pb.Delivery] = deque()
        self._delivery_bytes = 0
        self._writing_bytes = 0
        """Of deliveries, in the frame that is being written."""
        self._ended: list[pb.SubscriptionEnded] = []
        self._kick = asyncio.Event()

    # --- in -----------------------------------------------------------------------------------

    def welcome(self, welcome: pb.Welcome, leases: Sequence[pb.OpenLease]) -> None:
        """
        The first answer of a stream, with the leases that its session holds, in as many frames
        as they take.
        """
        most = limits.OPEN_LEASE_COUNT_MAX
        self._reply.welcome.CopyFrom(welcome)
        self._reply.welcome.open_leases.extend(leases[:most])
        self._reply.welcome.open_lease_count = len(leases)
        for first in range(most, len(leases), most):
            self._full.append(self._reply)
            self._reply = pb.ServerFrame(open_leases=leases[first : first + most])
        self._reply_bytes = self._reply.ByteSize()
        self._wake()

    def frame_for(self, item: Message) -> pb.ServerFrame:
        """The frame that an answer is to be put into; the one before goes if it is full."""
        size_bytes = item.ByteSize() + ITEM_BYTES
        if self._reply_bytes and self._reply_bytes + size_bytes > limits.FRAME_BYTES_MAX:
            self._full.append(self._reply)
            self._reply, self._reply_bytes = pb.ServerFrame(), 0
        self._reply_bytes += size_bytes
        self._wake()
        return self._reply

    def answer(
        self, reply: pb.OutcomeReply | pb.ExtendReply | pb.ProduceReply | pb.Subscribed
    ) -> None:
        """An answer of whichever kind."""
        frame = self.frame_for(reply)
        if isinstance(reply, pb.OutcomeReply):
            frame.outcomes.append(reply)
        elif isinstance(reply, pb.ExtendReply):
            frame.extends.append(reply)
        elif isinstance(reply, pb.ProduceReply):
            frame.produces.append(reply)
        else:
            frame.subscribed.append(reply)

    def deliver(self, delivery: pb.Delivery) -> None:
        """Behind all others."""
        self._deliveries.append(delivery)
        self._delivery_bytes += len(delivery.batch)
        self._fit()
        self._kick.set()

    def end(self, ended: pb.SubscriptionEnded) -> None:
        """After the deliveries that are here."""
        self._ended.append(ended)
        self._wake()

    def drain(self) -> None:
        """The client is to come back elsewhere."""
        self._reply.is_draining = True
        self._wake()

    def drop_deliveries(self) -> None:
        """Nobody takes them any more."""
        self._deliveries.clear()
        self._delivery_bytes = 0
        self._fit()
        self._kick.set()

    def _wake(self) -> None:
        self._has_reply = True
        self._kick.set()

    def _fit(self) -> None:
        self._flow.fit(self._delivery_bytes + self._writing_bytes)

    # --- how much there is --------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Answers wait behind the frame that is being written."""
        return bool(self._full)

    async def until_room(self) -> None:
        """Until they don't: the client has read what there was."""
        while self._full:
            self._has_room.clear()
            await self._has_room.wait()

    def holds_more_than(self, size_bytes: int) -> bool:
        """So many bytes of deliveries wait to be written, and more."""
        return self._delivery_bytes > size_bytes

    # --- out ----------------------------------------------------------------------------------

    async def until_frame(self) -> None:
        """Until there is something to write."""
        await self._kick.wait()
        await asyncio.sleep(0)  # what else this pass of the loop brings goes along
        self._kick.clear()

    def next_frame(self) -> pb.ServerFrame | None:
        """Takes what is to be written next; None if there is nothing."""
        if self._full:
            frame = self._full.popleft()
            if not self._full:
                self._has_room.set()
            return frame
        if not self._has_reply and not self._deliveries:
            return None
        frame, size_bytes = self._reply, self._reply_bytes
        self._reply, self._reply_bytes, self._has_reply = pb.ServerFrame(), 0, False
        while self._deliveries:
            delivery_bytes = bytes_at_most(self._deliveries[0])
            if size_bytes and size_bytes + delivery_bytes > limits.FRAME_BYTES_MAX:
                break
            size_bytes += delivery_bytes
            self._delivery_bytes -= len(self._deliveries[0].batch)
            self._writing_bytes += len(self._deliveries[0].batch)
            frame.deliveries.append(self._deliveries.popleft())
        if not self._deliveries:
            # What was delivered goes before the word that nothing more does.
            frame.ended.extend(self._ended)
            self._ended.clear()
        return frame

    def written(self) -> None:
        """That frame is, and holds no room any more."""
        self._writing_bytes = 0
        self._fit()
