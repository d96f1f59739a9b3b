"""
Which names a request may call the node by, and from which pages a browser may send one.

A page of a stranger can make a browser ask `http://stranger.example:2108/...`, with the name
pointing at 127.0.0.1 (DNS rebinding), or ask `http://127.0.0.1:2108/...` outright. The first is
told by the Host header, the second by what browsers say of where a request comes from: Origin,
and Sec-Fetch-Site where there is no Origin. Programs that are no browsers send neither.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


class Hosts:
    """
    The names and addresses of this node.

    Args:
        bind_addr: where it listens. If that is every address, any address will do: rebinding
            needs a name.
        names: further ones: what it is advertised as, and what the settings allow.
    """

    def __init__(self, bind_addr: str, names: Iterable[str] = ()) -> None:
        self._names = LOOPBACK_NAMES | {host_of(each) for each in (bind_addr, *names) if each}
        address = _address(bind_addr)
        self._is_any_address = address is not None and address.is_unspecified

    def is_known(self, authority: str) -> bool:
        """Whether `host` or `host:port` names this node."""
        host = host_of(authority)
        if host in self._names:
            return True
        address = _address(host)
        return address is not None and (self._is_any_address or address.is_loopback)

    def is_own_page(self, origin: str, fetch_site: str) -> bool:
        """Whether a request comes from no page at all, or from one of this node's."""
        if origin:
            scheme, _, authority = origin.partition("://")
            return scheme in {"http", "https"} and self.is_known(authority)
        return fetch_site in {"", "none", "same-origin"}


def host_of(authority: str) -> str:
    """The host of `host:port`, in small letters; an address of IPv6 without its brackets."""
    text = authority.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    if text.count(":") == 1:
        text = text.partition(":")[0]
    return text.removesuffix(".")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
