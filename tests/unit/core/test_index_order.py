"""Messages in order of production, out of a view in order of time."""

from collections.abc import Iterator
from random import Random

import pytest

from sandglass.core import index_order
from sandglass.core.index_order import IndexOrder
from sandglass.core.message import DEAD_LETTER_CHANNEL
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Ending
from sandglass.core.view import Row
from sandglass.errors import OutOfRangeError
from tests.unit.core.drive import START_MS, Drive, numbers_of


class Looks:
    """A view that counts the rows looked at."""

    def __init__(self, drive: Drive) -> None:
        self.store = drive.store
        self.count = 0

    def get(self, key: bytes) -> bytes | None:
        self.count += 1
        return self.store.get(key)

    def has(self, key: bytes) -> bool:
        return self.get(key) is not None

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        for row in self.store.range(first, end):
            self.count += 1
            yield row

    def last(self, first: bytes, end: bytes) -> Row | None:
        self.count += 1
        return self.store.last(first, end)


def order(
    drive: Drive, above: int = 0, *, ahead_row_count_max: int = index_order.AHEAD_ROW_COUNT_MAX
) -> IndexOrder:
    last = drive.partition.last_index
    return IndexOrder(drive.partition, above + 1, last + 1, ahead_row_count_max)


def read(drive: Drive, reading: IndexOrder) -> list[tuple[str, int, int]]:
    """(channel, index, number) of all that it gives out."""
    found: list[tuple[str, int, int]] = []
    while not reading.is_over:
        for channel, part in reading.step(drive.store):
            numbers = numbers_of([part])
            indexes = range(part.first_index, part.first_index + part.count)
            found += zip([channel] * part.count, indexes, numbers, strict=True)
    return found


def test_messages_for_all_times_and_channels_come_in_order_of_production() -> None:
    drive = Drive()
    drive.produce(START_MS + 5000, 0, START_MS + 100, counts=[2, 1, 1])
    drive.produce(channel="other")
    drive.go(50)
    drive.produce(START_MS + 60, counts=[3], channel="other")
    drive.produce()

    got = read(drive, order(drive))

    assert list(range(1, 10)) == [index for _, index, _ in got]
    assert list(range(1, 10)) == [number for _, _, number in got]
    assert ["master"] * 4 + ["other"] * 4 + ["master"] == [channel for channel, _, _ in got]


@pytest.mark.parametrize("above", range(8))
def test_reading_begins_above_an_index_in_the_middle_of_a_row_too(above: int) -> None:
    drive = Drive()
    drive.produce(0, counts=[5])
    drive.go(10)
    drive.produce(0, counts=[2])

    got = read(drive, order(drive, above))

    assert list(range(above + 1, 8)) == [index for _, index, _ in got]


def test_what_is_produced_while_somebody_reads_is_not_waited_for() -> None:
    drive = Drive()
    drive.produce(0, counts=[2])
    reading = order(drive)

    drive.produce()

    assert 2 == len(read(drive, reading))


def test_dead_letters_are_messages_like_others() -> None:
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, counts=[2])
    drive.go(10)
    drive.end(drive.dispatch()[0], Ending.DEAD, [(0, 1)])
    drive.produce()

    assert [
        ("master", 1, 1),
        ("master", 2, 2),
        (DEAD_LETTER_CHANNEL, 3, 1),
        ("master", 4, 3),
    ] == read(drive, order(drive))
    assert [3, 4] == [index for _, index, _ in read(drive, order(drive, 2))]


@pytest.mark.parametrize("seed", range(20))
def test_few_rows_kept_ahead_are_enough_for_any_order(seed: int) -> None:
    chance = Random(seed)
    drive = Drive()
    for _ in range(60):
        dues = [
            chance.choice((0, drive.wall_ms + chance.randrange(1, 3000)))
            for _ in range(chance.randrange(1, 5))
        ]
        counts = [chance.randrange(1, 4) for _ in dues]
        drive.produce(*dues, counts=counts, channel=chance.choice(("master", "a", "b")))
        drive.go(chance.randrange(30))
    last = drive.partition.last_index
    above = chance.randrange(last)

    reading = order(drive, above, ahead_row_count_max=chance.choice((2, 3, 10, 100)))
    got = read(drive, reading)

    assert list(range(above + 1, last + 1)) == [index for _, index, _ in got]
    assert [index for _, index, _ in got] == [number for _, _, number in got]
    assert len(reading.ahead) <= reading.ahead_row_count_max


def test_what_retention_took_ends_the_reading_and_says_what_is_next() -> None:
    drive = Drive()
    drive.produce(START_MS + 5000, 0, counts=[1, 2])
    drive.go(1000)
    drive.produce(0, counts=[2])
    drive.apply(drive.partition.admit_cut(START_MS + 500 << 64, drive.moment))
    reading = order(drive)

    assert [1] == [part.first_index for _, part in step_until_found(drive, reading)]
    with pytest.raises(OutOfRangeError, match=r"index 2 .* still held above it is 4") as caught:
        read(drive, reading)

    assert "from" == caught.value.field
    assert [4, 5] == [index for _, index, _ in read(drive, order(drive, 3))]
    with pytest.raises(OutOfRangeError, match="is 4"):
        read(drive, order(drive, 2))


def step_until_found(drive: Drive, reading: IndexOrder) -> list[index_order.Found]:
    while not (found := reading.step(drive.store)):
        pass
    return found


def test_nothing_left_at_all_says_where_the_next_message_will_be() -> None:
    drive = Drive()
    drive.produce(0, counts=[3])
    drive.go(1000)
    drive.apply(drive.partition.admit_cut(START_MS + 500 << 64, drive.moment))

    with pytest.raises(OutOfRangeError, match="is 4"):
        read(drive, order(drive))

    assert [] == read(drive, order(drive, 3))


def test_a_gap_is_told_rightly_when_rows_were_forgotten_before_it() -> None:
    drive = Drive()
    drive.produce(*(START_MS + 9000 - 100 * place for place in range(20)))
    drive.produce()
    drive.go(1000)
    drive.apply(drive.partition.admit_cut(START_MS + 500 << 64, drive.moment))
    drive.produce(0)

    reading = order(drive, ahead_row_count_max=4)

    with pytest.raises(OutOfRangeError, match=r"index 21 .* is 22"):
        read(drive, reading)


def test_a_row_that_is_cut_while_it_waits_for_its_turn_is_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index_order, "STEP_ROW_COUNT", 1)
    drive = Drive()
    drive.produce(START_MS + 2000, 0)
    reading = order(drive)
    assert [] == reading.step(drive.store)
    assert [2] == list(reading.ahead)

    drive.go(1000)
    drive.apply(drive.partition.admit_cut(START_MS + 500 << 64, drive.moment))

    assert [1] == [part.first_index for _, part in step_until_found(drive, reading)]
    with pytest.raises(OutOfRangeError, match=r"index 2 .* is 3"):
        read(drive, reading)


def test_a_reader_near_the_end_looks_at_few_rows_however_many_there_are() -> None:
    drive = Drive()
    for _ in range(3000):
        drive.go(1)
        drive.produce()
    looks = Looks(drive)
    reading = order(drive, 2990)

    while not reading.is_over:
        reading.step(looks)

    assert looks.count < 100


def test_a_step_is_bounded_in_rows_and_bytes() -> None:
    drive = Drive()
    for _ in range(index_order.STEP_ROW_COUNT + 10):
        drive.produce()
    for _ in range(30):
        drive.produce(0, width=100_000)
    reading = order(drive)

    steps = [reading.step(drive.store)]
    while not reading.is_over:
        steps.append(reading.step(drive.store))

    assert index_order.STEP_ROW_COUNT == len(steps[0])
    for found in steps:
        size_bytes = sum(len(part.body) for _, part in found)
        assert size_bytes < index_order.STEP_BYTES + 100_001


def test_a_reading_that_is_over_gives_nothing_more() -> None:
    drive = Drive()
    drive.produce()
    reading = order(drive)
    read(drive, reading)

    assert reading.is_over
    assert [] == reading.step(drive.store)


def test_a_partition_that_never_held_anything_has_no_channel_to_look_at() -> None:
    drive = Drive()
    reading = IndexOrder(drive.partition, 1, 2)

    assert [] == reading.step(drive.store)
    with pytest.raises(OutOfRangeError):
        reading.step(drive.store)


def test_what_was_forgotten_counts_as_held_above_a_gap() -> None:
    """The rows that are kept ahead may all lie beyond one that no longer is."""
    drive = Drive()
    for index, ahead_ms in ((1, 900), (2, 100), (3, 10), (4, 200), (5, 950), (6, 960)):
        assert index == drive.produce(START_MS + ahead_ms).first_index
    drive.go(50)
    drive.apply(drive.partition.admit_cut(drive.wall_ms << INDEX_BITS, drive.moment))
    reading = order(drive, ahead_row_count_max=1)

    with pytest.raises(OutOfRangeError, match=r"above it is 4$"):
        read(drive, reading)
