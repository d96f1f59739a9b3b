"""
Nodes that don't belong together, and what an operator's hand takes away: each says so, nothing
of anybody's is lost, and topics of one replica are served all the while.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from sandglass import AsyncClient, ClusterStatus, Message, SandglassError, UnavailableError
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.engines import free_ports
from sandglass.testing.process import NodeProcess

pytestmark = [pytest.mark.slow, pytest.mark.fault]

DEADLINE_S = 60.0
Ports = tuple[int, int]


def ports() -> Ports:
    """Of an engine: for clients, and for routes."""
    raft, gossip = free_ports(2)
    return raft, gossip


def member(
    data: Path, name: str, own: Ports, *others: Ports, founds: bool = False, secret: str = ""
) -> NodeProcess:
    flags = [
        f"--raft_port={own[0]}",
        f"--gossip_port={own[1]}",
        f"--bootstrap_raft={'true' if founds else 'false'}",
        *(f"--initial_peers=127.0.0.1:{gossip}" for _, gossip in others),
    ]
    if secret:
        path = data.with_name(f"{data.name}.secret")
        path.write_text(secret)
        path.chmod(0o600)
        flags.append(f"--cluster_secret_file={path}")
    return NodeProcess(data, name=name, flags=flags)


@asynccontextmanager
async def running(*nodes: NodeProcess) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node)
        yield


async def seen_by(node: NodeProcess) -> ClusterStatus:
    async with AsyncClient(node.address) as client:
        return await client.admin.show_cluster()


async def until(node: NodeProcess, what: Callable[[ClusterStatus], bool]) -> ClusterStatus:
    """Waits until a node sees its cluster so."""
    seen = await seen_by(node)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not what(seen):
                await asyncio.sleep(0.1)
                seen = await seen_by(node)
    except TimeoutError:
        raise AssertionError(f"it sees {seen}, and said {node.stderr}") from None
    return seen


async def until_trouble(node: NodeProcess, *texts: str) -> None:
    """Waits until a node says why it has not joined, and serves what it has nevertheless."""
    await until(node, lambda seen: all(text in seen.trouble for text in texts))
    async with AsyncClient(node.address) as client:
        await client.create_topic("alone", kind="kv")
        await client.put("alone", b"k", b"v")


def owner_of(node: NodeProcess) -> dict[str, str]:
    return json.loads((node.data / "engine" / "js" / "owner.json").read_text())


async def test_nodes_of_two_secrets_do_not_meet(tmp_path: Path) -> None:
    a, b = ports(), ports()
    one = member(tmp_path / "one", "one", a, b, founds=True, secret="the secret of a cluster")
    two = member(tmp_path / "two", "two", b, a, secret="the secret of another one")
    async with running(one, two):
        await until_trouble(
            one, "node two, at", "secret: cluster_secret_file is to be the same"
        )
        await until_trouble(
            two, "node one, at", "secret: cluster_secret_file is to be the same"
        )


async def test_nodes_of_one_name_do_not_meet(tmp_path: Path) -> None:
    a, b = ports(), ports()
    one = member(tmp_path / "one", "twin", a, b, founds=True)
    two = member(tmp_path / "two", "twin", b, a)
    async with running(one, two):
        await until_trouble(one, f"the node at 127.0.0.1:{b[1]} is named twin as well")
        await until_trouble(two, f"the node at 127.0.0.1:{a[1]} is named twin as well")


async def test_where_nobody_founds_it_is_said_what_to_do(tmp_path: Path) -> None:
    a, b = ports(), ports()
    one = member(tmp_path / "one", "one", a, b)
    async with running(one), asyncio.timeout(DEADLINE_S):
        while "not in a cluster after 30 s" not in one.stderr:
            await asyncio.sleep(0.1)
        (line,) = [each for each in one.stderr.splitlines() if "not in a cluster" in each]
    assert "nobody has founded the cluster yet" in line
    assert f"nobody answers at 127.0.0.1:{b[1]}" in line
    assert "one of them is started with bootstrap_raft" in line


async def test_of_two_founders_one_founds(tmp_path: Path) -> None:
    a, b = ports(), ports()
    one = member(tmp_path / "one", "one", a, b, founds=True)
    two = member(tmp_path / "two", "two", b, a, founds=True)
    async with running(one, two):
        first = await until(one, lambda seen: len(seen.nodes) == 2)
        second = await until(two, lambda seen: len(seen.nodes) == 2)
    assert first.cluster_id == second.cluster_id


async def test_clusters_with_a_history_of_their_own_stay_two(tmp_path: Path) -> None:
    """
    Two pairs, and then a node of the first is told that its peer is one of the second: as it is
    with a data directory of another cluster, or a name that another cluster has.
    """
    places = [ports() for _ in range(4)]
    one, two, three, four = (
        member(tmp_path / name, name, own, other, founds=founds)
        for name, own, other, founds in (
            ("one", places[0], places[1], True),
            ("two", places[1], places[0], False),
            ("three", places[2], places[3], True),
            ("four", places[3], places[2], False),
        )
    )
    async with running(one, two, three, four):
        for node in (one, three):
            await until(node, lambda seen: len(seen.nodes) == 2)
            await make(node, "t", b"of " + node.name.encode())
        assert owner_of(one)["group"] == owner_of(two)["group"] != owner_of(three)["group"]

        for node in (one, two):  # otherwise the one would find the other
            node.terminate()
            assert await node.wait() == 0
        astray = member(tmp_path / "two", "two", places[1], places[2])
        async with astray:
            await until(astray, lambda seen: "is of another cluster" in seen.trouble)
            assert b"of three" == await read(three, "t")
        await one.start()
        await two.start()
        await until(two, lambda seen: len(seen.nodes) == 2)
        assert b"of one" == await read(two, "t")


async def make(node: NodeProcess, topic: str, value: bytes) -> None:
    """A topic of two replicas, with an entry."""
    async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await client.create_topic(topic, kind="kv", replication_factor=2)
                break
            except SandglassError:  # the engines have not met yet
                await asyncio.sleep(0.1)
        while True:
            try:
                await client.put(topic, b"k", value)
                return
            except SandglassError:
                await asyncio.sleep(0.1)


async def read(node: NodeProcess, topic: str) -> bytes:
    async with AsyncClient(node.address) as client, asyncio.timeout(DEADLINE_S):
        while True:
            try:
                found = await client.get(topic, b"k")
                return b"" if found is None else found.value
            except SandglassError:
                await asyncio.sleep(0.1)


async def test_a_stream_that_somebody_deleted_is_missed(tmp_path: Path) -> None:
    async with ClusterProcesses(tmp_path) as cluster:
        one, two, three = cluster.nodes
        async with AsyncClient(one.address) as client, asyncio.timeout(DEADLINE_S):
            await client.create_topic("t", replication_factor=3)
            await client.create_topic("other", kind="kv", replication_factor=3)
            await client.produce_many("t", [Message(b"x")])
        async with cluster.engine(two) as engine:
            numbers = await streams(engine.call)
            await engine.call(f"STREAM.DELETE.SANDGLASS_{min(numbers)}")
        async with AsyncClient(one.address, timeout=timedelta(seconds=3)) as client:
            with pytest.raises(UnavailableError):
                await client.produce("t", b"y")

        for node in (one, two, three):
            await until(
                node, lambda seen: any("somebody has deleted it" in w for w in seen.warnings)
            )
        async with AsyncClient(three.address) as client:
            await client.put("other", b"k", b"v")
            await client.delete_topic("t")
        await until(one, lambda seen: not seen.warnings)


async def streams(call: Callable[..., object]) -> Sequence[int]:
    answer = await call("STREAM.NAMES")  # type: ignore[misc]
    return [
        int(name.removeprefix("SANDGLASS_"))
        for name in answer["streams"]
        if name.startswith("SANDGLASS_")
    ]
