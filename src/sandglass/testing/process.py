"""
A node as a process of its own, to be killed, paused, and asked how it ended.

    async with NodeProcess(tmp_path / "data") as node:
        ...
        node.kill()
        await node.wait()
        await node.start()

It runs the `sandglass` command on 127.0.0.1. What it says on stderr is kept, all starts
together, in a file beside its data directory.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sandglass.testing.ports import free_ports

START_S_MAX: Final = 60.0
STOP_S_MAX: Final = 60.0
_POLL_S: Final = 0.01
_COMMAND: Final = ("-m", "sandglass.cli.server")


class NodeEndedError(Exception):
    """The process ended before it served. `code` is its exit code, `text` what it said."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the node ended with {code}: {text}")
        self.code = code
        self.text = text


class NodeProcess:
    """
    A node that is stopped with the `async with` block, if nothing stopped it before.

    Args:
        data: its data directory, kept.
        name: what it calls itself.
        flags: further flags of `sandglass`.
        command: arguments of Python that run it, for a node with faults built in.
        prefix: a command that runs Python, for a node in surroundings of its own.
        stderr_path: where what it says is kept; by default beside `data`.
    """

    def __init__(
        self,
        data: Path,
        *,
        name: str = "test",
        flags: Sequence[str] = (),
        command: Sequence[str] = _COMMAND,
        prefix: Sequence[str] = (),
        stderr_path: Path | None = None,
    ) -> None:
        self.data = data
        self.name = name
        self.flags = list(flags)
        self.command = list(command)
        self.prefix = list(prefix)
        self.stderr_path = stderr_path or data.with_name(data.name + ".stderr")
        self.grpc_port = 0
        self.http_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._said_from = 0

    async def __aenter__(self) -> "NodeProcess":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.is_running:
            return
        self.resume()
        self.terminate()
        try:
            await self.wait()
        except TimeoutError:
            self.kill()
            await self.wait()
            raise

    @property
    def address(self) -> str:
        """`host:port` of its gRPC listener."""
        assert self.grpc_port, "it has not served yet"
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def pid(self) -> int:
        """Of the process, running or not."""
        assert self._process is not None
        return self._process.pid

    @property
    def was_started(self) -> bool:
        """There is a process, or was one."""
        return self._process is not None

    @property
    def is_running(self) -> bool:
        """It was started, and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def stderr(self) -> str:
        """What it has said since the last start."""
        with self.stderr_path.open("rb") as file:
            file.seek(self._said_from)
            return file.read().decode(errors="replace")

    @property
    def memory_bytes(self) -> int:
        """What it holds in memory now, shared pages included."""
        fields = Path(f"/proc/{self.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    async def start(self, *, grpc_port: int = 0) -> None:
        """
        Starts it, and waits until it serves: on a free port, if none is given, which nobody
        else takes while it is away.

        Raises:
            NodeEndedError: it ended instead.
            TimeoutError: it does neither.
        """
        assert not self.is_running, "it runs already"
        self.spawn(grpc_port=grpc_port)
        async with asyncio.timeout(START_S_MAX):
            while not (line := self._line("serving")):
                code = self._code()
                if code is not None:
                    raise NodeEndedError(code, self.stderr)
                await asyncio.sleep(_POLL_S)
        self.grpc_port = int(line["grpc"].rpartition(":")[2])
        self.http_port = int(line["http"].rpartition(":")[2])

    def spawn(self, *, grpc_port: int = 0) -> None:
        """Starts it, and waits for nothing."""
        self._said_from = self.stderr_path.stat().st_size if self.stderr_path.exists() else 0
        arguments = [
            *self.command,
            f"--data={self.data}",
            f"--grpc_port={grpc_port or free_ports(1)[0]}",
            "--http_port=0",
            "--bind_addr=127.0.0.1",
            f"--name={self.name}",
            "--log_format=json",
            *self.flags,
        ]
        with self.stderr_path.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={name: os.environ[name] for name in os.environ if _is_wanted(name)},
            )

    def kill(self) -> None:
        """Ends it without a word, as a power cut would, the disk's cache apart."""
        self._signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Asks it to stop."""
        self._signal(signal.SIGTERM)

    @property
    def engine_pid(self) -> int:
        """
        Of the process that is its engine, or was.

        Raises:
            OSError, ValueError: it hasn't said so yet.
        """
        return int((self.data / "engine" / "engine.pid").read_text())

    def kill_engine(self) -> None:
        """Ends its engine without a word."""
        with suppress(OSError, ValueError):
            os.kill(self.engine_pid, signal.SIGKILL)

    def pause(self) -> None:
        """Stops it in the middle of whatever it does."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    async def wait(self, deadline_s: float = STOP_S_MAX) -> int:
        """
        Waits for its end; returns the exit code, below 0 for a signal.

        Raises:
            TimeoutError: it goes on.
        """
        async with asyncio.timeout(deadline_s):
            while (code := self._code()) is None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(_POLL_S)
        return code

    def _code(self) -> int | None:
        assert self._process is not None, "it was never started"
        return self._process.poll()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it was never started"
        self._process.send_signal(number)

    def _line(self, message: str) -> dict[str, Any] | None:
        for line in self.stderr.splitlines():
            if line.startswith("{") and line.endswith("}"):
                fields = json.loads(line)
                if fields.get("message") == message:
                    return fields
        return None


def _is_wanted(name: str) -> bool:
    """The caller's own settings of Sandglass are no business of a test."""
    return not name.startswith("SANDGLASS_")
