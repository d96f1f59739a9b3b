"""
A drain: what is ready for a group, handed to one call, which then ends.

It serves calls without a session, whose consumer nobody hears of again: the compatible
ConsumeFromGroup, and HTTP. Leases last `ack_timeout`, whatever becomes of the call, with one
exception: what was never handed on, because the call ended before, is given back at once and
counts nothing. What lay here until its lease was over is left out: it is somebody else's now.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sandglass.broker.subscription import Subscription
from sandglass.core.dispatch import Delivery, charged_bytes
from sandglass.core.record import Ending
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import SandglassError

if TYPE_CHECKING:
    from sandglass.broker.consuming import Consumers

CREDIT_COUNT: Final = 10_000
CREDIT_BYTES: Final = 1024 * 1024
"""What a drain holds while its reader is slow: there may be a thousand on a connection."""


class Drain:
    """
    Made by `Consumers.open_drain`; `close` it. A `Receiver`.

    Invariant: `_held` is the delivery that `next` returned last, until more is asked for.
    """

    def __init__(
        self,
        consumers: "Consumers",
        topic: Topic,
        partition: PartitionRef,
        channel: str,
        group: str,
        consumer: str,
    ) -> None:
        self._consumers = consumers
        self._place = (topic, partition, channel, group, consumer)
        self._queue: asyncio.Queue[Delivery | SandglassError | None] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._held: Delivery | None = None
        self._is_stopped = False

    async def begin(self) -> None:
        """
        Subscribes: from here on there are leases.

        Raises:
            SandglassError: as `Consumers.subscribe`.
        """
        self._subscription = await self._subscribe(is_drain=True)

    async def next(self) -> Delivery | None:
        """
        The next messages; None when all that was ready when it began has been handed out. The
        ones before count as handed on.

        Raises:
            SandglassError: the topic is gone, or the node has failed.
        """
        self._grant()
        while True:
            found = await self._queue.get()
            if isinstance(found, SandglassError):
                raise found
            if found is None or found.lease.token in found.group.leases:
                self._held = found
                return found

    async def first(self, wait_s: float) -> Delivery | None:
        """
        After a drain that found nothing: the first messages that become ready within `wait_s`;
        None if none do. `next` returns what came with them, and then None.

        Raises:
            SandglassError: as `next`.
        """
        if self._is_stopped:
            return None
        self._subscription = await self._subscribe(is_drain=False)
        try:
            async with asyncio.timeout(wait_s):
                return await self.next()
        except TimeoutError:
            return None
        finally:
            self._consumers.leave(self._subscription)
            self._queue.put_nowait(None)

    def stop(self) -> None:
        """No more is waited for: `next` returns what is there, and then None."""
        self._is_stopped = True
        if self._subscription is not None:
            self._consumers.leave(self._subscription)
        self._queue.put_nowait(None)

    def close(self, *, handed_on_count: int | None = None) -> None:
        """
        Ends it, and gives back what was not handed on.

        Args:
            handed_on_count: of the last delivery; None for all of it.
        """
        subscription, held = self._subscription, self._held
        if subscription is None:
            return
        self._consumers.leave(subscription)
        if held is not None and handed_on_count is not None:
            self._give_back(subscription, held, handed_on_count)
        while not self._queue.empty():
            left = self._queue.get_nowait()
            if isinstance(left, Delivery):
                self._give_back(subscription, left, 0)

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """See `Receiver`."""
        self._queue.put_nowait(delivery)

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        """See `Receiver`."""
        self._queue.put_nowait(error)

    async def _subscribe(self, *, is_drain: bool) -> Subscription:
        topic, partition, channel, group, consumer = self._place
        return await self._consumers.subscribe(
            None,
            self,
            subscription_id=0,
            topic=topic,
            refs=[partition],
            channel=channel,
            group=group,
            consumer=consumer,
            credit_count=CREDIT_COUNT,
            credit_bytes=CREDIT_BYTES,
            is_drain=is_drain,
        )

    def _grant(self) -> None:
        """The room that the delivery before had taken."""
        held, self._held = self._held, None
        subscription = self._subscription
        if held is not None and subscription is not None and not subscription.is_closed:
            size_bytes = sum(map(charged_bytes, held.slices))
            self._consumers.grant(subscription, held.lease.count, size_bytes)

    def _give_back(self, subscription: Subscription, delivery: Delivery, first: int) -> None:
        lease = delivery.lease
        places = [
            (max(place, first), place + count - max(place, first))
            for place, count in lease.open_places()
            if place + count > first
        ]
        if not places:
            return
        # Ended meanwhile, or the node is going down: nobody holds it then either.
        with suppress(SandglassError):
            self._consumers.outcomes.settle(
                subscription, delivery.partition, lease.token, places, Ending.RELEASED, None
            )
