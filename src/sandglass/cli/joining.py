"""
What settings of a cluster must be, before a node is started with them.

Each refusal names its setting. What only the others know (is the secret theirs, is the name
free) shows later, and keeps nobody from serving.
"""

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from itertools import combinations
from typing import Final

from sandglass.cli.engine_given import given_of
from sandglass.cluster.engines import GivenConfig
from sandglass.errors import InvalidError, PreconditionError
from sandglass.security.files import read_file
from sandglass.security.reach import LOCAL_NAME, is_loopback
from sandglass.security.tls import TlsFiles, tls_files
from sandglass.settings import PORT_MAX, Settings

SECRET_BYTES_MIN: Final = 16
"""Of a cluster's secret: less can be guessed."""

SECRET_BYTES_MAX: Final = 4096

_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_LISTENERS: Final = ("grpc_port", "http_port")
_ENGINE_LISTENERS: Final = ("raft_port", "gossip_port")


@dataclass(frozen=True, slots=True)
class Joining:
    """
    What a node is to know of the others: their route addresses, or the engine that an operator
    has given it; neither for a node alone. And the cluster's secret. `names_itself` if the list
    of peers had this node in it, too.
    """

    given: GivenConfig | None = None
    peers: tuple[str, ...] = ()
    secret: bytes = field(default=b"", repr=False)
    names_itself: bool = False
    engine_tls: TlsFiles | None = None


def joining_of(settings: Settings) -> Joining:
    """
    Checks the settings of a cluster, and reads its secrets.

    Raises:
        InvalidError: an address is none; the peers are this node alone; two listeners have one
            port; settings don't make sense together; others could reach the engine, and there
            is no secret.
        PreconditionError: others may read a file with a secret; it is too short; or the engine
            is none that we can use.
        NotFoundError: a file can't be read.
    """
    given = given_of(settings)
    if given is not None:
        _check_ports(settings, has_engine=False)
        return Joining(given)
    listed = tuple(dict.fromkeys(map(_checked_peer, settings.initial_peers)))
    peers = tuple(each for each in listed if not _is_own(each, settings))
    if listed and not peers:
        raise InvalidError(
            f"initial_peers names this node alone ({listed[0]}); it takes the other nodes, as"
            " host:port with their gossip_port",
            field="initial_peers",
        )
    _check_ports(settings, has_engine=bool(peers))
    secret = _secret_of(settings)
    if peers and settings.engine_binary is not None:
        # Here, because a node alone doesn't need what it brings.
        from sandglass.adapters.engine import check_version, find_binary

        check_version(find_binary(settings.engine_binary))
    return Joining(
        None,
        peers,
        secret,
        names_itself=peers != listed,
        engine_tls=_engine_tls_of(settings) if peers else None,
    )


def _checked_peer(text: str) -> str:
    """An address in the form in which two that are alike are equal."""
    host, _, port = text.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= PORT_MAX
    if not is_port or not _is_host(host):
        shown = text if len(text) <= 60 else text[:60] + "..."
        raise InvalidError(
            f"initial_peers has {shown!r}; each is to be host:port, the port being the"
            " gossip_port of another node",
            field="initial_peers",
        )
    return f"{host.lower()}:{int(port)}"


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        try:
            ipaddress.IPv6Address(text[1:-1])
        except ValueError:
            return False
        return True
    return _HOST_NAME.fullmatch(text) is not None


def _is_own(peer: str, settings: Settings) -> bool:
    """Whether a peer is this node, as far as the settings tell."""
    host, _, port = peer.rpartition(":")
    return int(port) == settings.gossip_port and _plain(host) in _own_hosts(settings)


def _own_hosts(settings: Settings) -> set[str]:
    bound = _plain(settings.bind_addr)
    hosts = {bound, _plain(settings.advertise_addr)} - {""}
    if bound in {"0.0.0.0", "::"}:
        hosts |= {"127.0.0.1", "::1", socket.gethostname().lower()}
    return hosts


def _plain(host: str) -> str:
    host = host.lower().removeprefix("[").removesuffix("]")
    return "127.0.0.1" if host == LOCAL_NAME else host


def _check_ports(settings: Settings, *, has_engine: bool) -> None:
    names = _LISTENERS + _ENGINE_LISTENERS if has_engine else _LISTENERS
    for one, other in combinations(names, 2):
        port = getattr(settings, one)
        if port and port == getattr(settings, other):
            raise InvalidError(
                f"{other} is {port}, as {one} is; each needs a port of its own", field=other
            )


def _engine_tls_of(settings: Settings) -> TlsFiles | None:
    if not settings.engine_tls:
        return None
    for name in ("tls_cert_file", "tls_key_file", "tls_client_ca_file"):
        if getattr(settings, name) is None:
            raise InvalidError(
                f"engine_tls needs {name}: engines show each other their nodes' certificates",
                field=name,
            )
    return tls_files(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def _secret_of(settings: Settings) -> bytes:
    path = settings.cluster_secret_file
    if path is None:
        is_exposed = bool(settings.initial_peers) and not is_loopback(settings.bind_addr)
        if is_exposed and not settings.insecure:
            raise InvalidError(
                f"bind_addr {settings.bind_addr} is beyond loopback: a cluster there needs"
                " --cluster_secret_file, or --insecure",
                field="cluster_secret_file",
            )
        return b""
    secret = read_file(
        path, what="cluster_secret_file", bytes_max=SECRET_BYTES_MAX, is_private=True
    ).strip()
    if len(secret) < SECRET_BYTES_MIN:
        raise PreconditionError(
            f"cluster_secret_file {path} holds {len(secret)} bytes; a secret has"
            f" {SECRET_BYTES_MIN} at least",
            field="cluster_secret_file",
        )
    return secret
