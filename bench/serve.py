"""
The process under measurement: a node, or a floor in its place.

    python -m bench.serve node DIRECTORY [--clock-ahead-ms N]
    python -m bench.serve file DIRECTORY
    python -m bench.serve empty

It prints its port, and serves until SIGTERM. All kinds run on uvloop with the same settings of
the interpreter, so that they differ in what their handlers do and in nothing else.
"""

import argparse
import asyncio
import cProfile
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from bench.floors import serve_floor
from sandglass.adapters import interpreter
from sandglass.adapters.system import SystemClock
from sandglass.node import Node, NodeConfig

STALL_LOOK_S = 0.002


class AheadClock(SystemClock):
    """A clock that shows a later day: what waits for months is due."""

    __slots__ = ("_ahead_ms",)

    def __init__(self, ahead_ms: int) -> None:
        self._ahead_ms = ahead_ms

    def wall_ms(self) -> int:
        return super().wall_ms() + self._ahead_ms


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serve")
    parser.add_argument("kind", choices=("node", "file", "empty"))
    parser.add_argument("directory", type=Path, nargs="?")
    parser.add_argument("--clock-ahead-ms", type=int, default=0)
    # For a profile of the node's own thread: python -m bench.serve node DIR --profile FILE
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    interpreter.prepare()
    uvloop.run(_serve(options))


class _StallWatch:
    """
    How long the event loop was away at most, by the clock and in CPU time of its thread,
    written to a file at SIGUSR1.

    CPU time leaves out what other processes took, and waits for the interpreter or a disk. It
    may hold up to `STALL_LOOK_S` from before the loop was away.
    """

    def __init__(self, directory: Path | None) -> None:
        self._file = (directory or Path()) / "stall"
        self._stall_s = self._cpu_s = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            planned, cpu_s = loop.time() + STALL_LOOK_S, time.thread_time()
            await asyncio.sleep(STALL_LOOK_S)
            away_s = loop.time() - planned
            self._stall_s = max(self._stall_s, away_s)
            self._cpu_s = max(self._cpu_s, min(away_s, time.thread_time() - cpu_s))

    def report(self) -> None:
        part = self._file.with_suffix(".new")
        part.write_text(f"{self._stall_s * 1000} {self._cpu_s * 1000}")
        part.rename(self._file)
        self._stall_s = self._cpu_s = 0.0


async def _serve(options: argparse.Namespace) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    watch = _StallWatch(options.directory)
    loop.add_signal_handler(signal.SIGUSR1, watch.report)
    watching = asyncio.create_task(watch.run())
    async with _serving(options) as port:
        print(port, flush=True)
        if options.profile is None:
            await stopping.wait()
            watching.cancel()
            return
        # In CPU time of the thread: other processes don't show.
        profile = cProfile.Profile(time.thread_time)
        profile.enable()
        await stopping.wait()
        profile.disable()
        profile.dump_stats(options.profile)


@asynccontextmanager
async def _serving(options: argparse.Namespace) -> AsyncIterator[int]:
    if options.kind != "node":
        path = options.directory / f"floor-{os.getpid()}" if options.kind == "file" else None
        async with serve_floor(path) as port:
            yield port
        return
    clock = AheadClock(options.clock_ahead_ms)
    node = Node(NodeConfig(options.directory / "data", grpc_port=0), clock=clock)
    await node.start()
    try:
        yield node.grpc_port
    finally:
        await node.stop()


if __name__ == "__main__":
    main()
