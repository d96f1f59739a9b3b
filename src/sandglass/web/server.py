"""
The HTTP server: routes behind the gate, on connections with bounds.

    surface = await serve(broker, "127.0.0.1", 2108, ...)
    ...
    surface.drain()
    await surface.stop(grace_s=5)
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from uvicorn.config import Config
from uvicorn.server import ServerState

from sandglass.broker.broker import Broker
from sandglass.errors import PreconditionError
from sandglass.ports import Clock
from sandglass.security.access import Access
from sandglass.surface.files import file_count_max
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.telemetry import HttpCounts
from sandglass.web.bounds import Bounds, fitting
from sandglass.web.gate import Gate
from sandglass.web.hosts import Hosts
from sandglass.web.probes import Probes
from sandglass.web.protocol import Connection
from sandglass.web.routes import desks, router, table
from sandglass.web.stream import Streams

BACKLOG: int = 1024
"""Connections that the system keeps until we take them: a flood must not crowd out others."""

HANDSHAKE_S: float = 10.0
"""For TLS, before a connection counts as one."""


@dataclass(slots=True)
class Surface:
    """A server that listens on `port`."""

    port: int
    counts: HttpCounts
    _server: asyncio.Server = field(repr=False)
    _state: ServerState = field(repr=False)
    _gate: Gate = field(repr=False)
    _streams: Streams = field(repr=False)

    def drain(self) -> None:
        """The node is going down: streams end, and only the probes are answered."""
        self._gate.is_draining = True
        self._streams.stop()

    async def stop(self, grace_s: float = 0) -> None:
        """Takes no more requests; running ones have `grace_s`, then they are cancelled."""
        self.drain()
        self._server.close()
        for connection in [*self._state.connections]:
            connection.shutdown()
        tasks = self._state.tasks
        if tasks:
            await asyncio.wait([*tasks], timeout=grace_s)
        for task in [*tasks]:
            task.cancel()
        if tasks:
            await asyncio.wait([*tasks])
        for connection in [*self._state.connections]:
            connection.transport.close()
        await asyncio.sleep(0)
        for connection in [*self._state.connections]:
            connection.transport.abort()


async def serve(
    broker: Broker,
    host: str,
    port: int,
    *,
    clock: Clock,
    scraped: Callable[[HttpCounts], Awaitable[bytes]],
    troubled: Callable[[], str] = lambda: "",
    names: Iterable[str] = (),
    bounds: Bounds | None = None,
    access: Access | None = None,
    leaders: Leaders = ALONE,
) -> Surface:
    """
    Listens on `host` and `port`; port 0 takes a free one.

    Args:
        scraped: the metrics as text, with these counts in them.
        troubled: why the node should get no traffic; empty if it may.
        names: what the node is called, beside `host` and loopback.
        leaders: where requests go on for partitions that other nodes lead.
        access: whom to let in, and with what TLS; everybody, and with none, by default.

    Raises:
        PreconditionError: the port is in use, or cannot be listened on.
    """
    bounds = fitting(bounds or Bounds(), file_count_max())
    streams = Streams()
    state = ServerState()
    counts = HttpCounts(state.connections, streams)
    probes = Probes(
        lambda: "the node is stopping" if gate.is_draining else troubled(),
        lambda: scraped(counts),
    )
    gate = Gate(
        router(table(desks(broker, streams, probes, leaders))),
        bounds=bounds,
        hosts=Hosts(host, names),
        clock=clock,
        counted=counts.answered,
        guard=access.guard if access is not None else None,
    )
    config = Config(
        gate, interface="asgi3", http="h11", ws="none", lifespan="off", log_config=None
    )
    config.load()
    tls = access.https_context() if access is not None else None
    listener = await asyncio.get_running_loop().run_in_executor(None, _listen, host, port)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, bounds, counts.refused),
        sock=listener,
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_S if tls is not None else None,
        backlog=BACKLOG,
    )
    return Surface(listener.getsockname()[1], counts, server, state, gate, streams)


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _unusable(error, host, port) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _unusable(error, host, port) from error
    return listener


def _unusable(error: OSError, host: str, port: int) -> PreconditionError:
    if error.errno == errno.EADDRINUSE:
        return PreconditionError(f"port {port} on {host} is in use", field="http_port")
    return PreconditionError(
        f"cannot listen on port {port} of {host}: {error.strerror or error}", field="http_port"
    )
