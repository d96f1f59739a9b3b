"""What every `SnapshotStore` has to do, in memory, in a folder and in the engine alike."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sandglass.adapters.engine_snapshots import EngineSnapshots
from sandglass.adapters.folder_snapshots import FolderSnapshots
from sandglass.adapters.memory_snapshots import MemorySnapshots
from sandglass.ports import SnapshotStore
from tests.visitors import visiting


@pytest.fixture(params=["memory", "folder", "engine"])
async def stores(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[SnapshotStore, SnapshotStore]]:
    """Two nodes' views of one store."""
    if request.param == "memory":
        store = MemorySnapshots()
        yield store, store
    elif request.param == "folder":
        folder = tmp_path / "a" / "b"
        yield FolderSnapshots(folder), FolderSnapshots(folder)
    else:
        async with visiting(request.getfixturevalue("engine_configs")) as visitor:
            yield (
                EngineSnapshots(await visitor.connect(0), 3),
                EngineSnapshots(await visitor.connect(1), 3),
            )


async def test_what_one_puts_all_can_get(
    stores: tuple[SnapshotStore, SnapshotStore],
) -> None:
    one, other = stores
    assert await other.names(7) == frozenset()
    assert await other.get(7, "p1-a") is None
    await other.delete(7, ["p1-a"])
    large = bytes(range(256)) * 16384  # 4 MiB
    await one.put(7, "p1-a", large)
    await one.put(7, "p1-b", b"")
    await one.put(8, "p1-a", b"of another log")

    assert await other.names(7) == {"p1-a", "p1-b"}
    assert await other.get(7, "p1-a") == large
    assert await other.get(7, "p1-b") == b""
    assert await other.get(8, "p1-a") == b"of another log"
    assert await other.get(7, "p1-c") is None


async def test_putting_again_changes_nothing(
    stores: tuple[SnapshotStore, SnapshotStore],
) -> None:
    one, other = stores
    await one.put(7, "m1-a", b"same")
    await other.put(7, "m1-a", b"same")

    assert await one.get(7, "m1-a") == b"same"
    assert await one.names(7) == {"m1-a"}


async def test_what_is_deleted_is_gone_and_nothing_else(
    stores: tuple[SnapshotStore, SnapshotStore],
) -> None:
    one, other = stores
    for name in ("p1-a", "p1-b", "p1-c"):
        await one.put(7, name, name.encode())
    await one.put(8, "p1-a", b"of another log")
    await other.delete(7, ["p1-a", "p1-c", "p1-never"])

    assert await one.names(7) == {"p1-b"}
    await one.put(7, "p1-a", b"again")
    assert await other.get(7, "p1-a") == b"again"
    await one.clear(7)
    assert await other.names(7) == frozenset()
    assert await other.get(8, "p1-a") == b"of another log"
    await one.clear(7)
