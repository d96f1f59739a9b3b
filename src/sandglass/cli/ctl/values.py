"""Settings and moments as they stand on a command line, and back."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandglass.client.operating import Backoff
from sandglass.core import limits
from sandglass.core.offset import from_text
from sandglass.errors import InvalidError
from sandglass.settings import parse_duration, show_duration

BACKOFF_HELP: Final = (
    "How long after a failed attempt a message waits: 10s, a list 1s,5s,1m, or growing:"
    " 1s*2..10m~20% doubles from 1s up to 10m, less up to 20 % by chance."
)
_BACKOFF: Final = re.compile(
    r"(?P<delays>[^*~]+?)(\*(?P<factor>\d+))?(\.\.(?P<cap>[^*~.]+))?(~(?P<jitter>\d+)%)?"
)


def backoff_of(text: str, *, field: str = "--backoff") -> Backoff:
    """
    A backoff: `DELAY[,DELAY...][*FACTOR][..CAP][~PERCENT%]`.

    Raises:
        InvalidError: something else.
    """
    found = _BACKOFF.fullmatch(text)
    if found is None:
        raise InvalidError(
            f"{field} is {text!r}; it must be such as 10s, 1s,5s,1m or 1s*2..10m~20%",
            field=field,
        )
    return Backoff(
        tuple(parse_duration(each, field=field) for each in found["delays"].split(",")),
        int(found["factor"] or 1),
        parse_duration(found["cap"], field=field) if found["cap"] else None,
        int(found["jitter"] or 0) / 100,
    )


def show_backoff(backoff: Backoff) -> str:
    """As `backoff_of` reads it."""
    text = ",".join(map(show_duration, backoff.delays))
    text += f"*{backoff.factor}" if backoff.factor > 1 else ""
    text += f"..{show_duration(backoff.cap)}" if backoff.cap is not None else ""
    return text + (f"~{round(backoff.jitter * 100)}%" if backoff.jitter else "")


def settings_of(
    ack_timeout: str, max_deliveries: int | None, backoff: str, retention: str = ""
) -> dict[str, Any]:
    """
    The settings that were given, by their names in Python.

    Raises:
        InvalidError: one of them is out of range.
    """
    found: dict[str, Any] = {}
    if retention:
        found["retention"] = retention_of(retention)
    if ack_timeout:
        found["ack_timeout"] = ack_timeout_of(ack_timeout)
    if max_deliveries is not None:
        limits.check_range(
            max_deliveries, field="--max_deliveries", low=1, high=limits.MAX_DELIVERIES_MAX
        )
        found["max_deliveries"] = max_deliveries
    if backoff:
        found["backoff"] = backoff_of(backoff)
    return found


def retention_of(text: str) -> timedelta:
    """
    How long messages are kept.

    Raises:
        InvalidError: no length of time, or out of range.
    """
    low, high = limits.RETENTION_MS_MIN, limits.RETENTION_MS_MAX
    return _span_of(text, field="--retention", low_ms=low, high_ms=high)


def ack_timeout_of(text: str) -> timedelta:
    """
    How long a message may be in hand.

    Raises:
        InvalidError: no length of time, or out of range.
    """
    low, high = limits.ACK_TIMEOUT_MS_MIN, limits.LEASE_MS_MAX
    return _span_of(text, field="--ack_timeout", low_ms=low, high_ms=high)


def _span_of(text: str, *, field: str, low_ms: int, high_ms: int) -> timedelta:
    span = parse_duration(text, field=field)
    low, high = (timedelta(milliseconds=each) for each in (low_ms, high_ms))
    if not low <= span <= high:
        raise InvalidError(
            f"{field} is {text}; it must be {show_duration(low)} to {show_duration(high)}",
            field=field,
        )
    return span


def moment_of(text: str, *, field: str) -> datetime:
    """
    `2027-01-01T09:00:00Z`, always with a time zone.

    Raises:
        InvalidError: no such moment.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidError(
            f"{field} is {text!r}; it must be a moment with a time zone, such as"
            " 2027-01-01T09:00:00Z",
            field=field,
        )
    return moment


def before_of(text: str, *, field: str) -> datetime | None:
    """A moment so long ago, from now; None for an empty text."""
    if not text:
        return None
    return datetime.now(UTC) - max(parse_duration(text, field=field), timedelta(0))


def place_of(text: str, *, field: str) -> tuple[str, str]:
    """
    A partition's id and an offset, as lists show a message's place.

    Raises:
        InvalidError: there is no slash between them, or no offset behind it.
    """
    partition, slash, offset = text.partition("/")
    if not slash:
        raise InvalidError(f"{field} is {text!r}; it must be PARTITION/OFFSET", field=field)
    from_text(offset)
    return partition, offset
