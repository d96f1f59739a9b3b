"""Outcomes, retries, dead letters: what happens to messages of a group after a delivery."""

from collections import deque

import pytest

from sandglass.core import limits, outcome
from sandglass.core.lease import Lease
from sandglass.core.message import DEAD_LETTER_CHANNEL, DeadLetterOrigin
from sandglass.core.offset import MAX
from sandglass.core.record import Append, Ending, Move, Settle
from sandglass.errors import InvalidError, LeaseLostError
from tests.unit.core.drive import START_MS, Drive, numbers_of, offset

# --- outcomes under a token -------------------------------------------------------------------


def test_acked_messages_are_done_and_never_come_again() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3])

    drive.end(drive.dispatch()[0], Ending.ACKED)
    drive.restart()
    group = drive.group()
    drive.read(group)

    assert [] == drive.take()
    assert 3 == group.acked_count
    assert offset(START_MS, 4) == drive.committed(group)


def test_nacked_message_comes_again_before_newer_ones_as_the_next_attempt() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=1)
    drive.produce(0, counts=[2])
    (delivery,) = drive.dispatch()

    drive.end(delivery, Ending.NACKED)
    drive.grant(group.consumers[0], credit_count=1)
    (again,) = drive.dispatch()

    assert [1] == numbers_of(again.slices)
    assert 2 == again.attempt
    assert again.lease.token > delivery.lease.token


def test_delayed_nack_comes_when_its_delay_is_over_whatever_the_clock_shows() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=100)
    drive.wall_ms += 5000

    drive.go(99)
    assert [] == drive.take()
    drive.go(1)
    assert [1] == drive.take()


def test_released_message_counts_no_attempt() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce()

    record = drive.end(drive.dispatch()[0], Ending.RELEASED)

    (move,) = record.operations
    assert isinstance(move, Move)
    assert (0, 1) == (move.attempts, move.releases)
    assert 1 == drive.dispatch()[0].attempt


def test_each_part_of_a_delivery_may_end_otherwise() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[5])
    (delivery,) = drive.dispatch()

    drive.end(delivery, Ending.ACKED, [(3, 1), (1, 1)])
    drive.end(delivery, Ending.NACKED, [(2, 1)], delay_ms=10)
    drive.end(delivery, Ending.RELEASED)

    assert [1, 5] == drive.take()
    drive.go(10)
    assert [3] == drive.take()
    assert (2, 3) == (group.acked_count, group.retry_count)
    assert offset(START_MS, 1) >= drive.committed(group)


def test_parts_of_a_retried_delivery_may_end_otherwise_in_one_outcome() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[6])
    drive.end(drive.dispatch()[0], Ending.NACKED)
    (again,) = drive.dispatch()

    drive.end(again, Ending.ACKED, [(0, 1), (2, 1), (4, 1)])
    drive.end(again, Ending.NACKED)

    drive.go(1)  # a retry that was read may not have one behind it: the next one is due later
    assert [2, 4, 6] == drive.take()
    assert (3, 3) == (group.acked_count, group.retry_count)


def test_outcome_under_an_unknown_token_is_refused() -> None:
    drive = Drive()
    group = drive.group()

    with pytest.raises(LeaseLostError, match="lease 5 of group 'g' in partition P has ended"):
        outcome.admit_outcome(
            drive.partition, group, 5, [], Ending.ACKED, moment=drive.moment, view=drive.store
        )


def test_second_outcome_for_a_message_is_refused_and_takes_nothing() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3])
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.ACKED, [(1, 1)])

    with pytest.raises(LeaseLostError, match="settled or was given back"):
        drive.end(delivery, Ending.NACKED, [(0, 3)])

    drive.end(delivery, Ending.ACKED)
    assert 3 == group.acked_count


@pytest.mark.parametrize("places", [[(0, 0)], [(2, 1)], [(0, 3)], [(0, 1), (0, 2)]])
def test_places_outside_a_delivery_or_named_twice_are_refused(
    places: list[tuple[int, int]],
) -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, counts=[2])
    (delivery,) = drive.dispatch()

    with pytest.raises(InvalidError) as refusal:
        drive.end(delivery, Ending.ACKED, places)

    assert "places" == refusal.value.field
    assert 0b11 == delivery.lease.open


def test_outcome_of_before_a_restart_is_refused_and_the_message_comes_again() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    (before,) = drive.dispatch()

    drive.restart()
    group = drive.group()
    drive.read(group)

    with pytest.raises(LeaseLostError):
        outcome.admit_outcome(
            drive.partition,
            group,
            before.lease.token,
            [],
            Ending.ACKED,
            moment=drive.moment,
            view=drive.store,
        )
    (again,) = drive.dispatch()
    assert 1 == again.attempt
    assert again.lease.token > before.lease.token


# --- leases end -------------------------------------------------------------------------------


def test_expired_lease_counts_an_attempt() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    drive.dispatch()

    drive.go(499)
    assert [] == outcome.admit_expired(drive.partition, drive.moment, drive.store)
    drive.go(1)
    (record,) = outcome.admit_expired(drive.partition, drive.moment, drive.store)
    drive.apply(record)

    assert 2 == drive.dispatch()[0].attempt


def test_lease_that_has_ended_does_not_expire() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce()
    drive.end(drive.dispatch()[0], Ending.ACKED)

    drive.go(500)

    assert [] == outcome.admit_expired(drive.partition, drive.moment, drive.store)


def test_many_leases_expire_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TURN_ENDING_COUNT_MAX", 2)
    drive = Drive()
    group = drive.group()
    for _ in range(5):
        drive.read(group, credit_count=1)
    drive.produce(0, counts=[5])
    drive.dispatch()
    drive.go(500)

    slices = [
        [
            count
            for record in outcome.admit_expired(drive.partition, drive.moment, drive.store)
            for move in record.operations
            if isinstance(move, Move)
            for _, _, count in move.main
        ]
        for _ in range(4)
    ]

    assert [[2], [2], [1], []] == slices


def test_leases_that_end_as_dead_letters_expire_in_slices_of_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each makes a copy: a million of them at once would not fit into one append."""
    monkeypatch.setattr(limits, "TURN_ENDING_BYTES_MAX", 100)
    drive = Drive(max_deliveries=1)
    drive.read(drive.group(), credit_count=1)
    for _ in range(5):
        drive.produce(width=40)
        drive.dispatch()
        drive.grant(drive.partition.reading[0].consumers[0], credit_count=1)
    drive.go(10_000)

    counts: list[int] = []
    for _ in range(3):
        records = outcome.admit_expired(drive.partition, drive.moment, drive.store)
        counts.append(len(records))
        for record in records:
            drive.apply(record)

    assert [3, 2, 0] == counts
    assert 5 == drive.group().dead_count


def test_extended_lease_lives_longer_and_a_shortened_one_ends_sooner() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce()
    token = drive.dispatch()[0].lease.token
    partition = drive.partition

    def extend(lease_ms: int) -> int:
        return partition.extend(group, token, lease_ms=lease_ms, begun=0, moment=drive.moment)

    drive.go(100)
    assert 600 == extend(0)
    assert 5100 == extend(5000)
    drive.go(500)
    assert [] == outcome.admit_expired(partition, drive.moment, drive.store)
    assert 610 == extend(10)
    drive.go(10)
    assert 1 == len(outcome.admit_expired(partition, drive.moment, drive.store))
    with pytest.raises(LeaseLostError):
        extend(10)


def test_broken_session_counts_an_attempt_for_what_was_begun_and_gives_the_rest_back() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[4])
    (delivery,) = drive.dispatch()
    token, partition = delivery.lease.token, drive.partition
    drive.end(delivery, Ending.ACKED, [(1, 1)])
    partition.extend(group, token, lease_ms=0, begun=3, moment=drive.moment)

    for record in outcome.admit_break(
        partition, group, deque([token]), drive.moment, drive.store
    ):
        drive.apply(record)

    again = {
        number: each.attempt for each in drive.dispatch() for number in numbers_of(each.slices)
    }
    assert {1: 2, 3: 2, 4: 1} == again
    assert [] == outcome.admit_break(
        partition, group, deque([token]), drive.moment, drive.store
    )


def test_leases_that_end_together_leave_the_order_wherever_they_stand() -> None:
    drive = Drive()
    group = drive.group()
    drive.produce(0, counts=[20])
    for _ in range(20):
        drive.read(group, credit_count=1)
    leases = [delivery.lease for delivery in drive.dispatch()]
    ended = [lease for place, lease in enumerate(leases) if place % 7 in (1, 2, 3)]

    group.drop_ended(ended)
    kept = [lease for lease in leases if lease not in ended]

    assert [lease.token for lease in kept] == [*group.leases]
    assert [(lease.low, lease.token) for lease in kept] == group.order

    group.drop_ended(kept)

    assert ([], {}) == (group.order, group.leases)


# --- dead letters -----------------------------------------------------------------------------


def test_last_failed_attempt_makes_one_dead_letter_with_the_same_bytes() -> None:
    drive = Drive(max_deliveries=2)
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3], width=20)
    before = drive.fetch()[0]
    drive.end(drive.dispatch()[0], Ending.NACKED)
    (last,) = drive.dispatch()

    drive.end(last, Ending.NACKED, [(1, 2)], reason="bad")

    (letter,) = drive.fetch(DEAD_LETTER_CHANNEL)
    assert before.body[20:] == letter.body
    assert DeadLetterOrigin(offset(START_MS, 2), "g", 2, "bad") == letter.origin
    assert (4, START_MS) == (letter.first_index, letter.due_ms)
    assert (2, 1) == (group.dead_count, group.retry_count)
    assert [] == drive.take()


def test_dead_letter_and_settlement_are_one_record() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, START_MS + 1, counts=[2, 1])
    drive.go(1)

    record = drive.end(drive.dispatch()[0], Ending.DEAD)

    assert [Append, Append, Settle] == [type(each) for each in record.operations]
    assert [4, 6] == [each.first_index for each in record.operations[:2]]  # pyright: ignore[reportAttributeAccessIssue]  # appends
    assert "dead" == drive.fetch(DEAD_LETTER_CHANNEL)[0].origin.reason  # pyright: ignore[reportOptionalMemberAccess]


def test_message_that_nobody_begins_on_becomes_a_dead_letter_in_the_end() -> None:
    drive = Drive(max_deliveries=1)
    group = drive.group()
    drive.read(group)
    drive.produce()

    for _ in range(limits.RELEASE_FACTOR - 1):
        drive.end(drive.dispatch()[0], Ending.RELEASED)
        drive.go(2)
    assert 0 == group.dead_count
    drive.end(drive.dispatch()[0], Ending.RELEASED)

    (letter,) = drive.fetch(DEAD_LETTER_CHANNEL)
    assert DeadLetterOrigin(offset(START_MS, 1), "g", 0, "released") == letter.origin


# --- outcomes by offset -----------------------------------------------------------------------


def test_outcomes_by_offset_reach_leased_and_waiting_messages_and_ignore_the_rest() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=3)
    drive.produce(0, counts=[5])
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.NACKED, [(0, 1)], delay_ms=50)
    drive.end(delivery, Ending.ACKED, [(1, 1)])
    one, two, three, four = (offset(START_MS, index) for index in range(1, 5))

    ignored_count = drive.end_offsets(
        group, [one, two, three, four, three, 7, offset(START_MS, 99), MAX], Ending.ACKED
    )

    assert 6 == ignored_count  # settled, never handed out, named twice, three that don't exist
    assert (3, 0) == (group.acked_count, group.retry_count)


def test_nack_by_offset_counts_on_from_what_the_retry_row_has() -> None:
    drive = Drive()
    group = drive.group()
    consumer = drive.read(group)
    drive.produce(0, counts=[3])
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=50)

    assert 0 == drive.end_offsets(group, [offset(START_MS, 2)], Ending.NACKED)

    drive.grant(consumer, credit_count=100)
    (now,) = drive.dispatch()
    assert ([2], 3) == (numbers_of(now.slices), now.attempt)
    drive.go(50)
    assert [1, 3] == drive.take()


def test_outcome_by_offset_for_a_retry_that_is_read_but_not_handed_out_holds_it_back() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=5)
    drive.produce(0, counts=[5])
    drive.end(drive.dispatch()[0], Ending.NACKED)
    drive.grant(group.consumers[0], credit_count=1)
    assert [1] == drive.take()
    assert 1 == len(group.retry_parts)

    drive.end_offsets(group, [offset(START_MS, 3)], Ending.ACKED)

    drive.grant(group.consumers[0], credit_count=10)
    assert [2, 4, 5] == drive.take()


def test_outcome_by_offset_leaves_other_retries_that_are_read_alone() -> None:
    drive = Drive()
    group = drive.group()
    consumer = drive.read(group)
    drive.produce(0, counts=[6])
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.NACKED, [(0, 3)])
    drive.end(delivery, Ending.RELEASED)
    drive.grant(consumer, credit_count=1)
    assert [1] == drive.take()

    drive.end_offsets(group, [offset(START_MS, 5)], Ending.ACKED)

    drive.grant(consumer, credit_count=10)
    assert [2, 3, 4, 6] == drive.take()


def test_outcome_by_offset_for_a_message_of_before_the_start_is_ignored() -> None:
    drive = Drive()
    drive.produce()
    group = drive.group(is_from_now=True)

    assert 1 == drive.end_offsets(group, [offset(START_MS, 1)], Ending.ACKED)


def test_dispatch_waits_for_an_outcome_by_offset_that_is_on_its_way() -> None:
    drive = Drive()
    drive.group()
    drive.produce()
    drive.fetch()
    drive.apply(drive.machine.record([drive.machine.close_exact()], drive.moment))
    drive.restart()
    group = drive.group()
    drive.read(group)

    records, ignored_count = outcome.admit_offsets(
        drive.partition,
        group,
        [offset(START_MS, 1)] * 2,
        Ending.ACKED,
        drive.moment,
        drive.store,
    )

    assert (1, 1) == (len(records), ignored_count)
    assert [] == drive.take()
    again = outcome.admit_offsets(
        drive.partition, group, [offset(START_MS, 1)], Ending.ACKED, drive.moment, drive.store
    )
    assert ([], 1) == again
    drive.apply(records[0])
    assert [] == drive.take()
    assert 1 == group.acked_count


def test_after_a_restart_what_was_read_before_counts_as_handed_out_and_nothing_else() -> None:
    drive = Drive()
    drive.group()
    drive.produce(0, counts=[3])
    drive.fetch()
    drive.apply(drive.machine.record([drive.machine.close_exact()], drive.moment))
    drive.restart()
    group = drive.group()
    drive.produce()
    drive.fetch()

    ignored_count = drive.end_offsets(
        group, [offset(START_MS, 2), offset(START_MS, 4)], Ending.ACKED
    )

    assert 1 == ignored_count
    drive.read(group)
    assert [1, 3, 4] == drive.take()


def test_nack_by_offset_does_not_hasten_what_waits_for_the_clock() -> None:
    drive = Drive()
    group = drive.group()
    drive.produce()
    drive.wall_ms -= 600
    drive.produce(drive.wall_ms + 100)
    drive.fetch()
    drive.apply(drive.machine.record([drive.machine.close_exact()], drive.moment))
    drive.restart()
    group = drive.group()

    assert 1 == drive.end_offsets(group, [offset(START_MS, 2)], Ending.NACKED)
    drive.read(group)
    assert [1] == drive.take()
    assert [] == drive.take()
    assert 1 == group.retry_count
    assert 1 == drive.end_offsets(group, [offset(START_MS, 2)], Ending.NACKED)
    drive.go(99)
    assert [] == drive.take()
    drive.go(1)
    assert [2] == drive.take()


def test_message_leased_anew_is_found_inside_the_tile_of_its_older_lease() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3])
    (first,) = drive.dispatch()
    drive.end(first, Ending.NACKED, [(0, 1)])
    (second,) = drive.dispatch()

    def holder(index: int) -> Lease | None:
        found = group.lease_at(offset(START_MS, index))
        return found[0] if found else None

    assert [second.lease, first.lease, first.lease] == [holder(n) for n in (1, 2, 3)]
    assert holder(4) is None
    assert group.lease_at(0) is None


# --- retries and waking -----------------------------------------------------------------------


def test_move_in_flight_keeps_later_retries_back_and_wakes_them_when_it_lands() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, 0)
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.NACKED, [(0, 1)], delay_ms=10)
    drive.go(5)
    in_flight = outcome.admit_outcome(
        drive.partition,
        group,
        delivery.lease.token,
        [],
        Ending.NACKED,
        moment=drive.moment,
        view=drive.store,
    )
    drive.go(5)

    assert [] == drive.take()
    drive.apply(in_flight)
    assert group.is_due(drive.wall_ms, drive.steady_ms)
    assert [2, 1] == drive.take()


def test_retry_that_is_not_due_yet_wakes_though_a_later_move_is_in_flight() -> None:
    drive = Drive()
    group, other = drive.group(), drive.group("other", channel="side")
    drive.read(group)
    drive.produce(0, 0)
    drive.produce(START_MS + 8, channel="side")
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.NACKED, [(0, 1)], delay_ms=10)
    outcome.admit_outcome(
        drive.partition,
        group,
        delivery.lease.token,
        [],
        Ending.NACKED,
        moment=drive.moment,
        view=drive.store,
        delay_ms=1000,
    )

    drive.dispatch()

    assert (None, 10, 500) == drive.partition.wake_at()
    drive.read(other)
    drive.dispatch()
    assert (START_MS + 8, 10, 500) == drive.partition.wake_at()


def test_partition_wakes_at_once_for_what_is_ready_and_never_without_credit() -> None:
    drive = Drive()
    group = drive.group()
    assert (None, None, None) == drive.partition.wake_at()
    consumer = drive.read(group)
    assert (0, 0, 0) == drive.partition.wake_at()
    drive.produce(START_MS + 70)
    drive.dispatch()
    assert (START_MS + 70, None, None) == drive.partition.wake_at()

    drive.partition.remove_consumer(group, consumer)
    drive.partition.remove_consumer(group, consumer)

    assert (None, None, None) == drive.partition.wake_at()


def test_append_wakes_a_group_at_once_or_when_it_is_due() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.dispatch()

    drive.produce(START_MS + 70)
    drive.produce(START_MS + 90)
    assert (False, START_MS + 70) == (group.is_ready, group.next_wall_ms)
    drive.produce(START_MS + 50)
    assert START_MS + 50 == group.next_wall_ms
    drive.produce(channel="side")
    assert not group.is_ready
    drive.produce()
    assert group.is_ready


def test_group_is_drained_when_all_that_stood_there_is_handed_out() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=1)
    drive.produce(0, counts=[2])
    target = offset(START_MS, 2)

    drive.dispatch()
    assert not group.is_drained(target)
    drive.grant(group.consumers[0], credit_count=10)
    drive.dispatch()
    drive.dispatch()

    assert group.is_drained(target)


def test_group_is_loaded_from_the_view_as_it_was() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[9])
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.ACKED, [(0, 2), (4, 1), (6, 1)])
    drive.end(delivery, Ending.NACKED, [(3, 1)], delay_ms=40)
    committed = drive.committed(group)

    drive.restart()

    loaded = drive.group()
    assert (group.done, group.start, group.acked_count) == (loaded.done, 0, 4)
    assert (1, 1) == (loaded.retry_count, loaded.moved_count)
    assert committed == drive.committed(loaded)
    drive.read(loaded)
    assert [3, 6, 8, 9] == drive.take()
    drive.go(40)
    assert [4] == drive.take()
