"""
A view that is damaged, in every file of RocksDB's and at several places of each; that cannot be
written; that falls behind. Nobody is given less than there is without being told so, and the
error says in which file, and what to do.
"""

import asyncio
import gc
import re
import shutil
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
import pytest

from sandglass import node as node_module
from sandglass.adapters.rocksdb import RocksStore
from sandglass.errors import CorruptError, SandglassError, UnavailableError
from sandglass.node import Node
from sandglass.testing.history import History
from tests.fault.life import (
    Data,
    connected,
    consume,
    create,
    everything_is_there,
    node_on,
    produce,
    refusal_of,
    stop_when_failed,
)
from tests.integration.raw import Wire

VIEW: Final = Path("store-000/view")
FILES: Final = ("*.sst", "*.blob", "MANIFEST-*", "CURRENT")
SPARED: Final = ("OPTIONS-*", "IDENTITY")
"""Files that RocksDB writes for others to read."""

STALLED: Final = {"level0_slowdown_writes_trigger": "2", "level0_stop_writes_trigger": "2"}
FLOWING: Final = {"level0_slowdown_writes_trigger": "20", "level0_stop_writes_trigger": "36"}

DAMAGES: Final = ("missing", "empty", "cut", *(f"flipped at {at} %" for at in range(0, 100, 9)))
FEW: Final = ("missing", "cut", "flipped at 45 %", "flipped at 99 %")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        flip(path, int(how.split()[2]) / 100)


def flip(path: Path, place: float) -> None:
    """In place: a node may have it open."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(min(int(size * place), size - 1))
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes((byte ^ 0x10,)))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """Data of a node that was stopped, with rows in tables and in blob files."""
    data = Data(tmp_path_factory.mktemp("origin") / "data", History())
    asyncio.run(_fill(data))
    assert list((data.directory / VIEW).glob("*.blob"))
    yield data
    shutil.rmtree(data.directory)


async def _fill(data: Data) -> None:
    node = node_on(data)
    await node.start()
    async with connected(node) as wire:
        await create(wire)
        for _ in range(60):
            await produce(wire, data)
        for _ in range(4):
            await produce(wire, data, count=100)
    await node.stop()
    data.history.restarted()


async def strike(data: Data, pattern: str, how: str) -> None:
    """Damages a file, reads everything, and does what the error says to do."""
    damage(next((data.directory / VIEW).glob(pattern)), how)
    node = node_on(data)
    refusal = await refusal_of(node)
    if refusal is None:
        await read_everything(node, data)
        return
    assert_says_what_to_do(refusal)
    assert "the log is whole" in refusal.message
    (data.directory / VIEW).rename(data.directory.with_name("away"))
    await everything_is_there(data)
    shutil.rmtree(data.directory.with_name("away"))


async def read_everything(node: Node, data: Data) -> None:
    """What cannot be read is said to be damaged, to clients too; the rest goes on."""
    try:
        async with connected(node) as wire:
            error = await consumed(wire, data)
            await wire.create("other")
            await wire.produce("other", b"x")
        assert node.failure is None
    finally:
        await node.stop()
    if error is None:
        data.history.check_complete("g")
    else:
        assert_says_what_to_do(error)


async def consumed(wire: Wire, data: Data) -> CorruptError | None:
    """Consumes everything, or up to the damage."""
    try:
        await consume(wire, data)
    except CorruptError as error:
        return error
    return None


def assert_says_what_to_do(error: SandglassError) -> None:
    assert isinstance(error, CorruptError), repr(error)
    assert "What to do" in error.message
    assert re.search(r"\.sst|\.blob|MANIFEST|CURRENT|no database", error.message)


@pytest.mark.parametrize("how", FEW)
@pytest.mark.parametrize("pattern", FILES)
async def test_a_damaged_file_is_told_with_its_name_and_what_to_do(
    origin: Data, tmp_path: Path, pattern: str, how: str
) -> None:
    await strike(origin.copied(tmp_path / "data"), pattern, how)


@pytest.mark.fault
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("pattern", FILES + SPARED)
async def test_damage_of_every_kind_is_told(
    origin: Data, tmp_path: Path, pattern: str, how: str
) -> None:
    await strike(origin.copied(tmp_path / "data"), pattern, how)


async def test_damage_under_a_running_node_stops_what_it_hits_and_nothing_else(
    origin: Data, tmp_path: Path
) -> None:
    """The partition stands still, says so to all who ask, and is there again when mended."""
    data = origin.copied(tmp_path / "data")
    node = node_on(data)
    await node.start()
    path = next((data.directory / VIEW).glob("*.blob"))
    flip(path, 0.5)

    await read_everything(node, data)

    flip(path, 0.5)
    await everything_is_there(data)


async def test_a_trimmed_log_cannot_make_the_view_anew_and_the_error_says_so(
    origin: Data, tmp_path: Path
) -> None:
    data = origin.copied(tmp_path / "data")
    for _ in range(2):
        node = node_on(data)
        await node.start()
        async with connected(node) as wire:
            await produce(wire, data)
        await node.stop()
    damage(next((data.directory / VIEW).glob("MANIFEST-*")), "missing")

    refusal = await refusal_of(node_on(data))

    assert isinstance(refusal, CorruptError)
    assert "restore its data directory from a backup" in refusal.message
    assert "the log was trimmed" in refusal.message


# --- what cannot be written, or not yet ---


async def test_a_view_that_cannot_be_written_stops_the_node_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory is gone for a while: a flush fails in the background."""
    monkeypatch.setattr(node_module, "RocksStore", partial(RocksStore, flush_bytes=16 * 1024))
    data = Data(tmp_path / "data", History())
    node = node_on(data)
    await node.start()
    stopping = asyncio.create_task(stop_when_failed(node))
    away = tmp_path / "away"
    async with connected(node) as wire:
        await create(wire)
        (data.directory / VIEW).rename(away)

        while node.failure is None:
            await produce(wire, data)
    await stopping
    away.rename(data.directory / VIEW)

    assert isinstance(node.failure, UnavailableError)
    assert re.search(r"cannot be written: .*\.sst.*the log has what", str(node.failure))
    forget(node.failure)
    await everything_is_there(data)


async def test_a_stalled_view_holds_producers_up_and_nobody_else(tmp_path: Path) -> None:
    """RocksDB's own stall, as when compactions are behind."""
    data = Data(tmp_path / "data", History())
    node = node_on(data)
    await node.start()
    async with connected(node) as wire:
        await create(wire)
        await produce(wire, data)
        database = node._store._database  # pyright: ignore[reportOptionalMemberAccess]
        database.set_options({"level0_file_num_compaction_trigger": "100"})
        for _ in range(2):
            await produce(wire, data)
            database.flush()
        database.set_options(STALLED)

        refusal = await refused(wire)
        await consume(wire, data)
        database.set_options(FLOWING)
        while not await produce(wire, data):
            await asyncio.sleep(0.01)

    await node.stop()
    assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the view is behind" in (refusal.details() or "")
    await everything_is_there(data)


async def refused(wire: Wire) -> grpc.aio.AioRpcError:
    """Produces to another topic until that is refused."""
    await wire.create("other")
    while True:
        try:
            await wire.produce("other", b"x")
        except grpc.aio.AioRpcError as error:
            return error


def forget(error: BaseException) -> None:
    """RocksDB's lock goes with the last of its iterators, and the error may hold one."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
