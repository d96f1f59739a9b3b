"""
What becomes of a message that nobody can handle: `python examples/dead_letters.py [ADDRESS]`.

After as many failed attempts as its topic allows it leaves the group and becomes a dead
letter, in one step. Dead letters are read like any other channel, with what they were and why
they died.
"""

import asyncio
import json
import sys
from contextlib import suppress

from sandglass import AsyncClient, AsyncReceived, ConflictError

DEAD_LETTERS = "__death_letter"
ATTEMPT_COUNT = 3


async def bill(message: AsyncReceived) -> bool:
    """Settles a message; False if it comes again. `wait` is until the outcome is durable."""
    try:
        order = json.loads(message.value)
    except ValueError as error:
        print(f"attempt {message.attempt} failed: {message.value.decode()}")
        await message.nack(reason=str(error), wait=True)
        return message.attempt == ATTEMPT_COUNT
    if "x" in order:
        await message.dead("field x is unknown", wait=True)  # no use in trying again
    else:
        print(f"order {order['id']} done")
        await message.ack(wait=True)
    return True


async def main(address: str = "127.0.0.1:7170") -> None:
    async with AsyncClient(address) as client:
        with suppress(ConflictError):  # it may be there already
            await client.create_topic("orders", max_deliveries=ATTEMPT_COUNT)
        orders = [b'{"id": 1}', b"not json", b'{"id": 3, "x": 0}']
        await client.produce_many("orders", orders)

        left_count = len(orders)
        async for message in client.consume("orders", group="billing"):
            if await bill(message):
                left_count -= 1
                if not left_count:
                    break

        letters = client.consume("orders", group="on-call", channel=DEAD_LETTERS, drain=True)
        async for message in letters:
            letter = message.dead_letter
            assert letter is not None
            print(
                f"dead letter: {message.value.decode()} of group {letter.group} after"
                f" {letter.attempts} attempts: {letter.reason}"
            )
            await message.ack()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
