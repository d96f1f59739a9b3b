"""
How fast a new replica becomes current, and what its leader does meanwhile.

A partition is filled until its log is trimmed behind snapshots. Then a follower's database is
taken away, its node starts again, and takes a snapshot and what came after it, while the leader
is given more without a pause.
"""

import asyncio
import shutil
import time
from dataclasses import dataclass, field
from itertools import pairwise

from bench import load
from bench.cluster.bench import NODES, ClusterBench
from bench.cluster.nodes import LOOK_S, Led, Nodes, seen_by, states_of_logs
from bench.lines import Figure, pool, quantile
from bench.load import BATCH_COUNT, Session, WrongError
from sandglass.testing.process import NodeProcess

LINE = "catch-up"
TOPIC = "catch-up"
IN_FLIGHT = 8
TRIMMED_S_MAX = 300.0
PAUSE_S = 0.5
"""While snapshots are waited for."""
CURRENT_S_MAX = 600.0


@dataclass(slots=True)
class Load:
    """Produces the same batches over and over, until it is told to stop."""

    session: Session
    requests: list[bytes]
    is_stopping: bool = False
    answered_s: list[float] = field(default_factory=list[float])
    """When each request was answered."""

    async def run(self, until_count: int = 1 << 60) -> None:
        """
        Raises:
            WrongError: a request was refused.
        """
        posted = answered = len(self.answered_s)
        while True:
            while posted < min(answered + IN_FLIGHT, until_count) and not self.is_stopping:
                posted += 1
                request = self.requests[posted % len(self.requests)]
                self.session.post_request(posted, request)
            if answered == posted:
                return
            frame = await self.session.read()
            for reply in frame.produces:
                if reply.HasField("error"):
                    raise WrongError(f"a request was refused: {reply.error.message}")
                answered += 1
                self.answered_s.append(time.monotonic())


async def catchup(bench: ClusterBench) -> list[Figure]:
    """A replica without anything, of a partition that is written."""
    sizes = bench.sizes
    flags = (f"--snapshot_bytes={sizes.catchup_snapshot_bytes}",)
    async with Nodes.open(bench.directory / "catchup", flags=flags) as nodes:
        (led,) = await nodes.create_topic(TOPIC)
        batches = pool(64)
        requests = [load.produce_request(TOPIC, batch) for batch in batches]
        batch_bytes = sum(map(len, batches)) / len(batches)
        async with Session(led.node.address) as session:
            given = Load(session, requests)
            await given.run(max(2, int(sizes.catchup_bytes / batch_bytes)))
            rate_before = _rate(given.answered_s)
            await _fill_until_trimmed(nodes, led, given, sizes.catchup_snapshot_bytes)
            await nodes.settled([led])
            count_before = len(given.answered_s)
            others = [node for node in nodes.cluster.nodes if node is not led.node]
            wiped = others[0]
            await _wipe(wiped)
            position = await _position(led.node, led)
            going = asyncio.create_task(given.run())
            current_s = await _current(nodes, wiped, led, position)
            given.is_stopping = True
            await going
        after = await nodes.leader_of(led.partition)
        if after.node is not led.node:
            raise WrongError("the leader has changed while a replica caught up")
        await nodes.settled([led])
    size_bytes = count_before * batch_bytes
    return [
        _figure(
            given.answered_s[count_before:],
            current_s,
            mb=size_bytes / 1e6,
            mb_s=size_bytes / current_s / 1e6,
            rate_before=rate_before,
        )
    ]


def _rate(answered_s: list[float]) -> float:
    """Messages a second."""
    passed_s = max(1e-9, answered_s[-1] - answered_s[0])
    return (len(answered_s) - 1) * BATCH_COUNT / passed_s


async def _wipe(node: NodeProcess) -> None:
    """Ends a node in order, and takes the database of its replicas away."""
    node.terminate()
    await node.wait()
    shutil.rmtree(node.data / "store-000" / "replicas")


async def _current(nodes: Nodes, node: NodeProcess, led: Led, position: int) -> float:
    """
    Starts a node, and waits until its replica follows and has come as far as `position`; how
    long that took from when the node had joined.
    """
    await node.start()
    await nodes.cluster.joined(node)
    began_s = time.monotonic()
    async with asyncio.timeout(CURRENT_S_MAX):
        while True:
            seen = (await seen_by(node)).get(led.partition)
            held = None if seen is None else seen.held_by(node.name)
            if held and held.state == "following" and held.position >= position:
                return time.monotonic() - began_s
            await asyncio.sleep(LOOK_S)


async def _position(node: NodeProcess, led: Led) -> int:
    held = (await seen_by(node))[led.partition].held_by(node.name)
    return 0 if held is None else held.position


async def _fill_until_trimmed(nodes: Nodes, led: Led, given: Load, snapshot_bytes: int) -> None:
    """
    Produces on, until the stream no longer begins with its first entry: it is trimmed behind
    the older of two snapshots, between which it has to grow.
    """
    async with (
        nodes.cluster.engine(led.node) as connection,
        asyncio.timeout(TRIMMED_S_MAX),
    ):
        while (await states_of_logs(connection))[0]["first_seq"] == 1:
            step = max(1, snapshot_bytes // 8 // len(given.requests[0]))
            await given.run(len(given.answered_s) + step)
            await asyncio.sleep(PAUSE_S)


def _figure(answered_s: list[float], seconds: float, **notes: float) -> Figure:
    gaps_ms = [(after - before) * 1000 for before, after in pairwise(answered_s)] or [0.0]
    return Figure(
        line=LINE,
        kind=NODES,
        count=len(answered_s) * BATCH_COUNT,
        seconds=seconds,
        server_us=0,
        client_us=0,
        latency="gap",
        p50_ms=quantile(gaps_ms, 0.5),
        p99_ms=quantile(gaps_ms, 0.99),
        max_ms=max(gaps_ms),
        memory_mb=0,
        notes={**notes, "rate_during": _rate(answered_s)},
    )
