"""Both faces of the client on the same work, one after the other, a process each."""

import asyncio
import json
import sys
from typing import Any

import sandglass
from bench import load
from bench.lines import NODE, Bench, Figure
from bench.load import WrongError
from bench.process import ROOT, Server

FACES = ("async", "sync")
PART_TO_REACH = 0.7
"""Of the asyncio client's rate."""


async def faces(bench: Bench) -> list[Figure]:
    """
    `Client` beside `AsyncClient`: batches out (`produce_many`) and in (`for`, each message
    acknowledged by itself), and single messages: a thousand in flight from one caller, and one
    each from 32 callers. The notes of `Client` say which part of the other's rate it has.
    """
    sizes = bench.sizes
    counts = {
        "produce": sizes.client_produce_count,
        "consume": sizes.client_consume_count,
        "futures": sizes.client_single_count,
        "callers": sizes.client_single_count // 2,
    }
    figures: list[Figure] = []
    for work, count in counts.items():
        async with bench.server(NODE, f"faces-{work}") as server:
            await _prepare(server, work, count)
            pair = [await _measure(server, face, work, count) for face in FACES]
        pair[1].notes["part"] = pair[1].rate / pair[0].rate
        figures += pair
    return figures


async def _prepare(server: Server, work: str, count: int) -> None:
    async with sandglass.AsyncClient(server.address) as client:
        for face in FACES:
            await client.create_topic(face)
            if work == "consume":
                await client.produce_many(face, load.values(count))


async def _measure(server: Server, face: str, work: str, count: int) -> Figure:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.face", face, work, server.address, face, str(count)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    cpu_s = server.cpu_s()
    said, _ = await process.communicate()
    if process.returncode:
        raise WrongError(f"the {face} client ended with code {process.returncode}")
    spent: dict[str, Any] = json.loads(said)
    await _check(server, face, work, count)
    name = "AsyncClient" if face == "async" else "Client"
    return Figure(
        line=f"{name} {work}",
        kind=NODE,
        count=count,
        seconds=spent["seconds"],
        server_us=(server.cpu_s() - cpu_s) / count * 1e6,
        client_us=spent["cpu_s"] / count * 1e6,
        latency="",
        p50_ms=0.0,
        p99_ms=0.0,
        max_ms=0.0,
        memory_mb=server.memory_mb(),
        notes={},
    )


async def _check(server: Server, face: str, work: str, count: int) -> None:
    async with sandglass.AsyncClient(server.address) as client:
        if work == "consume":
            (status,) = await client.list_groups(face, face)
            done_count = status.acked_count
        else:
            shown = await client.show_topic(face)
            done_count = sum(each.message_count for each in shown.partitions)
    if done_count != count:
        raise WrongError(f"{work} of {face} was done {done_count} times of {count}")
