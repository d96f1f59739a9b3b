"""
A client at work, in a process of its own: either face of it, on the same work.

    python -m bench.face async|sync produce|consume|futures|callers ADDRESS TOPIC COUNT

It prints how long the work took and what CPU time, as JSON. Both faces run on asyncio's own
loop. What goes out and comes in is summed up, so that the line can check it.
"""

import asyncio
import json
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from crc32c import crc32c

import sandglass
from bench import load

CREDIT_COUNT = 20_000
IN_FLIGHT = 1000
"""Futures that one caller has on their way."""

CALLER_COUNT = 32
"""Tasks or threads, each waiting for its answer before it goes on."""


class Clock:
    """Time and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._start = self._now()

    def spent(self) -> dict[str, float]:
        seconds, cpu_s = (
            now - then for now, then in zip(self._now(), self._start, strict=True)
        )
        return {"seconds": seconds, "cpu_s": cpu_s}

    def _now(self) -> tuple[float, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return time.monotonic(), usage.ru_utime + usage.ru_stime


def main() -> None:
    face, work, address, topic, count = sys.argv[1:]
    if face == "async":
        result = asyncio.run(ASYNC[work](address, topic, int(count)))
    else:
        result = SYNC[work](address, topic, int(count))
    print(json.dumps(result))


# --- asyncio ----------------------------------------------------------------------------------


@asynccontextmanager
async def _async(address: str) -> AsyncIterator[sandglass.AsyncClient]:
    """A client that is connected."""
    async with sandglass.AsyncClient(address) as client:
        await client.list_topics()
        yield client


async def _async_produce(address: str, topic: str, count: int) -> dict[str, Any]:
    source = load.values(count)
    async with _async(address) as client:
        clock = Clock()
        await client.produce_many(topic, source)
        return clock.spent()


async def _async_consume(address: str, topic: str, count: int) -> dict[str, Any]:
    total = came_count = 0
    clock = Clock()
    async with _async(address) as client:
        async for message in client.consume(topic, group="async", credit=CREDIT_COUNT):
            total += crc32c(message.value)
            came_count += 1
            await message.ack()
            if came_count == count:
                break
    return {**clock.spent(), "sum": total}


async def _async_futures(address: str, topic: str, count: int) -> dict[str, Any]:
    source = load.values(count)
    flying: deque[asyncio.Future[sandglass.Receipt]] = deque()
    async with _async(address) as client:
        clock = Clock()
        for value in source:
            if len(flying) == IN_FLIGHT:
                await flying.popleft()
            flying.append(await client.produce_nowait(topic, value))
        await asyncio.gather(*flying)
        return clock.spent()


async def _async_callers(address: str, topic: str, count: int) -> dict[str, Any]:
    source = iter(load.values(count))

    async def call(client: sandglass.AsyncClient) -> None:
        for value in source:
            await client.produce(topic, value)

    async with _async(address) as client:
        clock = Clock()
        await asyncio.gather(*(call(client) for _ in range(CALLER_COUNT)))
        return clock.spent()


# --- threads ----------------------------------------------------------------------------------


@contextmanager
def _sync(address: str) -> Iterator[sandglass.Client]:
    with sandglass.Client(address) as client:
        client.list_topics()
        yield client


def _sync_produce(address: str, topic: str, count: int) -> dict[str, Any]:
    source = load.values(count)
    with _sync(address) as client:
        clock = Clock()
        client.produce_many(topic, source)
        return clock.spent()


def _sync_consume(address: str, topic: str, count: int) -> dict[str, Any]:
    total = came_count = 0
    clock = Clock()
    with _sync(address) as client:
        for message in client.consume(topic, group="sync", credit=CREDIT_COUNT):
            total += crc32c(message.value)
            came_count += 1
            message.ack()
            if came_count == count:
                break
    return {**clock.spent(), "sum": total}


def _sync_futures(address: str, topic: str, count: int) -> dict[str, Any]:
    source = load.values(count)
    flying: deque[Any] = deque()
    with _sync(address) as client:
        clock = Clock()
        for value in source:
            if len(flying) == IN_FLIGHT:
                flying.popleft().result()
            flying.append(client.produce_nowait(topic, value))
        for future in flying:
            future.result()
        return clock.spent()


def _sync_callers(address: str, topic: str, count: int) -> dict[str, Any]:
    source = iter(load.values(count))

    def call(client: sandglass.Client) -> None:
        for value in source:
            client.produce(topic, value)

    with _sync(address) as client:
        clock = Clock()
        threads = [threading.Thread(target=call, args=(client,)) for _ in range(CALLER_COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return clock.spent()


ASYNC = {
    "produce": _async_produce,
    "consume": _async_consume,
    "futures": _async_futures,
    "callers": _async_callers,
}
SYNC = {
    "produce": _sync_produce,
    "consume": _sync_consume,
    "futures": _sync_futures,
    "callers": _sync_callers,
}

if __name__ == "__main__":
    main()
