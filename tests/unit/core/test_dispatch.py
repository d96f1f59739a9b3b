"""Who gets what: credit, fairness, order, and what one turn may cost."""

from collections.abc import Iterator

import pytest

from sandglass.core import keys, limits, outcome
from sandglass.core.deadlines import COUNT_MIN
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.lease import Consumer
from sandglass.core.message import DEAD_LETTER_CHANNEL
from sandglass.core.offset import MAX
from sandglass.core.partition import Partition
from sandglass.core.record import CreateGroup, Ending, Head, Record
from sandglass.core.topic import TopicSettings
from sandglass.core.view import Changes, Row
from sandglass.testing.seen import take_messages
from tests.unit.core.drive import START_MS, Drive, numbers_of, offset


def _shares(deliveries: list[Delivery]) -> dict[int, int]:
    shares: dict[int, int] = {}
    for each in deliveries:
        key = each.consumer.key
        shares[key] = shares.get(key, 0) + each.lease.count
    return shares


def test_what_is_ready_is_shared_evenly_among_consumers_with_credit() -> None:
    drive = Drive()
    group = drive.group()
    for credit_count in (100, 100, 100):
        drive.read(group, credit_count)
    drive.produce(0, counts=[30])

    assert {1: 10, 2: 10, 3: 10} == _shares(drive.dispatch())


def test_what_one_consumer_cannot_take_goes_to_the_others() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, 2)
    drive.read(group, 100)
    drive.produce(0, counts=[30])

    assert {1: 2, 2: 28} == _shares(drive.dispatch())


def test_single_messages_go_round_among_consumers() -> None:
    drive = Drive()
    group = drive.group()
    for _ in range(3):
        drive.read(group, 100)
    served: list[int] = []

    for _ in range(6):
        drive.produce()
        served += _shares(drive.dispatch())

    assert 2 == max(served.count(key) for key in (1, 2, 3))


def test_count_of_credit_bounds_what_is_handed_out_and_more_credit_gets_the_rest() -> None:
    drive = Drive()
    consumer = drive.read(drive.group(), credit_count=2)
    drive.produce(0, counts=[3])

    assert [1, 2] == drive.take()
    assert [] == drive.take()
    assert (None, None, 500) == drive.partition.wake_at()
    drive.grant(consumer, credit_count=1)
    assert (0, 0, 0) == drive.partition.wake_at()
    assert [3] == drive.take()


def test_bytes_of_credit_bound_what_is_handed_out() -> None:
    drive = Drive()
    consumer = drive.read(drive.group(), credit_bytes=50)
    drive.produce(0, counts=[4], width=20)

    deliveries = drive.dispatch()

    assert [[1, 2], [3]] == [numbers_of(each.slices) for each in deliveries]
    assert -10 == consumer.credit_bytes


def test_one_message_larger_than_the_credit_comes_alone() -> None:
    drive = Drive()
    consumer = drive.read(drive.group(), credit_bytes=50)
    drive.produce(0, counts=[2], width=80)

    assert [1] == drive.take()
    assert -30 == consumer.credit_bytes
    drive.grant(consumer, credit_bytes=50)
    assert [2] == drive.take()


def test_retry_row_is_handed_out_in_parts_as_credit_allows() -> None:
    drive = Drive()
    consumer = drive.read(drive.group())
    drive.produce(0, 0, counts=[3, 3])
    drive.end(drive.dispatch()[0], Ending.NACKED)
    drive.grant(consumer, credit_count=2)

    assert [1, 2] == drive.take()
    drive.grant(consumer, credit_bytes=16)
    assert [3, 4] == drive.take()
    drive.grant(consumer, credit_bytes=16)
    assert [5, 6] == drive.take()


def test_retries_come_before_the_main_order() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce()
    (first,) = drive.dispatch()
    drive.produce(0, counts=[2])
    drive.end(first, Ending.NACKED)

    assert [1, 2, 3] == drive.take()


def test_lease_never_spans_what_is_done_so_that_a_nack_brings_nothing_settled_back() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, counts=[5])
    drive.end(drive.dispatch()[0], Ending.ACKED, [(2, 1)])
    drive.restart()
    drive.read(drive.group())

    deliveries = drive.dispatch()

    assert [[1, 2], [4, 5]] == [numbers_of(each.slices) for each in deliveries]
    for delivery in deliveries:
        drive.end(delivery, Ending.NACKED)
    assert [1, 2, 4, 5] == drive.take()


def test_rows_of_one_lease_come_together_and_a_lease_ends_at_the_bytes_of_a_delivery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "DELIVERY_BYTES_MAX", 40)
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, 0, 0, counts=[2, 2, 3])

    assert [5, 2] == [each.lease.count for each in drive.dispatch()]


def test_turn_hands_out_only_so_much_and_says_that_there_is_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "TURN_ROW_COUNT_MAX", 2)
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, 0, 0)

    assert [1, 2] == drive.take()
    assert group.is_ready
    assert [3] == drive.take()


def test_turn_hands_out_only_so_many_retry_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce(0, counts=[3])
    (delivery,) = drive.dispatch()
    for place in range(3):
        drive.end(delivery, Ending.NACKED, [(place, 1)])
    monkeypatch.setattr(limits, "TURN_ROW_COUNT_MAX", 2)

    assert [1, 2] == drive.take()
    assert group.is_ready
    assert [3] == drive.take()


def test_scheduled_message_waits_when_the_clock_does_not_show_its_time() -> None:
    """A leader whose clock stands behind takes over: now is at the promise, the clock isn't."""
    drive = Drive()
    group = drive.group()
    drive.produce(0, START_MS + 100)
    drive.wall_ms -= 200
    drive.restart(promised=START_MS + 250)
    group = drive.group()
    drive.read(group)

    assert [1] == drive.take()
    assert [] == drive.take()
    assert 1 == group.retry_count
    drive.go(299)
    assert [] == drive.take()
    drive.go(1)
    assert [2] == drive.take()


def test_message_that_waits_behind_one_that_does_not_is_moved_in_the_next_turn() -> None:
    drive = Drive()
    group = drive.group()
    drive.produce()
    drive.wall_ms -= 600
    drive.produce(0, drive.wall_ms + 50, 0)
    drive.read(group)

    assert [1, 2] == drive.take()
    assert group.is_ready
    assert [4] == drive.take()
    assert 1 == group.retry_count


def test_group_without_credit_keeps_what_is_ready_for_later() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=0)
    drive.produce()

    assert [] == drive.dispatch()
    assert group.is_ready


def test_starved_group_takes_no_credit_before_it_is_offered_some() -> None:
    """Others have waited for it longer: not even what has just come is handed out."""
    drive = Drive()
    group = drive.group()
    consumer = drive.read(group, credit_count=0)
    drive.produce()
    drive.dispatch()
    assert [group] == drive.partition.starved

    consumer.credit_count = 1
    drive.produce()
    assert [] == drive.take()
    assert [] == drive.partition.starved
    assert (None, None, None) == drive.partition.wake_at()

    group.is_starved = False
    assert (0, 0, 0) == drive.partition.wake_at()
    assert [1] == drive.take()
    assert [group] == drive.partition.starved


def test_consumer_that_comes_to_a_starved_group_is_served_at_once() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group, credit_count=0)
    drive.produce()
    drive.dispatch()

    drive.read(group)

    assert [1] == drive.take()


def test_group_that_a_full_turn_left_out_has_the_next_also_without_credit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only a turn finds out that it is starved, and nobody offers it credit before."""
    monkeypatch.setattr(limits, "TURN_DELIVERY_COUNT_MAX", 1)
    drive = Drive()
    drive.read(drive.group("fed"))
    left_out = drive.group("left-out")
    drive.read(left_out, credit_count=0)
    drive.produce()

    drive.dispatch()
    assert [] == drive.partition.starved
    assert (0, 0, 0) == drive.partition.wake_at()
    drive.dispatch()

    assert [left_out] == drive.partition.starved


def test_part_of_a_retry_row_that_holds_nothing_is_passed_over() -> None:
    drive = Drive()
    group = drive.group()
    drive.read(group)
    drive.produce()
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=10)
    drive.end_offsets(group, [offset(START_MS, 1)], Ending.ACKED)

    drive.go(10)
    assert [] == drive.take()

    assert (1, 0) == (group.acked_count, group.retry_count)
    assert offset(START_MS, 2) == drive.committed(group)


def test_dead_letters_of_different_origin_come_in_deliveries_of_their_own() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, counts=[4])
    (delivery,) = drive.dispatch()
    for place, reason in enumerate(("bad", "bad", "worse", "bad")):
        drive.end(delivery, Ending.DEAD, [(place, 1)], reason=reason)
    drive.read(drive.group("dead", channel=DEAD_LETTER_CHANNEL))

    deliveries = drive.dispatch()

    assert [[1, 2], [3], [4]] == [numbers_of(each.slices) for each in deliveries]


# --- what a turn costs ------------------------------------------------------------------------

PENDING_COUNT = 1_000_000


class EndlessView:
    """A view that makes its rows up: one message a row, a row a millisecond, far ahead too."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.read_count = 0
        self.prefix = keys.rows_prefix(1, "master")
        self.value = keys.row_columns(0) + b"12345678"

    def get(self, key: bytes) -> bytes | None:
        self.read_count += 1
        return self.rows.get(key)

    def has(self, key: bytes) -> bool:
        return self.get(key) is not None

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        if not first.startswith(self.prefix):
            for key in sorted(self.rows):
                if first <= key < end:
                    self.read_count += 1
                    yield key, self.rows[key]
            return
        begin = int.from_bytes(first[len(self.prefix) :][:6], "big") - START_MS
        for number in range(max(0, begin), PENDING_COUNT):
            row = self._row(number)
            if first <= row[0] < end:
                self.read_count += 1
                yield row

    def last(self, first: bytes, end: bytes) -> Row | None:
        self.read_count += 1
        if not first.startswith(self.prefix):
            return max(
                (row for row in self.rows.items() if first <= row[0] < end), default=None
            )
        number = int.from_bytes(end[len(self.prefix) :][:6], "big") - START_MS
        for each in (number, number - 1):
            if 0 <= each < PENDING_COUNT and self._row(each)[0] < end:
                return self._row(each)
        return None

    def lay(self, changes: Changes) -> None:
        for key, value in changes.rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def _row(self, number: int) -> Row:
        return keys.row_key(self.prefix, START_MS + number, number + 1, 1), self.value


def test_million_pending_messages_cost_a_turn_no_more_than_what_it_hands_out() -> None:
    view = EndlessView()
    partition = Partition(1, "P", TopicSettings(), take_messages)
    partition.last_index = partition.assigned_index = PENDING_COUNT
    created = Record(1, Head(1, 0, 0, 0, 0), [CreateGroup(1, "master", "g", 0)])
    view.lay(partition.apply(created, view))
    group = partition.group("master", "g", view)
    consumer = Consumer(1, 5, 1000)
    partition.add_consumer(group, consumer)

    for turn in range(200):
        moment = Moment(START_MS + 5 * turn + 4, 5 * turn, 5 * turn)
        before = view.read_count
        (delivery,), records = partition.dispatch(moment, MAX, view)
        record = outcome.admit_outcome(
            partition, group, delivery.lease.token, [], Ending.ACKED, moment=moment, view=view
        )
        view.lay(partition.apply(record, view))
        consumer.credit_count, consumer.credit_bytes = 5, 1000

        assert (5, []) == (delivery.lease.count, records)
        assert view.read_count - before <= 10
        assert (0, 0) == (len(group.leases), len(group.order))
        assert (0, 0) == (len(group.done.lows), len(group.retry_parts))
        assert 0 == len(partition.in_flight.landings)
    assert 1000 == group.acked_count


def test_leases_that_have_ended_leave_no_deadline_for_long() -> None:
    """However far away it is: a lease may last for half a day."""
    drive = Drive()
    drive.read(drive.group(), credit_count=10_000)

    for _ in range(2 * COUNT_MIN):
        drive.produce()
        (delivery,) = drive.dispatch()
        drive.end(delivery, Ending.ACKED)

    assert len(drive.partition.deadlines.heap) <= COUNT_MIN + 1


def test_deadlines_of_leases_that_last_are_not_gone_through() -> None:
    """A hundred thousand of them took 28 ms each time that their number had doubled."""
    drive = Drive()
    drive.read(drive.group(), credit_count=10_000)
    for _ in range(2 * COUNT_MIN):
        drive.produce()
        drive.dispatch()

    deadlines = drive.partition.deadlines.heap
    drive.produce()
    drive.dispatch()

    assert 2 * COUNT_MIN + 1 == len(deadlines)
    assert deadlines is drive.partition.deadlines.heap


def test_a_lease_that_is_left_keeps_its_deadline_when_others_go() -> None:
    drive = Drive()
    drive.read(drive.group(), credit_count=10_000)
    drive.produce()
    (kept,) = drive.dispatch()

    for _ in range(COUNT_MIN):
        drive.produce()
        (delivery,) = drive.dispatch()
        drive.end(delivery, Ending.ACKED)

    assert (
        kept.lease.ends_ms,
        kept.group.number,
        kept.lease.token,
    ) in drive.partition.deadlines.heap


def test_messages_of_one_row_that_failed_one_by_one_hold_it_once() -> None:
    """Each is a delivery of its own, and a row may have 256 KiB."""
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, counts=[6])
    (delivery,) = drive.dispatch()
    for place in range(6):
        drive.end(delivery, Ending.NACKED, [(place, 1)])
    drive.go(10)

    again = drive.dispatch()

    assert 6 == len(again)
    assert 1 == len({id(part.body) for each in again for part in each.slices})


def test_a_lease_has_as_many_messages_as_the_limit_and_no_more() -> None:
    """However small they are: with every other message acked, it is settled in pieces."""
    most, row = limits.DELIVERY_MESSAGE_COUNT_MAX, limits.ROW_MESSAGE_COUNT_MAX
    drive = Drive()
    drive.read(drive.group(), credit_count=2 * most, credit_bytes=1 << 30)
    counts = [row] * (most // row) + [1]
    drive.produce(*[0] * len(counts), counts=counts, width=2)

    assert [most, 1] == [each.lease.count for each in drive.dispatch()]


def test_a_group_whose_outcomes_wait_is_given_nothing_more_until_one_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "GROUP_ENDING_COUNT_MAX", 3)
    drive = Drive()
    group, other = drive.group(), drive.group("other")
    consumer = drive.read(group, credit_count=3)
    drive.produce(0, counts=[4])
    (delivery,) = drive.dispatch()
    target = offset(START_MS, 4)
    endings = [Ending.ACKED, Ending.NACKED, Ending.ACKED]

    waiting = [
        drive.admit_end(delivery, ending, [(place, 1)], delay_ms=1000)
        for place, ending in enumerate(endings)
    ]
    drive.grant(consumer)
    drive.read(other)

    assert [1, 2, 3, 4] == drive.take(), "the other group has its own"
    assert (None, None) == drive.partition.wake_at()[:2]
    assert not group.is_drained(target)
    drive.apply(waiting[0])
    assert [4] == drive.take()
