"""What becomes of a message whose handler failed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sandglass.client.message import span_ms
from sandglass.core import limits
from sandglass.errors import InvalidError

Delays = timedelta | Sequence[timedelta] | None

_DOUBLINGS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Nack:
    """It comes again; without a delay after the group's own backoff."""

    delay: timedelta | None


@dataclass(frozen=True, slots=True)
class Dead:
    """No other attempt will help."""


@dataclass(frozen=True, slots=True)
class Retry:
    """
    Which failures come again, and when.

        Retry(delays=[timedelta(seconds=1), timedelta(minutes=1)], dead_on=[ValueError])

    Args:
        delays: before the second attempt, the third, and so on; the last one for all further.
            One timedelta is for all; none leaves it to the group's backoff.
        by_error: other delays for some errors and their subclasses. Of several that fit, the
            nearest class counts, here and in `dead_on`.
        dead_on: errors after which a message is put to the dead letters at once.

    The broker counts attempts: after the topic's `max_deliveries` a message is a dead letter,
    whatever stands here.

    Raises:
        InvalidError: a delay is out of bounds, or a class is no Exception.
    """

    delays: Delays = None
    by_error: Mapping[type[Exception], Delays] = field(
        default_factory=dict[type[Exception], Delays]
    )
    dead_on: Sequence[type[Exception]] = ()

    def __post_init__(self) -> None:
        for delays in (self.delays, *self.by_error.values()):
            for delay in _sequence(delays):
                span_ms(delay, field="delay", low=0, high=limits.NACK_DELAY_MS_MAX)
        for kind in (*self.by_error, *self.dead_on):
            if not isinstance(kind, type) or not issubclass(kind, Exception):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
                raise InvalidError(f"{kind!r} is no class of exceptions", field="retry")

    @classmethod
    def exponential(
        cls,
        first: timedelta,
        *,
        cap: timedelta,
        by_error: Mapping[type[Exception], Delays] | None = None,
        dead_on: Sequence[type[Exception]] = (),
    ) -> "Retry":
        """Delays that double from `first` up to `cap`."""
        span_ms(first, field="first", low=1, high=limits.NACK_DELAY_MS_MAX)
        delays = [first]
        while delays[-1] < cap and len(delays) < _DOUBLINGS_MAX:
            delays.append(min(cap, 2 * delays[-1]))
        return cls(delays, by_error or {}, dead_on)

    def verdict(self, error: Exception, attempt: int) -> Nack | Dead:
        """What becomes of a message whose `attempt`-th handling, from 1, failed by `error`."""
        for kind in type(error).__mro__:
            if kind in self.dead_on:
                return Dead()
            if kind in self.by_error:
                return Nack(_nth(self.by_error[kind], attempt))
        return Nack(_nth(self.delays, attempt))


def reason_of(error: Exception) -> str:
    """Kind and text of an error, cut to what a reason may have."""
    raw = f"{type(error).__name__}: {error}".encode(errors="replace")
    return raw[: limits.REASON_BYTES_MAX].decode(errors="ignore")


def _sequence(delays: Delays) -> Sequence[timedelta]:
    if delays is None:
        return ()
    if isinstance(delays, timedelta):
        return (delays,)
    if not isinstance(delays, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        raise InvalidError(f"delays is {type(delays).__name__}; give timedeltas", field="delay")
    return delays


def _nth(delays: Delays, attempt: int) -> timedelta | None:
    known = _sequence(delays)
    return known[min(attempt, len(known)) - 1] if known else None
