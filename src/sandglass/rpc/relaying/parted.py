"""
A subscription in parts: one for each node that leads some of its partitions.

The client sees one subscription over a topic's partitions, numbered as in the topic; so does
each part, so that numbers and tokens go through as they are. What a part may hand out is lent
from the client's credit (`purse`). A delivery for which the client has no room yet is held back
here, for at most half of its lease, and is then given back, uncounted.

A partition that no part reads is homeless. Whoever owns this finds it a home.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from sandglass.broker.subscription import Subscription
from sandglass.core.topic import Topic
from sandglass.errors import SandglassError
from sandglass.rpc.relaying.purse import Purse
from sandglass.rpc.relaying.requests import WAIT_MS
from sandglass.rpc.relaying.upstream import Upstream
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2 as pb


@dataclass(slots=True, eq=False)
class Part:
    """
    What one node serves of a subscription: `upstream` is the way to it, None for this node.

    `id` is the subscription's there; this node's own are below 0, where no client's are.
    `tokens` has the last one that came, by place of the partition: later ones that the node
    knows were lost on their way.
    """

    id: int
    upstream: Upstream | None
    places: set[int]
    is_asked: bool = False
    is_open: bool = False
    is_over: bool = False
    tokens: dict[int, int] = field(default_factory=dict[int, int])
    local: Subscription | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A delivery that is held back until the client has room; `until_ms` is monotonic."""

    part: Part
    wire: pb.Delivery
    until_ms: int


class Ways(Protocol):
    """How a subscription reaches its client, and its parts."""

    def pass_on(self, wire: pb.Delivery) -> None:
        """To the client."""
        ...

    def announce(self, reply: pb.Subscribed) -> None:
        """To the client."""
        ...

    def end(self, ended: pb.SubscriptionEnded) -> None:
        """To the client."""
        ...

    def is_holding(self) -> bool:
        """The client reads too slowly: nothing more is lent."""
        ...

    def lend(self, part: Part, count: int, size_bytes: int) -> None:
        """To a part that is open."""
        ...

    def give_back(self, part: Part, wire: pb.Delivery) -> None:
        """To a part: nobody is told."""
        ...

    def renew(self, part: Part, wire: pb.Delivery) -> None:
        """The lease of what was held back begins now."""
        ...

    def leave(self, part: Part) -> None:
        """A part is wanted no more; its leases stand."""
        ...


class Parted:
    """
    See the head of the file. All calls run in the event loop's thread.

    Invariant: each of the places wanted is in `homeless`, or in exactly one part of `by_place`
    which has it among its own.
    """

    def __init__(
        self, item: pb.Subscribe, topic: Topic, places: Iterable[int], ways: Ways
    ) -> None:
        self.item = item
        self.id = item.subscription_id
        self.topic = topic
        self.purse = Purse(item.credit_count, item.credit_bytes)
        self.homeless: set[int] = set(places)
        self.by_place: dict[int, Part] = {}
        self.parts: list[Part] = []
        self.trouble: SandglassError | None = None
        """Why it has homeless partitions."""
        self.is_announced = False
        self.is_left = False
        self.is_over = False
        self._ways = ways
        self._held: deque[Held] = deque()
        self._is_away = False
        self._alone_ms: int | None = None
        """Since when no part of it is there."""

    @property
    def is_waiting(self) -> bool:
        """Something of it has to be looked at again soon."""
        if self.is_over:
            return False
        return bool(self.homeless or self._held or not self.is_announced)

    # --- parts --------------------------------------------------------------------------------

    def add(self, part: Part) -> None:
        """Some homeless partitions are to be read through this."""
        assert part.places <= self.homeless, "a partition has one home"
        self.homeless -= part.places
        self.parts.append(part)
        for place in part.places:
            self.by_place[place] = part
        self.purse.join(part)

    def request(self, part: Part) -> pb.Subscribe:
        """What to ask a part's node for, now; the credit in it counts as lent."""
        part.is_asked = True
        item = pb.Subscribe()
        item.CopyFrom(self.item)
        item.subscription_id = max(0, part.id)
        item.ClearField("claims")
        del item.partitions[:]
        item.partitions.extend(self.topic.partitions[each].id for each in sorted(part.places))
        self.purse.forget(part)
        item.credit_count = item.credit_bytes = 0
        for _, count, size_bytes in self.purse.top_up([part]):
            item.credit_count, item.credit_bytes = count, size_bytes
        item.is_part = not self.item.is_drain
        return item

    def opened(self, part: Part) -> None:
        """A part's node serves it."""
        if self.is_over or part not in self.parts:
            self._ways.leave(part)
            return
        part.is_open = True
        if not self.is_announced:
            self.is_announced = True
            ids = [ref.id for ref in self.topic.partitions]
            self._ways.announce(pb.Subscribed(subscription_id=self.id, partitions=ids))
        self.hand_on()

    def lost(self, part: Part, error: SandglassError, places: Iterable[int] = ()) -> None:
        """A part is no more, or these partitions are none of it any more: they need a home."""
        if part not in self.parts:
            return
        gone = set(places) & part.places or set(part.places)
        part.places -= gone
        if self.is_over or part.is_over:
            return
        self.trouble = error
        if self.item.is_drain:
            self.fail(error)
            return
        for place in gone:
            self.by_place.pop(place, None)
        self.homeless |= gone
        if not part.places:
            self._drop(part)
        self.lend()

    def is_given_up(self, now_ms: int) -> bool:
        """Has it been without any part for too long? Its client is told, and may ask again."""
        if self.is_over or any(part.is_open for part in self.parts):
            self._alone_ms = None
            return False
        if self._alone_ms is None:
            self._alone_ms = now_ms
        return now_ms - self._alone_ms >= WAIT_MS

    def _drop(self, part: Part) -> None:
        self.parts.remove(part)
        self.purse.leave(part)
        for held in [each for each in self._held if each.part is part]:
            self._held.remove(held)
            self.purse.gave_back(held.wire.count, len(held.wire.batch))
        self._ways.leave(part)

    def finished(self, part: Part) -> None:
        """A part's drain is over."""
        part.is_over = True
        self.purse.leave(part)
        self._check_drained()
        self.lend()

    def _check_drained(self) -> None:
        is_drained = all(part.is_over for part in self.parts)
        if not self.is_over and is_drained and not self.homeless and not self._held:
            self.is_over = True
            self._ways.end(pb.SubscriptionEnded(subscription_id=self.id))

    def fail(self, error: SandglassError) -> None:
        """All of it ends, for a reason that the client is told."""
        if self.is_over:
            return
        self._end()
        wire = status.to_wire(error)
        if self.is_announced:
            self._ways.end(pb.SubscriptionEnded(subscription_id=self.id, error=wire))
        else:
            self._ways.announce(pb.Subscribed(subscription_id=self.id, error=wire))

    def unsubscribe(self) -> None:
        """The client has enough; what it holds stays leased."""
        if self.is_left:
            return
        self.is_left = True
        if not self.is_over:
            self._end()
        self._ways.end(pb.SubscriptionEnded(subscription_id=self.id))

    def _end(self) -> None:
        self.is_over = True
        for held in self._held:
            self._ways.give_back(held.part, held.wire)
        self._held.clear()
        for part in self.parts:
            if part.is_open and not part.is_over:
                self._ways.leave(part)

    # --- credit and deliveries ----------------------------------------------------------------

    def grant(self, count: int, size_bytes: int) -> None:
        """The client has more room."""
        self.purse.grant(count, size_bytes)
        self.hand_on()
        self.lend()

    def lend(self) -> None:
        """Parts that are short of credit are given some."""
        if self.is_over or self._ways.is_holding():
            return
        self._lend([part for part in self.parts if part.is_open and not part.is_over])

    def _lend(self, parts: list[Part]) -> None:
        for part, count, size_bytes in self.purse.top_up(parts):
            assert isinstance(part, Part)
            self._ways.lend(part, count, size_bytes)

    def delivered(self, part: Part, wire: pb.Delivery, now_ms: int) -> None:
        """Messages have come from a part."""
        if self.is_over or part not in self.parts:
            self._ways.give_back(part, wire)
            return
        part.tokens[wire.partition_number] = wire.token
        wire.subscription_id = self.id
        size_bytes = len(wire.batch)
        self.purse.came(part, wire.count, size_bytes)
        is_early = self._is_away or not self.is_announced
        if self._held or is_early or not self.purse.may_hand_on(wire.count):
            self._held.append(Held(part, wire, now_ms + wire.lease_ms // 2))
            return
        self.purse.handed_on(wire.count, size_bytes)
        self._ways.pass_on(wire)
        if not self._ways.is_holding():
            self._lend([part])

    def hand_on(self) -> None:
        """What was held back goes to the client, as far as it has room."""
        while self._held and self.is_announced and not self._is_away:
            held = self._held[0]
            if not self.purse.may_hand_on(held.wire.count):
                return
            self._held.popleft()
            self.purse.handed_on(held.wire.count, len(held.wire.batch))
            self._ways.renew(held.part, held.wire)
            self._ways.pass_on(held.wire)
        if self.item.is_drain and self.parts:
            self._check_drained()

    def expire(self, now_ms: int) -> None:
        """What was held back for too long goes back: somebody else may have room."""
        for held in [each for each in self._held if each.until_ms <= now_ms]:
            self._held.remove(held)
            self.purse.gave_back(held.wire.count, len(held.wire.batch))
            self._ways.give_back(held.part, held.wire)

    def away(self) -> None:
        """The client has gone, perhaps to come back; what is held back is named to it then."""
        self._is_away = True
        for held in self._held:
            self.purse.gave_back(held.wire.count, len(held.wire.batch))
        self._held.clear()

    def back(self) -> None:
        """The client is being greeted: what came meanwhile goes right behind that."""
        self._is_away = False
        self.hand_on()

    def resumed(self, part: Part) -> None:
        """The session at a part's node goes on; nobody knows what credit arrived there."""
        if self.has(part) and not part.is_over:
            self.purse.forget(part)
            self.lend()

    def has(self, part: Part) -> bool:
        """Is this a part of it that is wanted?"""
        return part in self.parts and not self.is_over
