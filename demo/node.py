"""The demo's node: the `sandglass` command on a free port and a temporary directory."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from sandglass import AsyncClient, UnavailableError

START_S = 30.0
STOP_S = 15.0


class NodeError(Exception):
    """The node didn't start, or ended by itself; the message says what it said."""


@asynccontextmanager
async def running_node() -> AsyncGenerator[str]:
    """
    Starts a node, yields its address, and stops it.

    Raises:
        NodeError: it doesn't serve, or its stop failed.
    """
    with tempfile.TemporaryDirectory(prefix="sandglass-demo-") as name:
        directory = Path(name)
        address = f"127.0.0.1:{_free_port()}"
        with (directory / "node.log").open("wb") as log:
            process = await _start(directory, address, log.fileno())
        try:
            await _until_serving(process, directory, address)
            yield address
        finally:
            await _stop(process)
        if process.returncode != 0:
            raise NodeError(f"the node ended with {process.returncode}: {_said(directory)}")


async def _start(directory: Path, address: str, log: int) -> asyncio.subprocess.Process:
    command = Path(sys.executable).with_name("sandglass")
    # Its own session: Ctrl-C in the terminal is for the demo, which then stops the node. Of the
    # environment only the path, so that nobody's settings reach it.
    return await asyncio.create_subprocess_exec(
        command,
        *("--data", directory / "data", "--name", "demo", "--bind_addr", "127.0.0.1"),
        *("--grpc_port", address.rpartition(":")[2], "--http_port", "0"),
        env={"PATH": os.environ.get("PATH", ""), "HOME": str(directory)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


async def _until_serving(
    process: asyncio.subprocess.Process, directory: Path, address: str
) -> None:
    try:
        async with asyncio.timeout(START_S):
            async with AsyncClient(address, timeout=timedelta(milliseconds=500)) as client:
                while process.returncode is None:
                    try:
                        await client.list_topics()
                        return
                    except UnavailableError:
                        await asyncio.sleep(0.05)
    except TimeoutError:
        raise NodeError(
            f"the node didn't serve within {START_S:.0f} s: {_said(directory)}"
        ) from None
    raise NodeError(f"the node ended with {process.returncode}: {_said(directory)}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _said(directory: Path) -> str:
    return (directory / "node.log").read_text(errors="replace").strip()[-2000:]
