"""
Stores written by earlier versions, kept under tests/data: this version opens and delivers them.
And what this version writes is what the store of its own version holds: a format that changes
without a new version number fails here. What is in them: tests/integration/kept_store.py.
"""

import tarfile
from pathlib import Path
from typing import Final

import pytest

from sandglass import AsyncClient
from sandglass.adapters import segment
from sandglass.adapters.filelog import FileLog
from sandglass.adapters.files import Files
from sandglass.adapters.memory_store import MemoryStore
from sandglass.adapters.rocksdb import RocksStore
from sandglass.adapters.segment import HEADER_BYTES, FrameReader, encode_frame
from sandglass.adapters.superblock import (
    SUPERBLOCK_VERSION,
    Superblock,
    load_superblock,
    save_superblock,
)
from sandglass.broker.node_loop import NodeLoop
from sandglass.core import codec, keys
from sandglass.testing import Broker
from sandglass.wire.convert import slice_body
from tests.integration.kept_store import LATER_MS, LongAgo
from tests.tidy.tree import ROOT

STORES: Final = sorted((ROOT / "tests" / "data").glob("store-v*.tar.gz"))
ADVICE: Final = "raise the version, and keep a store of it: docs/internals/storage-format.md"
EVERYTHING: Final = (b"", b"\xff" * 32)


def unpacked(archive: Path, home: Path) -> Path:
    with tarfile.open(archive) as opened:
        opened.extractall(home / "data", filter="data")
    return home / "data"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The store of this version, in a directory."""
    name = f"store-v{SUPERBLOCK_VERSION}.tar.gz"
    assert name in [path.name for path in STORES], f"no {name} is kept: {ADVICE}"
    return unpacked(ROOT / "tests" / "data" / name, tmp_path)


@pytest.mark.parametrize("archive", STORES, ids=lambda path: path.name)
async def test_a_store_of_every_version_opens_and_delivers(
    archive: Path, tmp_path: Path
) -> None:
    data = unpacked(archive, tmp_path)
    values: list[tuple[bytes, int]] = []

    for life in (1, 2):  # the second time as this version has left it
        clock = LongAgo(after_ms=60_000 * life)
        broker = Broker(data=data, clock=clock)
        async with broker, AsyncClient(broker.address) as client:
            async with client.consume("t", group="g", drain=True) as messages:
                async for message in messages:
                    values.append((message.value, message.attempt))
                    await message.ack()
            entry, gone = await client.get("kv", "k"), await client.get("kv", "gone")
            (dead,) = (await client.admin.list_dead_letters("t")).letters
            (pending,) = (await client.admin.list_pending("t")).messages
            (group,) = await client.list_groups("t")

    assert [(b"m3", 2), (b"m5", 1), (b"m6", 1), (b"m7", 1)] == sorted(values)
    assert entry is not None
    assert (b"second", None) == (entry.value, gone)
    assert ("g", "ill") == (dead.group, dead.reason)
    assert LATER_MS == pending.due_at.timestamp() * 1000
    assert (7, 1) == (group.acked_count, group.dead_count)
    superblock = load_superblock(data / "superblock")
    assert superblock is not None
    assert SUPERBLOCK_VERSION == superblock.version


def test_a_log_is_written_as_its_version_says(own: Path) -> None:
    path = own / "store-000" / "log" / "0000000001.log"
    superblock = load_superblock(own / "superblock")
    assert superblock is not None
    files = Files()
    found = segment.open_segment(files, path, number=1, node_id=superblock.node_id)
    assert found is not None
    fd, header, crc = found
    try:
        written = files.read(fd, 1 << 20, 0)
        reader = FrameReader(files, fd, file_id=header.file_id, end_bytes=header.size_bytes)
        anew = header.encode()[0]
        while (frame := reader.frame_at(len(anew))) is not None:
            records = [record for _, record in frame.records()]
            assert records == [codec.encode(codec.decode(raw)) for raw in records], ADVICE
            buffers, crc = encode_frame(
                records,
                file_id=header.file_id,
                previous=crc,
                first_position=frame.first_position,
                mark=frame.mark,
            )
            anew += b"".join(buffers)
    finally:
        files.close(fd)

    assert HEADER_BYTES < len(anew)
    assert written[: len(anew)] == anew, ADVICE
    assert not written[len(anew) :].strip(b"\0"), ADVICE


def test_a_superblock_is_written_as_its_version_says(own: Path, tmp_path: Path) -> None:
    found = load_superblock(own / "superblock")
    assert found is not None

    save_superblock(
        tmp_path / "anew", Superblock(found.node_id, found.cluster_id, found.last_position)
    )

    assert (own / "superblock").read_bytes() == (tmp_path / "anew").read_bytes(), ADVICE


def test_a_log_makes_the_rows_that_the_version_of_the_view_says(own: Path) -> None:
    superblock = load_superblock(own / "superblock")
    assert superblock is not None
    log = FileLog(own / "store-000" / "log", node_id=superblock.node_id)
    kept = RocksStore(own / "store-000" / "view", is_new=False)
    loop = NodeLoop(log, MemoryStore(), LongAgo(), slice_body)

    loop.recover()

    assert SUPERBLOCK_VERSION == keys.VIEW_VERSION
    assert kept.applied_position == loop.store.applied_position
    assert list(kept.range(*EVERYTHING)) == list(loop.store.range(*EVERYTHING)), ADVICE
    kept.close()
    log.close()
