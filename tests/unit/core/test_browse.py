"""Looks at a channel, in both directions, in steps."""

import pytest

from sandglass.core import keys, limits
from sandglass.core.browse import Look, count_between, look
from sandglass.core.offset import INDEX_BITS, MAX
from tests.unit.core.drive import START_MS, Drive, numbers_of

PREFIX = keys.rows_prefix(1, "master")


@pytest.fixture
def drive() -> Drive:
    """Rows of 2, 3 and 1 messages, a minute apart."""
    drive = Drive()
    drive.produce(START_MS + 60_000, START_MS + 120_000, START_MS + 180_000, counts=[2, 3, 1])
    return drive


def all_of(drive: Drive, *, is_newest_first: bool, message_count_max: int) -> list[list[int]]:
    """The numbers that each step finds, until there is no more."""
    steps: list[list[int]] = []
    low, high = 0, MAX
    while True:
        seen: Look = look(
            drive.store,
            PREFIX,
            low,
            high,
            is_newest_first=is_newest_first,
            message_count_max=message_count_max,
        )
        steps.append(numbers_of(seen.found))
        if seen.next_offset is None:
            return steps
        low, high = (low, seen.next_offset) if is_newest_first else (seen.next_offset, high)


def test_steps_go_through_all_messages_once_in_order(drive: Drive) -> None:
    found = all_of(drive, is_newest_first=False, message_count_max=4)

    assert [[1, 2, 3, 4], [5, 6]] == found


def test_steps_go_backwards_row_by_row_and_leave_nothing_out(drive: Drive) -> None:
    found = all_of(drive, is_newest_first=True, message_count_max=3)

    assert [[6, 4, 5], [3, 1, 2]] == found


def test_a_look_begins_and_ends_inside_rows(drive: Drive) -> None:
    second = (START_MS + 60_000) << INDEX_BITS | 2
    fourth = (START_MS + 120_000) << INDEX_BITS | 4

    forwards = look(drive.store, PREFIX, second, fourth)
    backwards = look(drive.store, PREFIX, second, fourth, is_newest_first=True)

    assert [2, 3] == numbers_of(forwards.found)
    assert [3, 2] == numbers_of(backwards.found)


def test_a_look_reads_a_bounded_number_of_rows_however_few_it_wants(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_ROW_COUNT_MAX", 2)

    seen = look(drive.store, PREFIX, 0, MAX, is_wanted=lambda _: False)

    assert ([], 2) == (seen.found, seen.row_count)
    assert (START_MS + 180_000) << INDEX_BITS | 6 == seen.next_offset


def test_a_look_stops_after_so_many_bytes(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOOK_BYTES_MAX", 10)

    assert 1 == look(drive.store, PREFIX, 0, MAX, is_wanted=lambda _: False).row_count
    assert [1, 2] == numbers_of(look(drive.store, PREFIX, 0, MAX, found_bytes_max=1).found)


def test_messages_are_counted_by_keys_in_steps(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = (START_MS + 120_000) << INDEX_BITS | 3
    inside = (START_MS + 120_000) << INDEX_BITS | 4

    assert (6, None) == count_between(drive.store, PREFIX, 0, MAX)
    assert (2, None) == count_between(drive.store, PREFIX, 0, third)
    assert (3, None) == count_between(drive.store, PREFIX, inside, MAX)
    assert (1, None) == count_between(drive.store, PREFIX, inside, inside + 1)

    monkeypatch.setattr(limits, "LOOK_ROW_COUNT_MAX", 1)
    assert (2, third) == count_between(drive.store, PREFIX, 0, MAX)


def test_looking_closes_nothing(drive: Drive) -> None:
    closed = drive.partition.closed

    look(drive.store, PREFIX, 0, MAX)

    assert closed == drive.partition.closed


def test_a_look_backwards_ends_at_rows_that_lie_before_it(drive: Drive) -> None:
    between = (START_MS + 60_000) << INDEX_BITS | 100

    seen = look(drive.store, PREFIX, between, between + 10, is_newest_first=True)

    assert [] == seen.found
