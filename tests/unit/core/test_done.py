"""Done ranges and the floor, by example; the laws stand in the property tests."""

from sandglass.core.done import DoneRanges


def test_one_stuck_message_costs_one_boundary() -> None:
    done = DoneRanges()
    done.add(0, 5)

    assert ([], (6, 10)) == done.add(6, 10)
    assert ([6], (6, 20)) == done.add(10, 20)
    assert (5, [6], [20]) == (done.floor, done.lows, done.highs)


def test_floor_takes_in_what_it_reaches() -> None:
    done = DoneRanges()
    done.add(6, 10)
    done.add(12, 14)

    assert ([6], None) == done.add(0, 6)
    assert (10, [12], [14]) == (done.floor, done.lows, done.highs)


def test_range_that_joins_two_replaces_both() -> None:
    done = DoneRanges()
    done.add(6, 10)
    done.add(12, 14)

    assert ([6, 12], (6, 14)) == done.add(9, 12)


def test_raised_floor_takes_ranges_with_it() -> None:
    done = DoneRanges()
    done.add(6, 10)
    done.add(20, 30)

    assert [6] == done.raise_floor(8)
    assert 10 == done.floor
    assert [] == done.raise_floor(3)
    assert 10 == done.floor


def test_gaps_are_what_is_not_done_and_what_is_dropped_becomes_one() -> None:
    done = DoneRanges(3)
    done.add(6, 10)
    done.add(12, 20)
    assert [(3, 6), (10, 12), (20, 25)] == list(done.gaps(0, 25))
    assert [] == list(done.gaps(7, 9))

    done.drop(8, 14)
    done.drop(18, 30)
    done.drop(0, 5)

    assert (3, [6, 14], [8, 18]) == (done.floor, done.lows, done.highs)
    done.drop(6, 8)
    assert [(3, 14)] == list(done.gaps(0, 15))


def test_skip_says_where_to_go_on_and_where_the_next_range_begins() -> None:
    done = DoneRanges(3)
    done.add(6, 10)

    assert [(3, 6), (5, 6), (10, None), (10, None)] == [done.skip(at) for at in (0, 5, 6, 10)]
    assert [True, False, True, False] == [done.holds(at) for at in (2, 3, 9, 10)]
