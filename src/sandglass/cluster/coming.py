"""
Replicated logs to which a topic moves, from nothing on.

Their numbers are taken first, then the switch is entered that names them, and then they are
made, by the node that carries it out: the stream, and last the entry of its leader, by which
others see that there is something to read. So whenever that node ends, what it has made is
named by the switch: the next process goes on with it, or takes it away. (A request to make a
stream that arrives after the stream was taken away leaves an empty one behind.)
"""

from contextlib import suppress
from typing import Final

from sandglass.adapters.jetstream import Stream
from sandglass.cluster.catalog import LEADERS, ClusterCatalog, Leadership
from sandglass.errors import ConflictError

EPOCHS_AHEAD: Final = 1000
"""A node begins an epoch of its own log at each start: so often it may while a topic moves."""


def is_made(catalog: ClusterCatalog, number: int) -> bool:
    """Is a partition's log there, to be read?"""
    is_led = f"{LEADERS}{number}" in catalog.placement.entries
    return is_led or not catalog.is_coming(number)


async def make_log(catalog: ClusterCatalog, number: int, factor: int, *, epoch: int) -> None:
    """
    Makes one, unless it is there. This node is to lead it first, in an epoch above this one,
    which is that of its own log.

    Raises:
        PreconditionError: the engine has fewer members than that, or no room.
        UnavailableError: no quorum.
    """
    heir = Leadership("", "", epoch + EPOCHS_AHEAD, catalog.members.me.name).encode()
    with suppress(ConflictError):
        await Stream(catalog.connection, number).create(factor)
        await catalog.placement.set(f"{LEADERS}{number}", heir, 0)
