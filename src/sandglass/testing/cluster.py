"""
The nodes of a small cluster as processes of their own, to be killed, paused and cut off.

    async with ClusterProcesses(tmp_path, count=3) as cluster:
        cluster.nodes[0].kill()

They run the `sandglass` command on 127.0.0.1. An engine outlives a killed node: it is ended
with the block, or by `kill_engine`. With `is_wired` the nodes reach each other through `wires`,
which can be cut.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from sandglass.testing.engines import free_ports
from sandglass.testing.process import NodeProcess
from sandglass.testing.wires import Wires

JOIN_S_MAX: Final = 60.0


class ClusterProcesses:
    """
    `count` nodes that know each other; the first one founds the cluster. All get `flags`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        count: int = 3,
        is_wired: bool = False,
        flags: Sequence[str] = (),
    ) -> None:
        ports = free_ports(3 * count)
        names = [f"node{number}" for number in range(count)]
        own = {name: ports[3 * number :][:3] for number, name in enumerate(names)}
        self.wires = Wires(names, own)
        self._is_wired = is_wired
        hosts = {name: self.wires.host(name) if is_wired else "127.0.0.1" for name in names}
        self.nodes = [
            NodeProcess(
                directory / name,
                name=name,
                flags=[
                    f"--grpc_port={own[name][0]}",
                    f"--raft_port={own[name][1]}",
                    f"--gossip_port={own[name][2]}",
                    f"--bootstrap_raft={'true' if name == names[0] else 'false'}",
                    f"--advertise_addr={hosts[name]}",
                    *(
                        f"--initial_peers={hosts[other]}:{own[other][2]}"
                        for other in names
                        if other != name
                    ),
                    *flags,
                ],
            )
            for name in names
        ]

    async def __aenter__(self) -> "ClusterProcesses":
        try:
            if self._is_wired:
                await self.wires.__aenter__()
            await asyncio.gather(*[node.start() for node in self.nodes])
            await self.joined(*self.nodes)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def joined(self, *nodes: NodeProcess) -> None:
        """
        Waits until these have joined the cluster, since their last start.

        Raises:
            TimeoutError: they have not.
        """
        async with asyncio.timeout(JOIN_S_MAX):
            for node in nodes:
                while "joined the cluster" not in node.stderr:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    def kill_engine(self, node: NodeProcess) -> None:
        """Ends a node's engine without a word."""
        with suppress(OSError, ValueError):
            os.kill(int((node.data / "engine" / "engine.pid").read_text()), signal.SIGKILL)

    async def _end(self) -> None:
        for node in self.nodes:
            if node.is_running:
                node.resume()
                node.terminate()
        for node in self.nodes:
            if node.was_started:
                try:
                    await node.wait()
                except TimeoutError:
                    node.kill()
            self.kill_engine(node)
        await self.wires.__aexit__(None, None, None)
