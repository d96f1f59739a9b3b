"""
The engines of a small cluster, on loopback, without nodes: for tests of what stands on them.

    async with Engines(tmp_path, count=3) as engines:
        connection = await engines.connect(0)
"""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from sandglass.adapters.engine import ACCOUNT_USER, Engine, EngineConfig
from sandglass.adapters.nats import Connection
from sandglass.adapters.system import SystemEntropy
from sandglass.errors import SandglassError

QUORUM_S_MAX: Final = 30.0
PORT_MIN: Final = 12_000
PORT_MAX: Final = 32_000


def free_ports(count: int) -> list[int]:
    """
    Ports of loopback that nobody listens on just now. Below those that the system gives to
    outgoing connections: one of them would take the port of an engine that is away.
    """
    entropy, sockets = SystemEntropy(), list[socket.socket]()
    try:
        while len(sockets) < count:
            drawn = int.from_bytes(entropy.token_bytes(4), "big")
            found = socket.socket()
            try:
                found.bind(("127.0.0.1", PORT_MIN + drawn % (PORT_MAX - PORT_MIN)))
                sockets.append(found)
            except OSError:
                found.close()
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Engines:
    """`count` engines that know each other, each with a directory below `directory`."""

    def __init__(self, directory: Path, *, count: int = 3, secret: bytes = b"test") -> None:
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
        config = self.engines[number].config
        connection = Connection(
            (config.url,), ACCOUNT_USER, config.password(ACCOUNT_USER), f"test{number}"
        )
        await connection.connect()
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
                    await connection.call("STREAM.CREATE.PROBE", probe, repeats=1)
                    await connection.call("STREAM.DELETE.PROBE")
                    return
                await asyncio.sleep(0.05)
