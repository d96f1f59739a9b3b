"""
Random histories of a cluster in virtual time, from a seed, in which topics move between the
logs of nodes and replicated ones, and clients go on all the while.

Unlike the other simulations it runs the shell as it is: `Switching`, `Holding`, `Leaders`, the
catalog, `NodeLoop` and the broker, on an event loop in virtual time. Nodes die at any moment,
and just when a step of theirs has become durable; they are cut off from the engine, hear late
what others have agreed on, and what they sent arrives when they are dead. Their clocks are set,
and switches are taken back. Meanwhile groups are moved, dead letters are redriven and purged,
what is old is cut, and the entries of a KV topic are put and deleted. At the end all heals, the
topics have to come to rest, and every group has to be given all that was answered.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandglass.cluster.leaders import GIVEN_MS
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.switch import SWITCHES
from sandglass.core.dispatch import Delivery
from sandglass.core.message import CHANNEL_DEFAULT, DEAD_LETTER_CHANNEL
from sandglass.core.topic import TopicKind
from sandglass.errors import SandglassError
from sandglass.testing import simulated_entries as entries
from sandglass.testing.moving_checks import MovingHistory
from sandglass.testing.moving_logs import LogWatch
from sandglass.testing.moving_seen import Given
from sandglass.testing.seen import Violation
from sandglass.testing.simulated_bucket import Bucket, Network
from sandglass.testing.simulated_clients import (
    GROUPS,
    Mover,
    Producer,
    Scene,
    fetched,
    id_of,
    messages_of,
)
from sandglass.testing.simulated_entries import EntriesHistory
from sandglass.testing.simulated_host import Host
from sandglass.testing.simulated_mishaps import Mishaps
from sandglass.testing.simulated_parts import Part, key_of
from sandglass.testing.simulated_stream import Streams
from sandglass.testing.simulated_upkeep import Cutter, Redriver, Seeker
from sandglass.testing.virtual_time import Life, VirtualLoop, until

NAMES = ("a", "b", "c")
MAIN_MS = 12_000
READY_MS = 30_000
REST_MS = GIVEN_MS + 30_000
"""So long after all has healed, at most, a topic is on its way. Its logs may have to be handed
over to a node that has just lost them."""

DRAIN_MS = 60_000
SHIFTS_MS = (0, 0, 3, -40, 700)
STEPS_EVERY = 3
STEPS_MS = (-900, -120, 0, 0, 400)
"""What clocks are set by in one history of so many."""

TOPICS = {"t": (1, 2), "u": (3, 1)}
"""Name of each timer topic, and how many replicas and partitions it has to begin with."""

EVERY_TOPIC = {**TOPICS, entries.TOPIC: (1, 1)}
"""As above, with the KV topic."""

STEP_DEATH = 0.02
"""How often a node dies with what it has just got done, while a topic moves."""


@dataclass(slots=True)
class MovesReport:
    """What a history was: for people, and to compare two runs."""

    seed: int
    digest: str = ""
    message_count: int = 0
    delivered_count: int = 0
    refused_count: int = 0
    crash_count: int = 0
    asked_count: int = 0
    moved_count: int = 0
    """Switches that were carried out, as the entries of topics say."""
    sealed_count: int = 0
    unsealed_count: int = 0
    late_count: int = 0
    """Requests that arrived when nobody waited for them any more."""
    stale_count: int = 0
    """Entries of deposed leaders."""
    claimed_count: int = 0
    rerouted_count: int = 0
    entry_count: int = 0
    """Calls of the KV topic."""
    sought_count: int = 0
    redriven_count: int = 0
    purged_count: int = 0
    cut_count: int = 0
    letter_count: int = 0
    pass_count: int = 0
    ended_ms: int = 0
    violation: str = ""


@dataclass(slots=True)
class MovesSimulation:
    """One history. `run` is the door."""

    seed: int
    chance: random.Random = field(init=False)
    loop: VirtualLoop = field(init=False)
    network: Network = field(init=False)
    bucket: Bucket = field(init=False)
    streams: Streams = field(init=False)
    watch: LogWatch = field(init=False)
    history: MovingHistory = field(init=False)
    hosts: list[Host] = field(init=False)
    scene: Scene = field(init=False)
    mishaps: Mishaps = field(init=False)
    report: MovesReport = field(init=False)
    entries: EntriesHistory = field(default_factory=EntriesHistory)
    movers: list[Mover] = field(default_factory=list[Mover])
    _broken: "asyncio.Future[None] | None" = None
    _places: dict[str, str] = field(default_factory=dict[str, str])
    """Where each topic lives, as its entry says."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.loop = VirtualLoop(self.chance)
        self.network = Network(self.loop, self.chance, self._step, self._late, self._break)
        self.bucket = Bucket()
        self.watch = LogWatch(self.bucket.entries)
        self.streams = Streams(
            self.network, lambda number, raws: self._stored(str(number), raws)
        )
        self.report = MovesReport(self.seed)
        shifts_ms = {name: self.chance.choice(SHIFTS_MS) for name in NAMES}
        steps_ms = STEPS_MS if self.seed % STEPS_EVERY == 1 else (0,)
        self.hosts = [
            Host(
                name,
                self.loop,
                self.network,
                self.bucket,
                self.streams,
                shift_ms=shift,
                on_stored=self._stored,
                on_given=self._given,
            )
            for name, shift in shifts_ms.items()
        ]
        shifts = [shift + step for shift in shifts_ms.values() for step in steps_ms]
        spread_ms = max(*shifts, 0) - min(*shifts, 0)
        self.history = MovingHistory(spread_ms)
        self.scene = Scene(self.loop, self.hosts, self.history, spread_ms, self._is_moving)
        self.mishaps = Mishaps(
            self.scene,
            self.network,
            self.bucket,
            self.streams,
            self.watch,
            shifts_ms,
            steps_ms,
        )
        self.bucket.on_change = self._changed

    def run(self) -> MovesReport:
        """
        Plays the history to its end.

        Raises:
            Violation: an invariant doesn't hold.
            AssertionError: a rule of the code's own is broken.
        """
        self.loop.play(self._watched())
        return self._reported()

    async def _watched(self) -> None:
        """Ends as soon as something is broken, wherever that shows."""
        self._broken = self.loop.create_future()
        self.loop.set_exception_handler(self._handle)
        playing = asyncio.create_task(self._play())
        await asyncio.wait({playing, self._broken}, return_when=asyncio.FIRST_COMPLETED)
        if self._broken.done():
            await self._broken
        await playing

    def _handle(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, SandglassError):
            return  # nobody waits for that answer any more
        self._fail(error if isinstance(error, Exception) else Violation(str(context)))

    def _fail(self, error: Exception) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    def _break(self, what: str) -> None:
        self._fail(Violation(what))

    async def _play(self) -> None:
        self.network.is_calm = True
        for host in self.hosts:
            host.start()
        await self._make_topics()
        self.network.is_calm = False
        tasks = [asyncio.create_task(each) for each in self._users()]
        await asyncio.sleep(MAIN_MS / 1000)
        await self._heal(tasks)
        await self._settle_groups()
        await self._drain()
        await self._finish()

    async def _make_topics(self) -> None:
        ready = await until(
            lambda: all(self._sees_all(host) for host in self.hosts), for_ms=READY_MS
        )
        assert ready, "the cluster doesn't come about"
        for name, (factor, count) in EVERY_TOPIC.items():
            host = self.chance.choice(self.hosts)
            assert host.life is not None
            kind = TopicKind.KV if name == entries.TOPIC else TopicKind.TIMER
            making = host.broker.catalog.create_topic(
                name, kind=kind, partition_count=count, replication_factor=factor
            )
            await host.life.call(making)
        for name, (_, count) in EVERY_TOPIC.items():
            served = await until(
                lambda name=name, count=count: all(
                    self.scene.serving(name, place) for place in range(count)
                ),
                for_ms=READY_MS,
            )
            assert served, f"topic {name} isn't served"

    def _sees_all(self, host: Host) -> bool:
        return host.switching is not None and len(host.members.alive) == len(NAMES)

    def _users(self) -> Iterator[Coroutine[Any, Any, None]]:
        scene = self.scene
        for name, (_, count) in TOPICS.items():
            for mean_ms in (60, 150):
                yield Producer(scene, name, mean_ms).run()
            for group in GROUPS:
                for place in range(count):
                    for _ in range(2 if group == GROUPS[0] else 1):
                        yield Part(scene, name, place, group).run()
            yield Seeker(scene, name, 6000).run()
            yield Redriver(scene, name, 1500).run()
            yield Cutter(scene, name, 3000).run()
        for _ in range(3):
            yield entries.KeyUser(scene, self.entries, 120).run()
        for name in EVERY_TOPIC:
            mover = Mover(scene, name, 1500)
            self.movers.append(mover)
            yield mover.run()
        for act, mean_ms in (
            (self._crash_any, 3500),
            (self.mishaps.cut_off, 5000),
            (self.mishaps.let_lag, 4000),
            (self.mishaps.elect, 9000),
            (self.mishaps.take_back, 15_000),
            (self.mishaps.set_clock, 1500),
            (self._look, 400),
        ):
            yield self._often(act, mean_ms)
        yield self._read_often()

    # --- what it hears ------------------------------------------------------------------------

    def _stored(self, log: str, raws: Sequence[bytes]) -> None:
        try:
            self.watch.stored(log, raws)
        except Violation as error:
            self._fail(error)

    def _changed(self, key: str) -> None:
        """An entry has changed, at the engine."""
        if key not in {topic_key(name) for name in EVERY_TOPIC}:
            return
        entry = self.bucket.entries.get(key)
        if entry is None:
            self._break(f"M: entry {key} is gone")
            return
        placed = Placed.decode(entry.value)
        where = placed.home if placed.is_at_home else "logs of its own"
        self.report.moved_count += self._places.get(key, where) != where
        self._places[key] = where

    def _given(self, host: Host, deliveries: list[Delivery]) -> None:
        try:
            for delivery in deliveries:
                self._give(host, delivery)
        except Violation as error:
            self._fail(error)

    def _give(self, host: Host, delivery: Delivery) -> None:
        loops, number = host.broker.loops, delivery.partition
        topic, partition = id_of(loops, number)
        log = host.name if loops.of_any(number) is host.own else str(number)
        self.watch.check_served(log, number)
        consumers = host.broker.consumers
        subscription = consumers._subscriptions.get(delivery.consumer.key)
        self.history.give(
            topic,
            delivery.group.name,
            partition,
            messages_of(delivery.slices),
            token=delivery.lease.token,
            generation=delivery.group.generation,
            attempt=delivery.attempt,
            is_retry=delivery.lease.is_retry,
            holder=key_of(subscription),
            now_ms=self.loop.now_ms,
            ends_ms=self.loop.now_ms + delivery.lease.lease_ms,
            there=self.scene.there,
        )

    # --- bad luck -----------------------------------------------------------------------------

    async def _often(self, act: Callable[[], None], mean_ms: int) -> None:
        while not self.scene.is_calm:
            await asyncio.sleep(self.chance.expovariate(1000 / mean_ms))
            if not self.scene.is_calm:
                act()

    def _is_moving(self) -> bool:
        return any(key.startswith(SWITCHES) for key in self.bucket.entries)

    def _step(self, owner: Life) -> None:
        """Something of a process is durable: it may end with that."""
        if self.scene.is_calm or not self._is_moving() or self.network.is_calm:
            return
        if self.chance.random() < STEP_DEATH:
            host = next(each for each in self.hosts if each.name == owner.name)
            if host.life is owner:
                self._crash(host)

    def _late(self) -> None:
        """What arrives late does most harm where nobody wants it any more."""
        if self.watch.sealed and self.chance.random() < 0.8:
            delay_s = self.scene.chances(1, 50, 500, 2200)
            self.loop.call_later(delay_s, self.mishaps.take_back)

    def _crash_any(self) -> None:
        self._crash(self.chance.choice(self.hosts))

    def _crash(self, host: Host) -> None:
        if host.life is None:
            return
        host.crash()
        delay_s = self.scene.chances(1, 50, 600, 2500, 5000)
        self.loop.call_later(delay_s, lambda: self._restart(host))

    def _restart(self, host: Host) -> None:
        if host.life is None:
            host.start()

    # --- onlookers ----------------------------------------------------------------------------

    def _look(self) -> None:
        """Committed offsets, as a node shows them."""
        name = self.chance.choice([*TOPICS])
        found = self.scene.serving(name, self.chance.choice((0, 1)))
        if found is None:
            return
        host, ref = found
        loop = host.broker.loops.of(ref.number)
        try:
            partition = loop.partition(ref.number)
            for channel, group in partition.groups.names(loop.view):
                if channel == DEAD_LETTER_CHANNEL:
                    continue
                known = partition.group(channel, group, loop.view)
                committed = known.committed(partition.closed, loop.view)
                generation = known.generation
                self.history.commit(name, group, ref.id, committed, generation=generation)
        except SandglassError:
            return
        except Violation as error:
            self._fail(error)

    async def _read_often(self) -> None:
        while not self.scene.is_calm:
            await asyncio.sleep(self.chance.expovariate(1.5))
            name = self.chance.choice([*TOPICS])
            await self._read(name, self.chance.choice((0, 1)))

    async def _read(self, name: str, place: int) -> bool:
        """A reader comes by; true if it was shown all there is."""
        found = self.scene.serving(name, place)
        if found is None:
            return False
        host, ref = found
        known, cut = self.history.known(ref.id), self.history.cuts.get(ref.id, 0)
        assert host.life is not None
        try:
            slices = await host.life.call(fetched(host, name, ref, ""))
        except SandglassError:
            return False
        self.history.read(ref.id, messages_of(slices), known, cut=cut)
        return True

    # --- the end ------------------------------------------------------------------------------

    async def _heal(self, tasks: list[asyncio.Task[None]]) -> None:
        """Nothing goes wrong any more: what moves comes to its end, or is taken back."""
        self.scene.is_calm = self.network.is_calm = True
        self.network.cut.clear()
        self.network.lagging.clear()
        self.network.electing_until_ms = 0
        for host in self.hosts:
            self._restart(host)
        is_resting = await until(self._is_resting, for_ms=REST_MS)
        if not is_resting:
            raise Violation(f"M: topics are on their way still: {self._unrest()}")
        self.scene.is_over = True
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()
        self.scene.is_over = False

    def _unrest(self) -> list[str]:
        found = [key for key in self.bucket.entries if key.startswith(SWITCHES)]
        for host in self.hosts:
            if host.switching is None:
                found.append(f"{host.name} isn't there")
                continue
            found += [
                f"{topic.name} at {host.name}, in epoch {loop.machine.epoch}"
                for loop in host.broker.loops
                for topic in loop.machine.topics.values()
                if topic.is_moving
            ]
        for name in EVERY_TOPIC:
            for place, _ in enumerate(self._partitions(name)):
                if self.scene.serving(name, place) is None:
                    found.append(f"{name}/{place} isn't served")
        return found

    def _is_resting(self) -> bool:
        return not self._unrest()

    def _partitions(self, name: str) -> list[str]:
        host = next((each for each in self.hosts if each.is_ready), None)
        topic = host.broker.loops.topic(name) if host is not None else None
        return [] if topic is None else [ref.id for ref in topic.partitions]

    async def _settle_groups(self) -> None:
        """Nobody moves them any more: where they are is known."""
        for name in TOPICS:
            for place, _ in enumerate(self._partitions(name)):
                found = self.scene.serving(name, place)
                assert found is not None
                host, ref = found
                loop = host.broker.loops.of(ref.number)
                partition = loop.partition(ref.number)
                for group in GROUPS:
                    known = partition.groups.named(CHANNEL_DEFAULT, group, loop.view)
                    if known is not None:
                        self.history.rest(name, group, ref.id, known.generation)

    async def _drain(self) -> None:
        """Diligent consumers take all that there is."""
        parts = [
            Part(self.scene, name, place, group, is_diligent=True)
            for name in TOPICS
            for place, _ in enumerate(self._partitions(name))
            for group in GROUPS
        ]
        tasks = [asyncio.create_task(each.run()) for each in parts]
        done = await until(lambda: not self._left(), step_ms=200, for_ms=DRAIN_MS)
        if not done:
            raise Violation(f"I5: never come to an end: {self._left()}")
        await asyncio.sleep(8)
        self.scene.is_over = True
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    def _left(self) -> list[tuple[str, str, list[int]]]:
        return [
            (name, group, left)
            for name in TOPICS
            for group in GROUPS
            if (left := self.history.left(name, group, self._partitions(name)))
        ]

    async def _finish(self) -> None:
        found = self.scene.serving(entries.TOPIC, 0)
        assert found is not None
        assert entries.KeyUser(self.scene, self.entries, 0).scan(*found)
        self.entries.judge()
        self._check_streams()
        for name in TOPICS:
            letters: dict[str, list[tuple[str, Given]]] = {group: [] for group in GROUPS}
            for place, _ in enumerate(self._partitions(name)):
                found = self.scene.serving(name, place)
                assert found is not None
                host, ref = found
                assert host.life is not None
                assert await self._read(name, place)
                shown = await host.life.call(fetched(host, name, ref, ""))
                there = {each.number for each in messages_of(shown)}
                known = self.history.known(ref.id)
                kept = {each for each in known if not self.history.may_be_cut(each)}
                if lost := kept - there:
                    raise Violation(f"I1: messages {sorted(lost)} were answered, and are lost")
                for part in await host.life.call(fetched(host, name, ref, DEAD_LETTER_CHANNEL)):
                    assert part.origin is not None
                    dead = [(ref.id, each) for each in messages_of([part])]
                    letters[part.origin.group] += dead
                    self.report.letter_count += len(dead)
            for group in GROUPS:
                self.history.check_letters(name, group, letters[group])

    def _check_streams(self) -> None:
        """They are those of the topics' logs, and no others."""
        placed = [
            Placed.decode(self.bucket.entries[topic_key(name)].value) for name in EVERY_TOPIC
        ]
        named = {
            ref.number
            for each in placed
            for ref in each.topic.partitions
            if not each.is_at_home
        }
        if left := self.streams.of.keys() - named - self.streams.excused:
            raise Violation(f"M: streams {sorted(left)} are left over")

    def _reported(self) -> MovesReport:
        report, digest = self.report, hashlib.sha256()
        for line in self.history.trace:
            digest.update(line.encode() + b"\n")
        for number in sorted(self.streams.of):
            for raw in self.streams.of[number].records:
                digest.update(raw)
        report.digest = digest.hexdigest()
        self.count()
        return report

    def count(self) -> None:
        """Fills in what it was."""
        report, scene, watch = self.report, self.scene, self.watch
        report.message_count = len(self.history.sent)
        report.delivered_count = self.history.delivered_count
        report.refused_count = scene.refused_count
        report.crash_count = sum(host.crash_count for host in self.hosts)
        report.asked_count = sum(each.asked_count for each in self.movers)
        report.sealed_count, report.unsealed_count = watch.sealed_count, watch.unsealed_count
        report.late_count = self.network.late_count
        report.stale_count = sum(each.stale_count for each in self.streams.of.values())
        report.claimed_count = scene.claimed_count
        report.rerouted_count = scene.rerouted_count
        report.entry_count = sum(map(len, self.entries.calls.values()))
        report.sought_count, report.cut_count = scene.sought_count, scene.cut_count
        report.redriven_count = scene.redriven_count
        report.purged_count = scene.purged_count
        report.pass_count = self.loop.pass_count
        report.ended_ms = self.loop.now_ms


def simulate_moves(seed: int) -> MovesReport:
    """One history; what goes wrong stands in its report. What its nodes log is not shown."""
    simulation = MovesSimulation(seed)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever breaks is a finding, with its seed
        simulation.count()
        simulation.report.violation = f"{type(error).__name__}: {error}"
        return simulation.report
    finally:
        logging.disable(before)
