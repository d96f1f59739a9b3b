"""
Backoff: how long a message waits after a failed attempt.

One form for all: a list of delays, one for each attempt; beyond the list the last one is
multiplied by `factor` for each further attempt, up to `cap_ms`; chance takes off up to
`jitter_percent` of what comes out. A fixed delay is a list of one, an exponential backoff one
with a factor. Pure: chance is handed in, and the result goes into the record.
"""

from dataclasses import dataclass
from typing import Any

from sandglass.core import limits
from sandglass.errors import InvalidError


@dataclass(frozen=True, slots=True)
class Backoff:
    """See the head of this file. A `cap_ms` of 0 is the longest delay that a nack may have."""

    delays_ms: tuple[int, ...] = (0,)
    factor: int = 1
    cap_ms: int = 0
    jitter_percent: int = 0

    def delay_ms(self, attempt: int, chance: float) -> int:
        """
        How long to wait after `attempt` (from 1) has failed; `chance` is in [0, 1).

        With jitter it is evenly spread below the full delay, which is never exceeded.
        """
        cap_ms = self.cap_ms or limits.NACK_DELAY_MS_MAX
        place = min(attempt, len(self.delays_ms)) - 1
        delay_ms, beyond = self.delays_ms[place], attempt - 1 - place
        if self.factor > 1 and delay_ms:
            # Each step at least doubles: further ones can't change what is beyond the cap.
            delay_ms *= self.factor ** min(beyond, cap_ms.bit_length())
        delay_ms = min(delay_ms, cap_ms)
        return delay_ms - int(delay_ms * self.jitter_percent * chance / 100)

    def check(self) -> None:
        """
        Raises:
            InvalidError: a value outside its range.
        """
        check_delay_count(len(self.delays_ms))
        for name, values, low, high in (
            ("delays_ms", self.delays_ms, 0, limits.NACK_DELAY_MS_MAX),
            ("factor", (self.factor,), 1, limits.BACKOFF_FACTOR_MAX),
            ("cap_ms", (self.cap_ms,), 0, limits.NACK_DELAY_MS_MAX),
            ("jitter_percent", (self.jitter_percent,), 0, 100),
        ):
            for value in values:
                limits.check_range(value, field=f"backoff.{name}", low=low, high=high)


AT_ONCE = Backoff()
"""Due again at once."""


def check_delay_count(count: int) -> None:
    """
    How many delays a backoff has.

    Raises:
        InvalidError: none, or too many.
    """
    if not 1 <= count <= limits.BACKOFF_DELAY_COUNT_MAX:
        raise InvalidError(
            f"backoff.delays_ms has {count} delays; it must have 1 to"
            f" {limits.BACKOFF_DELAY_COUNT_MAX}",
            field="backoff.delays_ms",
        )


def from_fields(fields: dict[str, Any]) -> Backoff:
    """A backoff as `dataclasses.asdict` and JSON have written it."""
    values: dict[str, Any] = {**fields, "delays_ms": tuple(fields["delays_ms"])}
    return Backoff(**values)
