"""
A topic of one replica on a node of a cluster whose other nodes are not there.

Beside it a single node, and the file floor of `make bench`, in turns: what part of the floor
each reaches.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench import load
from bench.cluster.bench import FILE, NODES, SINGLE, ClusterBench
from bench.cluster.nodes import Processes
from bench.cluster.rates import Sum, requests_of
from bench.lines import IN_FLIGHT, Figure, pool
from bench.load import Session
from bench.process import Server, Spent
from sandglass.testing.cluster import ClusterProcesses
from sandglass.testing.process import NodeProcess

LINE = "RF 1, peers away"
_numbers = itertools.count(1)


async def alone(bench: ClusterBench) -> list[Figure]:
    """Producing batches, as the line `produce` of `make bench` does."""
    directory = bench.directory / "alone"
    directory.mkdir()
    batches = pool(bench.sizes.alone_batches)
    cluster = ClusterProcesses(directory / "cluster")
    member = cluster.nodes[0]
    (directory / "cluster").mkdir()
    async with (
        Server(FILE, directory) as floor,
        NodeProcess(directory / "single") as single,
        _engine_ended(cluster, member),
        member,
    ):
        kinds = {
            FILE: Sum(Spent(floor)),
            SINGLE: Sum(Spent(Processes((single.pid,)))),
            NODES: Sum(Spent(Processes((member.pid,)))),
        }
        addresses = {FILE: floor.address, SINGLE: single.address, NODES: member.address}
        for _ in range(bench.sizes.rounds):
            for kind, total in kinds.items():
                await _produce(addresses[kind], batches, total)
    floor_rate = kinds[FILE].count / kinds[FILE].seconds
    return [
        total.figure(LINE, kind, "answer", of_file=total.count / total.seconds / floor_rate)
        for kind, total in kinds.items()
    ]


@asynccontextmanager
async def _engine_ended(cluster: ClusterProcesses, node: NodeProcess) -> AsyncIterator[None]:
    try:
        yield
    finally:
        node.kill_engine()


async def _produce(address: str, batches: list[bytes], total: Sum) -> None:
    """One round, into a topic of its own."""
    topic = f"alone-{next(_numbers)}"
    requests = requests_of(topic, batches)
    async with Session(address) as session:
        await session.create_topic(topic, replication_factor=1)
        total.spent.start()
        sent = await load.produce(session, requests, in_flight=IN_FLIGHT)
        total.spent.stop()
    total.add(sent.count, sent.latencies_ms)
