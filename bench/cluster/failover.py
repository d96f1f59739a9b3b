"""
How long nobody is given anything when a leader dies: from the signal to the next delivery.

A topic of three replicas holds messages that wait. Its leader is ended, and all nodes that are
left are asked at once, over and over, until one hands out a message. Then the node comes back.
"""

import asyncio
import time
from collections.abc import Callable

from bench import load
from bench.cluster.bench import NODES, ClusterBench
from bench.cluster.nodes import LOOK_S, Led, Nodes
from bench.lines import Figure, quantile
from bench.load import Session, WrongError
from sandglass.testing.process import NodeProcess
from sandglass.wire.v1 import broker_pb2

TOPIC = "failover"
GROUP = "bench"
WAITING_COUNT = 1000
GAP_S_MAX = 60.0
PROBE_S_MAX = 1.0
"""A node that says nothing for so long is asked anew: it may lead by now."""


async def failover(bench: ClusterBench) -> list[Figure]:
    """Kills of the leader's node, of node and engine, and its orderly end."""
    nodes = await bench.nodes()
    (led,) = await nodes.create_topic(TOPIC)
    async with Session(led.node.address) as session:
        batch = load.encode(load.values(WAITING_COUNT))
        request = load.produce_request(TOPIC, batch)
        await load.produce(session, [request], in_flight=1, batch_count=WAITING_COUNT)
    await _next_delivery([led.node])

    def kill_both(node: NodeProcess) -> None:
        node.kill()
        node.kill_engine()

    ways: list[tuple[str, Callable[[NodeProcess], None]]] = [
        ("failover: SIGTERM", NodeProcess.terminate),
        ("failover: node killed", NodeProcess.kill),
        ("failover: node and engine killed", kill_both),
    ]
    figures: list[Figure] = []
    for line, end in ways:
        gaps_ms: list[float] = []
        for _ in range(bench.sizes.kill_count):
            led = await nodes.leader_of(led.partition)
            gaps_ms.append(await _gap_ms(nodes, led, end))
        figures.append(_figure(line, gaps_ms))
    return figures


async def _gap_ms(nodes: Nodes, led: Led, end: Callable[[NodeProcess], None]) -> float:
    """Ends the leader, and starts it again once another has handed something out."""
    await nodes.settled([led])
    await _until_left(led.node)
    others = [node for node in nodes.cluster.nodes if node is not led.node]
    began_s = time.monotonic()
    end(led.node)
    await _next_delivery(others)
    gap_ms = (time.monotonic() - began_s) * 1000
    await led.node.wait()
    await led.node.start()
    await nodes.cluster.joined(led.node)
    await nodes.settled([led])
    return gap_ms


async def _until_left(node: NodeProcess) -> None:
    """
    Waits until the consumer before is forgotten: for one that is missed a new leader waits.
    """
    async with asyncio.timeout(GAP_S_MAX), Session(node.address) as session:
        while (await session.group(TOPIC, GROUP)).consumer_count:
            await asyncio.sleep(LOOK_S)


async def _next_delivery(nodes: list[NodeProcess]) -> None:
    """Asks all of them until one hands out a message, and acknowledges that."""
    asking = [asyncio.create_task(_ask(node)) for node in nodes]
    try:
        done, _ = await asyncio.wait(
            asking, timeout=GAP_S_MAX, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise WrongError(f"nothing was handed out for {GAP_S_MAX:g} s")
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _ask(node: NodeProcess) -> None:
    while True:
        try:
            async with asyncio.timeout(PROBE_S_MAX), Session(node.address) as session:
                await _take_one(session)
                return
        except (WrongError, TimeoutError):
            await asyncio.sleep(LOOK_S)


async def _take_one(session: Session) -> None:
    """
    Takes a message, and waits until its acknowledgement is answered.

    Raises:
        WrongError: the node leads nothing, or no longer.
    """
    load.subscribe_to(session, TOPIC, credit_count=1, group=GROUP)
    while True:
        frame = await session.read()
        for reply in (*frame.subscribed, *frame.ended, *frame.outcomes):
            if reply.HasField("error"):
                raise WrongError(reply.error.message)
        for delivery in frame.deliveries:
            answer = broker_pb2.ClientFrame()
            answer.outcomes.add(
                request_id=delivery.token,
                subscription_id=1,
                token=delivery.token,
                kind=broker_pb2.OUTCOME_ACK,
            )
            session.post(answer)
        if frame.outcomes:
            return


def _figure(line: str, gaps_ms: list[float]) -> Figure:
    return Figure(
        line=line,
        kind=NODES,
        count=len(gaps_ms),
        seconds=sum(gaps_ms) / 1000,
        server_us=0,
        client_us=0,
        latency="gap",
        p50_ms=quantile(gaps_ms, 0.5),
        p99_ms=quantile(gaps_ms, 0.99),
        max_ms=max(gaps_ms),
        memory_mb=0,
    )
