"""
Random histories of one node in virtual time, from a seed.

Producers, consumers of several groups, tail readers, retention and an operator act on the core
through a `SimulatedNode`; syncs take time; the node crashes, stops, pauses and starts again;
clocks are stepped, disks fill, topics go and come back. At the end everything heals: what is
scheduled comes due, diligent consumers take it, and nothing may be missing. `History` watches,
and the same seed gives the same history.
"""

import hashlib
from dataclasses import dataclass, field

from sandglass.adapters.memory_store import MemoryStore
from sandglass.core import codec
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.machine import Machine
from sandglass.core.view import Overlay
from sandglass.testing.seen import Violation, take_messages
from sandglass.testing.simulated_claims import Claims
from sandglass.testing.simulated_consumers import Consumers
from sandglass.testing.simulated_groups import Groups
from sandglass.testing.simulated_letters import Letters
from sandglass.testing.simulated_onlooker import Onlooker
from sandglass.testing.simulated_operator import Operator
from sandglass.testing.simulated_outcomes import Outcomes
from sandglass.testing.simulated_producers import Producers
from sandglass.testing.world import IDLE, Report, World

MAIN_MS = 4000
"""Virtual time in which things go wrong; then everything heals."""

DRAIN_EVENT_COUNT_MAX = 20_000


@dataclass(slots=True)
class Simulation:
    """One history. `run` is the door."""

    seed: int
    world: World = field(init=False)
    outcomes: Outcomes = field(init=False)
    consumers: Consumers = field(init=False)
    producers: Producers = field(init=False)
    operator: Operator = field(init=False)
    groups: Groups = field(init=False)
    letters: Letters = field(init=False)
    onlooker: Onlooker = field(init=False)
    claims: Claims = field(init=False)

    def __post_init__(self) -> None:
        self.world = World(self.seed)
        self.outcomes = Outcomes(self.world)
        self.consumers = Consumers(self.world, self.outcomes)
        self.producers = Producers(self.world)
        self.operator = Operator(self.world, self.consumers, self.producers)
        self.groups = Groups(self.world, self.consumers, self.operator)
        self.letters = Letters(self.world)
        self.onlooker = Onlooker(self.world)
        self.claims = Claims(self.world, self.consumers, self.outcomes)
        self.world.on_serving = self._serving
        self.world.on_down = self.consumers.forget_all
        self.world.on_turn = self._turned
        self.world.on_ended = self.consumers.give_back

    def run(self) -> Report:
        """
        Plays the history to its end.

        Raises:
            Violation: an invariant doesn't hold.
            AssertionError: the core has found a rule of its own broken.
        """
        world = self.world
        world.start()
        for act, mean_ms in (
            (self.producers.produce, 25),
            (self.operator.rush, 150),
            (self.producers.read, 60),
            (self.consumers.come_and_go, 130),
            (self.outcomes.repeat_stale, 150),
            (self.onlooker.look, 250),
            (self.operator.cut, 1500),
            (self.operator.step_clock, 700),
            (self.operator.flutter, 300),
            (self.operator.waver, 1200),
            (self.operator.act, 600),
            (self.operator.pause, 2000),
            (self.groups.seek, 500),
            (self.letters.take, 250),
            (self.groups.drop, 900),
            (self.groups.set, 600),
            (self.operator.fill_disk, 1500),
            (world.fail, 1000),
        ):
            world.often(act, mean_ms)
        world.play(lambda: world.now_ms >= MAIN_MS)
        self._heal()
        world.play(lambda: not self._is_waiting(), event_count_max=DRAIN_EVENT_COUNT_MAX)
        self._finish()
        return self._reported()

    def _serving(self) -> None:
        self.operator.begin()
        self.claims.come_back()
        for topic in self.world.topics.values():
            if topic.name != IDLE or self.world.chance.random() < 0.5:
                self.consumers.join(topic)

    def _turned(self, deliveries: list[Delivery], moment: Moment) -> None:
        for delivery in deliveries:
            self.consumers.deliver(delivery, moment)
        self.consumers.check_credit(deliveries)
        self.consumers.look_at_lines(deliveries)
        self.consumers.look_at_drains(moment)
        if self.onlooker.rest(moment):
            self.consumers.check_drains(moment)

    # --- the end ------------------------------------------------------------------------------

    def _heal(self) -> None:
        """Clocks agree again, the node is up, and diligent consumers take everything."""
        world = self.world
        world.is_healed, world.node.is_full = True, False
        world.shift_ms = max(world.shift_ms, 0) + 4_000_000
        if world.node.is_serving or world.chance.random() < 0.5:
            world.node.crash()
            world.down()
            world.after(0, world.start)
        world.after(1000, self._heal_clients, is_world=True)

    def _heal_clients(self) -> None:
        world = self.world
        if not world.node.is_serving:
            world.after(100, self._heal_clients, is_world=True)
            return
        for client in list(self.consumers.clients.values()):
            self.consumers.leave(client)
        for topic in world.topics.values():
            self.consumers.join_diligent(topic)
        world.history.lateness_from_ms = world.wall_ms + 1000

    def _is_waiting(self) -> bool:
        """There is still something that has to come to an end."""
        world = self.world
        if world.history.lateness_from_ms is None or world.report.event_count % 16:
            return True
        return bool(world.node.queue or world.node.is_syncing or world.history.lost())

    def _finish(self) -> None:
        while self.world.node.queue or self.world.node.is_syncing:
            if self.world.node.is_syncing:
                self.world.node.sync_end()
            self.world.node.append()
        self.world.history.end()
        self.onlooker.look()
        self.world.node.stop(self.world.see())
        self._replay()

    def _replay(self) -> None:
        """The whole log, from nothing, gives the rows that the node has after all its lives."""
        fresh = MemoryStore()
        view = Overlay(fresh)
        machine = Machine.load(take_messages, view)
        position = 0
        for position, raw in self.world.node.log.read(1):
            view.lay(machine.apply(codec.decode(raw), view))
            if position % 64 == 0:
                fresh.write(view.take(), position)
        fresh.write(view.take(), position)
        self.world.report.record_count = position
        replayed = dict(fresh.range(b"", b"\xff" * 8))
        lived = dict(self.world.node.store.range(b"", b"\xff" * 8))
        for key in sorted(replayed.keys() | lived.keys()):
            if replayed.get(key) != lived.get(key):
                raise Violation(
                    f"I16: row {key!r} is {lived.get(key)!r}; replayed {replayed.get(key)!r}"
                )

    def _reported(self) -> Report:
        report, digest = self.world.report, hashlib.sha256()
        for line in self.world.history.trace:
            digest.update(line.encode() + b"\n")
        for _, raw in self.world.node.log.read(1):
            digest.update(raw)
        report.digest = digest.hexdigest()
        report.refused_count = self.world.node.refused_count
        report.message_count = len(self.world.history.answered)
        report.delivered_count = self.world.history.delivered_count
        return report


def simulate(seed: int) -> Report:
    """One history; what goes wrong stands in its report."""
    simulation = Simulation(seed)
    try:
        return simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever breaks is a finding, with its seed
        simulation.world.report.violation = f"{type(error).__name__}: {error}"
        return simulation.world.report
