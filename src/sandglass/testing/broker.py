"""
A broker for tests: a whole node in this process, on free ports and a temporary directory.

    async with Broker() as broker, AsyncClient(broker.address) as client:
        await client.create_topic("emails")

    with Broker() as broker, Client(broker.address) as client:
        client.create_topic("emails")
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from sandglass.client._sync.thread import shared
from sandglass.node import Node, NodeConfig
from sandglass.ports import Clock


class Broker:
    """
    A node that lives as long as the `async with` block, in the loop that runs it; or as long as
    the `with` block, in the thread that serves every `Client` of the process.

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

    def __enter__(self) -> "BlockingBroker":
        shared().call(self.__aenter__())
        return BlockingBroker(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shared().call(self.__aexit__(kind, error, trace))

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


@dataclass(frozen=True, slots=True)
class BlockingBroker:
    """What `with Broker() as broker` gives: the same names, without `await`."""

    _broker: Broker

    @property
    def address(self) -> str:
        """`host:port` of its gRPC listener."""
        return self._broker.address

    @property
    def http_address(self) -> str:
        """`host:port` of its HTTP listener."""
        return self._broker.http_address

    def start(self, *, port: int = 0) -> None:
        """Starts the node, again after `stop`: on the same data."""
        shared().call(self._broker.start(port=port))

    def stop(self) -> None:
        """Stops the node cleanly; the data stay until the block ends."""
        shared().call(self._broker.stop())
