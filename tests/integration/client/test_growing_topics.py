"""A topic gets more partitions while it is produced to and consumed from."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sandglass import AsyncClient, AsyncReceived, InvalidError, PreconditionError
from sandglass.testing.broker import Broker
from tests.integration.client.proxy import Proxy

DEADLINE_S = 60
KEY_COUNT = 40


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as found, asyncio.timeout(DEADLINE_S):
        yield found


async def produce(client: AsyncClient, prefix: str) -> set[str]:
    """A message for each key; returns their values."""
    values = {f"{prefix}-{key}" for key in range(KEY_COUNT)}
    for value in sorted(values):
        await client.produce("t", value.encode(), key=value.split("-")[1].encode())
    return values


async def take(messages: AsyncIterator[AsyncReceived], wanted: set[str]) -> list[AsyncReceived]:
    """Takes and acks until all of these have come, each once."""
    found: list[AsyncReceived] = []
    left = set(wanted)
    while left:
        message = await anext(messages)
        left.remove(message.value.decode())
        found.append(message)
        await message.ack()
    return found


async def test_who_reads_all_of_a_topic_reads_what_it_gets(broker: Broker) -> None:
    async with AsyncClient(broker.address) as client:
        await client.create_topic("t", partitions=1)
        messages = aiter(client.consume("t", group="g"))
        before = await take(messages, await produce(client, "before"))

        topic = await client.admin.set_topic("t", partitions=3)
        after = await take(messages, await produce(client, "after"))
        await client.admin.set_topic("t", partitions=4)
        last = await take(messages, await produce(client, "last"))

        assert {topic.partitions[0]} == {each.partition for each in before}
        assert set(topic.partitions) == {each.partition for each in after}
        assert len({each.partition for each in last}) == 4


async def test_keys_that_do_not_move_to_a_new_partition_stay(broker: Broker) -> None:
    async with AsyncClient(broker.address) as client:
        before = await client.create_topic("t", partitions=3)
        old = {n: await client.produce("t", b"x", key=b"%d" % n) for n in range(KEY_COUNT)}
        after = await client.admin.set_topic("t", partitions=4)
        new = {n: await client.produce("t", b"x", key=b"%d" % n) for n in range(KEY_COUNT)}

    assert before.partitions == after.partitions[:3]
    moved = [n for n in range(KEY_COUNT) if old[n].partition != new[n].partition]
    assert {new[n].partition for n in moved} == {after.partitions[3]}
    assert 0 < len(moved) < KEY_COUNT // 2


async def test_who_was_away_meanwhile_is_told() -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        Broker(session_grace_ms=60_000) as broker,
        Proxy(broker.address) as proxy,
        AsyncClient(proxy.address) as client,
        AsyncClient(broker.address) as other,
    ):
        await client.create_topic("t", partitions=1)
        messages = aiter(client.consume("t", group="g"))
        held = await other.produce("t", b"held")
        first = await anext(messages)
        proxy.is_refusing = True
        proxy.cut()

        await other.admin.set_topic("t", partitions=4)
        wanted = await produce(other, "x")
        proxy.is_refusing = False

        assert held.partition == first.partition
        await first.ack(wait=True)
        assert len({each.partition for each in await take(messages, wanted)}) == 4


async def test_who_named_partitions_reads_those_alone(broker: Broker) -> None:
    async with AsyncClient(broker.address) as client:
        topic = await client.create_topic("t", partitions=2)
        named = aiter(client.consume("t", group="g", partitions=topic.partitions))
        await client.produce("t", b"first", partition=topic.partitions[0])
        await (await anext(named)).ack(wait=True)

        grown = await client.admin.set_topic("t", partitions=3)
        await client.produce("t", b"new", partition=grown.partitions[2])
        await client.produce("t", b"old", partition=grown.partitions[1])

        assert b"old" == (await anext(named)).value


async def test_what_cannot_be_is_refused_with_what_to_do_instead(broker: Broker) -> None:
    async with AsyncClient(broker.address) as client:
        await client.create_topic("t", partitions=2)
        await client.create_topic("kv", kind="kv", partitions=2)

        with pytest.raises(PreconditionError, match="has 2 partitions, and none can be taken"):
            await client.admin.set_topic("t", partitions=1)
        with pytest.raises(PreconditionError, match="'kv' is a KV topic: with more than its 2"):
            await client.admin.set_topic("kv", partitions=3)
        with pytest.raises(InvalidError, match="partitions"):
            await client.admin.set_topic("t", partitions=1025)

        same = await client.admin.set_topic("kv", partitions=2)
        whole = await client.admin.set_topic("t", partitions=1024)
        assert (2, 1024) == (len(same.partitions), len(whole.partitions))
