"""What is admitted and not yet applied, and what it holds back."""

from collections.abc import Sequence

import pytest

from sandglass.core.group import Group
from sandglass.core.in_flight import InFlight
from sandglass.core.message import Removed
from sandglass.core.record import (
    Append,
    CreateGroup,
    DropGroup,
    Ending,
    Head,
    Operation,
    Record,
    Settle,
)

NUMBER = 3


def _record(*operations: Operation) -> Record:
    return Record(1, Head(1, 0, 0, 0, 0), [*operations])


def _append(first_index: int) -> Append:
    return Append("master", first_index, 0, [0], [1], [b""], [False], [])


def _settle() -> Settle:
    return Settle(NUMBER, Ending.ACKED, [(5, 6, 1)], [])


def _add(
    in_flight: InFlight,
    record: Record,
    *,
    lowest: int | None = None,
    held: Sequence[Group] = (),
    groups: Sequence[Group] = (),
    removed: Removed | None = None,
) -> Record:
    loaded = {group.number: group for group in groups}
    in_flight.add(record, loaded, lowest=lowest, held=held, removed=removed)
    return record


@pytest.fixture
def group() -> Group:
    return Group.create(1, CreateGroup(NUMBER, "master", "g", 0))


def test_reads_stay_below_the_lowest_that_is_given_to_anything() -> None:
    in_flight = InFlight()
    _add(in_flight, _record(_append(1)), lowest=50)
    _add(in_flight, _record(_append(2)), lowest=30)
    _add(in_flight, _record(_append(3)))

    bounds = [in_flight.bound(bound) for bound in (28, 29, 30, 60)]

    assert [28, 29, 29, 29] == bounds


def test_what_has_landed_holds_no_reader_back() -> None:
    in_flight = InFlight()
    first = _add(in_flight, _record(_append(1)), lowest=30)
    _add(in_flight, _record(_append(2)), lowest=50)

    in_flight.land(first)

    assert 49 == in_flight.bound(60)


def test_records_land_in_the_order_of_their_admission() -> None:
    in_flight = InFlight()
    _add(in_flight, _record(_append(1)))
    second = _add(in_flight, _record(_append(2)))

    with pytest.raises(AssertionError, match="order of admission"):
        in_flight.land(second)


def test_what_a_replica_applies_was_not_admitted_there() -> None:
    in_flight = InFlight()
    in_flight.land(_record(_append(1)))

    assert 60 == in_flight.bound(60)


def test_a_group_is_held_until_the_last_record_that_holds_it_lands(group: Group) -> None:
    in_flight = InFlight()
    first = _add(in_flight, _record(DropGroup(NUMBER)), held=[group])
    second = _add(in_flight, _record(DropGroup(NUMBER)), held=[group])
    group.is_ready = False

    in_flight.land(first)
    was_held = group.is_held
    in_flight.land(second)

    assert was_held
    assert not group.is_held
    assert group.is_ready


def test_outcomes_on_their_way_are_counted_until_they_land(group: Group) -> None:
    in_flight = InFlight()
    record = _add(in_flight, _record(_settle(), _settle()), groups=[group])
    before = group.ending_count

    in_flight.land(record)

    assert (2, 0) == (before, group.ending_count)


def test_operations_come_in_the_order_in_which_they_will_be_applied() -> None:
    in_flight = InFlight()
    _add(in_flight, _record(_append(1), _append(2)))
    _add(in_flight, _record(_append(3)))

    assert [_append(1), _append(2), _append(3)] == [*in_flight.operations()]


def test_who_deletes_is_told_of_the_record_that_lands_next() -> None:
    in_flight = InFlight()
    removed, later = Removed(), Removed()
    _add(in_flight, _record(_append(1)), removed=removed)
    _add(in_flight, _record(_append(2)), removed=later)

    in_flight.tell_removed(7, existed=[True, False])

    assert (7, [True, False]) == (removed.first_revision, removed.existed)
    assert Removed() == later
