"""What a backup holds: the copy of a stopped node's directory, opened at another place."""

import shutil
from datetime import timedelta
from pathlib import Path

from sandglass import AsyncClient
from sandglass.testing import Broker


async def test_a_copy_has_everything_and_the_original_is_another_node(tmp_path: Path) -> None:
    data, copied = tmp_path / "data", tmp_path / "elsewhere" / "copy"
    async with Broker(data=data) as broker, AsyncClient(broker.address) as client:
        await client.create_topic("t")
        await client.create_topic("kv", kind="kv")
        await client.put("kv", "key", "before")
        await client.produce_many("t", [f"{number}" for number in range(10)])
        await client.produce("t", "pending", delay=timedelta(hours=1))
        async with client.consume("t", group="g", drain=True) as messages:
            async for message in messages:
                await (message.dead("ill") if message.value == b"3" else message.ack())
        await client.produce("t", "not settled")
    shutil.copytree(data, copied)

    async with Broker(data=data) as broker, AsyncClient(broker.address) as client:
        await client.put("kv", "key", "after")
        await client.produce("t", "after")
    async with Broker(data=copied) as broker, AsyncClient(broker.address) as client:
        entry = await client.get("kv", "key")
        values: list[bytes] = []
        async with client.consume("t", group="g", drain=True) as messages:
            async for message in messages:
                values.append(message.value)
                await message.ack()
        pending = await client.admin.count_pending("t")
        dead = await client.admin.count_dead_letters("t")

    assert entry is not None
    assert b"before" == entry.value
    assert [b"not settled"] == values
    assert (1, 1) == (pending.count, dead.count)
