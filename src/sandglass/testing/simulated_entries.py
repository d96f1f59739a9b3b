"""
A KV topic of a simulated cluster that moves, under clients who put, get, scan and delete.

What they see is judged for each key by itself: it has to be linearizable (I13), wherever the
topic lives and whoever serves it meanwhile, and revisions only grow.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from sandglass.broker.keyvalue import FIRST_KEY
from sandglass.core.message import Entries, Entry, EntryKey, Placed, Removed
from sandglass.core.topic import PartitionRef
from sandglass.errors import SandglassError
from sandglass.testing.linear import Call, explain
from sandglass.testing.seen import Violation
from sandglass.testing.simulated_clients import Scene, ref_at
from sandglass.testing.simulated_host import Host
from sandglass.testing.virtual_time import Life

TOPIC = "v"
KEYS: tuple[EntryKey, ...] = ((b"a", b""), (b"a", b"\0"), (b"b", b""), (b"b", b"c"))


@dataclass(slots=True, eq=False)
class Asked:
    """A call of one key, which is not over yet, or never will be."""

    kind: str
    value: bytes | None
    called: int
    answered: int | None = None
    existed: bool | None = None

    def call(self) -> Call:
        """As it is judged."""
        return Call(self.kind, self.value, self.called, self.answered, self.existed)


@dataclass(slots=True)
class EntriesHistory:
    """All calls, by key, in one order of moments."""

    calls: dict[EntryKey, list[Asked]] = field(default_factory=lambda: {k: [] for k in KEYS})
    revisions: dict[EntryKey, int] = field(default_factory=dict[EntryKey, int])
    """The highest that anybody was shown, or told."""
    moments: "count[int]" = field(default_factory=count)

    def ask(self, kind: str, key: EntryKey, value: bytes | None) -> Asked:
        """A call leaves a client."""
        asked = Asked(kind, value, next(self.moments))
        self.calls[key].append(asked)
        return asked

    def answer(self, key: EntryKey, asked: Asked, revision: int) -> None:
        """It has taken effect, it is said."""
        asked.answered = next(self.moments)
        self.revisions[key] = max(self.revisions.get(key, 0), revision)

    def refuse(self, key: EntryKey, asked: Asked) -> None:
        """It hasn't, and never will."""
        self.calls[key].remove(asked)

    def get(self, key: EntryKey, found: Entry | None) -> None:
        """Somebody was shown what stands under a key."""
        asked = self.ask("get", key, None if found is None else found.message)
        revision = 0 if found is None else found.revision
        if found is not None and revision < self.revisions.get(key, 0):
            raise Violation(f"I13: revision {revision} of {key}, after a higher one")
        self.answer(key, asked, revision)

    def judge(self) -> None:
        """In the end."""
        for key, calls in self.calls.items():
            if what := explain([each.call() for each in calls]):
                raise Violation(f"I13: {key}: {what}")


class KeyUser:
    """A client of the topic."""

    def __init__(self, scene: Scene, history: EntriesHistory, mean_ms: int) -> None:
        self.scene, self.history, self.mean_ms = scene, history, mean_ms

    async def run(self) -> None:
        """Until things calm down."""
        chance = self.scene.loop.chance
        while not self.scene.is_calm:
            await asyncio.sleep(chance.expovariate(1000 / self.mean_ms))
            found = self._find()
            if found is None or self.scene.is_calm:
                continue
            key, lot = chance.choice(KEYS), chance.random()
            if lot < 0.35:
                self._put(*found, key)
            elif lot < 0.55:
                self._delete(*found, key)
            elif lot < 0.95:
                self.get(*found, key)
            else:
                self.scan(*found)

    def _find(self) -> tuple[Host, PartitionRef] | None:
        """Who serves it, or did a while ago."""
        chance = self.scene.loop.chance
        if chance.random() < 0.8:
            return self.scene.serving(TOPIC, 0)
        host = chance.choice(self.scene.hosts)
        ref = ref_at(host, TOPIC, 0) if host.is_ready else None
        return None if ref is None else (host, ref)

    def _put(self, host: Host, ref: PartitionRef, key: EntryKey) -> None:
        value = b"%d" % next(self.scene.numbers)
        asked = self.history.ask("put", key, value)
        life = _life_of(host)

        def told(placed: Placed | None, error: SandglassError | None) -> None:
            if placed is not None:
                self._over(life, key, asked, placed.first_index, None)
            else:
                self._over(life, key, asked, 0, error)

        try:
            host.broker.produce_nowait(ref, "", Entries([key], [value], len(value)), told)
        except SandglassError:
            self.history.refuse(key, asked)

    def _delete(self, host: Host, ref: PartitionRef, key: EntryKey) -> None:
        asked = self.history.ask("delete", key, None)
        life, removed = _life_of(host), Removed()

        def done(error: SandglassError | None) -> None:
            if error is None and not life.is_over:
                asked.existed = removed.existed[0]
            self._over(life, key, asked, removed.first_revision, error)

        try:
            removed = host.broker.keyvalue.delete_nowait(ref, "", [key], done)
        except SandglassError:
            self.history.refuse(key, asked)

    def _over(
        self,
        life: Life,
        key: EntryKey,
        asked: Asked,
        revision: int,
        error: SandglassError | None,
    ) -> None:
        if life.is_over:
            return
        if error is None:
            self.history.answer(key, asked, revision)
        elif not error.is_result_unknown:
            self.history.refuse(key, asked)

    def get(self, host: Host, ref: PartitionRef, key: EntryKey) -> bool:
        """What stands under a key; false if it isn't said."""
        try:
            found = host.broker.keyvalue.find(ref, "", key)
        except SandglassError:
            return False
        self.history.get(key, found)
        return True

    def scan(self, host: Host, ref: PartitionRef) -> bool:
        """All that stands there, in one page."""
        try:
            found, _ = host.broker.keyvalue.page(ref, "", FIRST_KEY, None, count_max=100)
        except SandglassError:
            return False
        if [each.key for each in found] != sorted({each.key for each in found}):
            raise Violation(f"I13: a scan shows {[each.key for each in found]}")
        shown = _by_key(found)
        for key in KEYS:
            self.history.get(key, shown.get(key))
        return True


def _by_key(found: Sequence[Entry]) -> dict[EntryKey, Entry]:
    return {each.key: each for each in found}


def _life_of(host: Host) -> Life:
    assert host.life is not None
    return host.life
