"""
The engines of a small cluster, on loopback, without nodes: for tests of what stands on them.

    async with Engines(tmp_path, count=3) as engines:
        connection = await engines.connect(0)
"""

import asyncio
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from sandglass.adapters.engine import ACCOUNT_USER, Engine, EngineConfig
from sandglass.adapters.nats import CALL_S, Connection
from sandglass.errors import SandglassError, UnavailableError
from sandglass.security.tls import TlsFiles
from sandglass.testing.ports import free_ports

QUORUM_S_MAX: Final = 60.0


class Engines:
    """`count` engines that know each other, each with a directory below `directory`."""

    def __init__(
        self,
        directory: Path,
        *,
        count: int = 3,
        secret: bytes = b"test",
        tls: TlsFiles | None = None,
    ) -> None:
        ports = free_ports(2 * count)
        routes = ports[count:]
        self.engines = [
            Engine(
                EngineConfig(
                    name=f"engine{number}",
                    directory=directory / f"engine{number}",
                    client_port=ports[number],
                    route_port=routes[number],
                    peers=tuple(
                        f"127.0.0.1:{port}" for port in routes if port != routes[number]
                    ),
                    secret=secret,
                    tls=tls,
                )
            )
            for number in range(count)
        ]
        self._connections: list[Connection] = []

    async def __aenter__(self) -> "Engines":
        await asyncio.gather(*[engine.start() for engine in self.engines])
        await self.quorum()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            await connection.close()
        await asyncio.gather(*[engine.stop() for engine in self.engines])

    async def connect(self, number: int = 0) -> Connection:
        """A connection to one of them, closed at the end of the block."""
        connection = await connect_to(self.engines[number].config, f"test{number}")
        self._connections.append(connection)
        return connection

    async def quorum(self) -> None:
        """
        Waits until they have agreed on a leader, and all of them can hold streams.

        Raises:
            TimeoutError: they have not.
        """
        connection = await self.connect()
        probe = {
            "name": "PROBE",
            "subjects": ["probe"],
            "num_replicas": min(3, len(self.engines)),
        }
        async with asyncio.timeout(QUORUM_S_MAX):
            while True:
                with suppress(SandglassError):
                    await connection.call("STREAM.CREATE.PROBE", probe, tries_s=(CALL_S,))
                    await connection.call("STREAM.DELETE.PROBE")
                    return
                await asyncio.sleep(0.05)


async def connect_to(config: EngineConfig, name: str) -> Connection:
    """
    A connection to a running engine.

    Raises:
        TimeoutError: it didn't answer.
    """
    password = config.password(ACCOUNT_USER)
    async with asyncio.timeout(QUORUM_S_MAX):
        while True:
            connection = Connection((config.url,), ACCOUNT_USER, password, name)
            # A busy machine may take longer than a connection waits.
            with suppress(UnavailableError):
                await connection.connect()
                return connection
            await asyncio.sleep(0.05)
