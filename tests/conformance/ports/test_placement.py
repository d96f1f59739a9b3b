"""What every `Placement` has to do, in memory and in the engine alike."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.adapters.placement import JetStreamPlacement
from sandglass.errors import ConflictError
from sandglass.ports import Placement
from tests.visitors import visiting

DEADLINE_S = 60.0


@pytest.fixture(params=["memory", "jetstream"])
async def placements(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[Placement, Placement]]:
    """Two views of one bucket."""
    if request.param == "memory":
        placement = MemoryPlacement()
        yield placement, placement
        return
    async with visiting(request.getfixturevalue("engine_configs")) as visitor:
        first = JetStreamPlacement(await visitor.connect(0))
        second = JetStreamPlacement(await visitor.connect(1))
        await first.create(3)
        await first.open()
        await second.open()
        yield first, second
        await first.close()
        await second.close()


async def test_set_and_delete_by_revision(placements: tuple[Placement, Placement]) -> None:
    first, second = placements

    made = await first.set("topic.a", b"1", 0)
    assert first.entries["topic.a"].value == b"1"
    with pytest.raises(ConflictError):
        await second.set("topic.a", b"2", 0)
    changed = await second.set("topic.a", b"3", made)
    assert changed > made
    with pytest.raises(ConflictError):
        await first.delete("topic.a", made)
    await first.delete("topic.a", changed)
    assert "topic.a" not in first.entries
    again = await second.set("topic.a", b"4", None)
    assert again > changed


async def test_what_was_deleted_can_be_made_anew_and_by_one_alone(
    placements: tuple[Placement, Placement],
) -> None:
    first, second = placements
    await first.delete("topic.a", await first.set("topic.a", b"1", 0))
    await second.reached(first.revision)

    made = await second.set("topic.a", b"2", 0)
    await first.reached(made)
    with pytest.raises(ConflictError):
        await first.set("topic.a", b"3", 0)

    assert first.entries["topic.a"].value == b"2"


async def test_all_know_what_one_has_set(placements: tuple[Placement, Placement]) -> None:
    first, second = placements
    told: list[str] = []
    news = asyncio.Event()

    def on_change(key: str) -> None:
        told.append(key)
        news.set()

    second.follow(on_change)
    await first.set("node.a", b"x")
    await first.set("node.b", b"y")
    await first.delete("node.a")
    async with asyncio.timeout(DEADLINE_S):
        while "node.b" not in second.entries or "node.a" in second.entries or len(told) < 3:
            news.clear()
            await news.wait()
    assert set(told) == {"node.a", "node.b"}
    assert second.entries["node.b"].value == b"y"
    assert second.entries["node.b"].revision == first.entries["node.b"].revision


async def test_what_was_set_before_a_revision_is_known_once_it_is_reached(
    placements: tuple[Placement, Placement],
) -> None:
    first, second = placements
    await first.set("topic.a", b"1")
    await first.set("topic.b", b"2")
    await first.delete("topic.a")

    assert first.revision > 0
    async with asyncio.timeout(DEADLINE_S):
        await second.reached(first.revision)
        await first.reached(first.revision)

    assert {"topic.b"} == set(second.entries) == set(first.entries)
    assert second.revision == first.revision


async def test_of_many_who_claim_one_wins(placements: tuple[Placement, Placement]) -> None:
    first, second = placements

    async def claim(placement: Placement, name: bytes) -> bool:
        try:
            await placement.set("leader.1", name, 0)
        except ConflictError:
            return False
        return True

    claims = [claim((first, second)[n % 2], str(n).encode()) for n in range(8)]
    assert sum(await asyncio.gather(*claims)) == 1
