"""
Three workers share a topic: `python examples/worker_pool.py [ADDRESS]`.

Each message is with one worker at a time. A worker that fails gives its message back with a
delay, and whoever is free is given it then.
"""

import asyncio
import sys
from collections import Counter
from contextlib import suppress
from datetime import timedelta

from sandglass import AsyncClient, AsyncReceived, ConflictError

JOB_COUNT = 30


async def work(message: AsyncReceived) -> None:
    """Every tenth job fails at the first try."""
    if message.value.endswith(b"0") and message.attempt == 1:
        raise ConnectionError("the printer is away")


async def run_worker(name: str, client: AsyncClient, done: Counter[str]) -> None:
    # A small credit: what one worker has not begun can go to the others instead.
    async for message in client.consume("jobs", group="workers", consumer=name, credit=2):
        try:
            await work(message)
        except ConnectionError as error:
            await message.nack(delay=timedelta(milliseconds=200), reason=str(error))
        else:
            await message.ack()
            done[name] += 1
        if done.total() == JOB_COUNT:
            return


async def main(address: str = "127.0.0.1:7170") -> None:
    async with AsyncClient(address) as client:
        with suppress(ConflictError):  # it may be there already
            await client.create_topic("jobs", partitions=3)
        await client.produce_many("jobs", [b"job %d" % n for n in range(JOB_COUNT)])

        done = Counter[str]()
        workers = [
            asyncio.create_task(run_worker(f"worker-{n}", client, done)) for n in (1, 2, 3)
        ]
        # One of them does the last job; the others would wait for more.
        await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    print(f"{done.total()} jobs done by {len(done)} workers")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
