"""
The clocks of the node's leader, as the loop and its callers ask for them.

After a pause of the process (a stop, a suspended machine), what came in is to be taken before
anything expires: the pause, from the last sign of life before it, is added to every lease.
"""

import asyncio
import logging
from dataclasses import dataclass, field, replace

from sandglass.core import limits
from sandglass.core.clock import Timekeeper
from sandglass.core.dispatch import Moment
from sandglass.core.machine import promise_left_ms
from sandglass.ports import Clock
from sandglass.telemetry import Counts

logger = logging.getLogger(__name__)

_GOLDEN = 0.6180339887498949
"""Steps of it reach everywhere in [0, 1), evenly, however many there are."""


@dataclass(slots=True)
class LeaderClock:
    """Begun by `start`. The loop says in `planned_ms` when its next sign of life will be."""

    clock: Clock
    stats: Counts
    chance: float = 0.0
    """In [0, 1), of the node's own: from here on, each moment is given another."""
    keeper: Timekeeper = field(init=False)
    reached_ms: int = 0
    """The highest wall clock that was accepted."""
    alive_ms: int = 0
    """Steady time at the last sign of life."""
    planned_ms: int = 0
    """When there will be the next."""

    async def wait_out(self, promised_ms: int) -> int:
        """
        Waits until the clock has passed the promise of the leader before; one that stands
        further behind was stepped back.

        Returns:
            What it shows then.
        """
        while True:
            wall_ms = self.clock.wall_ms()
            left_ms = promise_left_ms(promised_ms, wall_ms)
            if not left_ms:
                return wall_ms
            await asyncio.sleep(left_ms / 1000)

    def start(self, *, wall_ms: int, steady_ms: int, reached_ms: int) -> None:
        """A leader begins, where the records end."""
        self.reached_ms = reached_ms
        self.keeper = Timekeeper.start(
            wall_ms=wall_ms, monotonic_ms=self.clock.monotonic_ms(), steady_ms=steady_ms
        )
        self.alive_ms = self.planned_ms = steady_ms

    def moment(self) -> Moment:
        """The leader's clocks now. Whoever asks first after a pause finds it taken off."""
        self.chance = (self.chance + _GOLDEN) % 1
        was_stepped = self.keeper.is_stepped
        moment = self.keeper.read(self.clock.wall_ms(), self.clock.monotonic_ms(), self.chance)
        if self.keeper.is_stepped and not was_stepped:
            logger.warning(
                "the machine's clock was stepped forward by %d ms: not believed before it has"
                " stayed so for %d ms; `sandctl clock accept` takes it at once",
                self.keeper.stepped_by_ms,
                limits.CLOCK_STABLE_MS,
            )
        self.reached_ms = max(self.reached_ms, moment.wall_ms)
        if moment.steady_ms - self.planned_ms > limits.PAUSE_MS:
            pause_ms = moment.steady_ms - self.alive_ms
            self.stats.pause_count += 1
            logger.warning("paused for %d ms", pause_ms)
            self.keeper.pause(pause_ms)
            moment = replace(moment, lease_ms=moment.lease_ms - pause_ms)
        self.alive_ms = moment.steady_ms
        self.planned_ms = max(self.planned_ms, moment.steady_ms)
        return moment

    def accept(self) -> int:
        """
        A forward step that isn't believed yet is right.

        Returns:
            By how much the clock was stepped; 0 if it wasn't.
        """
        self.moment()
        if not self.keeper.is_stepped:
            return 0
        self.keeper.accept(self.clock.wall_ms())
        return self.keeper.stepped_by_ms

    def is_behind(self, moment: Moment) -> bool:
        """The wall clock was stepped back and has not caught up."""
        return moment.wall_ms < self.reached_ms
