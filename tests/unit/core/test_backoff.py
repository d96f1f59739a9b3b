"""Backoff as a function of attempt and chance; what holds for a group of its own."""

import pytest

from sandglass.core import limits
from sandglass.core.backoff import AT_ONCE, Backoff
from sandglass.core.record import Ending, Move
from sandglass.core.topic import GroupSettings, TopicSettings
from sandglass.errors import InvalidError
from tests.unit.core.drive import Drive


def delays(backoff: Backoff, count: int, chance: float = 0.0) -> list[int]:
    return [backoff.delay_ms(attempt, chance) for attempt in range(1, count + 1)]


def test_by_default_a_message_is_due_again_at_once() -> None:
    assert [0, 0, 0] == delays(AT_ONCE, 3)


def test_a_fixed_backoff_is_the_same_each_time() -> None:
    assert [70, 70, 70] == delays(Backoff((70,)), 3)


def test_a_list_goes_through_its_delays_and_stays_at_the_last() -> None:
    assert [1, 50, 7, 7] == delays(Backoff((1, 50, 7)), 4)


def test_an_exponential_backoff_grows_up_to_its_cap() -> None:
    assert [100, 200, 400, 500, 500] == delays(Backoff((100,), factor=2, cap_ms=500), 5)
    assert [5, 10, 30, 90] == delays(Backoff((5, 10), factor=3), 4)


def test_no_attempt_makes_a_delay_longer_than_a_nack_may_have() -> None:
    grown = Backoff((limits.NACK_DELAY_MS_MAX,), factor=10)

    assert limits.NACK_DELAY_MS_MAX == grown.delay_ms(1000, 0.0)
    assert 0 == Backoff((0,), factor=10).delay_ms(1000, 0.0)


def test_jitter_takes_off_no_more_than_it_may() -> None:
    backoff = Backoff((1000,), jitter_percent=20)

    assert [1000, 900, 801] == [backoff.delay_ms(1, chance) for chance in (0.0, 0.5, 0.999)]
    assert 1 == Backoff((1000,), jitter_percent=100).delay_ms(1, 0.999)


@pytest.mark.parametrize(
    ("backoff", "field"),
    [
        (Backoff(()), "delays_ms"),
        (Backoff((0,) * (limits.BACKOFF_DELAY_COUNT_MAX + 1)), "delays_ms"),
        (Backoff((-1,)), "delays_ms"),
        (Backoff((limits.NACK_DELAY_MS_MAX + 1,)), "delays_ms"),
        (Backoff(factor=0), "factor"),
        (Backoff(factor=limits.BACKOFF_FACTOR_MAX + 1), "factor"),
        (Backoff(cap_ms=limits.NACK_DELAY_MS_MAX + 1), "cap_ms"),
        (Backoff(jitter_percent=101), "jitter_percent"),
    ],
)
def test_a_backoff_outside_its_limits_is_refused_by_name(backoff: Backoff, field: str) -> None:
    with pytest.raises(InvalidError) as caught:
        TopicSettings(backoff=backoff).check()

    assert f"backoff.{field}" == caught.value.field


def test_a_backoff_at_its_limits_is_taken() -> None:
    longest = limits.NACK_DELAY_MS_MAX
    count = limits.BACKOFF_DELAY_COUNT_MAX
    TopicSettings(
        backoff=Backoff((longest,) * count, limits.BACKOFF_FACTOR_MAX, longest, 100)
    ).check()


def test_a_setting_of_the_group_is_stronger_than_its_topics() -> None:
    topic = TopicSettings(ack_timeout_ms=700, max_deliveries=4)

    own = GroupSettings(max_deliveries=9).over(topic)

    assert (700, 9, AT_ONCE) == (own.ack_timeout_ms, own.max_deliveries, own.backoff)


def test_a_change_touches_what_it_names_and_unset_takes_back() -> None:
    before = GroupSettings(ack_timeout_ms=300, max_deliveries=2)

    after = before.changed(GroupSettings(max_deliveries=3), ("ack_timeout_ms",))

    assert GroupSettings(max_deliveries=3) == after


# --- in the partition -------------------------------------------------------------------------


def moves(drive: Drive, ending: Ending, delay_ms: int | None = None) -> list[int]:
    """How long the messages of one delivery wait after this ending."""
    (delivery,) = drive.dispatch()
    record = drive.end(delivery, ending, delay_ms=delay_ms)
    return [
        operation.until_ms - drive.steady_ms
        for operation in record.operations
        if isinstance(operation, Move)
    ]


def test_a_failed_attempt_waits_for_the_backoff_of_its_group() -> None:
    drive = Drive(max_deliveries=9)
    drive.set_group("g", GroupSettings(backoff=Backoff((50, 90))))
    drive.read(drive.group())
    drive.produce()

    first = moves(drive, Ending.NACKED)
    assert [] == drive.take()
    drive.go(60)
    second = moves(drive, Ending.NACKED)

    assert ([50], [90]) == (first, second)


def test_a_timeout_waits_for_the_backoff_as_well() -> None:
    drive = Drive()
    drive.set_group("g", GroupSettings(backoff=Backoff((50,)), ack_timeout_ms=200))
    drive.read(drive.group())
    drive.produce()
    drive.dispatch()

    drive.go(200)
    drive.expire()

    assert [] == drive.take()
    drive.go(50)
    assert [1] == drive.take()


def test_the_delay_of_a_nack_is_stronger_than_the_backoff() -> None:
    drive = Drive(max_deliveries=9)
    drive.set_group("g", GroupSettings(backoff=Backoff((50,))))
    drive.read(drive.group())
    drive.produce()

    assert [0] == moves(drive, Ending.NACKED, delay_ms=0)
    drive.go(1)
    assert [7] == moves(drive, Ending.NACKED, delay_ms=7)


def test_what_is_released_comes_at_once_whatever_the_backoff() -> None:
    drive = Drive()
    drive.set_group("g", GroupSettings(backoff=Backoff((50,))))
    drive.read(drive.group())
    drive.produce()

    assert [0] == moves(drive, Ending.RELEASED)


def test_max_deliveries_of_the_group_decides_about_death() -> None:
    drive = Drive(max_deliveries=3)
    drive.set_group("g", GroupSettings(max_deliveries=1))
    drive.read(drive.group())
    drive.produce()

    assert [] == moves(drive, Ending.NACKED)
    assert 1 == drive.group().dead_count


def test_settings_of_a_group_hold_after_a_restart_and_go_with_their_topic() -> None:
    drive = Drive()
    own = GroupSettings(backoff=Backoff((5, 6), 2, 900, 30), max_deliveries=8)
    drive.set_group("g", own)

    drive.restart()

    assert own == drive.machine.groups["a"]["g"].settings
    assert 8 == drive.partition.settings_of(drive.group()).max_deliveries


def test_settings_of_before_there_was_a_backoff_have_the_default() -> None:
    old = {"retention_ms": 5000, "ack_timeout_ms": 100, "max_deliveries": 2}

    assert TopicSettings(5000, 100, 2) == TopicSettings.of_fields(old)
