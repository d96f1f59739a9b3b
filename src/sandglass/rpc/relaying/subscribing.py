"""
Subscriptions of a session whose partitions several nodes lead.

Each is `parted`; here its parts are asked for, at the nodes that lead the partitions, and here
come their answers and messages. Outcomes are `settling`'s.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

from sandglass.broker.subscription import Subscription
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    NotLeaderError,
    SandglassError,
    UnavailableError,
)
from sandglass.rpc.relaying.links import HERE, Links
from sandglass.rpc.relaying.parted import Part, Parted
from sandglass.rpc.relaying.settling import PASSING, Settling
from sandglass.rpc.relaying.upstream import Upstream
from sandglass.surface.claims import claimed_to_wire, claims_of
from sandglass.surface.consume import delivery_to_wire
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2 as pb


class Subscribing:
    """All calls run in the event loop's thread. These are the `Ways` of its subscriptions."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._subscriptions: dict[int, Parted] = {}
        self._parts: dict[int, tuple[Parted, Part]] = {}
        """By id: those at other nodes above 0, those here below."""
        self._leases: list[pb.OpenLease] | None = None
        """While the client is being greeted: what it holds."""
        self.settling = Settling(links, self._subscriptions)

    @property
    def is_waiting(self) -> bool:
        """Something has to be looked at again soon."""
        return self.settling.is_waiting or any(
            each.is_waiting for each in self._subscriptions.values()
        )

    # --- the session's life -------------------------------------------------------------------

    def away(self) -> None:
        """The client has gone; it may come back."""
        self.settling.away()
        for parted in self._subscriptions.values():
            parted.away()

    def coming_back(self) -> None:
        """It is being greeted: leases are gathered."""
        self._leases = self._own_leases()

    def came_back(self) -> list[pb.OpenLease]:
        """It is greeted; returns what it holds."""
        leases, self._leases = self._leases or [], None
        for parted in [*self._subscriptions.values()]:
            self._leave_moved(parted)
            leases += self._unserved(parted)
            parted.back()
        return leases

    def _leave_moved(self, parted: Parted) -> None:
        """Partitions that came to be led elsewhere while nobody was told."""
        for place, part in [*parted.by_place.items()]:
            number = parted.topic.partitions[place].number
            try:
                home = self._links.home(number)
            except SandglassError:
                continue
            if home != _address(part):
                self._lost(parted, part, _led_at(number, home), [place])

    def _unserved(self, parted: Parted) -> list[pb.OpenLease]:
        """What the client holds of partitions that nobody serves just now."""
        served = {
            place
            for place, part in parted.by_place.items()
            if part.is_open and (part.upstream is None or part.upstream.is_open)
        }
        return [
            pb.OpenLease(
                subscription_id=parted.id,
                partition_number=holding.place,
                token=holding.claim.token,
            )
            for holding in parted.holdings
            if holding.place not in served
        ]

    def _own_leases(self) -> list[pb.OpenLease]:
        """What the client holds of this node's parts."""
        found: list[pb.OpenLease] = []
        for subscription, number, token in self._links.broker.consumers.open_leases(
            self._links.session
        ):
            if subscription.id in self._parts:
                place = subscription.places[number]
                parted = self._parts[subscription.id][0]
                token = parted.holdings.tokens().get((place, token), token)
                found.append(
                    pb.OpenLease(subscription_id=parted.id, partition_number=place, token=token)
                )
        return found

    # --- outcomes and leases ------------------------------------------------------------------

    def outcomes(self, items: list[pb.Outcome]) -> bool:
        """
        Takes outcomes that say the same of one delivery; false if its subscription is none of
        these.
        """
        parted = self._subscriptions.get(items[0].subscription_id)
        if parted is not None:
            self.settling.outcomes(parted, items)
        return parted is not None

    def extend(self, item: pb.Extend) -> bool:
        """As `outcomes`, for an extension."""
        parted = self._subscriptions.get(item.subscription_id)
        if parted is not None:
            self.settling.extend(parted, item)
        return parted is not None

    # --- subscriptions ------------------------------------------------------------------------

    def subscribe(self, item: pb.Subscribe, topic: Topic, refs: Sequence[PartitionRef]) -> None:
        """
        Begins a subscription, and sees to its answer.

        Raises:
            SandglassError: nothing was begun; or a claim is none.
        """
        known = self._subscriptions
        if item.subscription_id in known:
            raise ConflictError(
                f"subscription {item.subscription_id} exists already", field="subscription_id"
            )
        if len(known) >= limits.SUBSCRIPTION_COUNT_MAX:
            left = next((each for each in known.values() if each.is_left or each.is_over), None)
            if left is None:
                raise BusyError(
                    f"a session has at most {limits.SUBSCRIPTION_COUNT_MAX} subscriptions",
                    field="subscription_id",
                )
            self._forget(left)
        claims_of(topic, item)
        item.reader = item.reader or self._links.session.id
        for other in self._of_group(item):
            other.item.has_more_claims = False  # it has come
        places = {ref.number: place for place, ref in enumerate(topic.partitions)}
        parted = Parted(
            item,
            topic,
            [places[ref.number] for ref in refs],
            self,
        )
        known[parted.id] = parted
        self._find_homes(parted)
        self._links.look_soon()

    def unsubscribe(self, subscription_id: int) -> bool:
        """Ends a subscription; false if it is none of these."""
        parted = self._subscriptions.get(subscription_id)
        if parted is not None:
            parted.unsubscribe()
        return parted is not None

    def grant(self, item: pb.Credit) -> bool:
        """
        More room at the client; false if its subscription is none of these.

        Raises:
            InvalidError: more than a subscription may have.
        """
        parted = self._subscriptions.get(item.subscription_id)
        if parted is None:
            return False
        messages, size_bytes = parted.purse.room
        for amount, field, high in (
            (max(0, messages) + item.count, "credit_count", limits.CREDIT_COUNT_MAX),
            (max(0, size_bytes) + item.bytes, "credit_bytes", limits.CREDIT_BYTES_MAX),
        ):
            try:
                limits.check_range(amount, field=field, low=0, high=high)
            except SandglassError as error:
                self._fail(parted, error)
                return True
        parted.grant(item.count, item.bytes)
        return True

    def changed(self, topic: Topic) -> None:
        """A topic may have more partitions: who reads all of them reads the new ones, too."""
        for parted in self._subscriptions.values():
            if parted.topic.name == topic.name:
                parted.grow(topic)
        self._links.look_soon()

    def repeat_grown(self) -> None:
        """The client, which has come back, may not know what has got more partitions."""
        for parted in self._subscriptions.values():
            if parted.is_grown:
                parted.announce_again()

    def go_on(self) -> None:
        """The client reads again."""
        for parted in self._subscriptions.values():
            parted.lend()

    def _forget(self, parted: Parted) -> None:
        del self._subscriptions[parted.id]
        for part_id in [key for key, (owner, _) in self._parts.items() if owner is parted]:
            del self._parts[part_id]

    def _find_homes(self, parted: Parted) -> None:
        if self._links.stream is None or not parted.homeless:
            return
        by_home: dict[str, set[int]] = {}
        for place in sorted(parted.homeless):
            try:
                home = self._links.home(parted.topic.partitions[place].number)
            except SandglassError as error:
                parted.trouble = error
                if not isinstance(error, PASSING):
                    self._fail(parted, error)
                    return
                continue
            by_home.setdefault(home, set()).add(place)
        parts: list[Part] = []
        for home, places in by_home.items():
            upstream = None if home == HERE else self._links.upstream(home)
            part_id = next(self._links.ids) if upstream is not None else -next(self._links.ids)
            part = Part(part_id, upstream, places)
            self._parts[part.id] = (parted, part)
            parted.add(part)
            parts.append(part)
        for part in parts:
            self._ask(parted, part)

    def _ask(self, parted: Parted, part: Part) -> None:
        if part.upstream is None:
            self._links.spawn(self._subscribe_here(parted, part))
        elif part.upstream.is_open:
            part.upstream.subscribe(self._request(parted, part))

    def _request(self, parted: Parted, part: Part) -> pb.Subscribe:
        item = parted.request(part)
        item.has_more_claims |= self._has_more(parted, part)
        if item.reader == self._links.session.id:
            item.reader_connection = self._links.session.connection
        return item

    def _has_more(self, parted: Parted, part: Part) -> bool:
        """Will another subscription to the group claim something there, too?"""
        home = _address(part)
        return any(
            place not in other.by_place
            or _address(other.by_place[place]) != home
            or not other.by_place[place].is_asked
            for other in self._of_group(parted.item)
            if other is not parted
            for place in {each.place for each in other.holdings.of(part.places)}
        )

    def _of_group(self, item: pb.Subscribe) -> list[Parted]:
        """The subscriptions that are to the same group."""
        return [
            parted
            for parted in self._subscriptions.values()
            if _group(parted.item) == _group(item)
        ]

    async def _subscribe_here(self, parted: Parted, part: Part) -> None:
        item = self._request(parted, part)
        topic = parted.topic
        try:
            part.local = await self._links.broker.consumers.subscribe(
                self._links.session,
                _Here(self, parted, part),
                subscription_id=part.id,
                topic=topic,
                refs=[topic.partitions[place] for place in sorted(part.places)],
                channel=item.channel,
                group=item.group,
                consumer=item.consumer,
                credit_count=item.credit_count,
                credit_bytes=item.credit_bytes,
                ack_timeout_ms=item.ack_timeout_ms,
                is_from_now=item.start == pb.START_NOW,
                is_drain=item.is_drain,
                reader=item.reader,
                reader_connection=item.reader_connection,
                on_moved=partial(self._moved_away, parted, part),
                claims=claims_of(topic, item),
                has_more_claims=item.has_more_claims,
            )
        except SandglassError as error:
            self.part_ended(parted, part, error)
            return
        if self._links.stream is None:
            part.local.hold()
        self._opened(parted, part, [*claimed_to_wire(part.local)])

    def _opened(self, parted: Parted, part: Part, answers: Sequence[pb.Claimed]) -> None:
        late = parted.opened(part, answers)
        self.settling.opened(parted, part, late)

    def _moved_away(
        self,
        parted: Parted,
        part: Part,
        subscription: Subscription,
        number: int,
        error: SandglassError,
    ) -> None:
        """A partition that was led here is led elsewhere."""
        self._lost(parted, part, error, [subscription.places[number]])
        self._links.look_soon()

    def part_ended(self, parted: Parted, part: Part, error: SandglassError | None) -> None:
        """A part has ended at its node, or was refused there."""
        if error is None:
            if parted.item.is_drain:
                parted.finished(part)
            return
        is_passing = isinstance(error, PASSING)
        if isinstance(error, NotFoundError) and error.field == "topic":
            # Another node may not have heard yet of a topic that is known here.
            known = self._links.broker.loops.topic(parted.topic.name)
            is_passing = known is not None and known.partitions == parted.topic.partitions
        if is_passing:
            self._lost(parted, part, error)
            self._links.look_soon()
        else:
            self._fail(parted, error)

    def _fail(self, parted: Parted, error: SandglassError) -> None:
        parted.fail(error)
        self.settling.failed(parted, error)

    # --- what other nodes say -----------------------------------------------------------------

    def opened(self, upstream: Upstream, welcome: pb.Welcome) -> None:
        """The node greets, for the first time or again."""
        if welcome.is_resumed:
            self._take_leases(upstream, welcome)
            upstream.repeat()
        mine = [each for each in self._parts.values() if each[1].upstream is upstream]
        for parted, part in mine:
            if welcome.is_resumed and part.is_open:
                parted.resumed(part)
            elif not part.is_asked:
                if part in parted.parts:
                    upstream.subscribe(self._request(parted, part))
            else:
                # The node doesn't have it, or may or may not: it is asked for anew.
                error = NotLeaderError(f"node {upstream.address} began anew")
                self._lost(parted, part, error)
        if not welcome.is_resumed:
            self.settling.put_off_all(upstream)

    def _take_leases(self, upstream: Upstream, welcome: pb.Welcome) -> None:
        """Names to a client that comes back what it holds; otherwise gives back what never
        arrived here."""
        tokens_of: dict[int, dict[tuple[int, int], int]] = {}
        for lease in welcome.open_leases:
            parted, part = self._parts.get(lease.subscription_id, (None, None))
            place = lease.partition_number
            if parted is not None and self._leases is not None:
                tokens = tokens_of.setdefault(parted.id, parted.holdings.tokens())
                lease.subscription_id = parted.id
                lease.token = tokens.get((place, lease.token), lease.token)
                self._leases.append(lease)
            elif part is not None and not part.is_open:
                continue  # the answer to what was claimed is missing: it is claimed again
            elif part is None or lease.token > part.tokens.get(place, 0):
                upstream.release(lease.subscription_id, place, lease.token)

    def subscribed(self, reply: pb.Subscribed) -> None:
        """A node has answered a part."""
        parted, part = self._parts.get(reply.subscription_id, (None, None))
        if parted is None or part is None:
            return
        if reply.HasField("error"):
            self.part_ended(parted, part, status.from_wire(reply.error))
        else:
            self._opened(parted, part, reply.claims)

    def delivered(self, upstream: Upstream, delivery: pb.Delivery) -> None:
        """Messages have come from a node."""
        parted, part = self._parts.get(delivery.subscription_id, (None, None))
        if parted is None or part is None or self._links.stream is None:
            upstream.release(
                delivery.subscription_id, delivery.partition_number, delivery.token
            )
        else:
            parted.delivered(part, delivery, self._links.now_ms())

    def came(self, parted: Parted, part: Part, wire: pb.Delivery) -> None:
        """Messages have come from this node."""
        if self._links.stream is not None:
            parted.delivered(part, wire, self._links.now_ms())

    def ended(self, ended: pb.SubscriptionEnded) -> None:
        """A node has ended a part, or some partitions of it."""
        parted, part = self._parts.get(ended.subscription_id, (None, None))
        if parted is None or part is None:
            return
        error = status.from_wire(ended.error) if ended.HasField("error") else None
        if ended.partition_numbers and error is not None:
            self._lost(parted, part, error, ended.partition_numbers)
            self._links.look_soon()
        else:
            self.part_ended(parted, part, error)

    def moved(self, number: int, home: str) -> None:
        """Somebody else leads a partition."""
        subscriptions = [*self._subscriptions.values()]
        for parted in subscriptions:
            for place, ref in enumerate(parted.topic.partitions):
                part = parted.by_place.get(place)
                if ref.number == number and part is not None and _address(part) != home:
                    self._lost(parted, part, _led_at(number, home), [place])
        for parted in subscriptions:
            self._find_homes(parted)

    def look(self, now_ms: int) -> None:
        """What waits may have found its leader, or has waited for too long."""
        for parted in [*self._subscriptions.values()]:
            parted.expire(now_ms)
            self._find_homes(parted)
            parted.announce_if_due()
            if parted.is_given_up(now_ms):
                self._fail(parted, parted.trouble or _unreached(parted))
        self.settling.look()

    def used(self) -> set[Upstream | None]:
        """The ways on which something lies."""
        return {part.upstream for _, part in self._parts.values() if part.places}

    def is_held(self, upstream: Upstream) -> bool:
        """Does the client hold something that lies there?"""
        return any(
            parted.holdings.of(part.places)
            for parted, part in self._parts.values()
            if part.upstream is upstream
        )

    def _lost(
        self,
        parted: Parted,
        part: Part,
        error: SandglassError,
        places: Iterable[int] | None = None,
    ) -> None:
        """A part is no more, or these partitions are none of it any more."""
        gone = set(part.places if places is None else places)
        parted.lost(part, error, gone)
        self.settling.put_off(part, gone)
        if parted.failure is not None:
            self.settling.failed(parted, parted.failure)

    # --- what subscriptions say ---------------------------------------------------------------

    def now_ms(self) -> int:
        """See `Ways`."""
        return self._links.now_ms()

    def pass_on(self, wire: pb.Delivery) -> None:
        """See `Ways`."""
        if self._links.stream is not None:
            self._links.stream.pass_on(wire)

    def announce(self, reply: pb.Subscribed) -> None:
        """See `Ways`."""
        if reply.HasField("error"):
            self._subscriptions.pop(reply.subscription_id, None)
        self._links.answer(reply)

    def end(self, ended: pb.SubscriptionEnded) -> None:
        """See `Ways`."""
        if self._links.stream is not None:
            self._links.stream.tell_ended(ended)

    def is_holding(self) -> bool:
        """See `Ways`."""
        return self._links.stream is None or self._links.stream.is_holding

    def lend(self, part: Part, count: int, size_bytes: int) -> None:
        """See `Ways`."""
        if part.upstream is not None:
            item = pb.Credit(subscription_id=part.id, count=count, bytes=size_bytes)
            part.upstream.credit(item)
        elif part.local is not None and not part.local.is_closed:
            self._links.broker.consumers.grant(part.local, count, size_bytes)

    def give_back(self, part: Part, wire: pb.Delivery) -> None:
        """See `Ways`."""
        if part.upstream is not None:
            part.upstream.release(part.id, wire.partition_number, wire.token)
        elif self._links.stream is not None:
            item = pb.Outcome(
                partition_number=wire.partition_number,
                token=wire.token,
                kind=pb.OUTCOME_RELEASE,
            )
            # Not within the turn that hands it out: the lease has to be there.
            asyncio.get_running_loop().call_soon(
                self._links.stream.settle, [item], part.id, lambda *_: None
            )

    def renew(self, part: Part, wire: pb.Delivery) -> None:
        """See `Ways`."""
        item = pb.Extend(
            partition_number=wire.partition_number, token=wire.token, lease_ms=wire.lease_ms
        )
        if part.upstream is not None:
            item.subscription_id = part.id
            part.upstream.extend(item)
        elif self._links.stream is not None:
            self._links.stream.extend(item, part.id)

    def leave(self, part: Part) -> None:
        """See `Ways`."""
        if not part.places:
            self._parts.pop(part.id, None)
        if part.upstream is not None:
            part.upstream.unsubscribe(part.id)
        elif part.local is not None:
            self._links.broker.consumers.unsubscribe(self._links.session, part.local)


class _Here:
    """This node's own part of a subscription: a `Receiver`."""

    def __init__(self, owner: Subscribing, parted: Parted, part: Part) -> None:
        self._owner = owner
        self._parted = parted
        self._part = part

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """See `Receiver`."""
        wire = delivery_to_wire(
            delivery,
            subscription_id=self._parted.id,
            place=subscription.places[delivery.partition],
        )
        self._owner.came(self._parted, self._part, wire)

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        """See `Receiver`."""
        self._owner.part_ended(self._parted, self._part, error)


def _group(item: pb.Subscribe) -> tuple[str, str, str]:
    return item.topic, item.channel, item.group


def _address(part: Part) -> str:
    return HERE if part.upstream is None else part.upstream.address


def _unreached(parted: Parted) -> UnavailableError:
    ways = [part.upstream for part in parted.parts if part.upstream is not None]
    nodes = sorted({f"the node at {way.address} is not reached: {way.trouble}" for way in ways})
    return UnavailableError("; ".join(nodes) or "no leader answered")


def _led_at(number: int, home: str) -> NotLeaderError:
    return NotLeaderError(f"partition {number} is led elsewhere", leader=home)
