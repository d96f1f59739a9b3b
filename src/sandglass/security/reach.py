"""Who can reach a listener, and what has to be in place before others may."""

import ipaddress
import socket
from typing import Final

LOCAL_NAME: Final = "localhost"


def is_loopback(address: str) -> bool:
    """
    Whether only this machine can reach a listener bound to `address`. A name counts by what it
    resolves to now; one that resolves to nothing doesn't count.
    """
    if _is_loopback_ip(address):
        return True
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(_is_loopback_ip(str(each[4][0])) for each in found)


def is_loopback_text(host: str) -> bool:
    """
    Whether a host to connect to is this machine, by its text alone: an address, or the one name
    that everybody means by it. What other names resolve to, others may decide.
    """
    return host.lower() == LOCAL_NAME or _is_loopback_ip(host)


def exposure_of(address: str, *, has_tls: bool, has_tokens: bool) -> str:
    """
    What to say if others could reach a listener bound to `address` without TLS or without a
    token; empty if all is well. A certificate asked of clients doesn't stand for tokens: none
    can be taken back within seconds.
    """
    if (has_tls and has_tokens) or is_loopback(address):
        return ""
    if has_tls:
        missing, advice = "there are no tokens", "--token_file"
    elif has_tokens:
        missing, advice = "there is no TLS", "--tls_cert_file and --tls_key_file"
    else:
        missing = "there is neither TLS nor a token"
        advice = "--tls_cert_file, --tls_key_file and --token_file"
    return (
        f"bind_addr {address} can be reached from other machines, and {missing}: bind to"
        f" 127.0.0.1, give {advice}, or give --insecure where the network is trusted"
    )


def _is_loopback_ip(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
