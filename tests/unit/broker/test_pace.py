"""When a turn of the node's loop begins."""

import asyncio
from collections.abc import Iterator

import pytest

from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_store import MemoryStore
from sandglass.broker.agenda import Agenda
from sandglass.broker.applier import Applier
from sandglass.broker.leader_clock import LeaderClock
from sandglass.broker.log_writer import LogWriter
from sandglass.broker.pace import HOUSEKEEPING_MS, LIFE_SIGN_MS, STALL_RETRY_MS, Pace
from sandglass.broker.promises import PROMISE_AHEAD_MS, Promises
from sandglass.broker.turn_queue import TurnQueue
from sandglass.core.record import Head, PromiseExact, Record
from sandglass.telemetry import Counts
from sandglass.testing.faults import ManualClock
from sandglass.testing.seen import take_messages

REST_MS = 30 * HOUSEKEEPING_MS
RECORD = Record(1, Head(1, 0, 0, 0, 0), [PromiseExact(1)])


class Scene:
    """A loop's parts, without the loop; its house has just been kept."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        stats, agenda, kick = Counts(), Agenda(), asyncio.Event()
        writer = LogWriter(MemoryLog(), stats, lambda: 0, kick.set)
        applier = Applier(MemoryStore(), take_messages, stats, agenda)
        applier.open()
        clocks = LeaderClock(self.clock, stats)
        clocks.start(wall_ms=self.clock.wall_ms(), steady_ms=0, reached_ms=0)
        promises = Promises(applier.machine)
        queue = TurnQueue(writer)
        self.pace = Pace(queue, applier, agenda, promises, clocks, kick, REST_MS)
        self.pace.house_kept(clocks.moment())

    def wakes_in(self, by_ms: int) -> None:
        """A partition wants its turn then."""
        self.pace.agenda.wakes = [(by_ms, 0, 1)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.pace.queue.writer.close()


def test_a_house_in_which_nothing_happens_is_kept_more_seldom(scene: Scene) -> None:
    in_quiet_ms = scene.pace.delay_ms()
    scene.pace.applier.applied += 1
    at_work_ms = scene.pace.delay_ms()

    assert (REST_MS, HOUSEKEEPING_MS) == (in_quiet_ms, at_work_ms)


def test_the_house_is_kept_when_its_time_has_come(scene: Scene) -> None:
    is_due: list[bool] = []
    for by_ms in (HOUSEKEEPING_MS - 1, 1):
        scene.clock.advance(by_ms)
        is_due.append(scene.pace.is_house_due(scene.pace.clocks.moment()))

    assert [False, True] == is_due


def test_what_waits_for_the_log_has_its_turn_at_once(scene: Scene) -> None:
    scene.pace.queue.add(RECORD, None, 0)

    assert scene.pace.delay_ms() == 0


def test_what_found_no_room_waits_until_it_is_tried_again(scene: Scene) -> None:
    scene.pace.queue.add(RECORD, None, 0)
    scene.pace.queue.writer.again_ms = 300

    assert scene.pace.delay_ms() == 300


def test_a_stalled_view_is_tried_again_soon(scene: Scene) -> None:
    scene.pace.applier.is_stalled = True

    assert scene.pace.delay_ms() == STALL_RETRY_MS


def test_the_clock_is_looked_at_often_while_there_are_leases(scene: Scene) -> None:
    scene.pace.agenda.wake_of[1] = -1

    assert scene.pace.delay_ms() == LIFE_SIGN_MS


def test_what_is_due_beyond_the_promise_has_its_turn_some_syncs_before(scene: Scene) -> None:
    scene.wakes_in(200)
    unpromised_ms = scene.pace.delay_ms()
    scene.pace.promises.queued_ms = scene.clock.wall_ms() + 201
    promised_ms = scene.pace.delay_ms()

    assert (200 - PROMISE_AHEAD_MS, 200) == (unpromised_ms, promised_ms)


def test_no_turn_comes_early_for_a_promise_that_cannot_be_made(scene: Scene) -> None:
    """
    A log without room; a clock that stands back, or has caught up since, while the record that
    says so is on its way: the turn would do nothing.
    """
    scene.wakes_in(200)
    scene.pace.queue.writer.again_ms = 300
    without_room_ms = scene.pace.delay_ms()
    scene.pace.queue.writer.again_ms = 0
    scene.pace.clocks.reached_ms = scene.clock.wall_ms() + 1
    behind_ms = scene.pace.delay_ms()
    scene.pace.clocks.reached_ms = scene.clock.wall_ms()
    scene.pace.promises.is_voiding = True
    voiding_ms = scene.pace.delay_ms()

    assert (200, 200, 200) == (without_room_ms, behind_ms, voiding_ms)


def test_who_stops_waits_for_nothing_but_the_sync(scene: Scene) -> None:
    assert scene.pace.delay_ms(is_stopping=True) == 0


async def test_a_kick_ends_the_wait_and_is_used_up(scene: Scene) -> None:
    waiting = asyncio.create_task(scene.pace.wait(is_stopping=False))
    await asyncio.sleep(0)
    is_over = waiting.done()
    scene.pace.kick.set()
    await waiting

    assert not is_over
    assert not scene.pace.kick.is_set()
