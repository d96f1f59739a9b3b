"""
Snapshots of a simulated cluster: where their objects lie, who makes them, who begins at one.

The steps are those of `sandglass.replication.making` and `restoring`, each a request to the
engine's model: it may be lost, answered late, or lie about for seconds, and the member may
crash or stand still between any two. Any member makes snapshots, whether it leads, did once, or
never has: several at a time, on what they know of the entry, which may be behind.

What is sent may be kept wrongly. And of the newest generation something may be lost, what the
older one doesn't have: more than one loss at a time nothing is built to survive.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sandglass.core import keys, limits
from sandglass.core.view import Changes, Row
from sandglass.errors import SandglassError
from sandglass.replication import making, restoring, snapshot
from sandglass.replication.making import Source
from sandglass.replication.reader import Mark
from sandglass.replication.restoring import Restored, Wanted
from sandglass.replication.snapshot import (
    Generation,
    Generations,
    Manifest,
    digest_of,
    is_whole,
)
from sandglass.testing.oracle import Oracle
from sandglass.testing.seen import Violation
from sandglass.testing.simulated_engine import Caller, Engine
from sandglass.testing.simulated_replica import Replica, empty_store
from sandglass.testing.world import World

CLUSTER = "simulated"
LOG = 1
ANSWER_MS = 250
REPEAT_COUNT = 6
DAMAGED = 0.04
"""How often an object is not kept as it was sent."""


class Process(Caller, Protocol):
    """A member, as far as snapshots concern it."""

    replica: Replica

    def later(self, delay_ms: int, act: Callable[[], None]) -> None:
        """Calls `act` then, in this life."""

    def living(self) -> Callable[[], bool]:
        """Tells whether this life of it goes on."""
        ...

    def restored(self) -> None:
        """Its replica stands at a snapshot."""

    def stuck(self) -> None:
        """No snapshot helps, for the engine has broken its word."""


@dataclass(slots=True)
class Library:
    """The objects of a log and the catalog's entry, at the other end of a network."""

    world: World
    engine: Engine
    oracle: Oracle
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    value: bytes | None = None
    revision: int = 0
    is_closed: bool = False
    """The engine is about to break its word: no more snapshots."""
    made_count: int = 0
    lost_count: int = 0
    _lost: set[str] = field(default_factory=set[str])
    _before: tuple[bytes | None, int] = (None, 0)
    """The entry as it was before the last change."""

    # --- members ------------------------------------------------------------------------------

    def make(self, process: Process) -> None:
        """A member begins to make a snapshot of what it has written."""
        store = process.replica.store
        mark = Mark.decode(store.get(keys.MARK_KEY))
        if self.is_closed or not mark.position:
            return
        frozen = store.freeze()

        def take() -> Sequence[Row]:
            return frozen.take(
                row_count=limits.SNAPSHOT_SLICE_ROW_COUNT,
                size_bytes=limits.SNAPSHOT_SLICE_BYTES,
            )

        source = Source(CLUSTER, LOG, mark, self.world.wall_ms, take)
        value, revision = self._known()
        steps = making.make(source, Generations.decode(value), revision)

        def ended(made: making.Made | None) -> None:
            if made is not None:
                self.made_count += 1
            elif self.world.chance.random() < 0.5 and not self.engine.is_calm:
                process.later(20, lambda: self.make(process))

        _Attempt(self, process, steps, ended).go()

    def restore(self, process: Process) -> None:
        """A member begins at a snapshot, if it can."""
        value, revision = self._known()
        steps = restoring.restore(self._wanted(process.replica), Generations.decode(value))

        def ended(restored: Restored | None) -> None:
            if restored is not None and restored.mark is not None:
                self.oracle.restored_count += 1
                process.restored()
            elif self.oracle.is_damaged:
                process.stuck()
            elif restored is not None and revision == self.revision:
                raise Violation(f"I5: no snapshot helps member {process.number}: {restored}")
            else:
                process.later(50, lambda: self.restore(process))

        _Attempt(self, process, steps, ended).go()

    def _wanted(self, replica: Replica) -> Wanted:
        stream = self.engine.stream
        position = replica.store.applied_position
        return Wanted(CLUSTER, LOG, position, stream.first_sequence, stream.name)

    def _known(self) -> tuple[bytes | None, int]:
        """The entry, as a member knows it."""
        if not self.engine.is_calm and self.world.chance.random() < 0.15:
            return self._before
        return self.value, self.revision

    # --- the end of a history -----------------------------------------------------------------

    def check_all(self) -> None:
        """Who begins at a generation that is whole has what the log says."""
        for each in Generations.decode(self.value).kept:
            if not self._is_whole(each):
                continue
            replica = Replica(0, self.engine, self.oracle)
            self.restore_now(replica, Generations((each,)))
            self.oracle.check_rows(0, replica.store)

    def restore_now(self, replica: Replica, generations: Generations | None = None) -> None:
        """Lets a replica begin at a snapshot, and nothing goes wrong."""
        generations = Generations.decode(self.value) if generations is None else generations
        wanted = self._wanted(replica)
        if not generations.newest or wanted.first_sequence > generations.kept[-1].sequence + 1:
            return
        steps, sent = restoring.restore(wanted, generations), None
        while True:
            try:
                step = steps.send(sent)
            except StopIteration as end:
                if end.value.mark is None:
                    raise Violation(f"I5: no snapshot helps: {end.value}") from None
                return
            sent = self.get(step.name) if isinstance(step, making.Get) else None
            carry_out(step, replica)

    def drop_beyond(self, sequence: int) -> None:
        """The stream ends here now, and so do the snapshots that are kept."""
        kept = Generations.decode(self.value).kept
        kept = tuple(each for each in kept if each.sequence <= sequence)
        self.value, self.revision = Generations(kept).encode(), self.revision + 1

    # --- what requests do ---------------------------------------------------------------------

    def get(self, name: str) -> bytes | None:
        """An object, as who reads it believes it."""
        raw = self.objects.get(name)
        return raw if raw is not None and is_whole(name, raw) else None

    def put(self, name: str, raw: bytes) -> None:
        """Keeps an object, well or badly, though a good one of that name may be there."""
        if not self.engine.is_calm and self.world.chance.random() < DAMAGED:
            if self.get(name) is not None:
                self._lost.add(name)  # whoever has looked at it already can't know
            raw = raw[:-1] + bytes([raw[-1] ^ 1])
        self.objects[name] = raw

    def enter(self, value: bytes, revision: int) -> int:
        """The catalog's compare-and-set."""
        if not self._fits(revision) or self.is_closed:
            return 0
        names = {each.manifest for each in Generations.decode(value).kept}
        for name in [*names]:
            names |= self._names_in(name)
        if names & self._lost:
            return 0  # it was lost when its maker had looked for the last time
        self._before = self.value, self.revision
        self.value, self.revision = value, self.revision + self.world.chance.randint(1, 3)
        self.check()
        return self.revision

    def _fits(self, revision: int) -> bool:
        return revision == self.revision

    def trim(self, sequence: int) -> None:
        """The stream begins there."""
        if not self.is_closed:
            self.engine.trim(sequence - 1)
            self.check()

    def delete(self, names: frozenset[str]) -> None:
        """Objects go from the store; those that are gone already don't matter."""
        for name in names:
            self.objects.pop(name, None)
        self.check()

    def lose(self) -> None:
        """Something of the newest generation goes, or goes bad."""
        kept = Generations.decode(self.value).kept
        if len(kept) < 2 or self.is_closed or not all(map(self._is_whole, kept)):
            return
        newest, older = (self._names_in(each.manifest) | {each.manifest} for each in kept)
        names = sorted(newest - older)
        name = self.world.chance.choice(names)
        self._lost.add(name)
        self.lost_count += 1
        if self.world.chance.random() < 0.5:
            del self.objects[name]
        else:
            self.objects[name] = self.objects[name][:-1]
        self.check()

    def check(self) -> None:
        """Whoever has nothing can begin: where the stream does, or at a snapshot."""
        first_sequence = self.engine.stream.first_sequence
        if first_sequence == 1 or self.is_closed:
            return
        for each in Generations.decode(self.value).kept:
            if each.sequence + 1 >= first_sequence and self._is_whole(each):
                return
        raise Violation(
            f"I1: the stream begins at {first_sequence}, and no snapshot reaches it"
        )

    def _names_in(self, manifest: str) -> frozenset[str]:
        raw = self.objects.get(manifest)
        if raw is None or not snapshot.is_whole(manifest, raw):
            return frozenset()
        return Manifest.decode(raw).names

    def _is_whole(self, generation: Generation) -> bool:
        parts = self._names_in(generation.manifest)
        return bool(parts) and all(
            name in self.objects and snapshot.is_whole(name, self.objects[name])
            for name in parts
        )


def carry_out(step: Any, replica: Replica) -> None:
    """What a step does to a replica, if anything."""
    match step:
        case restoring.Wipe():
            replica.store = empty_store()
        case restoring.Write():
            replica.store.write(Changes(dict(step.rows)), 0)
        case restoring.Finish():
            last = Changes({keys.MARK_KEY: step.mark.encode()})
            replica.store.write(last, step.mark.position)
        case _:
            return
    replica.store.flushed_position()


@dataclass(slots=True)
class _Attempt:
    """One member's steps, one after the other, for as long as its process lives."""

    library: Library
    process: Process
    steps: Any
    on_end: Callable[[Any], None]
    _is_alive: Callable[[], bool] = field(init=False)
    _number: int = 0
    _repeat_count: int = 0

    def __post_init__(self) -> None:
        self._is_alive = self.process.living()

    def go(self, sent: object = None) -> None:
        """What came of the last step; on to the next."""
        if not self._is_alive():
            return  # an answer to who is no more
        self._number += 1
        self._repeat_count = 0
        while not self.library.is_closed or self.library.oracle.is_damaged:
            try:
                step = self.steps.send(sent)
            except StopIteration as end:
                self.on_end(end.value)
                return
            except SandglassError:
                self.on_end(None)
                return
            match step:
                case making.Digest():
                    sent = digest_of(step.raw)
                case restoring.Expect():
                    sent = None  # who fetches ahead has what is there then, as who fetches late
                case _:
                    self._begin(step)
                    return

    def _begin(self, step: Any) -> None:
        chance = self.library.world.chance
        carry_out(step, self.process.replica)
        if isinstance(step, making.Rest):
            self.process.later(chance.choice((0, 1, 1, 5, 40, 400)), self.go)
        elif isinstance(step, restoring.Wipe | restoring.Write | restoring.Finish):
            self.process.later(chance.choice((0, 0, 1)), self.go)
        else:
            self._ask(step)

    def _ask(self, step: Any) -> None:
        """Asks, and asks again; what is to be known for sure, once."""
        number, library = self._number, self.library

        def answered(found: object) -> None:
            if number == self._number:
                self.go(found)

        def silent() -> None:
            if number != self._number:
                return
            self._repeat_count += 1
            if self._repeat_count > REPEAT_COUNT or isinstance(step, making.Enter):
                self._number += 1
                self.on_end(None)
            else:
                self._ask(step)

        may_lie = isinstance(step, making.Delete | making.Enter | making.Trim)
        library.engine.ask(self.process, self._act(step), answered, may_lie=may_lie)
        self.process.later(ANSWER_MS, silent)

    def _act(self, step: Any) -> Callable[[], object]:
        library = self.library
        match step:
            case making.ListNames():
                return lambda: frozenset(library.objects)
            case making.Put():
                return lambda: library.put(step.name, step.raw)
            case making.Get():
                return lambda: library.get(step.name)
            case making.Enter():
                return lambda: library.enter(step.value, step.revision)
            case making.Trim():
                return lambda: library.trim(step.sequence)
            case _:
                assert isinstance(step, making.Delete)
                return lambda: library.delete(step.names)
