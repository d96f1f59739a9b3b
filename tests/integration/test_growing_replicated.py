"""A replicated topic gets more partitions, led anywhere, while it is read through any node."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sandglass import AsyncClient
from tests.integration.several_nodes import SeveralNodes, several_nodes

DEADLINE_S = 60


@pytest.fixture
async def nodes() -> AsyncIterator[SeveralNodes]:
    async with several_nodes() as found, asyncio.timeout(DEADLINE_S):
        yield found


async def test_who_reads_all_of_a_topic_reads_what_it_gets(nodes: SeveralNodes) -> None:
    topic = await nodes.topic("t", partition_count=1)
    async with AsyncClient(nodes.nodes[0].address) as client:
        messages = aiter(client.consume("t", group="g"))
        await client.produce("t", b"0", partition=topic.partitions[0].id)
        found = [await anext(messages)]
        await found[0].ack()

        for _ in range(2):
            topic = await nodes.grow(topic)
            ref = topic.partitions[-1]
            await client.produce("t", ref.id.encode(), partition=ref.id)
            message = await anext(messages)
            found.append(message)
            await message.ack(wait=True)

    assert [ref.id for ref in topic.partitions] == [each.partition for each in found]


async def test_who_was_away_meanwhile_is_told(nodes: SeveralNodes) -> None:
    """Its sessions at the leaders are resumed, and the new partition is asked for then."""
    topic = await nodes.topic("t", partition_count=1)
    first = nodes.nodes[0]
    async with (
        AsyncClient(first.address) as client,
        AsyncClient(nodes.nodes[1].address) as other,
    ):
        messages = aiter(client.consume("t", group="g"))
        await other.produce("t", b"0", partition=topic.partitions[0].id)
        message = await anext(messages)
        assert first.sessions is not None
        (stream,) = (each for each in first.sessions._streams if each._relay is not None)
        stream._is_taken_over.set()  # as if its connection had broken
        topic = await nodes.grow(topic)
        ref = topic.partitions[-1]
        await other.produce("t", b"1", partition=ref.id)

        await message.ack(wait=True)
        assert ref.id == (await anext(messages)).partition
