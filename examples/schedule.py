"""
Messages due later: `python examples/schedule.py [ADDRESS]`.

Produced in one order, they come in the order of their time, and none comes before it.
"""

import asyncio
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sandglass import AsyncClient, ConflictError


async def main(address: str = "127.0.0.1:7170") -> None:
    async with AsyncClient(address) as client:
        with suppress(ConflictError):  # it may be there already
            await client.create_topic("reminders")

        now = datetime.now(UTC)
        await client.produce("reminders", "third", due_at=now + timedelta(seconds=2))
        await client.produce("reminders", "second", delay=timedelta(seconds=1))
        await client.produce("reminders", "first")
        # Next year costs no more than now: it waits on the disk, not in memory.
        await client.produce("reminders", "next year", due_at=now + timedelta(days=365))

        left_count = 3
        async for message in client.consume("reminders", group="people"):
            late = datetime.now(UTC) - message.due_at
            late_ms = late / timedelta(milliseconds=1)
            print(f"{message.value.decode()}: {late_ms:.1f} ms after it was due")
            await message.ack()
            left_count -= 1
            if not left_count:
                break  # ends the subscription; what was not handled goes back


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
