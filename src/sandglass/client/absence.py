"""Whether there is anybody to be waited for, at the addresses of a client."""

from collections.abc import Sequence

import grpc.aio

from sandglass.client import failure


class Absence:
    """
    What is known of nodes that aren't there.

    Whoever was served once waits for its node to come back. Before that nobody knows whether
    there will ever be one: as soon as nobody listens at any of the addresses, that is said.

    Args:
        is_waiting: the user wants to wait for a node that is still to come.
    """

    def __init__(self, addresses: Sequence[str], *, is_waiting: bool) -> None:
        self.is_waiting = is_waiting
        self._others = set(addresses)
        """The addresses where somebody may be, by the last try of each."""

    def served(self) -> None:
        """A node has answered."""
        self.is_waiting = True

    def is_hopeless(self, address: str, error: BaseException) -> bool:
        """A try has failed: is nobody there, and nobody to be waited for?"""
        if isinstance(error, grpc.aio.AioRpcError) and failure.is_absent(error):
            self._others.discard(address)
        else:
            self._others.add(address)
        return not (self._others or self.is_waiting)
