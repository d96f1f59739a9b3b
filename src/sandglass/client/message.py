"""What a producer gives and gets back: values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sandglass.core import limits, offset
from sandglass.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Message:
    """
    A message to produce. Text is sent as UTF-8.

    Args:
        value: up to 1 MiB.
        key: up to 1 KiB; messages of one key go to one partition.
        clustering_key: up to 1 KiB.
        headers: up to 64 entries and 16 KiB together.
        id: your own name for the message, up to 1 KiB.
        delay: how long after the broker takes it the message is due. Not with `due_at`.
        due_at: when it is due, an aware datetime; a past one means now.
    """

    value: bytes | str = b""
    key: bytes | str = b""
    clustering_key: bytes | str = b""
    headers: Mapping[str, bytes | str] = field(default_factory=dict[str, bytes | str])
    id: str = ""
    delay: timedelta | None = None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    Where a message went. It is durable.

    `offset` is its place in the partition as 28 hex digits, which sort by time; `index` its
    place in the order of production, from 1.
    """

    topic: str
    partition: str
    offset: str
    index: int
    due_at: datetime


@dataclass(frozen=True, slots=True)
class ProduceSummary:
    """How many messages went where: `partitions` maps ids to counts."""

    topic: str
    count: int
    partitions: Mapping[str, int]


def receipt(topic: str, partition: str, *, due_ms: int, index: int) -> Receipt:
    """The receipt of message `index`, due at `due_ms`."""
    return Receipt(
        topic=topic,
        partition=partition,
        offset=offset.to_text(offset.make(due_ms, index)),
        index=index,
        due_at=offset.to_datetime(due_ms),
    )


def span_ms(span: timedelta, *, field: str, low: int, high: int) -> int:
    """
    A timedelta in whole milliseconds, rounded up.

    Raises:
        InvalidError: outside `[low, high]` ms; the message names `field`.
    """
    if not isinstance(span, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        raise InvalidError(f"{field} is {type(span).__name__}; give a timedelta", field=field)
    whole_ms, rest = divmod(span, timedelta(milliseconds=1))
    return limits.check_range(whole_ms + bool(rest), field=f"{field} in ms", low=low, high=high)


def moment_ms(moment: datetime, *, field: str) -> int:
    """
    An aware datetime as Unix milliseconds, rounded up; 0 if it lies before 1970.

    Raises:
        InvalidError: no time zone, or beyond the year 9999; the message names `field`.
    """
    if not isinstance(moment, datetime):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        raise InvalidError(f"{field} is {type(moment).__name__}; give a datetime", field=field)
    whole_ms = max(0, offset.from_datetime(moment, field=field))
    return limits.check_range(
        whole_ms, field=f"{field} in Unix ms", low=0, high=limits.DUE_MS_MAX
    )
