"""
The engines at the route addresses of a node's peers, as far as they show themselves to anybody.

An engine says who it is as soon as it is connected to, before it asks for a secret: its name
and its group. With TLS it says so to those alone who show a certificate that it takes. That is
enough to say why engines don't come together.
"""

import asyncio
import json
import ssl
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

LOOK_S: Final = 1.0
"""How long a peer may take to say who it is, unless it matters more."""

OURS: Final = "sandglass"
"""What the name of every group of ours begins with."""

LINE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """What answers at a peer's address; `trouble` says why that is no engine, if it isn't."""

    address: str
    trouble: str = ""
    id: str = ""
    name: str = ""
    group: str = ""


async def look_at(
    peers: Iterable[str], *, tls: ssl.SSLContext | None = None, look_s: float = LOOK_S
) -> list[PeerSeen]:
    """Looks at all of them at once; each has so long to say who it is."""
    return [*await asyncio.gather(*(_look_at(peer, tls, look_s) for peer in peers))]


def group_of(seen: Iterable[PeerSeen]) -> str:
    """The group of the first that has one; empty if nobody is there."""
    return next((peer.group for peer in seen if not peer.trouble and peer.group), "")


def why_apart(
    seen: Sequence[PeerSeen], *, own_id: str, name: str, group: str, met: Collection[str]
) -> str:
    """
    For people: what keeps the engines of the peers from this one. Empty if nothing does.

    Args:
        own_id, name, group: of this node's engine.
        met: the names of the engines to which it is connected.
    """
    said: list[str] = []
    for peer in seen:
        if peer.trouble:
            said.append(peer.trouble)
        elif peer.id == own_id:
            said.append(f"{peer.address} is this node itself")
        elif peer.name == name:
            said.append(f"the node at {peer.address} is named {name} as well: names are unique")
        elif peer.group != group:
            said.append(
                f"node {peer.name}, at {peer.address}, is of another cluster, or both have"
                " founded one"
            )
        elif peer.name not in met:
            said.append(
                f"node {peer.name}, at {peer.address}, and this one don't take each other's"
                " secret: cluster_secret_file is to be the same on all nodes"
            )
    return "; ".join(said)


async def _look_at(address: str, tls: ssl.SSLContext | None, look_s: float) -> PeerSeen:
    host, _, port = address.rpartition(":")
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(look_s):
            reader, writer = await asyncio.open_connection(
                host.removeprefix("[").removesuffix("]"),
                int(port),
                limit=LINE_BYTES_MAX,
                ssl=tls,
            )
            return _understood(address, await _first_line(reader))
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or error.reason or "no TLS"
        return PeerSeen(
            address,
            f"{address} and this node don't take each other's certificate ({why}): set"
            " engine_tls on all nodes, with certificates of authorities that all of them have",
        )
    except (OSError, TimeoutError, UnicodeError):
        if writer is None:
            return PeerSeen(address, f"nobody answers at {address}")
        return PeerSeen(
            address, f"{address} says nothing: it is stopped, or has engine_tls, and this not"
        )
    finally:
        if writer is not None:
            writer.transport.abort()  # nothing is to be said, and a good end may take long


async def _first_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        return b""  # longer than any of ours


def _understood(address: str, line: bytes) -> PeerSeen:
    word, _, rest = line.partition(b" ")
    try:
        said = json.loads(rest) if word == b"INFO" else {}
        if str(said.get("cluster", "")).startswith(OURS):
            return PeerSeen(
                address,
                id=str(said["server_id"]),
                name=str(said["server_name"]),
                group=str(said["cluster"]),
            )
    except (ValueError, LookupError, AttributeError):
        pass
    if not line:
        return PeerSeen(address, f"nobody answers at {address}")
    return PeerSeen(address, f"what answers at {address} is no engine of ours")
