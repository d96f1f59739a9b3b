"""
The nodes of a small cluster as processes of their own, to be killed, paused and cut off.

    async with ClusterProcesses(tmp_path, count=3) as cluster:
        cluster.nodes[0].kill()

They run the `sandglass` command on 127.0.0.1. An engine outlives a killed node: it is ended
with the block, or by `kill_engine`.
"""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from sandglass.testing.engines import free_ports
from sandglass.testing.process import NodeProcess

JOIN_S_MAX: Final = 60.0


class ClusterProcesses:
    """`count` nodes that know each other; the first one founds the cluster."""

    def __init__(self, directory: Path, *, count: int = 3) -> None:
        ports = free_ports(2 * count)
        clients, routes = ports[:count], ports[count:]
        self.nodes = [
            NodeProcess(
                directory / f"node{number}",
                name=f"node{number}",
                flags=[
                    f"--raft_port={clients[number]}",
                    f"--gossip_port={routes[number]}",
                    f"--bootstrap_raft={'true' if number == 0 else 'false'}",
                    *(
                        f"--initial_peers=127.0.0.1:{port}"
                        for port in routes
                        if port != routes[number]
                    ),
                ],
            )
            for number in range(count)
        ]

    async def __aenter__(self) -> "ClusterProcesses":
        try:
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
