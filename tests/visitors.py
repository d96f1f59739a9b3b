"""
Three engines for all tests of a process that don't harm any: starting them takes seconds.

They run in a thread with a loop of its own; each test connects in its own loop, and whatever
streams it made are deleted behind it.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sandglass.adapters.engine import EngineConfig
from sandglass.adapters.nats import Connection
from sandglass.testing.engines import Engines, connect_to


class Visitor:
    """A test that connects to engines which others use after it."""

    def __init__(self, configs: list[EngineConfig]) -> None:
        self._configs = configs
        self.connections: list[Connection] = []

    async def connect(self, number: int = 0) -> Connection:
        """A connection to one of them, closed at the end of the test."""
        connection = await connect_to(self._configs[number], f"test{number}")
        self.connections.append(connection)
        return connection


@contextmanager
def running(directory: Path) -> Iterator[list[EngineConfig]]:
    """The engines, while the block lasts."""
    started: Future[list[EngineConfig]] = Future()
    ended: Future[None] = Future()

    async def run() -> None:
        async with Engines(directory) as engines:
            started.set_result([engine.config for engine in engines.engines])
            await asyncio.wrap_future(ended)

    def work() -> None:
        try:
            asyncio.run(run())
        except Exception as error:  # noqa: BLE001 - it is the caller's
            started.set_exception(error)

    thread = threading.Thread(target=work, name="engines")
    thread.start()
    try:
        yield started.result()
    finally:
        ended.set_result(None)
        thread.join()


@asynccontextmanager
async def visiting(configs: list[EngineConfig]) -> AsyncIterator[Visitor]:
    """Leaves them as they were found."""
    visitor = Visitor(configs)
    try:
        yield visitor
    finally:
        connection = await visitor.connect()
        found = await connection.call("STREAM.NAMES", {})
        for name in found.get("streams") or ():
            await connection.call(f"STREAM.DELETE.{name}")
        for each in visitor.connections:
            await each.close()
