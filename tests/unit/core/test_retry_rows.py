"""When a turn looks for retries in the view, and when it knows that there are none."""

import pytest

from sandglass.core.group import Group
from sandglass.core.record import Ending
from sandglass.core.retry_rows import RetryRows
from tests.unit.core.drive import Drive


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An entry for each look at the view, as it is taken."""
    found: list[int] = []
    after = RetryRows.after

    def noted(rows: RetryRows, *place: object) -> object:
        found.append(rows.due_ms)
        return after(rows, *place)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(RetryRows, "after", noted)
    return found


def reading(drive: Drive) -> Group:
    group = drive.group()
    drive.read(group)
    return group


def test_a_group_that_has_no_retries_looks_for_them_once(looks: list[int]) -> None:
    drive = Drive()
    reading(drive)
    drive.produce()

    assert [1] == drive.take()
    drive.produce()
    assert [2] == drive.take()
    drive.go(1000)
    drive.produce()
    assert [3] == drive.take()

    assert 1 == len(looks)


def test_a_retry_that_is_not_due_yet_is_not_looked_for(looks: list[int]) -> None:
    drive = Drive()
    reading(drive)
    drive.produce()
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=100)
    assert [] == drive.take()
    count = len(looks)

    for _ in range(3):
        drive.go(33)
        assert [] == drive.take()
    assert count == len(looks)

    drive.go(1)
    assert [1] == drive.take()


def test_one_that_is_due_before_those_known_comes_in_time() -> None:
    drive = Drive()
    reading(drive)
    drive.produce(0, counts=[2])
    (delivery,) = drive.dispatch()
    drive.end(delivery, Ending.NACKED, [(0, 1)], delay_ms=100)
    assert [] == drive.take()

    drive.end(delivery, Ending.NACKED, [(1, 1)], delay_ms=50)
    drive.go(50)
    assert [2] == drive.take()
    drive.go(50)
    assert [1] == drive.take()


def test_it_is_woken_for_a_retry_that_it_knows_of() -> None:
    drive = Drive()
    group = reading(drive)
    drive.produce()
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=100)
    drive.take()
    due_ms = group.next_steady_ms

    drive.go(10)
    drive.produce()
    assert [2] == drive.take()

    assert due_ms == group.next_steady_ms == drive.steady_ms + 90


def test_after_a_seek_what_waits_anew_is_found() -> None:
    drive = Drive()
    group = reading(drive)
    drive.produce()
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=100)
    drive.take()

    drive.seek(group, 0)
    drive.end(drive.dispatch()[0], Ending.NACKED, delay_ms=10)
    drive.go(10)

    assert [1] == drive.take()
