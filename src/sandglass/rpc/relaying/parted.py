"""
A subscription in parts: one for each node that leads some of its partitions.

The client sees one subscription over a topic's partitions, numbered as in the topic; so does
each part, so that numbers and tokens go through as they are. What a part may hand out is lent
from the client's credit (`purse`). A delivery for which the client has no room yet is held back
here, for at most half of its lease, and is then given back, uncounted.

A partition that no part reads is homeless. Whoever owns this finds it a home.

What the client holds is claimed there (`holdings`), and so is what the client itself claims. It
is told what became of its claims when the leaders that there are have answered, `ANNOUNCE_MS`
after the first at the latest. What the others will say is shown by its next outcome or
extension; until then it holds what it held, and is `unsure` of it: an outcome may have been
taken before.

A subscription that is over, and a drained part, are asked for anew all the same if the client
holds something of them: without credit, for its outcomes alone.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sandglass.broker.subscription import Subscription
from sandglass.core.topic import Topic
from sandglass.errors import SandglassError
from sandglass.rpc.relaying.holdings import Holding, Holdings
from sandglass.rpc.relaying.purse import Purse
from sandglass.rpc.relaying.requests import WAIT_MS
from sandglass.rpc.relaying.upstream import Upstream
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2 as pb

ANNOUNCE_MS: Final = 500


@dataclass(slots=True, eq=False)
class Part:
    """
    What one node serves of a subscription: `upstream` is the way to it, None for this node.

    `id` is the subscription's there; this node's own are below 0, where no client's are. One
    that `is_over` hands out nothing any more. `tokens` has the last one that came, by place of
    the partition: later ones that the node knows were lost on their way. `claims` is what it
    was asked for, until it has answered; `unclaimed` what it was not, though the client holds
    it, by place and the client's token.
    """

    id: int
    upstream: Upstream | None
    places: set[int]
    is_asked: bool = False
    is_open: bool = False
    is_over: bool = False
    tokens: dict[int, int] = field(default_factory=dict[int, int])
    claims: list[Holding] = field(default_factory=list[Holding])
    unclaimed: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    local: Subscription | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A delivery that is held back until the client has room; `until_ms` is monotonic."""

    part: Part
    wire: pb.Delivery
    until_ms: int


class Ways(Protocol):
    """How a subscription reaches its client, and its parts."""

    def now_ms(self) -> int:
        """Monotonic."""
        ...

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
    which has it among its own. `drained` are those of which nothing more is to come.
    """

    def __init__(
        self, item: pb.Subscribe, topic: Topic, places: Iterable[int], ways: Ways
    ) -> None:
        self.holdings = Holdings()
        self._claims = self._to_hold(item, topic, ways.now_ms())
        self._answers: dict[int, pb.Claimed] = {}
        """What leaders have said of the client's own claims, by the identity of each."""
        self.unsure: set[tuple[int, int]] = set()
        """Those that no leader had answered when the client was told: by place and token."""
        self.item = item
        self.id = item.subscription_id
        self.topic = topic
        self.purse = Purse(item.credit_count, item.credit_bytes)
        self.homeless: set[int] = set(places)
        self.drained: set[int] = set()
        self.by_place: dict[int, Part] = {}
        self.parts: list[Part] = []
        self.trouble: SandglassError | None = None
        """Why it has homeless partitions."""
        self.is_announced = False
        self.is_grown = False
        """It reads more partitions than it began with."""
        self.is_left = False
        self.is_over = False
        self.failure: SandglassError | None = None
        """Why it is over."""
        self._ways = ways
        self._held: deque[Held] = deque()
        self._is_away = False
        self._alone_ms: int | None = None
        """Since when no part of it is there."""
        self._opened_ms: int | None = None
        """When the first one came."""

    @property
    def is_waiting(self) -> bool:
        """Something of it has to be looked at again soon."""
        if self.is_over:
            return bool(self.homeless)
        return bool(self.homeless or self._held or not self.is_announced)

    # --- parts --------------------------------------------------------------------------------

    def add(self, part: Part) -> None:
        """Some homeless partitions are to be read through this."""
        assert part.places <= self.homeless, "a partition has one home"
        self.homeless -= part.places
        self.parts.append(part)
        for place in part.places:
            self.by_place[place] = part
        part.is_over = self.is_over or part.places <= self.drained
        if not part.is_over:
            self.purse.join(part)

    def request(self, part: Part) -> pb.Subscribe:
        """What to ask a part's node for, now; the credit in it counts as lent."""
        part.is_asked = True
        item = pb.Subscribe()
        item.CopyFrom(self.item)
        item.subscription_id = max(0, part.id)
        del item.partitions[:]
        item.partitions.extend(self.topic.partitions[each].id for each in sorted(part.places))
        item.credit_count = item.credit_bytes = 0
        if not part.is_over:
            self.purse.forget(part)
            for _, count, size_bytes in self.purse.top_up([part]):
                item.credit_count, item.credit_bytes = count, size_bytes
        item.is_drain = self.item.is_drain and not part.is_over
        item.is_part = not item.is_drain
        held = self.holdings.of(part.places)
        part.claims = self.holdings.to_claim(part.places, self._ways.now_ms())
        part.unclaimed = {each.name for each in held if each not in self.holdings}
        item.claims.extend(holding.claim for holding in part.claims)
        return item

    def announce_again(self) -> None:
        """The client is told which partitions there are now."""
        if self.is_announced and not self.is_over:
            ids = [ref.id for ref in self.topic.partitions]
            self._ways.announce(pb.Subscribed(subscription_id=self.id, partitions=ids))

    def grow(self, topic: Topic) -> None:
        """The topic as it is now: if all of it is read, so are partitions that it has got."""
        known, ids = ([ref.id for ref in each.partitions] for each in (self.topic, topic))
        if self.is_over or ids[: len(known)] != known:
            return
        self.topic = topic  # in other logs, perhaps: then its partitions have other numbers
        if ids == known or self.item.partitions or self.item.is_drain:
            return
        self.is_grown = True
        self.homeless |= {*range(len(known), len(ids))}
        self.announce_again()

    def opened(self, part: Part, answers: Sequence[pb.Claimed] = ()) -> set[tuple[int, int]]:
        """
        A part's node serves it, and has answered what was claimed.

        Returns:
            What came too late, or was not claimed: by place and the client's token.
        """
        if part not in self.parts:
            self._ways.leave(part)
            return set()
        part.is_open = True
        late = self._take_answers(part, answers)
        if part.is_over:
            self._ways.leave(part)
            return late
        self.announce_if_due()
        self.hand_on()
        return late

    def _take_answers(self, part: Part, answers: Sequence[pb.Claimed]) -> set[tuple[int, int]]:
        now_ms, late = self._ways.now_ms(), part.unclaimed
        own = {id(holding) for holding in self._claims}
        claims, part.claims, part.unclaimed = part.claims, [], set()
        self.unsure -= late.union([holding.name for holding in claims])
        for number, holding in enumerate(claims):
            # Who knows no claims has granted none.
            known = number < len(answers)
            claimed = answers[number] if known else pb.Claimed(is_late=True)
            if claimed.is_late:
                late.add(holding.name)
            self.holdings.answered(holding, claimed, now_ms)
            top = max(part.tokens.get(holding.place, 0), claimed.token)
            part.tokens[holding.place] = top
            if not self.is_announced and id(holding) in own:
                self._answers[id(holding)] = claimed
                self.holdings.renamed(holding)
        return late

    def announce_if_due(self) -> None:
        """The client is told that it has begun, and what became of its claims."""
        if self.is_announced or self.is_over or not any(part.is_open for part in self.parts):
            return
        now_ms = self._ways.now_ms()
        if self._opened_ms is None:
            self._opened_ms = now_ms
        is_asked = any(
            id(holding) not in self._answers and holding.place in self.by_place
            for holding in self._claims
            if holding in self.holdings
        )
        if is_asked and now_ms - self._opened_ms < ANNOUNCE_MS:
            return
        self.is_announced = True
        reply = pb.Subscribed(subscription_id=self.id)
        reply.partitions.extend(ref.id for ref in self.topic.partitions)
        reply.claims.extend(map(self._answer_to, self._claims))
        self._claims, self._answers = [], {}
        self._ways.announce(reply)

    def _answer_to(self, holding: Holding) -> pb.Claimed:
        known = self._answers.get(id(holding))
        if known is not None:
            return known
        if holding not in self.holdings:
            return pb.Claimed(is_late=True)
        self.unsure.add(holding.name)
        lease_ms = _lease_ms(self.item, self.topic)
        return pb.Claimed(token=holding.claim.token, places=holding.places, lease_ms=lease_ms)

    def _to_hold(self, item: pb.Subscribe, topic: Topic, now_ms: int) -> list[Holding]:
        """What the client claims is held from now on, as far as is known here."""
        lease_ms = _lease_ms(item, topic)
        found = [
            self.holdings.claimed(claim, lease_ms=lease_ms, now_ms=now_ms)
            for claim in item.claims
        ]
        item.ClearField("claims")
        return found

    def lost(
        self, part: Part, error: SandglassError, places: Iterable[int] | None = None
    ) -> None:
        """A part is no more, or these partitions are none of it any more: they need a home."""
        gone = part.places & set(part.places if places is None else places)
        if part not in self.parts or not gone:
            return
        part.places -= gone
        self.trouble = error
        if self.item.is_drain and not part.is_over and not self.is_over:
            self.fail(error)
            return
        for place in gone:
            self.by_place.pop(place, None)
        if part.is_over or self.is_over:
            self.drained |= gone
            gone &= {holding.place for holding in self.holdings.of(gone)}
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
        self.drained |= part.places
        self.purse.leave(part)
        self._check_drained()
        self.lend()

    def _check_drained(self) -> None:
        is_drained = all(part.is_over for part in self.parts)
        is_read = self.homeless <= self.drained
        if not self.is_over and is_drained and is_read and not self._held:
            self.is_over = True
            self._ways.end(pb.SubscriptionEnded(subscription_id=self.id))

    def fail(self, error: SandglassError) -> None:
        """All of it ends, for a reason that the client is told."""
        self.holdings.clear()
        self.homeless.clear()
        if self.is_over:
            return
        self._end()
        self.failure = error
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
        self.homeless &= {holding.place for holding in self.holdings}
        self._ways.end(pb.SubscriptionEnded(subscription_id=self.id))

    def _end(self) -> None:
        self.is_over = True
        for held in self._held:
            self._ways.give_back(held.part, held.wire)
        self._held.clear()
        for part in self.parts:
            if part.is_open and not part.is_over:
                self._ways.leave(part)
            part.is_over = True

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
        self._hand_on(wire)
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
            self._hand_on(held.wire)
        if self.item.is_drain and self.parts:
            self._check_drained()

    def _hand_on(self, wire: pb.Delivery) -> None:
        self.holdings.handed_on(wire, self._ways.now_ms())
        self._ways.pass_on(wire)

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


def _lease_ms(item: pb.Subscribe, topic: Topic) -> int:
    """How long what the client claims may well be leased to it, as far as is known here."""
    return item.ack_timeout_ms or topic.settings.ack_timeout_ms
