"""A subscription in parts, without a network: what its client sees, and what its parts do."""

from dataclasses import dataclass, field, replace

import pytest

from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.errors import NotFoundError, NotLeaderError
from sandglass.rpc.relaying.parted import ANNOUNCE_MS, Part, Parted
from sandglass.rpc.relaying.requests import WAIT_MS
from sandglass.wire.v1 import broker_pb2 as pb

TOPIC = Topic(
    "t",
    TopicKind.TIMER,
    tuple(PartitionRef(f"p{number}", number) for number in range(4)),
    3,
    0,
    TopicSettings(),
)
LEASE_MS = 10_000
MOVED = NotLeaderError("led elsewhere", leader="elsewhere:1")


@dataclass
class Seen:
    """`Ways` that keep what goes over them."""

    passed: list[pb.Delivery] = field(default_factory=list[pb.Delivery])
    announced: list[pb.Subscribed] = field(default_factory=list[pb.Subscribed])
    ends: list[pb.SubscriptionEnded] = field(default_factory=list[pb.SubscriptionEnded])
    lent: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    given_back: list[int] = field(default_factory=list[int])
    renewed: list[int] = field(default_factory=list[int])
    left: list[int] = field(default_factory=list[int])
    holds: bool = False
    now: int = 0

    def now_ms(self) -> int:
        return self.now

    def pass_on(self, wire: pb.Delivery) -> None:
        self.passed.append(wire)

    def announce(self, reply: pb.Subscribed) -> None:
        self.announced.append(reply)

    def end(self, ended: pb.SubscriptionEnded) -> None:
        self.ends.append(ended)

    def is_holding(self) -> bool:
        return self.holds

    def lend(self, part: Part, count: int, size_bytes: int) -> None:
        self.lent.append((part.id, count, size_bytes))

    def give_back(self, part: Part, wire: pb.Delivery) -> None:
        self.given_back.append(wire.token)

    def renew(self, part: Part, wire: pb.Delivery) -> None:
        self.renewed.append(wire.token)

    def leave(self, part: Part) -> None:
        self.left.append(part.id)

    @property
    def tokens(self) -> list[int]:
        return [each.token for each in self.passed]


@pytest.fixture
def seen() -> Seen:
    return Seen()


def parted_of(seen: Seen, *, credit: int = 600, is_drain: bool = False) -> Parted:
    """Subscription 7 over all of the topic."""
    item = pb.Subscribe(
        subscription_id=7,
        topic="t",
        group="g",
        credit_count=credit,
        credit_bytes=1 << 20,
        is_drain=is_drain,
    )
    return Parted(item, TOPIC, range(4), seen)


def in_two(parted: Parted) -> tuple[Part, Part]:
    """Its parts: 1 reads the first two partitions, 2 the others. Both are open."""
    parts = Part(1, None, {0, 1}), Part(2, None, {2, 3})
    for part in parts:
        parted.add(part)
    for part in parts:
        parted.request(part)
    for part in parts:
        parted.opened(part)
    return parts


def delivery(token: int, place: int = 0, count: int = 1) -> pb.Delivery:
    return pb.Delivery(
        subscription_id=1,
        partition_number=place,
        token=token,
        batch=bytes(10 * count),
        count=count,
        lease_ms=LEASE_MS,
    )


def test_each_part_is_asked_for_its_own_partitions_with_its_own_share(seen: Seen) -> None:
    parted = parted_of(seen)
    first, second = Part(1, None, {0, 1}), Part(2, None, {2, 3})
    parted.add(first)
    parted.add(second)

    asked = [parted.request(first), parted.request(second)]

    assert [list(each.partitions) for each in asked] == [["p0", "p1"], ["p2", "p3"]]
    assert [each.subscription_id for each in asked] == [1, 2]
    assert [each.credit_count for each in asked] == [150, 150]
    assert all(each.is_part and each.group == "g" for each in asked)


def test_the_client_is_told_once_of_all_partitions_and_before_any_message(seen: Seen) -> None:
    parted = parted_of(seen)
    part = Part(1, None, {0, 1})
    parted.add(part)
    parted.request(part)

    parted.delivered(part, delivery(5), 0)
    assert seen.passed == []
    parted.opened(part)
    parted.opened(part)

    [reply] = seen.announced
    assert (reply.subscription_id, list(reply.partitions)) == (7, ["p0", "p1", "p2", "p3"])
    assert seen.tokens == [5]


def test_numbers_of_partitions_and_tokens_go_through_as_they_are(seen: Seen) -> None:
    parted = parted_of(seen)
    _, second = in_two(parted)

    parted.delivered(second, delivery(40, place=3), 0)

    [wire] = seen.passed
    assert (wire.subscription_id, wire.partition_number, wire.token) == (7, 3, 40)


def test_more_than_the_client_has_room_for_is_held_back_until_it_has(seen: Seen) -> None:
    parted = parted_of(seen, credit=1)
    first, second = in_two(parted)

    parted.delivered(first, delivery(1), 0)
    parted.delivered(second, delivery(2, place=2), 0)
    assert seen.tokens == [1]
    parted.grant(1, 10)

    assert seen.tokens == [1, 2]
    assert seen.renewed == [2]


def test_what_is_held_back_for_half_its_lease_goes_back(seen: Seen) -> None:
    parted = parted_of(seen, credit=1)
    first, second = in_two(parted)
    parted.delivered(first, delivery(1), 0)
    parted.delivered(second, delivery(2, place=2), 0)

    parted.expire(LEASE_MS // 2 - 1)
    assert seen.given_back == []
    parted.expire(LEASE_MS // 2)
    parted.grant(1, 10)

    assert seen.given_back == [2]
    assert seen.tokens == [1]


def test_a_client_that_reads_too_slowly_lends_nothing(seen: Seen) -> None:
    parted = parted_of(seen)
    first, _ = in_two(parted)
    seen.lent.clear()
    seen.holds = True

    parted.delivered(first, delivery(1, count=150), 0)
    assert seen.lent == []
    seen.holds = False
    parted.lend()

    assert [(part, count) for part, count, _ in seen.lent] == [(1, 150)]


def test_a_partition_that_moves_leaves_the_others_of_its_part_alone(seen: Seen) -> None:
    parted = parted_of(seen)
    first, second = in_two(parted)

    parted.lost(first, MOVED, [1])

    assert parted.homeless == {1}
    assert (parted.by_place[0], parted.by_place[2]) == (first, second)
    assert (seen.ends, seen.left) == ([], [])
    again = Part(3, None, {1})
    parted.add(again)
    assert list(parted.request(again).partitions) == ["p1"]


def test_a_part_without_partitions_is_left_and_its_share_comes_back(seen: Seen) -> None:
    parted = parted_of(seen, credit=1)
    first, second = in_two(parted)
    parted.delivered(second, delivery(1, place=2), 0)
    parted.delivered(first, delivery(2), 0)

    parted.lost(first, MOVED)

    assert parted.homeless == {0, 1}
    assert seen.left == [1]
    assert first not in parted.purse.counts.lent
    parted.grant(1, 10)
    assert seen.tokens == [1], "what was held back of it is another leader's"


def test_a_late_delivery_of_a_part_that_is_gone_goes_back(seen: Seen) -> None:
    parted = parted_of(seen)
    first, _ = in_two(parted)
    parted.lost(first, MOVED)

    parted.delivered(first, delivery(9), 0)

    assert (seen.passed, seen.given_back) == ([], [9])


def test_a_drain_is_over_when_all_parts_are(seen: Seen) -> None:
    parted = parted_of(seen, is_drain=True)
    first, second = in_two(parted)

    parted.finished(first)
    assert seen.ends == []
    parted.finished(second)

    [ended] = seen.ends
    assert (ended.subscription_id, ended.HasField("error")) == (7, False)


def test_a_drain_that_loses_a_partition_ends_and_says_why(seen: Seen) -> None:
    """The client asks for it anew; half of it would not be what was ready."""
    parted = parted_of(seen, is_drain=True)
    first, _ = in_two(parted)

    parted.lost(first, MOVED, [0])

    [ended] = seen.ends
    assert (ended.error.reason, ended.error.leader) == ("NOT_LEADER", "elsewhere:1")
    assert sorted(seen.left) == [1, 2]


def test_a_subscription_without_any_part_is_given_up_after_a_while(seen: Seen) -> None:
    parted = parted_of(seen)
    first, second = in_two(parted)

    assert not parted.is_given_up(1_000_000)
    parted.lost(first, MOVED)
    assert not parted.is_given_up(2_000_000)
    parted.lost(second, MOVED)

    assert not parted.is_given_up(3_000_000)
    assert not parted.is_given_up(3_000_000 + WAIT_MS - 1)
    assert parted.is_given_up(3_000_000 + WAIT_MS)


def test_a_failure_before_it_began_is_its_answer(seen: Seen) -> None:
    parted = parted_of(seen)
    part = Part(1, None, {0, 1})
    parted.add(part)

    parted.fail(NotFoundError("no such group", field="group"))
    parted.fail(NotFoundError("again"))

    [reply] = seen.announced
    assert (reply.subscription_id, reply.error.reason) == (7, "NOT_FOUND")
    assert seen.ends == []


def test_whoever_leaves_is_told_once_and_every_part_is_left(seen: Seen) -> None:
    parted = parted_of(seen)
    in_two(parted)

    parted.unsubscribe()
    parted.unsubscribe()

    assert [each.subscription_id for each in seen.ends] == [7]
    assert sorted(seen.left) == [1, 2]


def test_a_part_that_opens_after_the_end_is_left(seen: Seen) -> None:
    parted = parted_of(seen)
    part = Part(1, None, {0, 1, 2, 3})
    parted.add(part)
    parted.request(part)
    parted.unsubscribe()

    parted.opened(part)

    assert seen.left == [1]
    assert seen.announced == []


def test_what_comes_before_the_client_is_greeted_waits_for_that(seen: Seen) -> None:
    parted = parted_of(seen)
    first, _ = in_two(parted)
    parted.away()

    parted.delivered(first, delivery(3), 0)
    assert seen.passed == []
    parted.back()

    assert seen.tokens == [3]


def test_a_part_whose_session_goes_on_is_lent_its_share_anew(seen: Seen) -> None:
    """Nobody knows which grants and deliveries arrived."""
    parted = parted_of(seen)
    first, _ = in_two(parted)
    seen.lent.clear()

    parted.resumed(first)

    assert [(part, count) for part, count, _ in seen.lent] == [(1, 150)]


# --- claims -----------------------------------------------------------------------------------


def claim(token: int, place: int = 0, count: int = 2) -> pb.Claim:
    return pb.Claim(
        partition_number=place,
        token=token,
        attempt=1,
        run_due_ms=[100],
        run_first_index=[token],
        run_count=[count],
    )


def granted(token: int, count: int = 1) -> pb.Claimed:
    return pb.Claimed(token=token, places=[0, count], lease_ms=LEASE_MS)


def again(parted: Parted, places: set[int], part_id: int = 3) -> tuple[Part, pb.Subscribe]:
    """The part that is asked for next, and how."""
    part = Part(part_id, None, places)
    parted.add(part)
    return part, parted.request(part)


def claiming(seen: Seen, *claims: pb.Claim) -> Parted:
    """Subscription 7, which the client asks for with claims."""
    item = pb.Subscribe(
        subscription_id=7,
        topic="t",
        group="g",
        credit_count=600,
        credit_bytes=1 << 20,
        claims=claims,
    )
    return Parted(item, TOPIC, range(4), seen)


def test_what_the_client_holds_is_claimed_at_the_next_leader_of_its_partition(
    seen: Seen,
) -> None:
    parted = parted_of(seen)
    first, second = in_two(parted)
    for part, token, place in ((first, 1, 0), (first, 2, 1), (first, 3, 1), (second, 4, 2)):
        parted.delivered(part, delivery(token, place), 0)
    parted.holdings.settled(1, 2, [])

    parted.lost(first, MOVED, [1])
    part, asked = again(parted, {1})

    assert [3] == [each.token for each in asked.claims]
    assert set() == parted.opened(part, [granted(50)])
    assert 50 == part.tokens[1]
    assert [7] == [each.subscription_id for each in seen.announced]


def test_what_was_held_back_is_not_claimed(seen: Seen) -> None:
    """The client never saw it: it is due again."""
    parted = parted_of(seen, credit=1)
    first, _ = in_two(parted)
    parted.delivered(first, delivery(1), 0)
    parted.delivered(first, delivery(2), 0)

    parted.lost(first, MOVED)
    _, asked = again(parted, {0, 1})

    assert [1] == [each.token for each in asked.claims]


def test_what_comes_too_late_is_told_and_held_no_more(seen: Seen) -> None:
    parted = parted_of(seen)
    first, _ = in_two(parted)
    for token in (1, 2, 3):
        parted.delivered(first, delivery(token), 0)
    parted.lost(first, MOVED)
    part, _ = again(parted, {0, 1})

    late = parted.opened(part, [pb.Claimed(is_late=True), pb.Claimed()])

    assert {(0, 1), (0, 3)} == late, "and so is what a node that knows no claims leaves out"
    assert 0 == len(parted.holdings)


def test_the_client_is_told_what_became_of_its_claims_when_all_have_answered(
    seen: Seen,
) -> None:
    parted = claiming(seen, claim(1, 2), claim(2, 0), claim(3, 0))
    first, second = Part(1, None, {0, 1}), Part(2, None, {2, 3})
    for part in (first, second):
        parted.add(part)
    asked = [parted.request(part) for part in (first, second)]

    parted.opened(first, [granted(20, 2), pb.Claimed(is_late=True)])
    assert [] == seen.announced
    parted.opened(second, [granted(10, 2)])

    assert [[2, 3], [1]] == [[each.token for each in item.claims] for item in asked]
    [reply] = seen.announced
    assert [10, 20, 0] == [each.token for each in reply.claims]
    assert [False, False, True] == [each.is_late for each in reply.claims]
    assert {(2, 10): 10, (0, 20): 20} == parted.holdings.tokens(), "it goes by these now"


def test_claims_of_partitions_without_leader_are_held_as_they_were(seen: Seen) -> None:
    parted = claiming(seen, claim(1, 2), claim(2, 0))
    first, _ = again(parted, {0, 1})

    parted.opened(first, [granted(20, 2)])
    second, asked = again(parted, {2, 3}, 4)
    parted.opened(second, [granted(10, 2)])

    [reply] = seen.announced
    assert [1, 20] == [each.token for each in reply.claims]
    assert [[0, 2], [0, 2]] == [list(each.places) for each in reply.claims]
    assert TOPIC.settings.ack_timeout_ms == reply.claims[0].lease_ms
    assert [1] == [each.token for each in asked.claims]
    assert 1 == parted.holdings.tokens()[2, 10]


def test_the_client_waits_a_while_for_leaders_that_are_asked_and_then_no_longer(
    seen: Seen,
) -> None:
    parted = claiming(seen, claim(1, 2))
    first, _ = again(parted, {0, 1})
    again(parted, {2, 3}, 4)
    parted.opened(first)

    seen.now = ANNOUNCE_MS - 1
    parted.announce_if_due()
    assert [] == seen.announced
    seen.now += 1
    parted.announce_if_due()
    parted.announce_if_due()

    [reply] = seen.announced
    assert [1] == [each.token for each in reply.claims]


def test_who_has_left_is_asked_for_without_credit_where_it_holds_something(
    seen: Seen,
) -> None:
    parted = parted_of(seen)
    first, second = in_two(parted)
    parted.delivered(first, delivery(1), 0)
    parted.unsubscribe()

    parted.lost(first, MOVED)
    parted.lost(second, MOVED)

    assert ({0}, True) == (parted.homeless, parted.is_waiting)
    part, asked = again(parted, {0})
    assert (0, 0, [1]) == (
        asked.credit_count,
        asked.credit_bytes,
        [each.token for each in asked.claims],
    )
    parted.opened(part, [granted(50)])
    assert (part, False) == (parted.by_place[0], parted.is_waiting)
    assert seen.left[-1] == part.id, "its leases stand"


def test_a_drained_part_is_asked_for_without_a_drain(seen: Seen) -> None:
    parted = parted_of(seen, is_drain=True)
    first, second = in_two(parted)
    parted.delivered(first, delivery(1), 0)
    parted.finished(first)

    parted.lost(first, MOVED)
    _, asked = again(parted, {0})
    parted.finished(second)

    assert (False, 0) == (asked.is_drain, asked.credit_count)
    [ended] = seen.ends
    assert not ended.HasField("error")


def test_what_failed_holds_nothing(seen: Seen) -> None:
    """Its client is told, and claims by itself."""
    parted = parted_of(seen)
    first, _ = in_two(parted)
    parted.delivered(first, delivery(1), 0)

    parted.fail(MOVED)
    parted.lost(first, MOVED)

    assert (0, set(), False) == (len(parted.holdings), parted.homeless, parted.is_waiting)


def test_who_hears_twice_that_a_partition_moved_loses_nothing_else(seen: Seen) -> None:
    parted = parted_of(seen)
    first, _ = in_two(parted)

    parted.lost(first, MOVED, [1])
    parted.lost(first, MOVED, [1])

    assert ({1}, {0}) == (parted.homeless, first.places)


# --- topics that grow -------------------------------------------------------------------------


def test_a_topic_that_gets_more_partitions_is_read_whole(seen: Seen) -> None:
    parted = parted_of(seen)
    in_two(parted)
    more = replace(TOPIC, partitions=(*TOPIC.partitions, PartitionRef("p4", 4)))

    parted.grow(more)
    parted.grow(more)

    assert {4} == parted.homeless
    assert [4, 5] == [len(each.partitions) for each in seen.announced]
    third = Part(3, None, {4})
    parted.add(third)
    assert ["p4"] == list(parted.request(third).partitions)


def test_only_who_reads_all_of_the_same_topic_grows_with_it(seen: Seen) -> None:
    named, drain, whole = parted_of(seen), parted_of(seen, is_drain=True), parted_of(seen)
    named.item.partitions[:] = ["p0", "p1", "p2", "p3"]
    more = (*TOPIC.partitions, PartitionRef("p4", 4))
    another = (PartitionRef("q0", 9), *more[1:])

    named.grow(replace(TOPIC, partitions=more))
    drain.grow(replace(TOPIC, partitions=more))
    whole.grow(replace(TOPIC, partitions=another))

    assert [{0, 1, 2, 3}] * 3 == [each.homeless for each in (named, drain, whole)]
