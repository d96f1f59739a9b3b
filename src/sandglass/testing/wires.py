"""
The network between the nodes of a cluster on one machine, to be cut: fully, or one way.

    async with Wires(["node0", "node1", "node2"], ports) as wires:
        wires.cut("node0", "node1")      # nothing of node0's reaches node1
        wires.isolate("node2")           # nothing reaches node2, and nothing leaves it
        wires.heal()

Node `n` is told to the others as 127.0.0.(101 + n). There each of its ports is listened on, and
what comes is carried to the same port of 127.0.0.1. A cut holds back what was sent, as a
network does that loses packets: nobody is told, and healed, it goes on.

Who connects says so in the first bytes of an engine's connection, by its node's name. Whoever
doesn't (a call of gRPC) is a stranger: what it sends is held back while its target is isolated.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final

_CHUNK_BYTES: Final = 64 * 1024
_NAME: Final = re.compile(rb'"name":"([^"]*)"')
_ENGINE: Final = re.compile(rb'"server_id":"([^"]*)","server_name":"([^"]*)"')


class Wires:
    """`ports` are those at which each node is reached, by its name."""

    def __init__(self, names: Sequence[str], ports: Mapping[str, Sequence[int]]) -> None:
        self._hosts = {name: f"127.0.0.{101 + number}" for number, name in enumerate(names)}
        self._ports = ports
        self._ids: dict[bytes, str] = {name.encode(): name for name in names}
        """Whose an engine's id is, or its name."""
        self._cuts: set[tuple[str, str]] = set()
        self._changed = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def host(self, name: str) -> str:
        """What the others are told of a node."""
        return self._hosts[name]

    def cut(self, source: str, target: str) -> None:
        """From now on nothing that `source` sends reaches `target`; the way back stays."""
        self._cuts.add((source, target))

    def isolate(self, name: str) -> None:
        """Nothing reaches a node, and nothing leaves it."""
        for other in (*self._hosts, ""):
            if other != name:
                self._cuts |= {(name, other), (other, name)}

    def heal(self) -> None:
        """All that was held back goes on."""
        self._cuts.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> "Wires":
        for name, host in self._hosts.items():
            for port in self._ports[name]:
                server = await asyncio.start_server(self._carrier(name, port), host, port)
                self._servers.append(server)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _carrier(self, target: str, port: int):
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            try:
                await self._carry(target, port, reader, writer)
            except (OSError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        return carry

    async def _carry(
        self, target: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        caller = _Caller()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, caller, target, is_in=True))
                group.create_task(self._pump(far_reader, writer, caller, target, is_in=False))
        except* OSError:
            pass
        finally:
            far_writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        caller: "_Caller",
        target: str,
        *,
        is_in: bool,
    ) -> None:
        try:
            while data := await reader.read(_CHUNK_BYTES):
                self._ids.update(
                    (found, name.decode()) for found, name in _ENGINE.findall(data)
                )
                if is_in:
                    caller.hear(data)
                elif not caller.is_greeted:
                    # An engine speaks first, then its caller does: who that is, is known then.
                    caller.is_greeted = True
                    writer.write(data)
                    continue
                await self._open(caller, target, is_in=is_in)
                writer.write(data)
                await writer.drain()
        finally:
            with suppress(OSError, RuntimeError):
                writer.close()

    async def _open(self, caller: "_Caller", target: str, *, is_in: bool) -> None:
        while self._is_cut(caller, target, is_in=is_in):
            await self._changed.wait()

    def _is_cut(self, caller: "_Caller", target: str, *, is_in: bool) -> bool:
        name = self._ids.get(caller.said, "")
        return ((name, target) if is_in else (target, name)) in self._cuts


class _Caller:
    """Who has connected, as far as it has said: a client its name, an engine its id."""

    def __init__(self) -> None:
        self.said = b""
        self.is_greeted = False
        self._heard = b""

    def hear(self, data: bytes) -> None:
        """Looks for the first name; further ones are others', passed on."""
        if not self.said and len(self._heard) < _CHUNK_BYTES:
            self._heard += data
            found = _NAME.search(self._heard)
            self.said = found.group(1) if found else b""
