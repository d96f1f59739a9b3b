"""One message there and back: `python examples/hello.py [ADDRESS]`."""

import asyncio
import sys
from contextlib import suppress

from sandglass import AsyncClient, ConflictError


async def main(address: str = "127.0.0.1:7170") -> None:
    async with AsyncClient(address) as client:
        with suppress(ConflictError):  # it may be there already
            await client.create_topic("greetings")

        receipt = await client.produce("greetings", "hello")
        print(f"produced: index {receipt.index}, offset {receipt.offset}")

        # `drain` ends the loop when nothing is left; without it the loop waits for more.
        async for message in client.consume("greetings", group="readers", drain=True):
            print(f"consumed: {message.value.decode()}, attempt {message.attempt}")
            await message.ack()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
