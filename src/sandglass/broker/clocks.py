"""The node's clock, for operators: a step of it that isn't believed, and how it is accepted."""

import asyncio
from dataclasses import dataclass

from sandglass.broker.loops import Loops


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """
    `now_ms` is the clock by which the node leads, `machine_ms` its machine's. `step_ms` and
    `believed_in_ms` are of a forward step that isn't believed yet; 0 if there is none.
    """

    now_ms: int
    machine_ms: int
    step_ms: int
    believed_in_ms: int


class Clocks:
    """Those of all that the node leads: each log has its own, over one machine's clock."""

    def __init__(self, loops: Loops) -> None:
        self._loops = loops

    def look(self) -> ClockSeen:
        """How the clock stands."""
        own = self._loops.own
        moment = own.moment()
        keepers = [loop.clocks.keeper for loop in self._loops]
        steps = [each.stepped_by_ms for each in keepers if each.is_stepped]
        return ClockSeen(
            moment.wall_ms,
            own.clock.wall_ms(),
            max(steps, default=0),
            max(each.believed_in_ms for each in keepers),
        )

    async def accept(self) -> int:
        """
        Takes the machine's clock for right, at once. Accepting is durable when this returns:
        no later leader goes by an earlier time.

        Returns:
            By how much the clock had been stepped; 0 if there was nothing to accept.
        """
        stepped = [(loop, loop.clocks.accept()) for loop in self._loops]
        # A record each: it carries the clock, and brings the turn that looks at what is due.
        waits = [
            loop.commit(loop.machine.record([], loop.moment()))
            for loop, by_ms in stepped
            if by_ms
        ]
        await asyncio.gather(*waits)
        return max(by_ms for _, by_ms in stepped)
