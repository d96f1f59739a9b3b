"""What counts while a node works."""

import re

import pytest

from sandglass import telemetry
from sandglass.core.message import DeadLetterOrigin, Slice
from sandglass.core.record import NODE, Append, Ending, Head, Move, Put, Record, Settle
from sandglass.telemetry import Counts, Histogram

HEAD = Head(1, 0, 0, 0, 0)


def slice_of(due_ms: int, count: int) -> Slice:
    return Slice(b"", count, 0, count, due_ms, 1, due_ms)


def append(counts: list[int], origin: DeadLetterOrigin | None = None) -> Append:
    return Append("master", 1, 0, [1] * len(counts), counts, [], [], [], origin)


def test_names_are_unique_and_well_formed() -> None:
    names = [each.name for each in telemetry.METRICS]

    assert len(names) == len(set(names))
    for each in telemetry.METRICS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", each.name)
        assert each.kind in {"counter", "gauge", "histogram"}
        assert each.help.endswith(".")


def test_every_ending_is_an_outcome_but_waiting_for_the_clock() -> None:
    assert {Ending.CLOCK} == set(Ending) - set(telemetry.OUTCOMES)
    assert len(telemetry.OUTCOMES) == len(set(telemetry.OUTCOMES.values()))


def test_a_value_at_a_bound_counts_below_it() -> None:
    histogram = Histogram((1, 10))

    for value, count in ((0, 1), (1, 2), (2, 4), (10, 8), (11, 16)):
        histogram.observe(value, count)

    assert [3, 12, 16] == histogram.counts
    assert 0 + 2 + 8 + 80 + 176 == histogram.total


@pytest.mark.parametrize("now", [0, 5, 9, 10, 11, 12, 30, 1000])
def test_many_ages_at_once_count_as_each_by_itself(now: int) -> None:
    times, counts = [-3, 0, 0, 4, 5, 9], [1, 2, 3, 4, 5, 6]
    together, single = Histogram((1, 5, 10)), Histogram((1, 5, 10))

    together.observe_ages(now, times, counts)
    for time, count in zip(times, counts, strict=True):
        single.observe(now - time, count)

    assert single.counts == together.counts
    assert single.total == together.total


def test_records_are_counted_by_what_they_do() -> None:
    counts = Counts()
    death = DeadLetterOrigin(1, "g", 5, "")
    put = Put("master", 1, 0, [(b"a", b""), (b"b", b"")], [b"", b""])
    settle = Settle(1, Ending.ACKED, [(0, 9, 4), (9, 12, 2)], [(3, 4, 1)])
    move = Move(1, Ending.NACKED, 0, 1, 0, [(0, 9, 3)], [])

    counts.applied(Record(7, HEAD, [append([2, 3]), append([9], death)]))
    counts.applied(Record(7, HEAD, [settle, move, put]))

    assert {7: 7} == counts.produced
    assert {7: 7} == counts.outcomes[Ending.ACKED]
    assert {7: 3} == counts.outcomes[Ending.NACKED]


def test_lateness_is_counted_by_message_and_never_negative() -> None:
    counts = Counts()

    counts.came(1000, [slice_of(1004, 3)])
    counts.came(1000, [slice_of(900, 2), slice_of(940, 1), slice_of(1001, 4)])

    late = counts.lateness_ms
    at_most = dict(zip(late.bounds, late.counts, strict=False))
    assert 3 + 4 == at_most[1]
    assert 3 == at_most[100] + at_most[250]
    assert 10 == sum(late.counts)


def test_partitions_that_are_gone_leave_their_numbers_behind() -> None:
    counts = Counts()
    for number in (1, 2, 3):
        counts.handed_out(number, number)

    counts.fold({2})
    counts.fold({2})

    assert {2: 2, NODE: 4} == counts.delivered
