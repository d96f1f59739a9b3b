"""
A broker for tests: a whole node in this process, on free ports and a temporary directory.

    async with Broker() as broker, AsyncClient(broker.address) as client:
        await client.create_topic("emails")
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from sandglass.node import Node, NodeConfig
from sandglass.ports import Clock


class Broker:
    """
    A node that lives as long as the `async with` block.

    Args:
        clock: what the node takes for the time; the machine's clock by default.
        data: a directory to keep; by default a temporary one, which goes with the block.
        session_grace_ms: how long a broken session may stay away.

    Raises (on entering):
        PreconditionError: the directory is in use.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        data: Path | None = None,
        session_grace_ms: int | None = None,
    ) -> None:
        self._clock = clock
        self._data = data
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._grace_ms = session_grace_ms
        self.node: Node | None = None

    @property
    def address(self) -> str:
        """`host:port` of its gRPC listener."""
        assert self.node is not None, "enter the block first"
        return f"127.0.0.1:{self.node.grpc_port}"

    @property
    def http_address(self) -> str:
        """`host:port` of its HTTP listener."""
        assert self.node is not None, "enter the block first"
        return f"127.0.0.1:{self.node.http_port}"

    async def __aenter__(self) -> "Broker":
        if self._data is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="sandglass-")
            self._data = Path(self._temporary.name) / "data"
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    async def start(self, *, port: int = 0) -> None:
        """Starts the node, again after `stop`: on the same data."""
        assert self._data is not None
        config = NodeConfig(
            self._data, name="test", grpc_port=port, http_port=0, stop_grace_ms=500
        )
        if self._grace_ms is not None:
            config = replace(config, session_grace_ms=self._grace_ms)
        self.node = Node(config, clock=self._clock)
        await self.node.start()

    async def stop(self) -> None:
        """Stops the node cleanly; the data stay until the block ends."""
        if self.node is not None:
            await self.node.stop()
            self.node = None
