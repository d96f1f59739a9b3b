"""
A log of which a byte is flipped, or that is cut off, at any of 200 places: the node starts and
everything is there, or it refuses, with the place. Nothing in between.
"""

import asyncio
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from sandglass.adapters.segment import FRAME_HEAD_BYTES, HEADER_BYTES
from sandglass.errors import CorruptError
from sandglass.node import Node
from sandglass.testing.history import History
from tests.fault.life import (
    Data,
    connected,
    consume,
    node_on,
    refusal_of,
    work,
)

LOG: Final = Path("store-000/log")
PLACE_COUNT: Final = 200
FEW_COUNT: Final = 12
QUIET_S_MAX: Final = 60


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """Data of a node that was killed when its log had been quiet for a while."""
    home = tmp_path_factory.mktemp("origin")
    killed = asyncio.run(_killed(home))
    yield killed
    shutil.rmtree(home)


async def _killed(home: Path) -> Data:
    data = Data(home / "running", History())
    node = node_on(data)
    await node.start()
    await work(node, data)
    await until_quiet(node)
    found = data.copied(home / "killed")
    await node.stop()
    found.history.restarted()
    return found


async def until_quiet(node: Node) -> None:
    """The log has left its mark."""
    log = node._log
    assert log is not None
    deadline = time.monotonic() + QUIET_S_MAX
    while log._mark != log.durable_position:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def damage(directory: Path, chance: Random) -> str:
    """One flip or one cut, in any file of the log; says what it did."""
    path = chance.choice(sorted(directory.glob("*.log")))
    content = bytearray(path.read_bytes())
    used = len(content.rstrip(b"\0"))
    # Everywhere, and now and then in the header, the last frame, the zeros behind.
    place = chance.choice(
        [
            chance.randrange(used),
            chance.randrange(used),
            chance.randrange(HEADER_BYTES),
            min(used - 1, max(0, used - chance.randrange(1, 2 * FRAME_HEAD_BYTES))),
            min(len(content) - 1, used + chance.randrange(64)),
        ]
    )
    if chance.random() < 0.3:
        path.write_bytes(content[:place])
        return f"{path.name} cut off at byte {place} of {used} used"
    content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return f"{path.name}: a bit flipped in byte {place} of {used} used"


async def strike(data: Data, seed: int) -> bool:
    """Whether the node refused to start; if it did not, everything was there."""
    did = damage(data.directory / LOG, Random(seed))
    node = node_on(data)
    try:
        refusal = await refusal_of(node)
        if refusal is not None:
            assert isinstance(refusal, CorruptError), repr(refusal)
            assert re.search(r"\d{10}\.log: .*byte \d+", refusal.message), refusal.message
            return True
        try:
            async with connected(node) as wire:
                await consume(wire, data)
            data.history.check_complete("g")
        finally:
            await node.stop()
    except BaseException as error:
        error.add_note(f"seed {seed}: {did}")
        raise
    return False


async def strike_all(origin: Data, home: Path, seeds: range) -> None:
    refused_count = 0
    for seed in seeds:
        data = origin.copied(home / "data")
        refused_count += await strike(data, seed)
        shutil.rmtree(data.directory)
    assert refused_count


async def test_a_damaged_log_is_whole_or_refused(origin: Data, tmp_path: Path) -> None:
    await strike_all(origin, tmp_path, range(FEW_COUNT))


@pytest.mark.fault
async def test_a_log_damaged_at_200_places_is_whole_or_refused(
    origin: Data, tmp_path: Path
) -> None:
    await strike_all(origin, tmp_path, range(PLACE_COUNT))
