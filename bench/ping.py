"""
A small producer in a process of its own, to see what others notice of a load.

    python -m bench.ping ADDRESS TOPIC SECONDS

It produces ten messages, waits for the answer and for 10 ms, and does it again; at the end it
prints when each began (Unix seconds) and how long its answer took (ms), as JSON.
"""

import asyncio
import json
import os
import sys
import time

import uvloop

from bench import load

MESSAGE_COUNT = 10
PAUSE_S = 0.01


async def _ping(address: str, topic: str, seconds: float) -> None:
    request = load.produce_request(topic, load.encode(load.values(MESSAGE_COUNT)))
    took_ms: list[tuple[float, float]] = []
    async with load.Session(address) as session:
        await session.create_topic(topic)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            began, began_ns = time.time(), time.monotonic_ns()
            session.post_request(len(took_ms) + 1, request)
            frame = await session.read()
            if any(reply.HasField("error") for reply in frame.produces):
                raise load.WrongError("a ping was refused")
            took_ms.append((began, (time.monotonic_ns() - began_ns) / 1e6))
            await asyncio.sleep(PAUSE_S)
        print(json.dumps(took_ms), flush=True)
        # Threads of gRPC have crashed this process while its connection was closed, and while
        # the interpreter went down under them: the system closes both.
        os._exit(0)


if __name__ == "__main__":
    uvloop.run(_ping(sys.argv[1], sys.argv[2], float(sys.argv[3])))
