"""
Consuming by calls, without a session: a call takes what is ready, waits for a while if nothing
is, and leaves. What it was given is leased until an outcome or `ack_timeout`, and belongs to
whoever has the token: any later call may settle or extend it.
"""

import asyncio
from collections.abc import Sequence

from sandglass.broker.consuming import Consumers
from sandglass.broker.subscription import Subscription
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.group import Group
from sandglass.core.message import channel_to_read
from sandglass.core.record import Ending
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import SandglassError


class Pulls:
    """All calls run in the event loop's thread."""

    def __init__(self, consumers: Consumers) -> None:
        self._consumers = consumers
        self._waiting: set[_Pull] = set()
        self._is_draining = False

    async def take(
        self,
        topic: Topic,
        refs: Sequence[PartitionRef],
        *,
        channel: str,
        group: str,
        consumer: str,
        count_max: int,
        bytes_max: int,
        wait_ms: int = 0,
        ack_timeout_ms: int = 0,
        is_from_now: bool = False,
        pull_id: str = "",
    ) -> list[Delivery]:
        """
        What is ready for a group: `count_max` messages, none more once they hold `bytes_max`.
        If nothing is, what comes first within `wait_ms`; none after that, or when the node goes
        down, or when the call is let go by its `pull_id`.

        Raises:
            InvalidError: a name, number or time outside its limits.
            NotFoundError: the topic was deleted while the call waited.
            PreconditionError: groups don't read a KV topic.
        """
        check = limits.check_range
        check(count_max, field="count_max", low=1, high=limits.PULL_COUNT_MAX)
        check(bytes_max, field="bytes_max", low=1, high=limits.PULL_BYTES_MAX)
        check(wait_ms, field="wait_ms", low=0, high=limits.PULL_WAIT_MS_MAX)
        may_wait = wait_ms > 0 and not self._is_draining
        pull = _Pull(pull_id)
        subscription = await self._consumers.subscribe(
            None,
            pull,
            subscription_id=0,
            topic=topic,
            refs=refs,
            channel=channel,
            group=group,
            consumer=consumer,
            credit_count=count_max,
            credit_bytes=bytes_max,
            ack_timeout_ms=ack_timeout_ms,
            is_from_now=is_from_now,
            is_drain=not may_wait,
        )
        try:
            if may_wait:
                await self._wait(pull, wait_ms)
            else:
                await pull.drained(subscription)
        except asyncio.CancelledError:
            self._give_back(pull)
            raise
        finally:
            self._consumers.leave(subscription)
        if pull.error is not None and not pull.deliveries:
            raise pull.error
        return pull.deliveries

    def group(self, partition: PartitionRef, channel: str, group: str) -> Group:
        """
        The group whose leases a call names by token.

        Raises:
            InvalidError: a name that is none.
            NotFoundError: there is no such group.
        """
        channel = channel_to_read(channel)
        limits.check_name(group, field="group")
        loop = self._consumers.loops.of(partition.number)
        return loop.partition(partition.number).group(channel, group, loop.view)

    def let_go(self) -> None:
        """The node is going down: nobody waits any longer."""
        self._is_draining = True
        for pull in self._waiting:
            pull.changed.set()

    def let_go_of(self, pull_id: str) -> bool:
        """The call of this name waits no longer; false if none does."""
        found = [pull for pull in self._waiting if pull.id == pull_id]
        for pull in found:
            pull.changed.set()
        return bool(found)

    async def _wait(self, pull: "_Pull", wait_ms: int) -> None:
        self._waiting.add(pull)
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await pull.changed.wait()
        except TimeoutError:
            pass  # what has come in the last moment counts
        finally:
            self._waiting.discard(pull)

    def _give_back(self, pull: "_Pull") -> None:
        """The caller has gone, and has seen nothing of it."""
        for delivery in pull.deliveries:
            try:
                self._consumers.outcomes.settle_lease(
                    delivery.group, delivery.lease.token, [], Ending.RELEASED, None
                )
            except SandglassError:
                continue  # its lease, its topic or the node has ended


class _Pull:
    """The receiver of one call."""

    def __init__(self, pull_id: str) -> None:
        self.id = pull_id
        self.deliveries: list[Delivery] = []
        self.error: SandglassError | None = None
        self.is_ended = False
        self.changed = asyncio.Event()

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.changed.set()

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        self.error = error
        self.is_ended = True
        self.changed.set()

    async def drained(self, subscription: Subscription) -> None:
        """Until nothing more is ready, or the call's credit is used up."""
        while not self.is_ended and subscription.consumer.has_credit:
            await self.changed.wait()
            self.changed.clear()
