"""
The gRPC server: both packages, health and reflection on one port.

    surface = await serve(broker, "127.0.0.1:7170", session=sessions.serve)
    ...
    await surface.stop(grace_s=10)
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_health.v1._async import (  # pyright: ignore[reportMissingImports]  # no stubs
    HealthServicer,
)
from grpc_reflection.v1alpha import reflection

from sandglass.broker.broker import Broker
from sandglass.core import limits
from sandglass.errors import InvalidError, PreconditionError, UnsupportedError
from sandglass.rpc import admin, calls, compat, keyvalue
from sandglass.rpc.bounds import Bounds
from sandglass.rpc.forwarding import known
from sandglass.rpc.guarding import Guarding
from sandglass.rpc.pacing import paced
from sandglass.security.access import Access
from sandglass.security.tls import TlsParts
from sandglass.surface.consume import Consuming
from sandglass.surface.files import file_count_max
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.surface.producing import Producing
from sandglass.wire.v1 import broker_pb2 as pb

V1_BROKER = pb.DESCRIPTOR.services_by_name["Broker"]

_NAMES: Final = (
    compat.BROKER_SERVICE.full_name,
    compat.INTERNAL_SERVICE.full_name,
    admin.SERVICE.full_name,
    keyvalue.SERVICE.full_name,
    V1_BROKER.full_name,
)

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    # Otherwise a second broker would silently share the port, and get half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", limits.REQUEST_BYTES_MAX),
    # Otherwise calls are refused by chance when a connection comes near that number. Now the
    # client keeps them back, as HTTP/2 has it, until others have ended.
    ("grpc.http.overload_protection", 0),
)


@dataclass(slots=True)
class Surface:
    """A server that listens on `port`."""

    port: int
    _server: grpc.aio.Server = field(repr=False)
    _health: HealthServicer = field(repr=False)

    async def drain(self) -> None:
        """Tells those who ask for its health that this node is going down."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float = 0) -> None:
        """Takes no more calls; running ones have `grace_s` seconds, then they are cancelled."""
        await self.drain()
        await self._server.stop(grace_s)


async def serve(
    broker: Broker,
    address: str,
    *,
    session: calls.SessionCall | None = None,
    access: Access | None = None,
    bounds: Bounds | None = None,
    leaders: Leaders = ALONE,
) -> Surface:
    """
    Listens on `address`, `host:port`; port 0 takes a free one.

    Args:
        session: what answers `Broker.Session`; without one it is UNIMPLEMENTED.
        access: the TLS and the tokens that are wanted; without, none.
        bounds: what clients may cost.
        leaders: where calls go on for partitions that other nodes lead.

    Raises:
        PreconditionError: the port is in use, or cannot be listened on.
        InvalidError: not an address.
    """
    access = access or Access()
    interceptors = [] if access.guard is None else [Guarding(access.guard)]
    bounds = bounds or Bounds()
    server = grpc.aio.server(
        options=[*_OPTIONS, *bounds.options(file_count_max())],
        interceptors=interceptors,
        maximum_concurrent_rpcs=bounds.call_count_max,
    )
    server.add_generic_rpc_handlers(_services(broker, leaders, session))
    health_service = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    reflection.enable_server_reflection(
        [*_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME], server
    )
    port = await _listen(server, address, access)
    await server.start()
    for name in ["", *_NAMES]:
        await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
    return Surface(port, server, health_service)


def _services(
    broker: Broker, leaders: Leaders, session: calls.SessionCall | None
) -> list[grpc.GenericRpcHandler]:
    services = (
        *compat.handlers(broker, leaders),
        admin.handler(broker, leaders),
        keyvalue.handler(broker, leaders),
        _v1_broker(broker, leaders, session),
    )
    if leaders is not ALONE:
        services = tuple(known(each, broker.loops) for each in services)
    return [paced(each, broker.outgoing) for each in services]


async def _listen(server: grpc.aio.Server, address: str, access: Access) -> int:
    """The port on which it does."""
    host, port = _host_and_port(address)
    await asyncio.get_running_loop().run_in_executor(None, _check_free, host, port)
    try:
        if access.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(access, access.tls))
    except RuntimeError as error:
        raise PreconditionError(f"cannot listen on {address}: {error}") from error


def _v1_broker(
    broker: Broker, leaders: Leaders, session: calls.SessionCall | None
) -> grpc.GenericRpcHandler:
    producing, consuming = Producing(broker, leaders), Consuming(broker, leaders)
    handlers = {
        "Session": calls.session(session or _no_session),
        "Produce": calls.unary(
            pb.ProduceRequest.FromString, producing.produce, bytes_max=limits.REQUEST_BYTES_MAX
        ),
        "Consume": calls.unary(pb.ConsumeRequest.FromString, consuming.consume),
        "Settle": calls.unary(pb.SettleRequest.FromString, consuming.settle),
        "ExtendLeases": calls.unary(pb.ExtendLeasesRequest.FromString, consuming.extend_leases),
        "Fetch": calls.unary(pb.FetchRequest.FromString, consuming.fetch),
    }
    return calls.serviced(V1_BROKER, handlers)


async def _no_session(frames: AsyncIterator[bytes], context: calls.Context) -> None:
    raise UnsupportedError("this node has no sessions")


def _credentials(access: Access, tls: TlsParts) -> grpc.ServerCredentials:
    """gRPC asks at each handshake, from a thread of its own, whether there is something new."""
    current, configuration = tls, _configuration(tls)

    def fetch() -> grpc.ServerCertificateConfiguration:
        nonlocal current, configuration
        if access.tls is not None and access.tls is not current:
            current, configuration = access.tls, _configuration(access.tls)
        return configuration

    return grpc.dynamic_ssl_server_credentials(
        configuration, fetch, require_client_authentication=tls.client_ca is not None
    )


def _configuration(tls: TlsParts) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(tls.key, tls.certificate)], root_certificates=tls.client_ca
    )


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidError(f"{address!r} is not an address; give host:port", field="address")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _check_free(host: str, port: int) -> None:
    """gRPC doesn't say why it cannot listen; the system does."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PreconditionError(f"port {port} on {host} is in use") from error
        raise PreconditionError(
            f"cannot listen on port {port} of {host}: {error.strerror or error}"
        ) from error
