"""Names and ranges: both sides of each bound."""

from dataclasses import replace

import pytest

from sandglass.core import limits
from sandglass.core.topic import TopicSettings
from sandglass.errors import InvalidError


@pytest.mark.parametrize("name", ["a", "a" * limits.NAME_LENGTH_MAX, "A.b_c-9", "..."])
def test_name_within_the_rules_is_taken(name: str) -> None:
    assert name == limits.check_name(name, field="group")


@pytest.mark.parametrize(
    "name", ["", "a" * (limits.NAME_LENGTH_MAX + 1), ".", "..", "a b", "a/b", "\u00e4", "a\n"]
)
@pytest.mark.parametrize("field", ["topic", "group"])
def test_name_outside_the_rules_is_refused(name: str, field: str) -> None:
    with pytest.raises(InvalidError, match="is not a name: 1 to 200 characters") as refusal:
        limits.check_name(name, field=field)

    assert field == refusal.value.field
    assert refusal.value.message.startswith("ErrInvalidTopicName") == (field == "topic")


def test_name_with_a_leading_underscore_is_reserved() -> None:
    with pytest.raises(InvalidError, match="reserved"):
        limits.check_name("_a", field="topic")


@pytest.mark.parametrize("value", [3, 9])
def test_value_at_a_bound_is_taken(value: int) -> None:
    assert value == limits.check_range(value, field="x", low=3, high=9)


@pytest.mark.parametrize("value", [2, 10])
def test_value_beyond_a_bound_is_refused(value: int) -> None:
    with pytest.raises(InvalidError, match=f"x is {value}; it must be 3 to 9") as refusal:
        limits.check_range(value, field="x", low=3, high=9)

    assert "x" == refusal.value.field


SETTINGS = [
    ("retention_ms", limits.RETENTION_MS_MIN, limits.RETENTION_MS_MAX),
    ("ack_timeout_ms", limits.ACK_TIMEOUT_MS_MIN, limits.LEASE_MS_MAX),
    ("max_deliveries", 1, limits.MAX_DELIVERIES_MAX),
]


@pytest.mark.parametrize(("field", "low", "high"), SETTINGS)
def test_settings_of_a_topic_are_within_their_bounds(field: str, low: int, high: int) -> None:
    for value in (low, high):
        replace(TopicSettings(), **{field: value}).check()
    for value in (low - 1, high + 1):
        with pytest.raises(InvalidError) as refusal:
            replace(TopicSettings(), **{field: value}).check()
        assert field == refusal.value.field


def test_a_count_names_field_number_and_limit() -> None:
    limits.check_count(3, field="messages", high=3)
    with pytest.raises(InvalidError, match="messages has 4 items; the limit is 3") as caught:
        limits.check_count(4, field="messages", high=3)
    assert caught.value.field == "messages"
