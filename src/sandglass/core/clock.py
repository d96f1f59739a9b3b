"""
The leader's clocks, made of what the machine's clocks show.

- *Wall* follows the machine's wall clock, but a forward step of more than
  `limits.CLOCK_STEP_MS` isn't believed: wall runs on by the monotonic clock until the step has
  been stable for `limits.CLOCK_STABLE_MS`, or an operator accepts it. A step back is shown at
  once: the core stands still by itself.
- *Steady* is the highest steady time that any record carries, plus monotonic time since.
- *Lease* is steady, less the pauses of the process: a pause is no consumer's fault.
"""

from dataclasses import dataclass

from sandglass.core import limits
from sandglass.core.dispatch import Moment


@dataclass(slots=True)
class Timekeeper:
    """Made when a leader starts, with what the machine's clocks show then."""

    wall_ms: int
    steady_base_ms: int
    monotonic_base_ms: int
    last_monotonic_ms: int
    paused_ms: int = 0
    stepped_at_ms: int | None = None
    """Monotonic time at which a forward step was first seen that isn't believed yet."""
    stepped_by_ms: int = 0

    @classmethod
    def start(cls, *, wall_ms: int, monotonic_ms: int, steady_ms: int) -> "Timekeeper":
        """`steady_ms` is the highest that any record carries."""
        return cls(wall_ms, steady_ms, monotonic_ms, monotonic_ms)

    def read(self, wall_ms: int, monotonic_ms: int, chance: float = 0.0) -> Moment:
        """The leader's clocks, for these readings of the machine's; `chance` goes with them."""
        passed_ms = max(0, monotonic_ms - self.last_monotonic_ms)
        self.last_monotonic_ms = max(self.last_monotonic_ms, monotonic_ms)
        expected_ms = self.wall_ms + passed_ms
        step_ms = wall_ms - expected_ms
        if step_ms <= limits.CLOCK_STEP_MS:
            self.stepped_at_ms = None
            self.wall_ms = wall_ms
        elif self._is_stable(step_ms, monotonic_ms):
            self.accept(wall_ms)
        else:
            self.wall_ms = expected_ms
        steady_ms = self.steady_base_ms + self.last_monotonic_ms - self.monotonic_base_ms
        return Moment(self.wall_ms, steady_ms, steady_ms - self.paused_ms, chance)

    def accept(self, wall_ms: int) -> None:
        """The step is right: wall is what the machine's clock shows."""
        self.wall_ms = wall_ms
        self.stepped_at_ms = None

    def pause(self, late_ms: int) -> None:
        """The process stood still for so long: leases are lengthened by it."""
        self.paused_ms += late_ms

    @property
    def is_stepped(self) -> bool:
        """A forward step is waiting to be believed."""
        return self.stepped_at_ms is not None

    @property
    def believed_in_ms(self) -> int:
        """After how much more it is believed, if it stays; 0 if there is none."""
        if self.stepped_at_ms is None:
            return 0
        return limits.CLOCK_STABLE_MS - (self.last_monotonic_ms - self.stepped_at_ms)

    def _is_stable(self, step_ms: int, monotonic_ms: int) -> bool:
        if self.stepped_at_ms is None or abs(step_ms - self.stepped_by_ms) > 1000:
            self.stepped_at_ms, self.stepped_by_ms = monotonic_ms, step_ms
        return monotonic_ms - self.stepped_at_ms >= limits.CLOCK_STABLE_MS
