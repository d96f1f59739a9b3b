"""
One consumer of the demo, in a process of its own: `python -m demo.gate ADDRESS TOPIC NAME`.

Writes a line of JSON for each message it is given, with the time of its own clock, and acks it.
Ends when its standard input does, so that it never outlives the demo.
"""

import asyncio
import json
import sys
import time

from sandglass import AsyncClient

GROUP = "gates"


async def consume(address: str, topic: str, name: str) -> None:
    """Consumes until cancelled."""
    async with AsyncClient(address) as client:
        async for message in client.consume(topic, group=GROUP, consumer=name):
            received_us = time.time_ns() // 1000
            line = {"received_us": received_us, "value": message.value.decode()}
            print(json.dumps(line), flush=True)
            await message.ack()


async def consume_until_told(address: str, topic: str, name: str) -> None:
    """Consumes until standard input ends."""
    consuming = asyncio.create_task(consume(address, topic, name))
    asyncio.get_running_loop().add_reader(sys.stdin, consuming.cancel)
    try:
        await consuming
    except asyncio.CancelledError:
        if not consuming.cancelled():
            raise


if __name__ == "__main__":
    asyncio.run(consume_until_told(*sys.argv[1:4]))
