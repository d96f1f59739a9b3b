"""
What members of a simulated cluster agree on, and the network between them and their engine.

A request is lost, or its answer is; it lies about for seconds and is carried out then, though
nobody waits for it any more, and its sender may be dead; a node is cut off; nobody is answered
while the engine elects. What others have changed is heard a little later, or much later, but in
order, and one's own changes at once.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.cluster.placed import TOPICS
from sandglass.errors import SandglassError, UnavailableError
from sandglass.ports import Entry
from sandglass.testing.virtual_time import Life, VirtualLoop, life

ANSWER_S: Final = 2.0
"""Who has no answer after so long is told so."""

HOPS_MS: Final = (0, 1, 1, 2, 3, 6)
LATE_MS: Final = (60, 400, 3000, 3500, 4000)
LOST: Final = 0.01
LATE: Final = 0.02
LATE_TOPIC: Final = 0.3
"""How often what changes the entry of a topic lies about: it may be a switch."""

LAG_MS: Final = (0, 1, 2, 5, 20, 20, 300)
"""Until a change is heard by others."""

T = TypeVar("T")


@dataclass(slots=True)
class Network:
    """
    Between nodes and the engine. `on_step` is told each time that the engine has changed
    something for a process.
    """

    loop: VirtualLoop
    chance: random.Random
    on_step: Callable[[Life], None] = lambda _: None
    on_late: Callable[[], None] = lambda: None
    """Told that something of a process lies about on its way."""
    on_broken: Callable[[str], None] = lambda _: None
    """Told what no node may do."""
    cut: set[str] = field(default_factory=set[str])
    """Nodes that reach nothing."""
    lagging: set[str] = field(default_factory=set[str])
    """Nodes that hear nothing of what others change."""
    electing_until_ms: int = 0
    is_calm: bool = False
    late_count: int = 0
    """Requests that were carried out when nobody waited for an answer any more."""

    async def ask(self, act: Callable[[], T], *, late: float = LATE) -> T:
        """
        Lets the engine do something, and waits for its answer. So often it comes `late`.

        Raises:
            UnavailableError: there was none; it may be done, or may be yet.
        """
        owner = life()
        assert owner is not None, "who asks?"
        answer: asyncio.Future[T] = self.loop.create_future()

        def arrived() -> None:
            error: SandglassError | None = None
            found: T | None = None
            self.late_count += answer.done() or owner.is_over
            try:
                found = act()
            except SandglassError as refused:
                error = refused
            else:
                self.on_step(owner)
            self.reply(owner, lambda: _answer(answer, found, error))

        self.send(owner, arrived, late=late)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            raise UnavailableError("no answer of the engine", is_result_unknown=True) from None

    def send(
        self,
        owner: Life,
        arrived: Callable[[], None],
        *,
        after_ms: int = 0,
        late: float = LATE,
    ) -> int:
        """
        Something goes to the engine, and perhaps comes there; returns the hop's time, or -1 if
        it is known to be lost.
        """
        lot = 1.0 if self.is_calm else self.chance.random()
        if owner.name in self.cut or lot < LOST:
            return -1
        if lot < LOST + late:
            self.on_late()
        hop_ms = self.chance.choice(LATE_MS if lot < LOST + late else HOPS_MS)
        hop_ms = max(hop_ms, after_ms)
        self._at_engine(hop_ms, arrived)
        return hop_ms

    def reply(self, owner: Life, told: Callable[[], None]) -> None:
        """An answer, which perhaps comes."""
        lot = 1.0 if self.is_calm else self.chance.random()
        if owner.name in self.cut or lot < LOST:
            return
        hops_ms = LATE_MS if lot < LOST + LATE else HOPS_MS
        owner.after(self.chance.choice(hops_ms), told)

    def _at_engine(self, delay_ms: int, act: Callable[[], None]) -> None:
        def arrived() -> None:
            left_ms = self.electing_until_ms - self.loop.now_ms
            if left_ms <= 0:
                act()
            elif self.chance.random() < 0.5:
                self._at_engine(left_ms, act)

        self.loop.call_later(delay_ms / 1000, arrived)


def _answer(answer: "asyncio.Future[T]", found: T | None, error: SandglassError | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(found)  # pyright: ignore[reportArgumentType]  # T may be None


Change = tuple[str, bytes | None, int]
"""(key, value or None, revision)"""


class Bucket:
    """The truth: what is in it at the engine. `on_change` is told each key that has changed."""

    def __init__(self) -> None:
        self.truth = MemoryPlacement()
        self.changes: list[Change] = []
        self.views: list[BucketView] = []
        self.on_change: Callable[[str], None] = lambda _: None
        self.truth.follow(self._changed)

    @property
    def entries(self) -> Mapping[str, Entry]:
        """As they are."""
        return self.truth.entries

    def _changed(self, key: str) -> None:
        entry = self.truth.entries.get(key)
        value = None if entry is None else entry.value
        self.changes.append((key, value, self.truth.revision))
        self.on_change(key)
        for view in self.views:
            view.hear_soon()

    def put(self, key: str, value: bytes | None, revision: int | None) -> int:
        """Carries out a change, or refuses it with a `ConflictError`."""
        work = (
            self.truth.delete(key, revision)
            if value is None
            else self.truth.set(key, value, revision)
        )
        try:
            work.send(None)
        except StopIteration:
            return self.truth.revision
        raise AssertionError("a change in memory waits for nothing")


class BucketView:
    """`Placement` of one process."""

    def __init__(self, bucket: Bucket, network: Network, owner: Life) -> None:
        self.bucket = bucket
        self.network = network
        self.owner = owner
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self._revisions: dict[str, int] = {}
        self._heard = 0
        """How many of the bucket's changes."""
        self._is_coming = False
        self._followers: list[Callable[[str], None]] = []
        self._waits: list[tuple[int, asyncio.Future[None]]] = []
        self.hear()
        bucket.views.append(self)

    def follow(self, on_change: Callable[[str], None]) -> None:
        """See `Placement.follow`."""
        self._followers.append(on_change)

    async def reached(self, revision: int) -> None:
        """See `Placement.reached`."""
        while self._heard < len(self.bucket.changes) and self._whole_revision < revision:
            future: asyncio.Future[None] = self.network.loop.create_future()
            self._waits.append((revision, future))
            await future

    @property
    def _whole_revision(self) -> int:
        return self.bucket.changes[self._heard - 1][2] if self._heard else 0

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        """See `Placement.set`."""
        late = LATE_TOPIC if key.startswith(TOPICS) else LATE
        stored = await self.network.ask(
            lambda: self.bucket.put(key, value, revision), late=late
        )
        self._take(key, value, stored)
        return stored

    async def delete(self, key: str, revision: int | None = None) -> None:
        """See `Placement.delete`."""
        stored = await self.network.ask(lambda: self.bucket.put(key, None, revision))
        self._take(key, None, stored)

    # --- what is heard ------------------------------------------------------------------------

    def hear_soon(self) -> None:
        """There is something new."""
        if self._is_coming or self.owner.is_over:
            return
        self._is_coming = True
        is_late = not self.network.is_calm and self.network.chance.random() < 0.02
        self.owner.after(self.network.chance.choice(LATE_MS if is_late else LAG_MS), self.hear)

    def hear(self) -> None:
        """All that there is, unless it is cut off: then it is tried again."""
        self._is_coming = False
        network = self.network
        if self.owner.name in network.cut | network.lagging:
            self._is_coming = True
            self.owner.after(100, self.hear)
            return
        while self._heard < len(self.bucket.changes):
            key, value, revision = self.bucket.changes[self._heard]
            self._heard += 1
            self._take(key, value, revision)
        for revision, future in self._waits:
            if revision <= self._whole_revision and not future.done():
                future.set_result(None)
        self._waits = [each for each in self._waits if not each[1].done()]

    def _take(self, key: str, value: bytes | None, revision: int) -> None:
        self.revision = max(self.revision, revision)
        if revision <= self._revisions.get(key, 0):
            return
        self._revisions[key] = revision
        if value is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = Entry(key, value, revision)
        for follower in self._followers:
            follower(key)
