"""
Whose turn it is when credit comes: the partitions that wait for a subscription.

Credit belongs to a subscription, which may read a thousand partitions. One that has something
to hand out, and finds no credit, joins the line of each subscription that could take it. With
new credit the first of the line have a turn; one that has handed something out goes to the end
of every line, one that found the credit gone stays at its head. So a grant costs what it hands
out, whatever waits, and no partition is passed over.
"""

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from sandglass.broker.subscription import Subscription
from sandglass.core.partition import Partition

OFFER_COUNT_MAX: Final = 32
"""Partitions that have a turn together for one grant: large credit reaches many."""


class ReadyList:
    """
    The lines of all subscriptions (`Subscription.waiting`).

    `subscriptions` is by consumer key, and the owner's; `ready` gives a partition its turn.

    Invariant: a group that is starved is in the line of each of its subscriptions, or that
    subscription has been offered to its partition.
    """

    def __init__(
        self, subscriptions: Mapping[int, Subscription], ready: Callable[[int], None]
    ) -> None:
        self._subscriptions = subscriptions
        self._ready = ready
        self._offered: dict[int, list[Subscription]] = {}

    def offer(self, subscription: Subscription) -> None:
        """The subscription has credit: the first partitions of its line have a turn."""
        if not subscription.consumer.has_credit or subscription.offer_count:
            return
        waiting = subscription.waiting
        count = min(len(waiting), subscription.consumer.credit_count, OFFER_COUNT_MAX)
        first = [*islice(waiting, count + OFFER_COUNT_MAX)]
        # Others are there already where a turn has been given: better go where none is.
        first.sort(key=self._offered.__contains__)
        for number in first[:count]:
            del waiting[number]
            subscription.offer_count += 1
            self._offered.setdefault(number, []).append(subscription)
            self._ready(number)

    def dispatched(self, partition: Partition, *, has_fed: bool) -> None:
        """A partition has had its turn, and has handed something out or has not."""
        number = partition.number
        for group in partition.starved:
            for consumer in group.consumers:
                subscription = self._subscriptions.get(consumer.key)
                if subscription is not None:
                    subscription.waiting.setdefault(number)
                    if has_fed:
                        subscription.waiting.move_to_end(number)
        self._end_offers(number, has_fed=has_fed)

    def dropped(self, number: int) -> None:
        """A partition has no more turns."""
        self._end_offers(number, has_fed=False)

    def _end_offers(self, number: int, *, has_fed: bool) -> None:
        offered = self._offered.pop(number, None)
        for subscription in offered or ():
            subscription.offer_count -= 1
            if subscription.groups[number].is_starved:
                subscription.waiting[number] = None
                if not has_fed:
                    subscription.waiting.move_to_end(number, last=False)
            self.offer(subscription)
