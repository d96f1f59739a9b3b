"""
A node that goes down tells the nodes that relay to it, too: they leave it, and it is gone with
the last of them.
"""

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
import pytest

from sandglass.core.topic import Topic
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, batch, values_of
from tests.integration.several_nodes import OneNode, SeveralNodes, several_nodes

DEADLINE_S = 60
STOP_GRACE_S = 600
"""Longer than a test has: who waits for all of it fails."""


@pytest.fixture
async def nodes() -> AsyncIterator[SeveralNodes]:
    async with several_nodes() as found, asyncio.timeout(DEADLINE_S):
        yield found


@pytest.fixture
async def topic(nodes: SeveralNodes) -> Topic:
    """Partition n is led by node n."""
    return await nodes.topic("t")


@pytest.fixture
async def session(nodes: SeveralNodes) -> AsyncIterator[RawSession]:
    """At the first node, which relays to the others."""
    async with grpc.aio.insecure_channel(nodes.nodes[0].address) as channel:
        session = RawSession(channel, deadline_s=DEADLINE_S)
        await session.hello()
        yield session


def go_down(node: OneNode) -> asyncio.Task[None]:
    """As a node does once it has handed over what it can."""
    node.sessions.drain()
    assert node.grpc is not None
    return asyncio.create_task(node.grpc.stop(STOP_GRACE_S))


async def produce(session: RawSession, topic: Topic, place: int, *values: bytes) -> None:
    request = pb.ProduceRequest(
        request_id=1,
        topic=topic.name,
        partition=topic.partitions[place].id,
        batch=batch(*values),
        count=len(values),
    )
    await session.send(produces=[request])


async def produced(session: RawSession, topic: Topic, place: int, *values: bytes) -> None:
    await produce(session, topic, place, *values)
    assert not (await session.take(pb.ProduceReply)).HasField("error")


async def read(session: RawSession, topic: Topic) -> list[pb.Delivery]:
    """The session holds two messages of each partition."""
    await session.subscribe(topic.name)
    assert not (await session.take(pb.Subscribed)).HasField("error")
    held: list[pb.Delivery] = []
    for place, _ in enumerate(topic.partitions):
        await produced(session, topic, place, b"first", b"second")
        held.append(await session.delivery())
    return held


async def test_a_node_that_has_handed_over_is_left_at_once(
    nodes: SeveralNodes, topic: Topic, session: RawSession
) -> None:
    """What is held of its partitions is held at their next leader."""
    held = await read(session, topic)
    await nodes.take_over(topic.partitions[1], nodes.nodes[2])

    await go_down(nodes.nodes[1])

    assert not (await session.ack(held[1])).HasField("error")
    await produced(session, topic, 1, b"later")
    assert [b"later"] == values_of(await session.delivery())


async def test_a_node_that_leads_on_is_left_once_nothing_of_it_is_held(
    nodes: SeveralNodes, topic: Topic, session: RawSession
) -> None:
    held = await read(session, topic)

    going = go_down(nodes.nodes[1])
    reply = await session.ack(held[1])
    await going

    assert not reply.HasField("error"), reply.error
    await produced(session, topic, 2, b"others go on")


async def test_a_node_that_leads_on_is_left_with_what_is_held_of_it_after_a_while(
    nodes: SeveralNodes, topic: Topic, session: RawSession
) -> None:
    """The next leader is asked for it."""
    held = await read(session, topic)

    await go_down(nodes.nodes[1])
    await nodes.take_over(topic.partitions[1], nodes.nodes[2])

    assert not (await session.ack(held[1])).HasField("error")


async def test_nothing_more_is_produced_to_a_node_that_goes_down(
    nodes: SeveralNodes, topic: Topic, session: RawSession
) -> None:
    """It waits for the next leader: this one might be gone before it answers."""
    held = await read(session, topic)
    going = go_down(nodes.nodes[1])
    # Its answer comes behind its word that it goes down.
    await session.outcome(held[1], pb.OUTCOME_ACK, places=[0, 1])

    await produce(session, topic, 1, b"waits")
    await session.outcome(held[1], pb.OUTCOME_ACK, places=[1, 1])
    await going
    is_answered_early = session.has(pb.ProduceReply)
    await nodes.take_over(topic.partitions[1], nodes.nodes[2])

    assert not is_answered_early
    assert not (await session.take(pb.ProduceReply)).HasField("error")
    assert [b"waits"] == values_of(await session.delivery())
