"""
Random histories of a KV topic, from a seed: puts, deletes, gets and scans by several clients on
a `SimulatedNode` that crashes, stops, starts again, and whose clock is stepped.

What clients see is judged for each key by itself: it has to be linearizable (I13), revisions
only grow, and at the end the log gives the same rows once more, byte for byte (I16). What was
on its way in a crash has either happened by then, or it never does.

There are no events here: what happens next is drawn, so every order of a sync's end, a read and
a crash comes up.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from sandglass.adapters.memory_store import MemoryStore
from sandglass.core import codec, entry
from sandglass.core.dispatch import Moment
from sandglass.core.keyvalue import admit_delete, admit_put
from sandglass.core.machine import Machine, encode_topic
from sandglass.core.message import Entries, Entry, EntryKey, Placed, Removed
from sandglass.core.record import Delete, Put, PutTopic, Record
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.core.view import Overlay
from sandglass.testing.linear import Call, explain
from sandglass.testing.seen import Violation, take_messages
from sandglass.testing.simulated_node import SimulatedNode

START_MS = 1_700_000_000_000
STEP_COUNT = 1500
CHANNEL = "master"
KEYS: tuple[EntryKey, ...] = (
    (b"a", b""),
    (b"a", b"\0"),
    (b"a\0", b""),
    (b"ab", b"c"),
    (b"\xff", b""),
    (b"/", b"/"),
)
STEPS_MS = (-3_600_000, -3000, -100, 100, 3000, 600_000)


@dataclass(slots=True)
class Write:
    """A put or a delete that was admitted. `called` is its place in the order of moments."""

    partition: int
    keys: list[EntryKey]
    values: list[bytes | None]
    called: int
    placed: Placed | None = None
    removed: Removed | None = None


@dataclass(slots=True)
class KeysReport:
    """What a history was: for people, and to compare two runs."""

    seed: int
    digest: str = ""
    write_count: int = 0
    read_count: int = 0
    lost_count: int = 0
    crash_count: int = 0
    violation: str = ""


@dataclass(slots=True)
class KeysSimulation:
    """One history. `run` is the door; as the node's observer it hears of each record."""

    seed: int
    chance: random.Random = field(init=False)
    node: SimulatedNode = field(init=False)
    report: KeysReport = field(init=False)
    refs: tuple[PartitionRef, ...] = (PartitionRef("P1", 1), PartitionRef("P2", 2))
    now_ms: int = 0
    shift_ms: int = 0
    calls: dict[EntryKey, list[Call]] = field(default_factory=dict[EntryKey, list[Call]])
    revisions: dict[bytes, int] = field(default_factory=dict[bytes, int])
    highest: dict[EntryKey, int] = field(default_factory=dict[EntryKey, int])
    """The highest revision of a key that anybody was shown or told."""
    on_the_way: dict[int, Write] = field(default_factory=dict[int, Write])
    """By the `id` of the list of keys in their records, which may be made anew."""
    _moments: "count[int]" = field(default_factory=count)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.node = SimulatedNode(self.chance, self)
        self.report = KeysReport(self.seed)

    def run(self) -> KeysReport:
        """
        Plays the history to its end.

        Raises:
            Violation: an invariant doesn't hold.
            AssertionError: the core has found a rule of its own broken.
        """
        self._start()
        topic = Topic("kv", TopicKind.KV, self.refs)
        put_topic = PutTopic("kv", encode_topic(topic))
        self.node.submit(self.node.machine.record([put_topic], self._moment()), self._moment())
        self._settle()
        acts: list[tuple[Callable[[], None], int]] = [
            (self._put, 30),
            (self._delete, 12),
            (self._get, 30),
            (self._scan, 6),
            (self._turn, 40),
            (self._end_sync, 25),
            (self._pass_time, 15),
            (self._step_clock, 2),
            (self._fill_disk, 4),
            (self._crash, 2),
            (self._stop, 1),
        ]
        weights = [weight for _, weight in acts]
        for act, _ in self.chance.choices(acts, weights, k=STEP_COUNT):
            act()
        self._settle()
        self._scan()
        self._judge()
        self.node.stop(self._moment())
        self._replay()
        return self._reported()

    # --- the world ----------------------------------------------------------------------------

    def _moment(self) -> Moment:
        return self.node.moment(START_MS + self.now_ms + self.shift_ms, self.now_ms)

    def _start(self) -> None:
        self.node.load()
        self.now_ms += self.node.wait_ms(START_MS + self.now_ms + self.shift_ms)
        self.node.lead(START_MS + self.now_ms + self.shift_ms, self.now_ms)
        self._settle()

    def _settle(self) -> None:
        """Until nothing is on its way; there is room for it."""
        self.node.is_full = False
        while self.node.queue or self.node.is_syncing:
            self._turn()
            self._end_sync()

    def _turn(self) -> None:
        self.node.turn(self._moment())

    def _end_sync(self) -> None:
        if self.node.is_syncing:
            self.node.sync_end()

    def _pass_time(self) -> None:
        self.now_ms += self.chance.randint(0, 60)

    def _step_clock(self) -> None:
        self.shift_ms += self.chance.choice(STEPS_MS)

    def _fill_disk(self) -> None:
        """Puts are refused for a while; deletes go on, or wait for a reserve."""
        self.node.is_full = not self.node.is_full
        self.node.has_reserve = self.chance.random() < 0.7

    def _crash(self) -> None:
        self.report.crash_count += 1
        self.node.crash()
        self.now_ms += self.chance.randint(0, 400)
        self._start()

    def _stop(self) -> None:
        self.node.stop(self._moment())
        self._start()

    # --- clients ------------------------------------------------------------------------------

    def _put(self) -> None:
        number, wanted = self._some_keys()
        values: list[bytes | None] = [b"%d" % next(self._numbers) for _ in wanted]
        write = Write(number, wanted, values, next(self._moments))
        batch = Entries(wanted, [value for value in values if value is not None], 1)
        partition = self.node.machine.partition(number, self.node.view)
        moment = self._moment()
        record, write.placed = admit_put(partition, CHANNEL, batch, moment, self.node.view)
        self._submit(record, write, moment)

    def _delete(self) -> None:
        number, wanted = self._some_keys()
        write = Write(number, wanted, [None] * len(wanted), next(self._moments))
        partition = self.node.machine.partition(number, self.node.view)
        moment = self._moment()
        record, write.removed = admit_delete(partition, CHANNEL, wanted, moment)
        self._submit(record, write, moment)

    def _submit(self, record: Record, write: Write, moment: Moment) -> None:
        self.report.write_count += 1
        self.on_the_way[id(write.keys)] = write
        self.node.submit(record, moment, lambda: self._answered(write))

    def _answered(self, write: Write) -> None:
        del self.on_the_way[id(write.keys)]
        self._took_effect(write)
        first = write.placed.first_index if write.placed is not None else 0
        if write.removed is not None:
            first = write.removed.first_revision
            if len(write.removed.existed) != len(write.keys):
                raise Violation(f"I13: a delete of {write.keys} was answered without a word")
        for revision, key, value in zip(count(first), write.keys, write.values, strict=False):
            if value is not None:
                self._know(key, revision, value)

    def _took_effect(self, write: Write, *, is_told: bool = True) -> None:
        """By now, though its caller may not know."""
        existed = write.removed.existed if write.removed is not None and is_told else None
        for place, (key, value) in enumerate(zip(write.keys, write.values, strict=True)):
            kind = "delete" if value is None else "put"
            # Of equal keys in a request all but the last are never seen, but by a delete.
            if value is not None and key in write.keys[place + 1 :]:
                continue
            if value is None and key in write.keys[:place]:
                continue
            told = None if existed is None else existed[place]
            call = Call(kind, value, write.called, 0, told)
            self._note(key, call)

    def _get(self) -> None:
        key = self.chance.choice(KEYS)
        self._show(key, entry.find(self._home(key), CHANNEL, key, self.node.view))

    def _scan(self) -> None:
        for ref in self.refs:
            found = entry.scan(ref.number, CHANNEL, (b"", b""), None, self.node.view)
            entries = {each.key: each for each in found}
            if sorted(entries) != list(entries):
                raise Violation(f"I13: a scan is out of order: {list(entries)}")
            for key in KEYS:
                if self._home(key) == ref.number:
                    self._show(key, entries.pop(key, None))
            if entries:
                raise Violation(f"I13: a scan shows keys that nobody put: {list(entries)}")

    def _show(self, key: EntryKey, found: Entry | None) -> None:
        self.report.read_count += 1
        value = None if found is None else found.message
        self._note(key, Call("get", value, next(self._moments), 0))
        if found is not None:
            self._know(key, found.revision, found.message)
            if found.revision < self.highest.get(key, 0):
                raise Violation(f"I13: {key} went back to revision {found.revision}")
            self.highest[key] = found.revision

    def _know(self, key: EntryKey, revision: int, value: bytes) -> None:
        if self.revisions.setdefault(value, revision) != revision:
            raise Violation(f"I13: {value!r} under {key} changed its revision to {revision}")

    def _note(self, key: EntryKey, call: Call) -> None:
        answered = next(self._moments)
        done = Call(call.kind, call.value, call.called, answered, call.existed)
        # Its own call may be shared with other keys, never with other calls of this one.
        self.calls.setdefault(key, []).append(done)

    def _some_keys(self) -> tuple[int, list[EntryKey]]:
        number = self.chance.choice(self.refs).number
        own = [key for key in KEYS if self._home(key) == number]
        return number, [self.chance.choice(own) for _ in range(self.chance.randint(1, 3))]

    def _home(self, key: EntryKey) -> int:
        return self.refs[KEYS.index(key) % len(self.refs)].number

    # --- the observer of the node -------------------------------------------------------------

    def see(self, wall_ms: int, monotonic_ms: int) -> None:
        """The leader's wall clock shows this."""

    def begin_epoch(self, closed: dict[int, int]) -> None:
        """A leader starts; what the one before had on its way is decided."""
        del closed
        if self.on_the_way:
            raise Violation(f"I13: {len(self.on_the_way)} writes are neither there nor lost")

    def admit(self, record: Record, moment: Moment) -> None:
        """A record is on its way."""

    def land(self, record: Record) -> None:
        """It is in the log for good; told before it is applied, or because of a crash."""
        write = None if self.node.is_serving else self._forget(record)
        if write is not None:
            self._took_effect(write, is_told=False)

    def lose(self, record: Record) -> None:
        """It never was."""
        if self._forget(record) is not None:
            self.report.lost_count += 1

    def _forget(self, record: Record) -> Write | None:
        for operation in record.operations:
            if isinstance(operation, Put | Delete):
                return self.on_the_way.pop(id(operation.keys), None)
        return None

    # --- the end ------------------------------------------------------------------------------

    def _judge(self) -> None:
        for key, calls in self.calls.items():
            problem = explain(calls)
            if problem:
                raise Violation(f"I13: {key}: {problem}")

    def _replay(self) -> None:
        """The whole log, from nothing, gives the rows that the node has after all its lives."""
        fresh = MemoryStore()
        view = Overlay(fresh)
        machine = Machine.load(take_messages, view)
        for _, raw in self.node.log.read(1):
            view.lay(machine.apply(codec.decode(raw), view))
        fresh.write(view.take(), self.node.log.last_position)
        replayed = dict(fresh.range(b"", b"\xff" * 8))
        lived = dict(self.node.store.range(b"", b"\xff" * 8))
        if replayed != lived:
            changed = {key for key in replayed | lived if replayed.get(key) != lived.get(key)}
            raise Violation(f"I16: rows are replayed otherwise: {sorted(changed)}")

    def _reported(self) -> KeysReport:
        digest = hashlib.sha256(repr(sorted(self.calls.items(), key=repr)).encode())
        for _, raw in self.node.log.read(1):
            digest.update(raw)
        self.report.digest = digest.hexdigest()
        return self.report


def simulate_keys(seed: int) -> KeysReport:
    """One history; what goes wrong stands in its report."""
    simulation = KeysSimulation(seed)
    try:
        return simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever breaks is a finding, with its seed
        simulation.report.violation = f"{type(error).__name__}: {error}"
        return simulation.report
