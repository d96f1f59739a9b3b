"""
Ports of loopback for servers of tests, which no other test on this machine is given as well.

A server that is killed leaves its ports free until it is started again, and somebody else could
take them meanwhile. So a process claims ports in blocks, for as long as it lives, and hands
none out twice. All lie below those that the system gives to outgoing connections: one of them
would take the port of a server that is away.
"""

import atexit
import errno
import socket
from threading import Lock
from typing import Final

from sandglass.adapters.system import SystemEntropy

PORT_MIN: Final = 12_000
BLOCK_COUNT: Final = 1250
BLOCK_PORT_COUNT: Final = 16
assert PORT_MIN + BLOCK_COUNT * BLOCK_PORT_COUNT <= 32_768

_lock = Lock()
_left: list[int] = []
"""What is left of the newest block."""


def free_ports(count: int) -> list[int]:
    """
    Ports that nobody listens on just now.

    Raises:
        OSError: all of them were claimed.
    """
    found: list[int] = []
    with _lock:
        while len(found) < count:
            if not _left:
                _left.extend(_claim_block())
            port = _left.pop()
            if _is_free(port):
                found.append(port)
    return found


def _claim_block() -> range:
    drawn = int.from_bytes(SystemEntropy().token_bytes(4), "big")
    for step in range(BLOCK_COUNT):
        block = (drawn + step) % BLOCK_COUNT
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0sandglass-ports-{block}")
        except OSError as error:
            claim.close()
            if error.errno == errno.EADDRINUSE:
                continue
            raise
        # It stands for the block; however the process ends, the system takes it back.
        atexit.register(claim.close)
        first = PORT_MIN + block * BLOCK_PORT_COUNT
        return range(first, first + BLOCK_PORT_COUNT)
    raise OSError(errno.EADDRNOTAVAIL, "all ports for tests are claimed")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
