"""Functions called by topic, on asyncio: `python examples/async_mux.py [ADDRESS]`."""

import asyncio
import signal
import sys
from contextlib import suppress
from datetime import timedelta

from sandglass import AsyncClient, AsyncMux, AsyncReceived, ConflictError, Retry

TOPICS = ("async-emails", "async-invoices")


async def main(address: str = "127.0.0.1:7170") -> None:
    async with AsyncClient(address) as client:
        for topic in TOPICS:
            with suppress(ConflictError):  # it may be there already
                await client.create_topic(topic)
        mux = AsyncMux(client, group="office", concurrency=4)

        @mux.on("async-emails", retry=Retry(timedelta(milliseconds=100)))
        async def send(message: AsyncReceived) -> None:
            if message.attempt == 1:
                raise ConnectionError("the mail server is away")  # again, 100 ms later
            print(f"sent: {message.value.decode()}, attempt {message.attempt}")
            await client.produce("async-invoices", message.value)

        async def file(message: AsyncReceived) -> None:
            print(f"filed: {message.value.decode()}")
            mux.stop()  # a real one goes on, until a signal comes

        mux.add("async-invoices", file, concurrency=1)
        await client.produce("async-emails", "to ann")
        await mux.run(signals=[signal.SIGTERM])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
