"""
A drain that follows its partition from leader to leader: for topics of a cluster.

It is what `sandglass.broker.drain` is on a node alone, made of calls to whoever leads: each
takes as much as a drain may hold. It is over when a call finds nothing, or has come to what was
produced after the drain began. When the leader changes, it goes on at the new one, where
everything comes again that was handed out and has no outcome yet. What was never handed on is
given back.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sandglass.broker.drain import CREDIT_BYTES, CREDIT_COUNT
from sandglass.core.message import Slice
from sandglass.core.topic import PartitionRef
from sandglass.errors import NotLeaderError, SandglassError, UnavailableError
from sandglass.surface.leaders import AGAIN_S, STREAM_TRY_COUNT, Leaders
from sandglass.wire import convert
from sandglass.wire.v1 import broker_pb2 as pb


class Handed(Protocol):
    """What a drain hands out at a time."""

    @property
    def slices(self) -> Sequence[Slice]:
        """The messages."""
        ...


class Draining(Protocol):
    """What a call needs of a drain, be it `broker.drain.Drain` or one that follows."""

    async def next(self) -> Handed | None:
        """See `Drain.next`."""
        ...

    async def first(self, wait_s: float) -> Handed | None:
        """See `Drain.first`."""
        ...

    def stop(self) -> None:
        """See `Drain.stop`."""
        ...

    def close(self, *, handed_on_count: int | None = None) -> None:
        """See `Drain.close`."""
        ...


@dataclass(frozen=True, slots=True)
class _Handed:
    wire: pb.Delivery
    slices: list[Slice]


class FollowingDrain:
    """
    `begin` once, `close` once. `take` and `settle` carry calls out wherever they belong;
    `began_ms` is the wall clock's time.

    Invariant: `_held` is the delivery that was returned last, until more is asked for.
    """

    def __init__(
        self,
        leaders: Leaders,
        partition: PartitionRef,
        request: pb.ConsumeRequest,
        *,
        take: Callable[[pb.ConsumeRequest], Awaitable[pb.ConsumeReply]],
        settle: Callable[[pb.SettleRequest], Awaitable[pb.SettleReply]],
        began_ms: int,
    ) -> None:
        self._leaders = leaders
        self._partition = partition
        self._request = request
        self._request.partitions[:] = [partition.id]
        self._request.count_max, self._request.bytes_max = CREDIT_COUNT, CREDIT_BYTES
        self._take = take
        self._settle = settle
        self._began_ms = began_ms
        self._queue: deque[pb.Delivery] = deque()
        self._held: _Handed | None = None
        self._is_over = False
        """Nothing comes behind what is queued."""
        self._stopped = asyncio.Event()

    async def begin(self) -> None:
        """
        From here on there are leases.

        Raises:
            SandglassError: as the calls do.
        """
        await self._fill()

    async def next(self) -> Handed | None:
        """See `Drain.next`."""
        self._held = None
        if not self._queue and not self._is_over:
            await self._fill()
        if self._queue:
            wire = self._queue.popleft()
            self._held = _Handed(wire, convert.slices_of(wire))
        return self._held

    async def first(self, wait_s: float) -> Handed | None:
        """See `Drain.first`."""
        await self._fill(wait_ms=int(wait_s * 1000))
        self._is_over = True
        return await self.next()

    def stop(self) -> None:
        """See `Drain.stop`."""
        self._stopped.set()

    def close(self, *, handed_on_count: int | None = None) -> None:
        """See `Drain.close`."""
        left = [(each, 0) for each in self._queue]
        if self._held is not None and handed_on_count is not None:
            left.append((self._held.wire, handed_on_count))
        self._queue.clear()
        self._held, self._is_over = None, True
        outcomes = [
            pb.Outcome(
                partition_number=each.partition_number,
                token=each.token,
                kind=pb.OUTCOME_RELEASE,
                places=[first, each.count - first],
            )
            for each, first in left
            if first < each.count
        ]
        if outcomes:
            self._leaders.later(self._give_back(outcomes))

    async def _fill(self, *, wait_ms: int = 0) -> None:
        """What is ready, or comes in time; nothing once it was stopped."""
        asking = asyncio.create_task(self._ask(wait_ms))
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({asking, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                self._is_over = True
                return
            deliveries = asking.result().deliveries
        finally:
            asking.cancel()
            stopped.cancel()
            await asyncio.wait({asking, stopped})
        self._queue.extend(deliveries)
        if not deliveries or deliveries[-1].run_due_ms[-1] > self._began_ms:
            self._is_over = True

    async def _ask(self, wait_ms: int) -> pb.ConsumeReply:
        self._request.wait_ms = wait_ms
        tries_left = STREAM_TRY_COUNT
        while True:
            try:
                return await self._take(self._request)
            except (NotLeaderError, UnavailableError) as error:
                tries_left -= 1
                if tries_left <= 0 or not self._leaders.is_elsewhere(self._partition, error):
                    raise
            await asyncio.sleep(AGAIN_S)

    async def _give_back(self, outcomes: list[pb.Outcome]) -> None:
        # Where it fails the lease has ended, or ends in time.
        with suppress(SandglassError):
            await self._settle(
                pb.SettleRequest(
                    topic=self._request.topic,
                    channel=self._request.channel,
                    group=self._request.group,
                    outcomes=outcomes,
                )
            )
