"""What a node needs of its cluster's engine, whoever runs that."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sandglass.adapters.nats import Connection


@dataclass(frozen=True, slots=True)
class GivenConfig:
    """
    Where an operator's own engine is, and what to show it: a user with a password, or a token
    as `password` alone, or nothing. `ca` are the authorities to trust instead of the system's.
    """

    urls: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    ca: Path | None = None


class ClusterEngine(Protocol):
    """All calls run in the event loop's thread. `open` once, `start` until it is true."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

    @property
    def durability(self) -> str:
        """`always` if an acknowledged entry is on the disks of a majority; else `unknown`."""
        ...

    @property
    def is_behind(self) -> bool:
        """It has not caught up with the others, as was seen some second ago."""
        ...

    @property
    def goes_with_nodes(self) -> bool:
        """Each node has one, of its own name."""
        ...

    async def open(self) -> None:
        """
        Looks whether there can be an engine, and starts it where it ran before.

        Raises:
            As `start`.
        """
        ...

    async def start(self) -> bool:
        """
        Sees to it that there is an engine; false if it has to wait for others, and is to be
        asked again. Its streams need a quorum, for which nothing here waits.

        Raises:
            PreconditionError: it can't be as it is told to, or what lies in its directory is
                not this node's.
            UnavailableError: it doesn't answer.
        """
        ...

    async def stop(self) -> None:
        """What the node has started is ended."""
        ...

    async def connect(self) -> "Connection":
        """
        A connection to it.

        Raises:
            UnavailableError: nobody answers.
            PreconditionError: it refuses us.
        """
        ...

    async def remove(self, node: str) -> None:
        """
        Takes a node's engine out of the engines' group; one that is not in it stays out.

        Raises:
            UnavailableError: no quorum.
        """
        ...

    async def unsettled_count(self, gone: str, left_count: int) -> int:
        """
        How many streams are not held whole by the engines that are left, so many, since that
        of a node was taken out.

        Raises:
            UnavailableError: no quorum.
        """
        ...

    async def why_apart(self) -> str:
        """For people: what keeps it from others; empty if nothing does, as far as it shows."""
        ...
