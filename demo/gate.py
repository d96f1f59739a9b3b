"""
One consumer of the demo, in a process of its own: `python -m demo.gate TOPIC NAME ADDRESS...`.

Writes a line of JSON for each message that it is given, with the time of its own clock, and one
when its acknowledgement is durable. Ends when its standard input does, so that it never
outlives the demo. Of several addresses, those of a cluster's nodes, any will do.
"""

import asyncio
import json
import logging
import sys
import time

from sandglass import AsyncClient, AsyncReceived, LeaseLostError, UnavailableError

GROUP = "gates"


def quiet_clients() -> None:
    """A killed node is no news to a board that goes on."""
    logging.getLogger("sandglass").setLevel(logging.ERROR)


async def consume(topic: str, name: str, *addresses: str) -> None:
    """Consumes until cancelled."""
    async with AsyncClient(*addresses) as client, asyncio.TaskGroup() as acking:
        async for message in client.consume(topic, group=GROUP, consumer=name):
            _say("received", message)
            acking.create_task(_ack(message))


async def _ack(message: AsyncReceived) -> None:
    try:
        await message.ack(wait=True)
    except (LeaseLostError, UnavailableError):
        return  # a node died over it: if it wasn't taken, the message comes again
    _say("acked", message)


def _say(what: str, message: AsyncReceived) -> None:
    line = {"what": what, "at_us": time.time_ns() // 1000, "value": message.value.decode()}
    print(json.dumps(line), flush=True)


async def consume_until_told(topic: str, name: str, *addresses: str) -> None:
    """Consumes until standard input ends."""
    consuming = asyncio.create_task(consume(topic, name, *addresses))
    asyncio.get_running_loop().add_reader(sys.stdin, consuming.cancel)
    try:
        await consuming
    except asyncio.CancelledError:
        if not consuming.cancelled():
            raise


if __name__ == "__main__":
    quiet_clients()
    asyncio.run(consume_until_told(*sys.argv[1:]))
