"""A replica begins at a snapshot, parts of which are fetched before they are written."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sandglass.adapters.jetstream import StreamState
from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.adapters.memory_snapshots import MemorySnapshots
from sandglass.adapters.rocksdb import RocksStore
from sandglass.adapters.shared_store import ALL_ROWS, StorePart
from sandglass.cluster.snapshot_steps import SNAPSHOTS
from sandglass.cluster.snapshots import Snapshots
from sandglass.core import keys, limits
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.core.view import Changes
from sandglass.replication.restoring import Restored
from sandglass.testing.faults import ManualClock
from tests.unit.replication.library import CLUSTER, LOG, STREAM, Library, mark_at, view

TOPIC = Topic("t", TopicKind.TIMER, (PartitionRef("p", LOG),), 3)
DEADLINE_S = 60


class Objects(MemorySnapshots):
    """`before` is called with each name that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str], None] = lambda _: None

    async def get(self, log: int, name: str) -> bytes | None:
        self.before(name)
        await asyncio.sleep(0)
        return await super().get(log, name)


class Scene:
    """Two generations, and a replica with a row of its own."""

    def __init__(self, directory: Path) -> None:
        self.library = Library()
        self.objects = Objects()
        self.placement = MemoryPlacement()
        self.database = RocksStore(directory, is_new=True)
        self.part = StorePart(self.database, LOG)
        self.part.write(Changes({b"m stale": b""}), 0)
        self.snapshots = Snapshots(
            self.placement,
            lambda _: self.objects,
            lambda _: TOPIC,
            CLUSTER,
            ManualClock(),
            time.perf_counter_ns,
        )

    async def make(self, position: int) -> None:
        self.library.make(view(300, salt=position), position)
        await self.publish()

    async def publish(self) -> None:
        """What the library has is what there is."""
        self.objects.objects[LOG] = dict(self.library.objects)
        assert self.library.value is not None
        await self.placement.set(f"{SNAPSHOTS}{LOG}", self.library.value)

    async def restore(self) -> Restored:
        state = StreamState(1, 1000, STREAM)
        async with asyncio.timeout(DEADLINE_S):
            return await self.snapshots.restore(LOG, self.part, state)

    def has_rows_of(self, position: int) -> bool:
        rows = view(300, salt=position) | {keys.MARK_KEY: mark_at(position).encode()}
        return dict(self.part.range(*ALL_ROWS)) == rows


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(limits, "SNAPSHOT_PART_BYTES_TARGET", 4096)
    scene = Scene(tmp_path / "view")
    await scene.make(10)
    await scene.make(20)
    yield scene
    scene.database.close()


async def test_a_replica_begins_at_the_newest(scene: Scene) -> None:
    assert mark_at(20) == (await scene.restore()).mark
    assert scene.has_rows_of(20)
    assert 20 == scene.part.applied_position


async def test_behind_a_part_that_is_damaged_the_older_one_is_begun_at(scene: Scene) -> None:
    """Parts behind it were fetched already, and none of them is written."""
    parts = scene.library.manifest(0).parts
    asked: list[str] = []
    scene.objects.before = asked.append
    scene.objects.objects[LOG][parts[2].name] += b"x"

    assert mark_at(10) == (await scene.restore()).mark
    assert scene.has_rows_of(10)
    assert {part.name for part in parts[3:]} <= {*asked}


async def test_a_snapshot_that_is_replaced_meanwhile_gives_way_to_the_newest(
    scene: Scene,
) -> None:
    parts = [part.name for part in scene.library.manifest(0).parts]
    for position in (30, 40):
        scene.library.make(view(300, salt=position), position)
    replacing: list[asyncio.Task[None]] = []

    def replace(name: str) -> None:
        if name == parts[2] and not replacing:
            replacing.append(asyncio.create_task(scene.publish()))

    scene.objects.before = replace

    assert mark_at(40) == (await scene.restore()).mark
    assert scene.has_rows_of(40)
    assert replacing[0].done()


async def test_who_stops_while_parts_are_fetched_is_unfinished_and_begins_again(
    scene: Scene,
) -> None:
    tasks_before = asyncio.all_tasks()
    parts = [part.name for part in scene.library.manifest(0).parts]
    silent = asyncio.Event()
    get = MemorySnapshots.get

    async def hang(log: int, name: str) -> bytes | None:
        if name in parts[3:]:
            silent.set()
            await asyncio.Event().wait()
        return await get(scene.objects, log, name)

    scene.objects.get = hang
    restoring = asyncio.create_task(scene.restore())
    async with asyncio.timeout(DEADLINE_S):
        while not (silent.is_set() and scene.part.is_unfinished):
            await asyncio.sleep(0)
    restoring.cancel()
    await asyncio.gather(restoring, return_exceptions=True)

    assert tasks_before == asyncio.all_tasks()
    assert scene.part.is_unfinished
    del scene.objects.get
    assert mark_at(20) == (await scene.restore()).mark
    assert scene.has_rows_of(20)
