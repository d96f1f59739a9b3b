"""Retry policies: which failures come again, and when."""

from datetime import timedelta

import pytest

from sandglass.client.retry import Dead, Nack, Retry, reason_of
from sandglass.core import limits
from sandglass.errors import InvalidError

S = timedelta(seconds=1)


def test_without_a_word_the_groups_backoff_decides() -> None:
    assert Nack(None) == Retry().verdict(ValueError(), 1)


def test_one_delay_is_for_every_attempt() -> None:
    assert [Nack(S)] * 3 == [Retry(S).verdict(ValueError(), each) for each in (1, 2, 9)]


def test_the_last_delay_is_for_all_further_attempts() -> None:
    retry = Retry([S, 5 * S])

    assert [S, 5 * S, 5 * S] == [_delay(retry, ValueError(), each) for each in (1, 2, 3)]


def test_the_nearest_class_decides() -> None:
    retry = Retry(S, by_error={OSError: 2 * S, ConnectionError: 3 * S}, dead_on=[ValueError])

    assert 3 * S == _delay(retry, ConnectionResetError(), 1)
    assert 2 * S == _delay(retry, FileNotFoundError(), 1)
    assert S == _delay(retry, KeyError(), 1)
    assert Dead() == retry.verdict(UnicodeError(), 1)


def test_a_dead_class_below_one_that_comes_again_and_the_reverse() -> None:
    retry = Retry(by_error={UnicodeError: S, Exception: S}, dead_on=[ValueError])

    assert Nack(S) == retry.verdict(UnicodeError(), 1)
    assert Dead() == retry.verdict(ValueError(), 1)


def test_delays_double_up_to_a_cap() -> None:
    retry = Retry.exponential(S, cap=5 * S)

    assert [S, 2 * S, 4 * S, 5 * S, 5 * S] == [
        _delay(retry, ValueError(), each) for each in range(1, 6)
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"delays": timedelta(milliseconds=-1)},
        {"delays": [timedelta(milliseconds=limits.NACK_DELAY_MS_MAX + 1)]},
        {"by_error": {ValueError: 5}},
        {"by_error": {KeyboardInterrupt: S}},
        {"dead_on": ["ValueError"]},
    ],
)
def test_what_is_no_policy_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidError):
        Retry(**wrong)  # pyright: ignore[reportArgumentType] - that is the test


def test_the_longest_delay_is_taken() -> None:
    longest = timedelta(milliseconds=limits.NACK_DELAY_MS_MAX)

    assert longest == _delay(Retry(longest), ValueError(), 1)


def test_a_reason_names_the_error_and_is_cut_within_a_character() -> None:
    assert "ValueError: no" == reason_of(ValueError("no"))
    assert limits.REASON_BYTES_MAX >= len(reason_of(ValueError("ü" * 2000)).encode())


def _delay(retry: Retry, error: Exception, attempt: int) -> timedelta | None:
    verdict = retry.verdict(error, attempt)
    assert isinstance(verdict, Nack)
    return verdict.delay
