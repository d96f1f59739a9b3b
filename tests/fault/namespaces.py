"""
A cluster whose nodes have a network namespace each, on one bridge: the system's own network
between them, to be cut. Who has no rights may make them where user namespaces are allowed.

    async with Namespaces(tmp_path) as cluster:
        cluster.unplug(cluster.nodes[0])

Tests talk to the nodes by doors, which no cut concerns.
"""

import asyncio
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

import pytest

from sandglass import AsyncClient, SandglassError
from sandglass.adapters.engine import ACCOUNT_USER, EngineConfig
from sandglass.adapters.nats import Connection
from sandglass.testing.cluster import JOIN_S_MAX, end_all, until_whole
from sandglass.testing.process import NodeProcess
from tests.fault.door import join

NODE_COUNT: Final = 3
GRPC_PORT, RAFT_PORT, GOSSIP_PORT = 7170, 9190, 9900
LIVES_S: Final = 1800
"""No test takes so long: what one leaves that was killed ends by itself."""

DOOR: Final = str(Path(__file__).with_name("door.py"))
READY: Final = f"echo ready && exec sleep {LIVES_S}"


class Namespace:
    """A network namespace, held by a process; made in the user namespace of `of`."""

    def __init__(self, *command: str, of: "Namespace | None" = None) -> None:
        entered = [] if of is None else of.entered()
        self._holder = subprocess.Popen(
            [*entered, "unshare", *command, "sh", "-c", f"ip link set lo up && {READY}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        self.is_made = self._holder.stdout.readline() == "ready\n"
        self.trouble = "" if self.is_made else " ".join(self._holder.stderr.read().split())

    @property
    def pid(self) -> int:
        return self._holder.pid

    def entered(self) -> list[str]:
        """What runs a command inside."""
        return ["nsenter", f"--target={self.pid}", "--user", "--net", "--preserve-credentials"]

    def run(self, command: str) -> None:
        """
        Raises:
            CalledProcessError: it failed.
        """
        subprocess.run([*self.entered(), "sh", "-ec", command], check=True, text=True)

    def end(self) -> None:
        self._holder.kill()
        self._holder.communicate()


class DistantNode(NodeProcess):
    """A node in a namespace; its `address` is a door to it."""

    def __init__(self, data: Path, namespace: Namespace, *, name: str, host: str) -> None:
        super().__init__(data, name=name, prefix=namespace.entered())
        self.namespace = namespace
        self.host = host
        self.door = ""

    @property
    def address(self) -> str:
        return self.door


class Namespaces:
    """Three nodes, plugged into one bridge."""

    def __init__(self, directory: Path) -> None:
        if missing := [each for each in ("ip", "nsenter", "unshare") if not shutil.which(each)]:
            pytest.skip(f"no `{missing[0]}` here, which network namespaces take")
        self._directory = directory
        self._stack = AsyncExitStack()
        self.nodes: list[DistantNode] = []

    async def __aenter__(self) -> "Namespaces":
        try:
            self._bridge = self._made("--user", "--map-root-user", "--net")
            self._bridge.run("ip link add br0 type bridge && ip link set br0 up")
            self.nodes += [self._node(number) for number in range(NODE_COUNT)]
            for node in self.nodes:
                node.door = await self._opened(node, node.host, GRPC_PORT)
            await asyncio.gather(*[node.start() for node in self.nodes])
            async with asyncio.timeout(JOIN_S_MAX):
                await self._whole()
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

    # --- cuts ---------------------------------------------------------------------------------

    def unplug(self, node: NodeProcess) -> None:
        """Nothing reaches a node, and nothing leaves it."""
        self._bridge.run(f"ip link set v-{node.name} down")

    def plug_in(self, node: NodeProcess) -> None:
        self._bridge.run(f"ip link set v-{node.name} up")

    def part(self, *nodes: NodeProcess, is_parted: bool = True) -> None:
        """These reach each other no longer; the rest reaches all."""
        for node in nodes:
            state = "on" if is_parted else "off"
            self._bridge.run(f"bridge link set dev v-{node.name} isolated {state}")

    def mute(self, node: DistantNode, *, is_mute: bool = True) -> None:
        """Nothing of a node's reaches others any more; it still gets what they send."""
        verb = "add" if is_mute else "del"
        for other in self.nodes:
            if other is not node:
                node.namespace.run(f"ip route {verb} blackhole {other.host}/32")

    # --- making and ending --------------------------------------------------------------------

    def _made(self, *command: str, of: Namespace | None = None) -> Namespace:
        namespace = Namespace(*command, of=of)
        self._stack.callback(namespace.end)
        if not namespace.is_made:
            pytest.skip(f"no network namespace can be made here: {namespace.trouble}")
        return namespace

    def _node(self, number: int) -> DistantNode:
        namespace = self._made("--net", of=self._bridge)
        name, host = f"node{number}", f"10.77.0.{number + 1}"
        self._bridge.run(
            f"ip link add v-{name} type veth peer name e0 netns {namespace.pid}\n"
            f"ip link set v-{name} master br0 up"
        )
        namespace.run(f"ip addr add {host}/24 dev e0 && ip link set e0 up")
        node = DistantNode(self._directory / name, namespace, name=name, host=host)
        node.flags = [
            f"--bind_addr={host}",
            f"--advertise_addr={host}",
            "--insecure",
            f"--grpc_port={GRPC_PORT}",
            f"--raft_port={RAFT_PORT}",
            f"--gossip_port={GOSSIP_PORT}",
            f"--bootstrap_raft={'false' if number else 'true'}",
            *(
                f"--initial_peers=10.77.0.{other + 1}:{GOSSIP_PORT}"
                for other in range(NODE_COUNT)
                if other != number
            ),
        ]
        return node

    async def _opened(self, node: DistantNode, host: str, port: int) -> str:
        """A door to what listens inside: an address outside."""
        path = self._directory / f"{node.name}.{port}"
        inside = await asyncio.create_subprocess_exec(
            *node.namespace.entered(),
            *(sys.executable, DOOR, str(path), host, str(port)),
            stdout=asyncio.subprocess.PIPE,
        )
        self._stack.push_async_callback(_ended, inside)
        assert inside.stdout is not None
        assert await inside.stdout.readline() == b"open\n"

        async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await join((reader, writer), await asyncio.open_unix_connection(path))

        server = await asyncio.start_server(enter, "127.0.0.1", 0)
        self._stack.callback(server.close)
        return "127.0.0.1:%d" % server.sockets[0].getsockname()[1]  # noqa: UP031

    async def _whole(self) -> None:
        """Waits until all are members, and any one of them may be lost."""
        await self._seen()
        node = self.nodes[0]
        config = EngineConfig(node.name, node.data / "engine", client_port=RAFT_PORT)
        door = await self._opened(node, node.host, RAFT_PORT)
        password = config.password(ACCOUNT_USER)
        engine = Connection((f"nats://{door}",), ACCOUNT_USER, password, "testing")
        await engine.connect()
        try:
            await until_whole(engine, NODE_COUNT)
        finally:
            await engine.close()

    async def _seen(self) -> None:
        async with AsyncClient(self.nodes[0].address) as client:
            while True:
                with suppress(SandglassError):
                    seen = await client.admin.show_cluster()
                    alive = [node for node in seen.nodes if node.is_alive]
                    if len(alive) == NODE_COUNT and not seen.warnings:
                        return
                await asyncio.sleep(0.05)

    async def _end(self) -> None:
        await end_all(self.nodes)
        await self._stack.aclose()


async def _ended(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()
