"""The process under measurement, from outside: started, stopped, and its CPU time read."""

import asyncio
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

ROOT = Path(__file__).parents[1]
STOP_S_MAX = 20
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Server:
    """
    A `bench.serve` process.

        async with Server("node", directory) as server:
            ...
    """

    def __init__(self, kind: str, directory: Path, *arguments: str) -> None:
        self._command = [sys.executable, "-m", "bench.serve", kind, str(directory), *arguments]
        self._stall_file = directory / "stall"
        self._process: asyncio.subprocess.Process | None = None
        self.address = ""

    async def __aenter__(self) -> "Server":
        self._process = await asyncio.create_subprocess_exec(
            *self._command, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self._command)} did not start")
        self.address = f"127.0.0.1:{int(line)}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(process.wait(), STOP_S_MAX)
        except TimeoutError:
            process.kill()
            code = await process.wait()
        if code and error is None:
            raise RuntimeError(f"{' '.join(self._command)} ended with code {code}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu_s(self) -> float:
        """CPU time of all its threads so far."""
        return self.cpu_s_of(self.pid)

    @staticmethod
    def cpu_s_of(pid: int) -> float:
        """As `cpu_s`, of any process."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def memory_mb(self) -> int:
        """What it has in memory now."""
        return memory_mb_of(self.pid)

    async def stall_ms(self) -> dict[str, float]:
        """
        How long its event loop was away at most, since this was last asked for: by the clock
        (`stall_ms`), and in CPU time of its thread (`stall_cpu_ms`).
        """
        assert self._process is not None
        self._stall_file.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGUSR1)
        async with asyncio.timeout(STOP_S_MAX):
            while not self._stall_file.exists():
                await asyncio.sleep(0.005)
        stall_ms, cpu_ms = self._stall_file.read_text().split()
        return {"stall_ms": float(stall_ms), "stall_cpu_ms": float(cpu_ms)}


def memory_mb_of(pid: int) -> int:
    """What a process has in memory now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


class Measured(Protocol):
    """A process whose time is taken."""

    def cpu_s(self) -> float: ...
    def memory_mb(self) -> int: ...


@dataclass(slots=True)
class Spent:
    """Time spent since `start`, by the clock, by the server, and by this process."""

    server: Measured
    seconds: float = 0.0
    server_s: float = 0.0
    client_s: float = 0.0
    memory_mb: int = 0
    """What the server has in memory at the end."""

    def start(self) -> None:
        self.seconds, self.server_s, self.client_s = self._now()

    def stop(self) -> None:
        before = self.seconds, self.server_s, self.client_s
        after = self._now()
        self.seconds, self.server_s, self.client_s = (
            late - early for early, late in zip(before, after, strict=True)
        )
        self.memory_mb = self.server.memory_mb()

    def _now(self) -> tuple[float, float, float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        client_s = usage.ru_utime + usage.ru_stime
        return time.monotonic(), self.server.cpu_s(), client_s
