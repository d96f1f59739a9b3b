"""A consumer's loop on asyncio: `python examples/async_consumer.py [ADDRESS]`."""

import asyncio
import sys
from contextlib import suppress

from sandglass import AsyncClient, ConflictError


async def main(address: str = "127.0.0.1:7170") -> None:
    async with AsyncClient(address) as client:
        with suppress(ConflictError):  # it may be there already
            await client.create_topic("parcels", partitions=2)
        await client.produce_many("parcels", ["books", "shoes", "glass"])

        # Without `partitions` one consumer reads them all; here each has a consumer of its own.
        # `drain` ends a loop when nothing is left; without it the loop waits for more.
        shown = await client.show_topic("parcels")
        await asyncio.gather(*(deliver(client, each.id) for each in shown.partitions))
        # What came back after the first loops had seen the end.
        await asyncio.gather(*(deliver(client, each.id) for each in shown.partitions))


async def deliver(client: AsyncClient, partition: str) -> None:
    messages = client.consume("parcels", group="depot", partitions=[partition], drain=True)
    async for message in messages:
        if message.value == b"glass" and message.attempt == 1:
            await message.nack(reason="not while it rains")  # comes again, as attempt 2
            continue
        print(f"delivered: {message.value.decode()}, attempt {message.attempt}")
        await message.ack()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
