"""Outcomes, leases and credit of a session. No I/O."""

import threading

import pytest

from sandglass.client.events import Extended, Settled
from sandglass.client.lease import ACK, DEAD, NACK, RELEASE, Lease
from sandglass.core import limits
from sandglass.errors import ConflictError, InvalidError, LeaseLostError, UnavailableError
from sandglass.wire.v1 import broker_pb2 as pb
from tests.unit.client.frames import Table

LOST = pb.Error(code=10, reason="LEASE_LOST", message="gone")


def open_table() -> Table:
    table = Table()
    table.open()
    return table


def test_acks_of_neighbours_become_one_range() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 10)
    for place in (0, 1, 2, 5, 6, 9):
        lease.settle(place, ACK)

    (outcome,) = table.frame().outcomes

    assert (pb.OUTCOME_ACK, [0, 3, 5, 2, 9, 1]) == (outcome.kind, list(outcome.places))
    assert lease.token == outcome.token


def test_a_whole_delivery_is_acknowledged_without_places() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 10)
    for place in range(10):
        lease.settle(place, ACK)

    (outcome,) = table.frame().outcomes

    assert [] == list(outcome.places)


def test_the_rest_of_a_delivery_is_never_sent_as_all_of_it() -> None:
    """`all that are still open` could be more by the time the node reads it."""
    table = open_table()
    lease = table.deliver(table.subscribe(), 3)
    lease.settle(0, NACK, delay_ms=5, reason="why")
    lease.settle_open(ACK)

    acked, nacked = table.frame().outcomes

    assert (pb.OUTCOME_ACK, [1, 2]) == (acked.kind, list(acked.places))
    assert (pb.OUTCOME_NACK, [0, 1], 5, "why") == (
        nacked.kind,
        list(nacked.places),
        nacked.delay_ms,
        nacked.reason,
    )


def test_outcomes_that_differ_go_apart() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 4)
    lease.settle(0, NACK, reason="a")
    lease.settle(1, NACK, reason="b")
    lease.settle(2, RELEASE)
    lease.settle(3, DEAD, reason="b")

    kinds = [(each.kind, each.reason) for each in table.frame().outcomes]

    assert [(2, "a"), (2, "b"), (3, ""), (4, "b")] == kinds


def test_the_same_outcome_twice_is_one_and_another_is_refused() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 2)
    lease.settle(0, ACK)
    lease.settle(0, ACK)

    with pytest.raises(ConflictError, match="acknowledged already"):
        lease.settle(0, NACK)

    assert 1 == lease.open_count


def test_reason_is_taken_up_to_its_limit() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 2)
    lease.settle(0, DEAD, reason="x" * limits.REASON_BYTES_MAX)

    with pytest.raises(InvalidError, match="1025 bytes; the limit is 1024"):
        lease.settle(1, DEAD, reason="x" * (limits.REASON_BYTES_MAX + 1))

    assert 1 == lease.open_count


def test_offsets_follow_the_runs() -> None:
    table = open_table()
    subscription = table.subscribe()
    table.receive(
        deliveries=[
            pb.Delivery(
                subscription_id=subscription.id,
                token=77,
                batch=b"\x0a\x00" * 5,
                count=5,
                run_due_ms=[100, 200],
                run_first_index=[10, 4],
                run_count=[2, 3],
                run_produced_ms=[90, 95],
                lease_ms=1000,
            )
        ]
    )
    lease = subscription.leases[0, 77]

    places = [(lease.offset_of(place) >> 64, lease.index_of(place)) for place in range(5)]

    assert [(100, 10), (100, 11), (200, 4), (200, 5), (200, 6)] == places


def test_who_waits_is_told_when_the_outcome_is_answered() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    lease.settle(0, ACK)
    assert table.session.settling.wait_for(lease, "me")
    (outcome,) = table.frame().outcomes

    events = table.receive(outcomes=[pb.OutcomeReply(request_id=outcome.request_id)])

    assert [Settled(subscription, ["me"], None)] == events
    assert not table.session.settling.wait_for(lease, "nobody")


def test_a_barrier_is_passed_when_everything_before_it_is_answered() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 2)
    lease.settle(0, ACK)
    barrier = table.session.barrier(table.now_ms)
    first = table.frame().outcomes[0].request_id
    lease.settle(1, ACK)
    table.frames()

    before = table.session.settling.is_passed(barrier)
    table.receive(outcomes=[pb.OutcomeReply(request_id=first)])

    assert (False, True) == (before, table.session.settling.is_passed(barrier))


def test_a_lease_that_the_node_calls_lost_takes_no_more_outcomes() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 2)
    lease.settle(0, ACK)
    request_id = table.frame().outcomes[0].request_id

    (event,) = table.receive(outcomes=[pb.OutcomeReply(request_id=request_id, error=LOST)])

    assert isinstance(event, Settled)
    assert isinstance(event.error, LeaseLostError)
    with pytest.raises(LeaseLostError):
        lease.settle(1, ACK)


def test_who_waits_once_it_was_answered_hears_that_it_came_too_late() -> None:
    """Another thread may note an outcome, and be slow to wait for it."""
    table = open_table()
    lease = table.deliver(table.subscribe(), 1)
    lease.settle(0, ACK)
    request_id = table.frame().outcomes[0].request_id
    table.receive(outcomes=[pb.OutcomeReply(request_id=request_id, error=LOST)])

    with pytest.raises(LeaseLostError):
        table.session.settling.wait_for(lease, "late")

    assert not table.session.settling.wait_for(lease, "later"), "it is told once"


def test_unanswered_outcomes_are_sent_again_when_the_session_goes_on() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 2)
    lease.settle_open(ACK)
    sent = list(table.frame().outcomes)

    table.break_off()
    table.open(is_resumed=True)
    again = list(table.frame().outcomes)
    (event,) = table.receive(
        outcomes=[pb.OutcomeReply(request_id=sent[0].request_id, error=LOST)]
    )

    assert sent == again
    assert isinstance(event, Settled)
    assert event.error is None


@pytest.mark.parametrize(
    ("error", "wait_ms"),
    [(LOST, 1 << 40), (pb.Error(code=5, reason="NOT_FOUND", message="no subscription"), 0)],
)
def test_of_one_sent_again_nobody_knows_if_its_lease_may_have_ended_otherwise(
    error: pb.Error, wait_ms: int
) -> None:
    """It had run out by the time of the answer, or its subscription is forgotten."""
    table = open_table()
    lease = table.deliver(table.subscribe(), 2)
    lease.settle_open(ACK)
    sent = table.frame().outcomes[0]

    table.break_off()
    table.open(is_resumed=True)
    table.frame()
    table.now_ms += wait_ms
    (event,) = table.receive(
        outcomes=[pb.OutcomeReply(request_id=sent.request_id, error=error)]
    )

    assert isinstance(event, Settled)
    assert isinstance(event.error, LeaseLostError)
    assert event.error.is_result_unknown


def test_leases_that_only_one_side_knows_are_given_up_on_return() -> None:
    table = open_table()
    subscription = table.subscribe()
    both, ours = table.deliver(subscription, 1), table.deliver(subscription, 1)
    table.break_off()

    table.open(
        is_resumed=True,
        open_leases=[
            pb.OpenLease(subscription_id=subscription.id, token=both.token),
            pb.OpenLease(subscription_id=subscription.id, token=999),
        ],
    )
    (released,) = table.frame().outcomes

    assert (999, pb.OUTCOME_RELEASE, 0) == (released.token, released.kind, released.request_id)
    assert (False, True) == (both.is_lost, ours.is_lost)


def test_nothing_is_given_up_before_the_last_lease_is_listed() -> None:
    table = open_table()
    subscription = table.subscribe()
    leases = [table.deliver(subscription, 1) for _ in range(3)]
    listed = [
        pb.OpenLease(subscription_id=subscription.id, token=each.token) for each in leases
    ]
    table.break_off()

    table.open(is_resumed=True, open_leases=listed[:1], open_lease_count=4)
    table.receive(open_leases=listed[1:])
    between = (table.session.is_open, table.frames(), [each.is_lost for each in leases])
    table.receive(open_leases=[pb.OpenLease(subscription_id=subscription.id, token=999)])
    (released,) = table.frame().outcomes

    assert (False, [], [False] * 3) == between
    assert (999, pb.OUTCOME_RELEASE) == (released.token, released.kind)
    assert [False] * 3 == [each.is_lost for each in leases]


def test_a_list_of_leases_that_broke_off_is_forgotten() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1)
    table.break_off()
    table.open(is_resumed=True, open_lease_count=1)

    table.break_off()
    table.open(is_resumed=True)

    assert table.session.is_open
    assert lease.is_lost


def test_a_lease_is_extended_when_a_third_of_it_has_passed() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1, lease_ms=9000)
    lease.begun_count = lease.reported_count = 1

    table.tick(2999)
    early = list(table.frame().extends)
    table.tick(1)
    (extend,) = table.frame().extends

    assert [] == early
    assert (lease.token, 9000, 1) == (extend.token, extend.lease_ms, extend.begun_count)


def test_a_settled_lease_is_not_extended() -> None:
    table = open_table()
    table.deliver(table.subscribe(), 1).settle(0, ACK)
    table.frames()

    table.tick(8000)

    assert [] == list(table.frame().extends)


def test_an_extension_never_makes_a_lease_end_sooner() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1, lease_ms=9000)
    table.session.settling.extend(lease, 3_600_000, table.now_ms, "me")
    table.frames()

    lease.begun_count = 1
    table.tick(200)
    (report,) = table.frame().extends

    assert (3_599_800, 1) == (report.lease_ms, report.begun_count)


def test_how_far_the_consumer_has_got_is_said_while_it_holds_a_message() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 3)
    table.session.settling.begin(lease)

    lease.begun_count = 1
    first = [each.begun_count for each in table.frame().extends]
    lease.settle(0, ACK)
    lease.begun_count = 2
    soon = list(table.frame().extends)
    table.tick(100)
    later = [each.begun_count for each in table.frame().extends]

    assert ([1], [], [2]) == (first, soon, later)


def test_a_message_that_is_settled_at_once_is_not_reported() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 3)
    table.session.settling.begin(lease)
    lease.begun_count = 1
    lease.settle(0, ACK)

    table.frames()
    table.tick(100)

    assert [] == list(table.frame().extends)


def test_a_lease_that_nobody_keeps_runs_out_and_gives_its_credit_back() -> None:
    table = open_table()
    subscription = table.subscribe(credit=4, is_extending=False)
    lease = table.deliver(subscription, 4, lease_ms=500)

    table.tick(499)
    before = subscription.count_credit.open
    table.tick(1)
    (credit,) = table.frame().credits
    lease.settle(0, ACK)

    assert (4, 0) == (before, subscription.count_credit.open)
    assert 4 == credit.count
    assert 1 == len(table.frame().outcomes), "the node decides whether it is too late"


def test_who_extends_is_told_the_end() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1)
    table.session.settling.extend(lease, 60_000, table.now_ms, "me")
    (extend,) = table.frame().extends

    reply = pb.ExtendReply(request_id=extend.request_id, lease_ends_ms=123)
    events = table.receive(extends=[reply])

    assert [Extended("me", 123, None)] == events


def test_an_extension_that_breaks_off_has_an_unknown_result() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1)
    table.session.settling.extend(lease, 60_000, table.now_ms, "me")
    table.frames()

    (event,) = table.break_off()

    assert isinstance(event, Extended)
    assert isinstance(event.error, UnavailableError)
    assert event.error.is_result_unknown


def test_a_lost_extension_ends_the_lease() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1, lease_ms=900)
    table.tick(300)
    (extend,) = table.frame().extends

    table.receive(extends=[pb.ExtendReply(request_id=extend.request_id, error=LOST)])

    assert lease.is_lost


def test_credit_comes_back_in_quarters() -> None:
    table = open_table()
    subscription = table.subscribe(credit=100)
    lease = table.deliver(subscription, 100)

    for place in range(24):
        lease.settle(place, ACK)
    early = list(table.frame().credits)
    lease.settle(24, ACK)
    (credit,) = table.frame().credits

    assert [] == early
    assert 25 == credit.count


def test_credit_comes_back_at_once_when_the_consumer_waits_with_nothing_left() -> None:
    table = open_table()
    subscription = table.subscribe(credit=100)
    lease = table.deliver(subscription, 100)
    subscription.ready.clear()
    lease.settle(0, ACK)
    table.frames()

    subscription.is_waiting = True
    (credit,) = table.frame().credits

    assert 1 == credit.count


def test_bytes_beyond_the_credit_are_taken_back_exactly() -> None:
    table = open_table()
    subscription = table.subscribe(credit=100, credit_bytes=10)
    lease = table.deliver(subscription, 20)
    over = len(lease.batch) - 10

    open_bytes, available = subscription.bytes_credit.open, subscription.bytes_credit.available
    lease.settle_open(ACK)
    (credit,) = table.frame().credits

    assert (len(lease.batch), -over) == (open_bytes, available)
    assert 10 + over == credit.bytes
    assert 10 == subscription.bytes_credit.available


def test_an_idle_subscription_is_replaced_after_a_break() -> None:
    table = open_table()
    subscription = table.subscribe(credit=8)
    old_id = subscription.id
    table.break_off()

    table.open(is_resumed=True)
    frame = table.frame()

    assert [old_id] == [each.subscription_id for each in frame.unsubscribes]
    assert [(subscription.id, 8)] == [
        (each.subscription_id, each.credit_count) for each in frame.subscribes
    ]


def test_a_subscription_that_holds_something_is_replaced_when_it_is_settled() -> None:
    table = open_table()
    subscription = table.subscribe(credit=8)
    lease = table.deliver(subscription, 4)
    old_id = subscription.id
    table.break_off()
    table.open(
        is_resumed=True,
        open_leases=[pb.OpenLease(subscription_id=old_id, token=lease.token)],
    )

    held = table.frame()
    lease.settle_open(ACK)
    idle = table.frame()

    assert ([], [4]) == (list(held.subscribes), [each.count for each in held.credits])
    assert 1 == len(idle.outcomes)
    assert [old_id] == [each.subscription_id for each in idle.unsubscribes]
    assert [8] == [each.credit_count for each in idle.subscribes]


def test_leaving_releases_what_was_not_begun_and_keeps_what_was() -> None:
    table = open_table()
    subscription = table.subscribe()
    begun, untouched = table.deliver(subscription, 5), table.deliver(subscription, 2)
    begun.begun_count = 2
    begun.settle(0, ACK)

    table.session.leave(subscription)
    frame = table.frame()

    assert {
        (begun.token, pb.OUTCOME_ACK, (0, 1)),
        (begun.token, pb.OUTCOME_RELEASE, (2, 3)),
        (untouched.token, pb.OUTCOME_RELEASE, ()),
    } == {(each.token, each.kind, tuple(each.places)) for each in frame.outcomes}
    assert [subscription.id] == [each.subscription_id for each in frame.unsubscribes]
    assert 1 == begun.open_count
    begun.settle(1, ACK)
    assert [[1, 1]] == [list(each.places) for each in table.frame().outcomes]


def test_a_drained_subscription_is_given_up_when_all_of_it_is_settled() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 1)
    lease.begun_count = 1
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id)])
    table.session.leave(subscription)

    held = table.frame()
    lease.settle(0, ACK)
    settled = table.frames()

    assert [] == list(held.unsubscribes)
    assert 1 == len(settled[0].outcomes)
    given_up = [each.subscription_id for frame in settled for each in frame.unsubscribes]
    assert [subscription.id] == given_up


def test_what_arrives_after_leaving_is_released() -> None:
    table = open_table()
    subscription = table.subscribe()
    table.session.leave(subscription)
    table.frames()

    table.receive(deliveries=[pb.Delivery(subscription_id=subscription.id, token=5, count=1)])
    (released,) = table.frame().outcomes

    assert (5, pb.OUTCOME_RELEASE) == (released.token, released.kind)


def test_no_credit_is_given_after_leaving() -> None:
    table = open_table()
    subscription = table.subscribe(credit=4)
    lease = table.deliver(subscription, 4)
    lease.begun_count = 4
    table.session.leave(subscription)
    lease.settle_open(ACK)

    assert [] == list(table.frame().credits)


def test_an_outcome_under_a_forgotten_subscription_is_a_lost_lease() -> None:
    table = open_table()
    lease = table.deliver(table.subscribe(), 1)
    lease.settle(0, ACK)
    request_id = table.frame().outcomes[0].request_id

    error = pb.Error(code=5, reason="NOT_FOUND", message="no subscription")
    (event,) = table.receive(outcomes=[pb.OutcomeReply(request_id=request_id, error=error)])

    assert isinstance(event, Settled)
    assert isinstance(event.error, LeaseLostError)


# --- leaving, and other threads ---------------------------------------------------------------


def test_what_was_begun_stays_leased_when_a_consumer_leaves_to_finish() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 3, lease_ms=9000)
    assert lease.begin(0)

    table.session.leave(subscription, is_finishing=True)
    frames = [table.frame()]
    table.receive(ended=[pb.SubscriptionEnded(subscription_id=subscription.id)])
    table.tick(3001)
    frames += table.frames()

    (released,) = (each for frame in frames for each in frame.outcomes)
    assert (pb.OUTCOME_RELEASE, [1, 2]) == (released.kind, list(released.places))
    assert [(lease.token, 9000)] == [(each.token, each.lease_ms) for each in frames[-1].extends]
    assert not lease.begin(1)


def test_nothing_is_kept_when_a_consumer_just_leaves() -> None:
    table = open_table()
    subscription = table.subscribe()
    lease = table.deliver(subscription, 3, lease_ms=9000)
    assert lease.begin(0)

    table.session.leave(subscription)
    table.frames()
    table.tick(3001)

    left_ms = [each.lease_ms for frame in table.frames() for each in frame.extends]
    assert [9000 - 3001] == left_ms  # the node is told what was begun, and given no more time


def test_outcomes_of_several_threads_are_all_sent_once() -> None:
    """Threads note while the session takes what is noted, over and over."""
    table = open_table()
    lease = table.deliver(table.subscribe(credit=10_000), 8000)
    threads = [
        threading.Thread(target=lambda first=first: _ack_each(lease, first, 8))
        for first in range(8)
    ]
    sent: list[int] = []

    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        sent += _places_of(table)
    sent += _places_of(table)

    assert list(range(8000)) == sorted(sent)
    assert 0 == lease.open_count


def _ack_each(lease: Lease, first: int, step: int) -> None:
    for place in range(first, lease.count, step):
        lease.settle(place, ACK)


def _places_of(table: Table) -> list[int]:
    """The places that the frames that wait acknowledge."""
    found: list[int] = []
    for frame in table.frames():
        for outcome in frame.outcomes:
            pairs = zip(outcome.places[::2], outcome.places[1::2], strict=True)
            found += [place for first, count in pairs for place in range(first, first + count)]
    return found
