"""Objects that are fetched before they are asked for come as they would have come alone."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sandglass.adapters.memory_snapshots import MemorySnapshots
from sandglass.cluster.fetching import Fetching, Room
from sandglass.errors import UnavailableError
from sandglass.replication.snapshot import Part, digest_of

NUMBER = 7
ROOM_BYTES = 100
PART_BYTES = 40
"""Two of them have room."""
DEADLINE_S = 60


class SlowSnapshots(MemorySnapshots):
    """Nobody is answered before it is `let`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.let: dict[str, asyncio.Future[None]] = {}

    async def get(self, log: int, name: str) -> bytes | None:
        self.asked.append(name)
        self.let[name] = asyncio.get_running_loop().create_future()
        await self.let[name]
        return await super().get(log, name)


@dataclass
class Scene:
    """Six parts, and who fetches them."""

    store: SlowSnapshots = field(default_factory=SlowSnapshots)
    room: Room = field(default_factory=lambda: Room(ROOM_BYTES))
    parts: list[Part] = field(default_factory=list[Part])

    async def begin(self) -> None:
        for place in range(6):
            raw = bytes([place]) * PART_BYTES
            name = f"p0-{digest_of(raw)}"
            await self.store.put(NUMBER, name, raw)
            self.parts.append(Part(name, b"", 1, len(raw)))
        self.fetching = Fetching(self.store, NUMBER, self.room)

    @property
    def asked(self) -> list[int]:
        """Places of the parts that the store was asked for, in order."""
        names = [part.name for part in self.parts]
        return [names.index(name) for name in self.store.asked]

    def let(self, place: int) -> None:
        self.store.let[self.parts[place].name].set_result(None)

    async def get(self, place: int) -> bytes | None:
        getting = asyncio.create_task(self.fetching.get(self.parts[place].name))
        await until(lambda: self.parts[place].name in self.store.let)
        self.let(place)
        async with asyncio.timeout(DEADLINE_S):
            return await getting

    def lose(self, place: int) -> None:
        del self.store.objects[NUMBER][self.parts[place].name]


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not check():
            await asyncio.sleep(0)


@pytest.fixture
async def scene() -> Scene:
    scene = Scene()
    await scene.begin()
    return scene


async def test_what_comes_next_is_fetched_as_far_as_there_is_room(scene: Scene) -> None:
    scene.fetching.expect(scene.parts)
    await until(lambda: len(scene.asked) == 2)

    assert bytes([0]) * PART_BYTES == await scene.get(0)
    await until(lambda: len(scene.asked) == 3)
    for place in range(1, 6):
        assert bytes([place]) * PART_BYTES == await scene.get(place)

    assert [0, 1, 2, 3, 4, 5] == scene.asked
    assert ROOM_BYTES == scene.room.left_bytes


async def test_who_has_no_room_gets_one_after_the_other(scene: Scene) -> None:
    scene.room.left_bytes = PART_BYTES - 1
    scene.fetching.expect(scene.parts)

    for place in range(6):
        assert list(range(place)) == scene.asked
        assert bytes([place]) * PART_BYTES == await scene.get(place)
    assert PART_BYTES - 1 == scene.room.left_bytes


async def test_replicas_share_the_room_of_their_node(scene: Scene) -> None:
    other = Fetching(scene.store, NUMBER, scene.room)
    scene.fetching.expect(scene.parts)
    other.expect(scene.parts[3:])
    await until(lambda: len(scene.asked) == 2)
    assert [0, 1] == scene.asked
    await scene.fetching.close()

    getting = asyncio.create_task(other.get(scene.parts[3].name))
    await until(lambda: 3 in scene.asked)
    scene.let(3)
    await getting
    await until(lambda: len(scene.asked) == 5)

    assert [0, 1, 3, 4, 5] == scene.asked
    await other.close()
    assert ROOM_BYTES == scene.room.left_bytes


async def test_what_is_gone_or_damaged_is_told_when_it_is_asked_for(scene: Scene) -> None:
    scene.lose(1)
    scene.store.objects[NUMBER][scene.parts[2].name] = b"other bytes"
    scene.fetching.expect(scene.parts)

    assert [True, False, False, True] == [
        await scene.get(place) is not None for place in range(4)
    ]
    await scene.fetching.close()


async def test_a_silent_store_is_told_of_when_its_object_is_asked_for(scene: Scene) -> None:
    scene.fetching.expect(scene.parts)
    await until(lambda: len(scene.asked) == 2)
    scene.store.let[scene.parts[1].name].set_exception(UnavailableError("no answer"))
    assert await scene.get(0) is not None

    with pytest.raises(UnavailableError, match="no answer"):
        await scene.fetching.get(scene.parts[1].name)
    await scene.fetching.close()
    assert ROOM_BYTES == scene.room.left_bytes


async def test_another_snapshot_begins_without_what_was_expected_of_the_last(
    scene: Scene,
) -> None:
    scene.fetching.expect(scene.parts[:3])
    await until(lambda: len(scene.asked) == 2)

    assert bytes([5]) * PART_BYTES == await scene.get(5)
    assert all(scene.store.let[part.name].cancelled() for part in scene.parts[:2])
    assert ROOM_BYTES == scene.room.left_bytes
    scene.fetching.expect(scene.parts[3:])
    assert bytes([3]) * PART_BYTES == await scene.get(3)
    await scene.fetching.close()


@pytest.mark.parametrize("place", [0, 1])
async def test_who_is_cancelled_leaves_nothing_on_its_way(scene: Scene, place: int) -> None:
    """While it waits for the first one, or for one behind it."""
    tasks_before = asyncio.all_tasks()

    async def fetch() -> None:
        try:
            scene.fetching.expect(scene.parts)
            for part in scene.parts:
                await scene.fetching.get(part.name)
        finally:
            await scene.fetching.close()

    fetching = asyncio.create_task(fetch())
    await until(lambda: len(scene.asked) == 2)
    if place:
        scene.let(0)
        await until(lambda: len(scene.asked) == 3)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)

    assert fetching.cancelled()
    assert ROOM_BYTES == scene.room.left_bytes
    assert tasks_before == asyncio.all_tasks()
