"""Offsets: time, then index; as numbers, bytes and text."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sandglass.core import offset
from sandglass.errors import InvalidError

DUE_MS = 1_526_518_923_456
TEXT = "01636b9e40c00000000000000007"


def test_text_form_is_that_of_the_contract() -> None:
    assert TEXT == offset.to_text(offset.make(DUE_MS, 7))
    assert offset.make(DUE_MS, 7) == offset.from_text(TEXT)


def test_index_and_bytes_come_back() -> None:
    made = offset.make(DUE_MS, 7)

    assert 7 == offset.index_of(made)
    assert made == offset.from_bytes(offset.to_bytes(made))
    assert offset.NIL < made < offset.MAX


@pytest.mark.parametrize("length", [0, 13, 15])
def test_bytes_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidError, match=f"should be 14 but got {length}") as refusal:
        offset.from_bytes(bytes(length))

    assert "offset" == refusal.value.field


@pytest.mark.parametrize("text", ["zz" * 14, "0", " ".join(["00"] * 14), "0" * 29])
def test_text_that_is_not_hex_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="is not 28 hex digits"):
        offset.from_text(text)


def test_datetimes_round_up_and_need_a_time_zone() -> None:
    moment = datetime(2018, 5, 17, 1, 2, 3, 455_001, UTC)

    assert DUE_MS == offset.from_datetime(moment)
    assert DUE_MS == offset.from_datetime(moment.astimezone(timezone(timedelta(hours=5))))
    assert datetime(2018, 5, 17, 1, 2, 3, 456_000, UTC) == offset.to_datetime(DUE_MS)
    with pytest.raises(InvalidError, match="has no time zone"):
        offset.from_datetime(moment.replace(tzinfo=None))
