"""A node that is killed under a consumer: what it held is settled, and nothing comes twice."""

import asyncio
from datetime import timedelta
from pathlib import Path

from sandglass import AsyncClient, Message
from sandglass.client.received import AsyncReceived
from sandglass.testing.process import NodeProcess

DEADLINE_S = 60.0
GRACE = "--session_grace=30s"
"""A node waits for its consumers for longer than a loaded machine takes to start one."""


async def test_a_consumer_goes_on_with_what_it_held_when_its_node_was_killed(
    tmp_path: Path,
) -> None:
    sent = [b"%d" % number for number in range(150)]
    async with (
        asyncio.timeout(DEADLINE_S),
        NodeProcess(tmp_path / "data", flags=[GRACE]) as node,
        AsyncClient(node.address, timeout=timedelta(seconds=DEADLINE_S)) as client,
    ):
        await client.create_topic("t")
        await client.produce_many("t", [Message(value) for value in sent])
        async with client.consume("t", group="g", consumer="c") as consumer:
            messages = aiter(consumer)
            held = [await anext(messages) for _ in range(100)]
            await held[0].ack(wait=True)
            first = [message.ack() for message in held[1:50]]  # some of them under way
            port = node.grpc_port
            node.kill()
            await node.wait()
            await asyncio.gather(*first)
            for message in held[50:75]:
                await message.nack()
            await node.start(grpc_port=port)
            for message in held[75:]:
                await message.ack()
            later: list[AsyncReceived] = []
            while len(later) < 75:
                later.append(await anext(messages))
                await later[-1].ack()
            await later[-1].ack(wait=True)
        (group,) = await client.list_groups("t")
        async with client.consume("t", group="g", drain=True) as messages:
            assert [] == [message.value async for message in messages]

    came = [(message.value, message.attempt) for message in (*held, *later)]
    again = [(value, 2) for value in sent[50:75]]
    assert sorted([*((value, 1) for value in sent), *again]) == sorted(came)
    assert (150, 0, 0) == (group.acked_count, group.dead_count, group.retry_count)
