"""Wall, steady and lease time, made of what the machine's clocks show."""

from sandglass.core import limits
from sandglass.core.clock import Timekeeper
from sandglass.core.dispatch import Moment


def _clock() -> Timekeeper:
    return Timekeeper.start(wall_ms=1_000_000, monotonic_ms=500, steady_ms=70)


def test_clocks_go_on_from_where_the_last_leader_left_them() -> None:
    assert Moment(1_000_010, 80, 80) == _clock().read(1_000_010, 510)


def test_step_back_is_shown_at_once_and_steady_time_goes_on() -> None:
    assert Moment(900_000, 80, 80) == _clock().read(900_000, 510)


def test_monotonic_time_that_goes_back_is_not_followed() -> None:
    clock = _clock()
    clock.read(1_000_010, 510)

    assert 80 == clock.read(1_000_010, 505).steady_ms


def test_forward_step_is_believed_up_to_the_limit_and_not_beyond() -> None:
    most_ms = limits.CLOCK_STEP_MS

    assert 1_000_010 + most_ms == _clock().read(1_000_010 + most_ms, 510).wall_ms
    clock = _clock()
    assert 1_000_010 == clock.read(1_000_011 + most_ms, 510).wall_ms
    assert clock.is_stepped


def test_forward_step_is_believed_when_it_has_been_stable() -> None:
    clock = _clock()
    clock.read(2_000_010, 510)

    before = clock.read(2_059_999, 60_499)
    after = clock.read(2_060_010, 60_510)

    assert (1_059_999, 2_060_010) == (before.wall_ms, after.wall_ms)
    assert not clock.is_stepped


def test_how_long_a_step_has_to_stay_is_known() -> None:
    clock = _clock()
    assert 0 == clock.believed_in_ms

    clock.read(2_000_010, 510)
    clock.read(2_010_010, 10_510)

    assert limits.CLOCK_STABLE_MS - 10_000 == clock.believed_in_ms


def test_forward_step_that_changes_begins_anew() -> None:
    clock = _clock()
    clock.read(2_000_010, 510)

    clock.read(3_030_010, 30_510)
    assert 1_060_010 == clock.read(3_060_010, 60_510).wall_ms


def test_forward_step_that_is_taken_back_is_forgotten() -> None:
    clock = _clock()
    clock.read(2_000_010, 510)

    assert 1_000_020 == clock.read(1_000_020, 520).wall_ms
    assert not clock.is_stepped


def test_pause_lengthens_leases_and_nothing_else() -> None:
    clock = _clock()

    clock.pause(300)

    assert Moment(1_000_010, 80, -220) == clock.read(1_000_010, 510)
