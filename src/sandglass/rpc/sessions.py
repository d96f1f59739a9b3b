"""All open streams of a node: who comes, over which connection, and when there is room."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
from collections.abc import AsyncIterator

from sandglass.broker.broker import Broker
from sandglass.errors import BusyError
from sandglass.rpc import calls
from sandglass.rpc.forwarding import Peers
from sandglass.rpc.guarding import admission_of
from sandglass.rpc.relaying.relays import Relays, was_forwarded
from sandglass.rpc.session import SessionStream
from sandglass.security.guard import Guard


class Sessions:
    """
    All open streams of a node.

    Args:
        guard: knows who comes; None where nobody is asked.
        peers: the other nodes, to which goes what they lead; None where there are none.
    """

    def __init__(
        self, broker: Broker, guard: Guard | None = None, peers: Peers | None = None
    ) -> None:
        self.broker = broker
        self._guard = guard
        self._relays = None if peers is None else Relays(broker, peers)
        self._streams: set[SessionStream] = set()
        self._of: dict[str, set[SessionStream]] = {}
        """By connection."""
        self._is_draining = False
        self._resuming: dict[str, asyncio.Task[None]] = {}
        """Connections without room: their sessions hold."""

    async def serve(self, _: AsyncIterator[bytes], context: calls.Context) -> None:
        """Serves one stream until it ends."""
        connection = context.peer()
        owner = "" if self._guard is None else admission_of(self._guard, context).name
        relays = None if was_forwarded(context) else self._relays
        stream = SessionStream(
            self.broker, context, connection, self.crowded, owner=owner, relays=relays
        )
        self._streams.add(stream)
        self._of.setdefault(connection, set()).add(stream)
        if self._is_draining:
            stream.drain()
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
            self._of[connection].discard(stream)
            if not self._of[connection]:
                del self._of[connection]

    def drain(self) -> None:
        """The node is going down: every client is told, who comes later as well."""
        self._is_draining = True
        for stream in self._streams:
            stream.drain()

    def crowded(self, connection: str) -> bool:
        """Is there no more room for this connection? Then its sessions hold until there is."""
        if connection in self._resuming:
            return True
        if self.broker.outgoing.has_room(connection):
            return False
        self._resuming[connection] = asyncio.create_task(self._resume(connection))
        for stream in self._of[connection]:
            stream.hold()
        return True

    async def _resume(self, connection: str) -> None:
        while connection in self._of:
            try:
                await self.broker.outgoing.wait_for(connection)
                break
            except BusyError:
                continue
        del self._resuming[connection]
        for stream in self._of.get(connection, ()):
            stream.go_on()
