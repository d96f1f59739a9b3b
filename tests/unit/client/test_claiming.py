"""What a client holds goes on with a node that began anew, or is given up."""

from collections.abc import Sequence

import pytest

from sandglass.client import settling
from sandglass.client.events import Event, Settled
from sandglass.client.lease import ACK, NACK, Lease
from sandglass.client.subscription import Subscription
from sandglass.core import limits
from sandglass.errors import InternalError, LeaseLostError
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2 as pb
from tests.unit.client.frames import GRACE_MS, PARTITION, Table

NEW = 77


def open_table() -> Table:
    table = Table()
    table.open()
    return table


def reopened(table: Table) -> pb.ClientFrame:
    """The first frame to a node that doesn't know the session."""
    table.break_off()
    assert [] == table.open(is_resumed=False)
    return table.frame()


def granted(table: Table, subscription: Subscription, *claims: pb.Claimed) -> list[Event]:
    return table.receive(
        subscribed=[
            pb.Subscribed(
                subscription_id=subscription.id, partitions=[PARTITION], claims=claims
            )
        ]
    )


def all_of(lease: Lease) -> pb.Claimed:
    return pb.Claimed(token=NEW, places=[0, lease.count], lease_ms=5000)


def settled(events: Sequence[Event]) -> list[Settled]:
    return [event for event in events if isinstance(event, Settled)]


def test_what_is_held_is_claimed_and_settled_under_the_new_token() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 3)
    lease.begin(0)

    (request,) = reopened(table).subscribes
    (claim,) = request.claims
    lease.settle(0, ACK)
    before = table.frame()
    granted(table, subscription, all_of(lease))
    (outcome,) = table.frame().outcomes

    assert (0, 1, 1, [500], [1], [3], []) == (
        claim.partition_number,
        claim.token,
        claim.attempt,
        claim.run_due_ms,
        claim.run_first_index,
        claim.run_count,
        claim.places,
    )
    assert 1 == claim.begun_count
    assert not request.has_more_claims
    assert [] == list(before.outcomes)
    assert (NEW, [0, 1], subscription.id) == (
        outcome.token,
        outcome.places,
        outcome.subscription_id,
    )
    assert [lease] == list(subscription.leases.values())
    assert table.now_ms + 5000 == lease.ends_ms


def test_an_outcome_that_was_not_answered_is_claimed_and_sent_for_what_is_left_of_it() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 4)
    lease.settle_open(ACK)
    lease.waiters.append("waits")
    (first,) = table.frame().outcomes
    assert not subscription.leases

    (request,) = reopened(table).subscribes
    events = granted(table, subscription, pb.Claimed(token=NEW, places=[1, 2], lease_ms=5000))
    (again,) = table.frame().outcomes

    assert [] == list(request.claims[0].places)  # all of it
    assert [] == settled(events)
    assert (first.request_id, NEW, [1, 2]) == (again.request_id, again.token, again.places)
    (event,) = table.receive(outcomes=[pb.OutcomeReply(request_id=again.request_id)])
    assert isinstance(event, Settled)
    assert (None, ["waits"]) == (event.error, event.waiters)


@pytest.mark.parametrize("is_renewed", [False, True])
def test_one_sent_before_is_unknown_if_nobody_had_looked_when_its_lease_was_granted_again(
    *, is_renewed: bool
) -> None:
    """Under the token that it had, a claim is held as it was: its partition has no leader. A
    leader grants what nothing has become of: then the lease was lost since."""
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    lease.settle_open(ACK)
    table.frames()
    token = NEW if is_renewed else lease.token

    reopened(table)
    granted(table, subscription, pb.Claimed(token=token, places=[0, 2], lease_ms=5000))
    (again,) = table.frame().outcomes
    lost = status.to_wire(LeaseLostError("it has ended"))
    (event,) = settled(
        table.receive(outcomes=[pb.OutcomeReply(request_id=again.request_id, error=lost)])
    )

    assert isinstance(event.error, LeaseLostError)
    assert event.error.is_result_unknown is not is_renewed


@pytest.mark.parametrize("has_run_out", [False, True])
def test_what_a_claim_finds_settled_counted_unless_its_lease_may_have_run_out(
    *, has_run_out: bool
) -> None:
    """Time may have made a dead letter of it, which comes again when it is redriven."""
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    lease.settle_open(ACK)
    lease.waiters.append("waits")
    table.frames()

    reopened(table)
    table.now_ms = lease.ends_ms - (not has_run_out)
    (event,) = settled(granted(table, subscription, pb.Claimed()))

    assert ["waits"] == event.waiters
    assert isinstance(event.error, LeaseLostError) is has_run_out
    assert event.error is None or event.error.is_result_unknown


def test_that_the_result_is_unknown_is_told_of_a_repeated_outcome_too() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 1)
    lease.settle(0, ACK)
    table.frames()
    table.break_off()
    table.open(is_resumed=True)

    (again,) = table.frame().outcomes
    lost = status.to_wire(LeaseLostError("too late", is_result_unknown=True))
    (event,) = settled(
        table.receive(outcomes=[pb.OutcomeReply(request_id=again.request_id, error=lost)])
    )

    assert isinstance(event.error, LeaseLostError)
    assert event.error.is_result_unknown


def test_what_is_not_granted_in_time_was_settled_by_the_outcome_on_its_way() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    lease.settle_open(ACK)
    table.frames()

    reopened(table)
    (event,) = settled(granted(table, subscription, pb.Claimed()))

    assert event.error is None
    assert table.session.settling.is_passed(1 << 40)


@pytest.mark.parametrize("is_answered", [False, True])
def test_what_comes_too_late_is_lost_and_so_it_is_with_a_node_that_knows_no_claims(
    *, is_answered: bool
) -> None:
    table = open_table()
    subscription = table.subscribe()
    one, two = table.deliver(subscription, 1), table.deliver(subscription, 1)
    one.settle(0, ACK)
    table.frames()

    reopened(table)
    late = [pb.Claimed(is_late=True)] * 2 if is_answered else []
    (event,) = settled(granted(table, subscription, *late))

    assert isinstance(event.error, LeaseLostError)
    assert event.error.is_result_unknown
    with pytest.raises(LeaseLostError):
        two.settle(0, ACK)
    assert not subscription.leases


def test_an_outcome_that_was_noted_and_never_sent_is_told_when_its_lease_is_lost() -> None:
    table = open_table()
    subscription = table.subscribe()
    one, two = table.deliver(subscription, 1), table.deliver(subscription, 1)
    table.break_off()
    table.open(is_resumed=False)
    one.settle(0, ACK)
    two.settle(0, NACK)
    table.frames()

    late, nothing = pb.Claimed(is_late=True), pb.Claimed()
    events = settled(granted(table, subscription, late, nothing))

    assert [LeaseLostError] * 2 == [type(event.error) for event in events]


def test_a_place_that_somebody_else_has_is_lost_and_the_others_go_on() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 3)

    reopened(table)
    granted(table, subscription, pb.Claimed(token=NEW, places=[0, 1, 2, 1], lease_ms=5000))

    with pytest.raises(LeaseLostError):
        lease.settle(1, ACK)
    lease.settle(0, ACK)
    lease.settle(2, ACK)
    assert [[0, 1, 2, 1]] == [each.places for each in table.frame().outcomes]
    assert not subscription.leases


def test_a_lease_of_which_nothing_but_the_answered_is_left_is_over() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    lease.settle(0, ACK)
    table.frames()

    reopened(table)
    granted(table, subscription, pb.Claimed(token=NEW, places=[0, 1], lease_ms=5000))

    assert not subscription.leases
    assert 0 == subscription.count_credit.open
    assert [[0, 1]] == [each.places for each in table.frame().outcomes]


def test_after_the_grace_nothing_is_begun_on_and_what_was_begun_is_held_until_its_end() -> None:
    table = open_table()
    subscription = table.subscribe()
    begun, other = table.deliver(subscription, 2), table.deliver(subscription, 1)
    begun.begin(0)
    table.break_off()

    table.tick(GRACE_MS)
    assert not begun.is_run_out
    table.tick(1)
    assert (False, False, False) == (begun.is_lost, begun.begin(1), other.begin(0))
    table.open(is_resumed=False)
    (request,) = table.frame().subscribes

    assert [[0, 1]] == [claim.places for claim in request.claims]
    granted(table, subscription, pb.Claimed(token=NEW, places=[0, 1], lease_ms=5000))
    assert (True, False) == (other.is_lost, begun.is_lost)


def test_what_was_begun_is_given_up_when_its_lease_is_over() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease, sent = table.deliver(subscription, 1), table.deliver(subscription, 1)
    sent.settle(0, ACK)
    table.frames()
    table.break_off()

    within = table.tick(9000)
    (event,) = table.tick(1)

    assert [] == within
    assert isinstance(event, Settled)
    assert isinstance(event.error, LeaseLostError)
    assert lease.is_lost


def test_a_session_that_goes_on_late_gives_back_what_was_not_begun() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 3)
    lease.begin(0)
    table.break_off()
    table.tick(GRACE_MS + 1)

    held = pb.OpenLease(subscription_id=subscription.id, token=lease.token)
    table.open(is_resumed=True, open_leases=[held])
    (outcome,) = table.frame().outcomes

    assert (pb.OUTCOME_RELEASE, [1, 2]) == (outcome.kind, outcome.places)


def test_a_subscription_whose_node_gave_it_up_claims_when_it_is_asked_for_again() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease, sent = table.deliver(subscription, 1), table.deliver(subscription, 1)
    sent.settle(0, ACK)
    (outcome,) = table.frame().outcomes
    error = pb.Error(code=14, reason="NOT_LEADER", message="elsewhere", retry_after_ms=300)
    unknown = pb.Error(code=5, reason="NOT_FOUND", message="no subscription")

    events = table.receive(
        outcomes=[pb.OutcomeReply(request_id=outcome.request_id, error=unknown)],
        ended=[pb.SubscriptionEnded(subscription_id=subscription.id, error=error)],
    )
    table.tick(300)
    (request,) = table.frame().subscribes

    assert [] == settled(events)
    assert [lease.token, sent.token] == [claim.token for claim in request.claims]
    granted(table, subscription, pb.Claimed(is_late=True), all_of(sent))
    (again,) = table.frame().outcomes
    assert (NEW, lease.is_lost) == (again.token, True)


def test_a_claim_is_given_up_when_its_subscription_is_refused_for_good() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 1)
    reopened(table)

    error = pb.Error(code=5, reason="NOT_FOUND", message="no topic")
    table.receive(subscribed=[pb.Subscribed(subscription_id=subscription.id, error=error)])

    assert (True, True) == (lease.is_lost, subscription.is_ended)


def test_an_outcome_that_the_node_can_not_take_just_now_is_sent_again() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 1)
    lease.settle(0, ACK)
    (outcome,) = table.frame().outcomes
    error = pb.Error(code=14, reason="UNAVAILABLE", message="later")

    events = table.receive(
        outcomes=[pb.OutcomeReply(request_id=outcome.request_id, error=error)]
    )
    before = table.frame()
    table.tick(100)
    (again,) = table.frame().outcomes

    assert ([], []) == (events, list(before.outcomes))
    assert outcome == again


@pytest.mark.parametrize("is_unknown", [False, True])
def test_that_the_lease_of_one_sent_again_is_lost_says_nothing_if_it_may_have_been_taken(
    *, is_unknown: bool
) -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1)
    lease.settle(0, ACK)
    lease.waiters.append("waits")
    (outcome,) = table.frame().outcomes
    later = pb.Error(
        code=14, reason="UNAVAILABLE", message="later", is_result_unknown=is_unknown
    )
    lost = pb.Error(code=9, reason="LEASE_LOST", message="lost")

    table.receive(outcomes=[pb.OutcomeReply(request_id=outcome.request_id, error=later)])
    table.tick(100)
    table.frames()
    (event,) = settled(
        table.receive(outcomes=[pb.OutcomeReply(request_id=outcome.request_id, error=lost)])
    )

    assert is_unknown == (event.error is None)


def test_a_node_that_was_left_for_another_knows_nothing_of_what_came_since() -> None:
    """The session there goes on with what it had then, and must not be gone on with."""
    table = open_table()
    subscription = table.subscribe()
    before = subscription.id
    mine, other = table.deliver(subscription, 1), table.deliver(subscription, 1)
    table.break_off()
    table.open(node_name="another")
    (request,) = table.frame().subscribes
    granted(table, subscription, all_of(mine), pb.Claimed(is_late=True))
    table.break_off()

    stale = [pb.OpenLease(subscription_id=before, token=each) for each in (NEW, other.token)]
    table.open(is_resumed=True, open_leases=stale)
    frame = table.frame()

    assert before != request.subscription_id
    (again,) = frame.subscribes
    assert [NEW] == [claim.token for claim in again.claims]
    assert [(before, other.token)] == [
        (each.subscription_id, each.token) for each in frame.outcomes
    ]
    assert [before] == [each.subscription_id for each in frame.unsubscribes]


def test_a_subscription_that_nobody_knows_is_left() -> None:
    table = open_table()
    table.subscribe()

    table.receive(deliveries=[pb.Delivery(subscription_id=999, token=3)])
    frame = table.frame()

    assert [(999, pb.OUTCOME_RELEASE)] == [
        (each.subscription_id, each.kind) for each in frame.outcomes
    ]
    assert [999] == [each.subscription_id for each in frame.unsubscribes]


def test_all_but_the_last_of_a_group_say_that_there_is_more() -> None:
    table = open_table()
    subscriptions = [table.subscribe() for _ in range(3)]
    other = table.session.subscribe(
        pb.Subscribe(topic="t", group="h", credit_count=5, credit_bytes=5), is_extending=True
    )
    table.frames()
    table.activate(other)
    for subscription in (subscriptions[0], subscriptions[2], other):
        table.deliver(subscription, 1)

    requests = reopened(table).subscribes

    assert [True, True, False, False] == [each.has_more_claims for each in requests]


def test_a_consumer_that_has_left_claims_what_it_still_works_on() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    lease.begin(0)
    table.session.leave(subscription, is_finishing=True)
    table.frames()

    (request,) = reopened(table).subscribes
    granted(table, subscription, all_of(lease))
    frame = table.frame()

    assert (0, 0, False) == (request.credit_count, request.credit_bytes, request.is_drain)
    assert [subscription.id] == [each.subscription_id for each in frame.unsubscribes]
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id)])
    lease.settle(0, ACK)
    assert [NEW] == [each.token for each in table.frame().outcomes if each.kind == ACK]


def test_an_outcome_of_a_consumer_that_is_gone_is_claimed_by_itself() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 1)
    lease.settle(0, ACK)
    table.session.leave(subscription)
    table.frames()
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id)])

    (request,) = reopened(table).subscribes
    granted(table, subscription, all_of(lease))

    assert 1 == len(request.claims)
    assert [NEW] == [each.token for each in table.frame().outcomes]


def test_a_claim_whose_answer_is_lost_is_made_again() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 1)
    reopened(table)
    asked = subscription.id
    table.break_off()

    table.open(is_resumed=True, open_leases=[pb.OpenLease(subscription_id=asked, token=NEW)])
    frame = table.frame()

    assert ([asked], []) == (
        [each.subscription_id for each in frame.unsubscribes],
        list(frame.outcomes),
    )
    assert [[lease.token]] == [[each.token for each in one.claims] for one in frame.subscribes]
    granted(table, subscription, all_of(lease))
    assert (NEW, False) == (lease.token, lease.is_lost)


def test_no_more_is_claimed_than_a_subscription_may(monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_table()
    subscription = table.subscribe()
    leases = [table.deliver(subscription, 1) for _ in range(4)]
    monkeypatch.setattr(limits, "CLAIM_COUNT_MAX", 3)

    (request,) = reopened(table).subscribes
    granted(table, subscription, *map(all_of, leases[:3]))

    assert 3 == len(request.claims)
    assert [False, False, False, True] == [lease.is_lost for lease in leases]

    monkeypatch.setattr(settling, "CLAIM_BYTES_MAX", 30)
    assert 1 == len(reopened(table).subscribes[0].claims)


@pytest.mark.parametrize("places", [[0], [1, 0], [0, 4], [1, 1, 0, 1], [0, 2, 1, 1]])
def test_places_that_a_claim_has_not_are_a_defect_of_the_node(places: list[int]) -> None:
    table = open_table()
    subscription = table.subscribe()
    table.deliver(subscription, 3)
    reopened(table)

    with pytest.raises(InternalError):
        granted(table, subscription, pb.Claimed(token=NEW, places=places))


def test_somebody_who_holds_something_is_known_to() -> None:
    table = open_table()
    assert not table.session.is_holding
    lease = table.deliver(table.subscribe(), 1)
    assert table.session.is_holding

    lease.settle(0, ACK)
    (outcome,) = table.frame().outcomes
    assert table.session.is_holding
    table.receive(outcomes=[pb.OutcomeReply(request_id=outcome.request_id)])
    assert not table.session.is_holding
