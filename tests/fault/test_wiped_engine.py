"""An engine that has lost its disk has forgotten what it acknowledged: it decides nothing."""

import asyncio
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from sandglass.adapters.engine import Engine
from sandglass.adapters.nats import CALL_S
from sandglass.errors import SandglassError
from sandglass.testing.engines import Engines, connect_to

pytestmark = pytest.mark.fault

DEADLINE_S = 120.0
ELECTIONS_S = 20.0
"""Two of the engines' longest waits for an election: whoever could win one has."""

STREAM = {"name": "S", "subjects": ["s"], "num_replicas": 3}
WHOLE, WIPED, BEHIND = range(3)


async def start(engines: Engines, number: int) -> None:
    engines.engines[number] = Engine(engines.engines[number].config)
    await engines.engines[number].start()


async def store(engines: Engines, values: range) -> None:
    connection = await connect_to(engines.engines[WHOLE].config, "test")
    try:
        for value in values:
            await connection.store("s", b"%d" % value, {"Nats-Msg-Id": str(value)})
    finally:
        await connection.close()


async def store_all(engines: Engines, values: range) -> None:
    """As `store`, through an election."""
    for value in values:
        while True:
            with suppress(SandglassError):
                await store(engines, range(value, value + 1))
                break
            await asyncio.sleep(0.1)


async def last_of(engines: Engines, number: int) -> int:
    """The last that the stream holds, as this engine hears it; 0 while it has no leader."""
    with suppress(SandglassError):
        connection = await connect_to(engines.engines[number].config, "test")
        try:
            info = await connection.call("STREAM.INFO.S", tries_s=(CALL_S,))
        finally:
            await connection.close()
        return int(info["state"]["last_seq"]) if info["cluster"].get("leader") else 0
    return 0


async def test_two_of_which_one_was_emptied_wait_for_the_one_that_has_all(
    tmp_path: Path,
) -> None:
    """What the emptied one had acknowledged is not lost to one that was away then."""
    async with asyncio.timeout(DEADLINE_S), Engines(tmp_path) as engines:
        connection = await engines.connect(WHOLE)
        await connection.call("STREAM.CREATE.S", STREAM)
        await store(engines, range(10))
        await engines.engines[BEHIND].stop()
        await store_all(engines, range(10, 20))
        for number in (WIPED, WHOLE):
            await engines.engines[number].stop()
        shutil.rmtree(engines.engines[WIPED].config.directory)

        for number in (WIPED, BEHIND):
            await start(engines, number)
        end_s = asyncio.get_running_loop().time() + ELECTIONS_S
        while asyncio.get_running_loop().time() < end_s:
            assert await last_of(engines, BEHIND) == 0, "what was acknowledged is lost"
            await asyncio.sleep(0.5)
        await start(engines, WHOLE)

        while (last := await last_of(engines, BEHIND)) == 0:
            await asyncio.sleep(0.1)
        assert last == 20
