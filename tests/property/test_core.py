"""Laws of the core's pure parts."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sandglass.core import codec, keys, limits, record
from sandglass.core.done import DoneRanges
from sandglass.core.lease import Lease
from sandglass.core.message import DeadLetterOrigin
from sandglass.core.record import Ending, Head, Record
from sandglass.errors import CorruptError

OFFSETS = st.integers(0, (1 << 112) - 1)
MILLISECONDS = st.integers(0, limits.DUE_MS_MAX)
NAMES = st.from_regex(limits.NAME_PATTERN.pattern.replace(r"\Z", ""), fullmatch=True)
RANGES = st.lists(st.tuples(OFFSETS, OFFSETS, st.integers(0, 1 << 31)), max_size=4)
U32 = st.integers(0, (1 << 32) - 1)


@st.composite
def appends(draw: Any) -> record.Append:
    count = draw(st.integers(1, 5))

    def column(values: Any) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count))

    origin = draw(
        st.none() | st.builds(DeadLetterOrigin, OFFSETS, NAMES, U32, st.text(max_size=20))
    )
    return record.Append(
        draw(NAMES),
        draw(st.integers(1, 1 << 60)),
        draw(MILLISECONDS),
        column(MILLISECONDS),
        column(st.integers(1, limits.ROW_MESSAGE_COUNT_MAX)),
        column(st.binary(max_size=40)),
        column(st.booleans()),
        draw(st.just([]) | st.lists(MILLISECONDS, min_size=count, max_size=count)),
        origin,
    )


ENTRY_KEYS = st.lists(
    st.tuples(st.binary(min_size=1, max_size=8), st.binary(max_size=8)), min_size=1, max_size=4
)


@st.composite
def puts(draw: Any) -> record.Put:
    wanted = draw(ENTRY_KEYS)
    messages = [draw(st.binary(max_size=40)) for _ in wanted]
    index, produced_ms = draw(st.integers(1, 1 << 60)), draw(MILLISECONDS)
    return record.Put(draw(NAMES), index, produced_ms, wanted, messages)


OPERATIONS = (
    appends()
    | puts()
    | st.builds(record.Delete, NAMES, st.integers(1, 1 << 60), MILLISECONDS, ENTRY_KEYS)
    | st.builds(record.Settle, U32, st.sampled_from(Ending), RANGES, RANGES)
    | st.builds(
        record.Move, U32, st.sampled_from(Ending), MILLISECONDS, U32, U32, RANGES, RANGES
    )
    | st.builds(record.CreateGroup, U32, NAMES, NAMES, OFFSETS)
    | st.builds(record.Cut, OFFSETS)
    | st.builds(record.PromiseExact, OFFSETS)
    | st.builds(record.OpenEpoch, U32)
    | st.builds(record.Promise, MILLISECONDS)
    | st.builds(record.CloseExact, st.lists(st.tuples(U32, OFFSETS), max_size=4))
    | st.builds(record.PutTopic, NAMES, st.binary(max_size=40))
    | st.builds(record.DeleteTopic, NAMES, st.lists(U32, max_size=4))
)
RECORDS = st.builds(
    Record,
    U32,
    st.builds(Head, U32, OFFSETS, MILLISECONDS, MILLISECONDS, MILLISECONDS),
    st.lists(OPERATIONS, max_size=4),
)


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(written: Record) -> None:
    assert codec.decode(codec.encode(written)) == written


@given(RECORDS, st.data())
def test_a_damaged_record_is_corrupt_or_differs_only_in_its_batches(
    written: Record, data: Any
) -> None:
    """Batches are under the log's checksum; everything else is under the record's own."""
    raw = bytearray(codec.encode(written))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))

    try:
        read = codec.decode(bytes(raw))
    except CorruptError:
        return

    assert (read.partition, read.head) == (written.partition, written.head)
    assert len(read.operations) == len(written.operations)


@given(st.binary(max_size=200))
def test_garbage_is_corrupt_and_nothing_worse(raw: bytes) -> None:
    try:
        codec.decode(raw)
    except CorruptError:
        return


PLACES = st.tuples(MILLISECONDS, st.integers(0, (1 << 64) - 1))


@given(PLACES, PLACES)
def test_the_order_of_keys_is_the_order_of_due_time_and_index(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    prefix = keys.rows_prefix(1, "master")
    first, second = keys.row_key(prefix, *one, 1), keys.row_key(prefix, *other, 1)

    assert (first < second) == (one < other)
    assert keys.row_place(first) == (one[0] << 64 | one[1], 1)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=30))
def test_done_ranges_are_a_set_of_offsets(parts: list[tuple[int, int]]) -> None:
    done, model = DoneRanges(), set[int]()

    for low, count in parts:
        done.add(low, low + count)
        model |= set(range(low, low + count))

    assert {offset for offset in range(80) if done.holds(offset)} == model
    boundaries = [done.floor, *done.lows, *done.highs]
    assert boundaries[0] == next(offset for offset in range(81) if offset not in model)
    assert all(low < high for low, high in zip(done.lows, done.highs, strict=True))
    assert all(high < low for high, low in zip(done.highs, done.lows[1:], strict=False))
    for offset in range(80):
        skipped, _ = done.skip(offset)
        assert skipped == next(at for at in range(offset, 82) if at not in model)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=6), st.data()
)
def test_a_lease_names_exactly_the_messages_that_it_is_asked_for(
    shape: list[tuple[int, int]], data: Any
) -> None:
    """Pieces are (gap before, messages): every range holds its messages and no other's."""
    lease, offsets = _lease(shape)
    chosen = sorted(data.draw(st.sets(st.integers(0, lease.count - 1), min_size=1)))

    taken = lease.take([(place, 1) for place in chosen])
    ranges = lease.ranges(taken)
    rest = lease.ranges(lease.take([])) if lease.open else []

    named = {at for at in offsets if any(low <= at < high for low, high, _ in ranges)}
    assert named == {offsets[place] for place in chosen}
    assert sum(count for _, _, count in ranges) == len(chosen)
    covered = sorted((low, high) for low, high, _ in (*ranges, *rest))
    assert covered[0][0] == lease.low
    assert covered[-1][1] == lease.high
    assert all(one[1] == other[0] for one, other in pairwise(covered))


def _lease(shape: list[tuple[int, int]]) -> tuple[Lease, list[int]]:
    indexes: list[int] = []
    offsets: list[int] = []
    low = 100
    for gap, count in shape:
        first = low + gap
        indexes.append(first)
        offsets += range(first, first + count)
        low = first + count
    total = len(offsets)
    counts = tuple(count for _, count in shape)
    dues = (0,) * len(shape)
    lease = Lease(
        1,
        1,
        1,
        0,
        0,
        False,
        100,
        low,
        10,
        10,
        dues,
        tuple(indexes),
        counts,
        total,
        (1 << total) - 1,
    )
    return lease, offsets
