"""
The nodes of a small cluster as processes of their own, to be killed, paused and cut off.

    async with ClusterProcesses(tmp_path, count=3) as cluster:
        cluster.nodes[0].kill()

They run the `sandglass` command on 127.0.0.1. An engine outlives a killed node: it is ended
with the block, or by its `kill_engine`. With `is_wired` the nodes reach each other through
`wires`, which can be cut.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from sandglass import AsyncClient
from sandglass.adapters.engine import ACCOUNT_USER, EngineConfig
from sandglass.adapters.nats import Connection
from sandglass.adapters.placement import STREAM as BUCKET_STREAM
from sandglass.errors import SandglassError
from sandglass.testing.ports import free_ports
from sandglass.testing.process import NodeProcess
from sandglass.testing.wires import Wires

JOIN_S_MAX: Final = 90.0

RENEWAL_COUNT: Final = 6
"""So many leases are renewed in a second by three members."""


class ClusterProcesses:
    """
    `count` nodes that know each other; the first one founds the cluster. All get `flags`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        count: int = 3,
        is_wired: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        ports = free_ports(3 * count)
        names = [f"node{number}" for number in range(count)]
        own = {name: ports[3 * number :][:3] for number, name in enumerate(names)}
        self.wires = Wires(names, own)
        self._is_wired = is_wired
        hosts = {name: self.wires.host(name) if is_wired else "127.0.0.1" for name in names}
        self.nodes = [
            NodeProcess(
                directory / name,
                name=name,
                flags=[
                    f"--grpc_port={own[name][0]}",
                    f"--raft_port={own[name][1]}",
                    f"--gossip_port={own[name][2]}",
                    f"--bootstrap_raft={'true' if name == names[0] else 'false'}",
                    f"--advertise_addr={hosts[name]}",
                    *(
                        f"--initial_peers={hosts[other]}:{own[other][2]}"
                        for other in names
                        if other != name
                    ),
                    *flags,
                ],
            )
            for name in names
        ]

    async def __aenter__(self) -> "ClusterProcesses":
        try:
            if self._is_wired:
                await self.wires.__aenter__()
            await asyncio.gather(*[node.start() for node in self.nodes])
            await self.joined(*self.nodes)
            await self._whole()
            await self._seen()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def joined(self, *nodes: NodeProcess) -> None:
        """
        Waits until these have joined the cluster, since their last start.

        Raises:
            TimeoutError: they have not.
        """
        async with asyncio.timeout(JOIN_S_MAX):
            for node in nodes:
                while "joined the cluster" not in node.stderr:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    async def caught_up(self, via: NodeProcess) -> None:
        """
        Waits until the engines have all copies of all streams, as the one of `via` hears it.

        Raises:
            TimeoutError: they have not.
        """
        async with asyncio.timeout(JOIN_S_MAX), self.engine(via) as engine:
            while not await _are_whole(engine):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def engine(self, node: NodeProcess) -> AsyncIterator[Connection]:
        """A connection to the engine of a node, past the node."""
        (port,) = (int(flag[12:]) for flag in node.flags if flag.startswith("--raft_port="))
        config = EngineConfig(node.name, node.data / "engine", client_port=port)
        connection = Connection(
            (config.url,), ACCOUNT_USER, config.password(ACCOUNT_USER), "testing"
        )
        await connection.connect()
        try:
            yield connection
        finally:
            await connection.close()

    async def _whole(self) -> None:
        async with asyncio.timeout(JOIN_S_MAX), self.engine(self.nodes[0]) as connection:
            await until_whole(connection, min(len(self.nodes), 3))

    async def _seen(self) -> None:
        """Waits until each node knows of all: topics get no more replicas than it knows of."""
        async with asyncio.timeout(JOIN_S_MAX):
            for node in self.nodes:
                async with AsyncClient(node.address) as client:
                    while await _alive_count(client) < len(self.nodes):  # noqa: ASYNC110
                        await asyncio.sleep(0.02)

    async def _end(self) -> None:
        await end_all(self.nodes)
        await self.wires.__aexit__(None, None, None)


async def _alive_count(client: AsyncClient) -> int:
    return sum(node.is_alive for node in (await client.admin.show_cluster()).nodes)


async def until_whole(engine: Connection, count: int) -> None:
    """
    Waits until what the members agree on survives the loss of any one of three: `count` engines
    have all of it, and something that was written after that, which tells each how many there
    are. One that doesn't know yet can't choose a leader with the others.
    """
    last = 0
    while True:
        info = await engine.call(f"STREAM.INFO.{BUCKET_STREAM}")
        others = info["cluster"].get("replicas", [])
        is_whole = 1 + sum(each["current"] for each in others) >= count
        if is_whole and last and info["state"]["last_seq"] >= last + RENEWAL_COUNT:
            return
        last = last or info["state"]["last_seq"] if is_whole else 0
        await asyncio.sleep(0.05)


async def end_all(nodes: Sequence[NodeProcess]) -> None:
    """Ends nodes with their engines, whatever they are about."""
    for node in nodes:
        if node.is_running:
            node.resume()
            node.terminate()
    for node in nodes:
        if node.was_started:
            try:
                await node.wait()
            except TimeoutError:
                node.kill()
                await node.wait()
        node.kill_engine()


async def _are_whole(engine: Connection) -> bool:
    try:
        found = (await engine.call("STREAM.LIST"))["streams"]
    except SandglassError:
        return False
    clusters = [each.get("cluster", {}) for each in found]
    replicas = [each for cluster in clusters for each in cluster.get("replicas", ())]
    return all(cluster.get("leader") for cluster in clusters) and all(
        each["current"] and not each.get("offline") and not each.get("lag") for each in replicas
    )
