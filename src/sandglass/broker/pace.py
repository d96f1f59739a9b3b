"""
When a turn of the node's loop begins: at once if something waits for one, and else when the
next thing is due. Before it does, what came in is read, and what goes out is written.

1. A turn that shares its sync with more requests serves them all at the price of one: see
   `Pace.wait`.
2. What waits for a promise has its turn some syncs before it is due, if one can be made then.
3. While there are leases, the clock is looked at often, so that a pause of the process shows.
4. The house is kept once in a while, and in the quiet more seldom.
"""

import asyncio
from dataclasses import dataclass

from sandglass.broker.agenda import Agenda
from sandglass.broker.applier import Applier
from sandglass.broker.leader_clock import LeaderClock
from sandglass.broker.promises import PROMISE_AHEAD_MS, Promises
from sandglass.broker.turn_queue import TurnQueue
from sandglass.core.dispatch import Moment

STALL_RETRY_MS = 5

LIFE_SIGN_MS = 250
"""While there are leases the loop looks at the clock so often, to know how long a pause was."""

HOUSEKEEPING_MS = 1000

DELIVERY_PASS_COUNT = 3
"""Passes of the event loop after a turn that handed something out. A request takes several to
come in and be answered: with one a turn, each would cost it a whole turn of a burst."""

GATHER_PASS_COUNT = 8
GATHER_QUIET_COUNT = 2
"""Passes of the event loop that wait for more requests to share a turn, at most; and those that
bring none before it begins. A sync takes as long as a few requests take to come in: without the
wait each sync would serve those few."""


@dataclass(slots=True)
class Pace:
    """The turns of one loop, as far as time goes."""

    queue: TurnQueue
    applier: Applier
    agenda: Agenda
    promises: Promises
    clocks: LeaderClock
    kick: asyncio.Event
    """Set when there is something for a turn to do."""
    rest_ms: int
    """Between two looks at a house in which nothing happens."""

    has_delivered: bool = False
    """The last turn handed something out."""
    _house_ms: int = 0
    """When the house is to be kept."""
    _housekept: int = -1
    """The position that was applied when it was."""

    async def wait(self, *, is_stopping: bool) -> None:
        """Until it is time for a turn."""
        delay_ms = self.delay_ms(is_stopping=is_stopping)
        self.clocks.planned_ms = self.clocks.alive_ms + delay_ms
        if not self.kick.is_set() and delay_ms > 0:
            handle = asyncio.get_running_loop().call_later(delay_ms / 1000, self.kick.set)
            await self.kick.wait()
            handle.cancel()
        else:
            # Let what came in be read, and what goes out be written.
            for _ in range(DELIVERY_PASS_COUNT if self.has_delivered else 1):
                await asyncio.sleep(0)
        if not self.queue.writer.is_syncing and self.queue.lacks_requests():
            await self._gather()
        self.kick.clear()

    async def _gather(self) -> None:
        """Passes of the event loop, for as long as they bring requests."""
        intake = self.queue.intake
        quiet_count = 0
        for _ in range(GATHER_PASS_COUNT):
            before = intake.request_count
            await asyncio.sleep(0)
            quiet_count = quiet_count + 1 if intake.request_count == before else 0
            if quiet_count == GATHER_QUIET_COUNT:
                return

    def delay_ms(self, *, is_stopping: bool = False) -> int:
        """How long there is nothing to do."""
        queue, writer = self.queue, self.queue.writer
        if writer.is_synced or (is_stopping and not writer.is_syncing):
            return 0
        if queue and queue.has_room():
            return 0
        moment = self.clocks.moment()
        if self.applier.is_stalled:
            return STALL_RETRY_MS
        at_ms = self._awake_ms()
        if writer.again_ms:
            at_ms = min(at_ms, writer.again_ms)
        if self.agenda.is_watching:
            at_ms = min(at_ms, moment.steady_ms + LIFE_SIGN_MS)
        wake_ms = self.agenda.wake_ms
        if wake_ms is not None:
            if self._may_promise(moment, moment.wall_ms + wake_ms - moment.steady_ms):
                wake_ms -= PROMISE_AHEAD_MS
            at_ms = min(at_ms, wake_ms)
        return max(0, at_ms - moment.steady_ms)

    def _may_promise(self, moment: Moment, wall_ms: int) -> bool:
        """
        Is a promise needed that covers `wall_ms`, and can a turn make it? It can't while the
        clock stands back, or the record is on its way that says so, or the log has no room: one
        turn after the other would do nothing.
        """
        is_back = self.promises.is_voiding or self.clocks.is_behind(moment)
        return not is_back and self.queue.has_room() and self.promises.lacks(wall_ms)

    def _awake_ms(self) -> int:
        """When there is a turn, at the latest: to keep a house in which nothing happens."""
        is_full = self.queue.writer.is_full
        is_quiet = self.applier.applied == self._housekept and not is_full
        return self._house_ms + (self.rest_ms - HOUSEKEEPING_MS if is_quiet else 0)

    def is_house_due(self, moment: Moment) -> bool:
        """The house is to be kept now."""
        return moment.steady_ms >= self._house_ms

    def house_kept(self, moment: Moment) -> None:
        """The house was kept at this moment: the next time comes after a rest."""
        self._house_ms = moment.steady_ms + HOUSEKEEPING_MS
        self._housekept = self.applier.applied
