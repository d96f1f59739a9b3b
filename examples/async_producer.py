"""
Producing on asyncio, one by one and many at a time.

Run it: `python examples/async_producer.py [ADDRESS]`.
"""

import asyncio
import sys
from contextlib import suppress
from datetime import timedelta

from sandglass import AsyncClient, ConflictError


async def main(address: str = "127.0.0.1:7170") -> None:
    async with AsyncClient(address) as client:
        with suppress(ConflictError):  # it may be there already
            await client.create_topic("payments")

        # Returns when the message is on the disk, and says where it went.
        receipt = await client.produce("payments", "12.50", key="ann")
        print(f"one: partition {receipt.partition}, index {receipt.index}")
        await client.produce("payments", "in a minute", delay=timedelta(minutes=1))

        # Many on their way from one task: they share requests, and each has its own answer.
        futures = [await client.produce_nowait("payments", str(each)) for each in range(100)]
        receipts = await asyncio.gather(*futures)
        print(f"futures: {len({each.index for each in receipts})} answers")

        # Many at hand: large requests, several on their way at a time.
        summary = await client.produce_many("payments", (b"%d" % n for n in range(10_000)))
        print(f"many: {summary.count} messages")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
