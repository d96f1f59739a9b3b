"""
What the node has promised: until when messages may be handed out (rules 2 and 3 of the loop).

One promise holds for the whole node. It is made ahead of what needs it and counts once it is
durable; while the clock stands back there is none, and a record says so.
"""

from dataclasses import dataclass
from typing import Final

from sandglass.broker.agenda import Agenda
from sandglass.core import limits
from sandglass.core.dispatch import Moment
from sandglass.core.machine import Machine, promise_until
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Promise, Record
from sandglass.errors import SandglassError

PROMISE_AHEAD_MS: Final = 20
"""How long before the next due message its promise is made: some syncs."""


@dataclass(slots=True)
class Promises:
    """The promises of one machine, durable and on their way."""

    machine: Machine
    queued_ms: int = 0
    """How far those on their way reach."""
    is_voiding: bool = False
    """A record that voids the promise is on its way: until then the promise counts no more."""

    def offset(self) -> int:
        """The offset below which a durable promise covers what is handed out."""
        return 0 if self.is_voiding else self.machine.promised_ms << INDEX_BITS

    def lacks(self, wall_ms: int) -> bool:
        """This moment is beyond what is promised, durable or on its way."""
        return max(self.machine.promised_ms, self.queued_ms) <= wall_ms

    def is_due(self, agenda: Agenda, moment: Moment, *, is_busy: bool) -> bool:
        """Is one needed now? `is_busy`: records are about to be written anyway."""
        if self.is_voiding or not self.lacks(moment.wall_ms + limits.PROMISE_MS // 2):
            return False
        if is_busy or agenda.ready or agenda.blocked:
            return True
        wake_ms = agenda.wake_ms
        return wake_ms is not None and wake_ms <= moment.steady_ms + PROMISE_AHEAD_MS

    def make(self, moment: Moment) -> Record:
        """A promise from this moment on."""
        until_ms = promise_until(moment.wall_ms)
        self.queued_ms = max(self.queued_ms, until_ms)
        return self.machine.record([Promise(until_ms)], moment)

    def void(self, moment: Moment) -> Record | None:
        """The exact close that voids it; None if there is none, or it is on its way already."""
        if self.is_voiding or not (self.machine.promised_ms or self.queued_ms):
            return None
        self.is_voiding, self.queued_ms = True, 0
        return self.machine.record([self.machine.close_exact()], moment)

    def voided(self, _: SandglassError | None) -> None:
        """That record is applied."""
        self.is_voiding = False
