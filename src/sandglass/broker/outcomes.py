"""
Outcomes, and leases that are kept.

An outcome becomes a record at once, and is answered when that is applied. What is refused is
refused here.
"""

import asyncio

from sandglass.broker.groups import check_kind
from sandglass.broker.inbox import Done
from sandglass.broker.loops import Loops
from sandglass.broker.subscription import Subscription
from sandglass.core import limits, outcome
from sandglass.core.group import Group
from sandglass.core.lease import Places
from sandglass.core.message import channel_to_read
from sandglass.core.partition import Partition
from sandglass.core.record import Ending
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import InvalidError, LeaseLostError, NotFoundError, NotLeaderError

OFFSET_COUNT = 500
"""Outcomes by offset that are admitted before others have the loop."""


class Outcomes:
    """All calls run in the event loop's thread."""

    def __init__(self, loops: Loops) -> None:
        self.loops = loops
        self.ignored_count = 0
        """Offsets in outcomes that held no message, or were never handed out."""

    def settle(
        self,
        subscription: Subscription,
        partition: int,
        token: int,
        places: Places,
        ending: Ending,
        done: Done | None,
        *,
        delay_ms: int | None = None,
        reason: str = "",
        answer_count: int = 1,
    ) -> None:
        """
        An outcome for messages of a delivery; `partition` is its number on this node. A nack's
        `delay_ms` is stronger than the group's backoff. `done` answers so many requests.

        Raises:
            InvalidError: places, delay or reason outside their limits.
            LeaseLostError: the lease has ended, or a message has an outcome already.
            NotLeaderError: another node leads the partition; what is claimed there goes on.
        """
        group = self._group(subscription, partition)
        self.settle_lease(
            group,
            token,
            places,
            ending,
            done,
            delay_ms=delay_ms,
            reason=reason,
            answer_count=answer_count,
        )

    def settle_lease(
        self,
        group: Group,
        token: int,
        places: Places,
        ending: Ending,
        done: Done | None,
        *,
        delay_ms: int | None = None,
        reason: str = "",
        answer_count: int = 1,
    ) -> None:
        """As `settle`, for whoever has the token of a lease of `group`."""
        if delay_ms is not None:
            limits.check_range(delay_ms, field="delay_ms", low=0, high=limits.NACK_DELAY_MS_MAX)
        if len(reason.encode()) > limits.REASON_BYTES_MAX:
            raise InvalidError(
                f"reason has {len(reason.encode())} bytes; the limit is"
                f" {limits.REASON_BYTES_MAX}",
                field="reason",
            )
        loop = self.loops.of(group.partition)
        partition = loop.partition(group.partition)
        _check_led(partition, group)
        record = outcome.admit_outcome(
            partition,
            group,
            token,
            places,
            ending,
            moment=loop.moment(),
            view=loop.view,
            delay_ms=delay_ms,
            reason=reason,
        )
        loop.submit(record, done, answer_count=answer_count)

    def extend(
        self,
        subscription: Subscription,
        partition: int,
        token: int,
        *,
        lease_ms: int,
        begun_count: int,
    ) -> int:
        """
        Keeps a lease; returns when it ends, in Unix ms.

        Raises:
            InvalidError: longer than a lease may be.
            LeaseLostError: it has ended.
            NotLeaderError: as `settle`.
        """
        group = self._group(subscription, partition)
        return self.extend_lease(group, token, lease_ms=lease_ms, begun_count=begun_count)

    def extend_lease(self, group: Group, token: int, *, lease_ms: int, begun_count: int) -> int:
        """As `extend`, for whoever has the token of a lease of `group`."""
        limits.check_range(lease_ms, field="lease_ms", low=0, high=limits.LEASE_MS_MAX)
        loop = self.loops.of(group.partition)
        moment, partition = loop.moment(), loop.partition(group.partition)
        _check_led(partition, group)
        first_ms = partition.deadlines.first_ms()
        ends_ms = partition.extend(
            group, token, lease_ms=lease_ms, begun=begun_count, moment=moment
        )
        if partition.deadlines.first_ms() != first_ms:
            loop.ready(group.partition)  # it ends before the loop would wake
        return moment.wall_ms + ends_ms - moment.lease_ms

    def _group(self, subscription: Subscription, partition: int) -> Group:
        group = subscription.groups.get(partition)
        if group is not None:
            return group
        if partition in subscription.moved:
            self.loops.of(partition)
            raise _led_again()
        raise LeaseLostError("the subscription has no such partition")

    async def settle_offsets(
        self,
        topic: Topic,
        partition: PartitionRef,
        channel: str,
        group: str,
        offsets: list[int],
        *,
        is_ack: bool,
    ) -> None:
        """
        Outcomes by offset, from whoever sends them: for protocols without tokens.

        What holds no message, or was never handed out, is ignored, and counted.

        Raises:
            InvalidError: names outside their limits.
            PreconditionError: groups don't read a KV topic.
        """
        check_kind(topic)
        channel = channel_to_read(channel)
        limits.check_name(group, field="consumerGroup")
        ending = Ending.ACKED if is_ack else Ending.NACKED
        once = [*dict.fromkeys(offsets)]
        self.ignored_count += len(offsets) - len(once)
        for first in range(0, len(once), OFFSET_COUNT):
            some = once[first : first + OFFSET_COUNT]
            await self._settle_some(partition, channel, group, some, ending)

    async def _settle_some(
        self,
        partition: PartitionRef,
        channel: str,
        group: str,
        offsets: list[int],
        ending: Ending,
    ) -> None:
        loop = self.loops.of(partition.number)
        try:
            found = loop.partition(partition.number).group(channel, group, loop.view)
        except NotFoundError:
            self.ignored_count += len(offsets)
            return
        records, ignored_count = outcome.admit_offsets(
            loop.partition(partition.number), found, offsets, ending, loop.moment(), loop.view
        )
        self.ignored_count += ignored_count
        # Others have their turn, also where there is nothing to wait for.
        await asyncio.gather(asyncio.sleep(0), *[loop.commit(record) for record in records])


def _check_led(partition: Partition, group: Group) -> None:
    """
    Raises:
        NotLeaderError: the partition was led anew since, here: what was leased is void.
    """
    if not partition.leads(group) and not group.is_dropped:
        raise _led_again()


def _led_again() -> NotLeaderError:
    return NotLeaderError("the subscription was ended for a while of another leader")
