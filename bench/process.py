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
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def memory_mb(self) -> int:
        """What it has in memory now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
        return 0


@dataclass(slots=True)
class Spent:
    """Time spent since `start`, by the clock, by the server, and by this process."""

    server: Server
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
