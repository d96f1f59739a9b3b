"""
The blocks of code in the pages, and a reader who does what they say.

A page is done from top to bottom, against one node and in one temporary directory, as by
somebody who follows it. Nothing in a block is changed but addresses: the ports are free ones.

| block | is |
| --- | --- |
| `sh` that is `sandglass` with flags only | a node, which goes on while the page is read |
| `sh` with `$NODE_PID` | given to a shell, and has stopped the node |
| any other `sh` | given to a shell as it stands; a word on stderr is a failure |
| `python` with `asyncio.run` | a program of its own |
| `python` with tests | given to pytest |
| any other `python` | continues the one before, with a `client` and `await` at the top |

A page that starts no node finds one running.
"""

import ast
import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from inspect import CO_COROUTINE
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any, Final

from sandglass import AsyncClient, Message
from sandglass.testing.ports import free_ports
from tests.tidy.tree import ROOT, name_of, text_of, tracked

ADDRESS: Final = "127.0.0.1:7170"
HTTP_ADDRESS: Final = "127.0.0.1:2108"
BIN: Final = Path(sys.executable).parent
NODE_PID: Final = "$NODE_PID"
STEP_S_MAX: Final = 60.0
PYTEST: Final = (
    *("-q", "-W", "error", "-p", "no:cacheprovider", "--asyncio-mode=auto"),
    *("-o", "asyncio_default_fixture_loop_scope=function"),
)

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is where its fence stands in the page, counted from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page}:{self.line}"

    @property
    def is_node(self) -> bool:
        """Whether it starts a node, and goes on as long as that does."""
        first, *rest = self.text.split()
        is_server = self.language == "sh" and first == "sandglass"
        return is_server and all(each.startswith("-") for each in rest[:1])


def blocks() -> Iterator[Block]:
    """Every fenced block of every page, in order."""
    for path in tracked():
        if path.suffix != ".md":
            continue
        page = text_of(path) or ""
        for found in _FENCE.finditer(page):
            line = page.count("\n", 0, found.start()) + 1
            text = re.sub(f"^{found['indent']}", "", found["text"], flags=re.MULTILINE)
            yield Block(name_of(path), line, found["language"], text.strip())


class Reader:
    """
    Does the blocks of one page; leaves nothing running at the end of the `async with` block.

    Args:
        home: an empty directory, for data and settings.
        has_emails: whether the page takes for granted that there is a topic `emails`, with
            messages and a dead letter in it.
        has_node: whether it starts a node itself, and may do things before.
    """

    def __init__(self, home: Path, *, has_emails: bool, has_node: bool = False) -> None:
        self._home = home
        self._has_node = has_node
        self._has_emails = has_emails
        self._engine_ports = free_ports(2)
        self._node: asyncio.subprocess.Process | None = None
        self._address = self._http_address = ""
        self._client: AsyncClient | None = None
        self._names: dict[str, Any] = {}
        self._sent = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Reader":
        # Otherwise curl takes a refusal for an answer like any other.
        (self._home / ".curlrc").write_text("fail-with-body\n")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._stack.aclose()
            if self._node is not None and kind is None:
                self._node.send_signal(signal.SIGINT)
                async with asyncio.timeout(STEP_S_MAX):
                    assert 0 == await self._node.wait()
        finally:
            if self._node is not None and self._node.returncode is None:
                self._node.terminate()  # with its engine, if it has one
                await self._node.wait()

    async def do(self, block: Block) -> None:
        """
        Does what a block says.

        Raises:
            AssertionError: it failed, or never came to an end.
        """
        if self._node is None and (block.is_node or not self._has_node):
            await self._start(block.text if block.is_node else "sandglass")
            if block.is_node:
                return
        assert not block.is_node, f"{block.place}: a second node; the page has one already"
        text = block.text.replace(ADDRESS, self._address)
        text = text.replace(HTTP_ADDRESS, self._http_address)
        if block.language == "sh":
            await self._run(block, "sh", "-e", "-c", text)
            if NODE_PID in text:
                await self._ended(block)
        elif "asyncio.run(" in text:
            await self._run(block, sys.executable, "-W", "error", "-c", text)
        elif "def test_" in text:
            test = self._home / f"test_{block.line}.py"
            test.write_text(text)
            await self._run(block, BIN / "pytest", *PYTEST, f"--rootdir={self._home}", test)
        else:
            await self._continue(block, text)

    async def _start(self, command: str) -> None:
        self._node = await asyncio.create_subprocess_exec(
            *("sh", "-c", f"exec {command}"),
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=self._environment(),
        )
        assert self._node.stderr is not None
        said: dict[str, Any] = {}
        async with asyncio.timeout(STEP_S_MAX):
            while said.get("message") != "serving":
                line = await self._node.stderr.readline()
                assert line, f"{command} ended"
                said = json.loads(line)
        self._address, self._http_address = said["grpc"], said["http"]
        if self._has_emails:
            async with AsyncClient(self._address) as client:
                await _fill_emails(client)

    async def _ended(self, block: Block) -> None:
        """The page has stopped its node, and may start another one."""
        assert self._node is not None, f"{block.place}: no node to stop"
        async with asyncio.timeout(STEP_S_MAX):
            assert 0 == await self._node.wait(), block.place
        self._node = None

    async def _run(self, block: Block, *command: str | Path) -> None:
        """Runs a command to its end."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=self._environment(),
        )
        try:
            async with asyncio.timeout(STEP_S_MAX):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = f"{block.place}:\n{out.decode()}{err.decode()}"
        assert (process.returncode, err) == (0, b""), said

    async def _continue(self, block: Block, text: str) -> None:
        """
        Runs a snippet among the names of those before it.

        An endless consumer is given something to do, and is stopped when it has done it.
        """
        if self._client is None:
            self._client = await self._stack.enter_async_context(AsyncClient(self._address))
            self._names = _names(self._sent)
        # Anew each time: a snippet may have opened one of this name, and closed it.
        self._names["client"] = self._client
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(text, block.place, "exec", flags=flags, dont_inherit=True)
        if not code.co_flags & CO_COROUTINE:
            exec(code, self._names)
            return
        self._sent.clear()
        task = asyncio.ensure_future(FunctionType(code, self._names)())
        sent = asyncio.ensure_future(self._sent.wait())
        await asyncio.wait(
            {task, sent}, timeout=STEP_S_MAX, return_when=asyncio.FIRST_COMPLETED
        )
        is_over = task.done() or sent.done()
        for each in (task, sent):
            each.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        await asyncio.gather(sent, return_exceptions=True)
        assert is_over, f"{block.place}: it neither ends nor sends"
        if isinstance(results[0], Exception):
            raise AssertionError(block.place) from results[0]

    def _environment(self) -> dict[str, str]:
        """Of somebody who has activated the environment, and has settings for free ports."""
        raft_port, gossip_port = self._engine_ports
        return {
            "SANDGLASS_RAFT_PORT": str(raft_port),
            "SANDGLASS_GOSSIP_PORT": str(gossip_port),
            "HOME": str(self._home),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "SANDGLASS_GRPC_PORT": "0",
            "SANDGLASS_HTTP_PORT": "0",
            "SANDGLASS_DATA": str(self._home / "data"),
            "SANDGLASS_LOG_FORMAT": "json",
            "SANDGLASS_ADDRS": self._address,
            "NODE_PID": "" if self._node is None else str(self._node.pid),
        }


def _names(sent: asyncio.Event) -> dict[str, Any]:
    """What the snippets of a page may use without saying where it comes from."""

    async def send(_: bytes) -> None:
        sent.set()

    return {
        "AsyncClient": AsyncClient,
        "Message": Message,
        "UTC": UTC,
        "asyncio": asyncio,
        "datetime": datetime,
        "os": os,
        "print": lambda *_: None,
        "send": send,
        "time": time,
        "timedelta": timedelta,
    }


async def _fill_emails(client: AsyncClient) -> None:
    await client.create_topic("emails")
    await client.produce_many("emails", [f"{each}" for each in range(20)])
    async for message in client.consume("emails", group="doctor", drain=True):
        await (message.dead("ill") if message.value == b"7" else message.ack())
