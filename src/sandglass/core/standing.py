"""How one message stands with a group: what has happened to it there, as far as is known."""

from enum import IntEnum

from sandglass.core import keys
from sandglass.core.group import Group
from sandglass.core.partition import Partition
from sandglass.core.view import View


class Standing(IntEnum):
    """Each says more than the one before."""

    HANDED_OUT = 1
    """Leased, or handed out by an earlier leader; without an outcome."""

    WAITING = 2
    """It failed or was given back, and waits to be handed out again."""

    SETTLED = 3
    """Acked, dead or expired."""

    COMMITTED = 4
    """Settled, as is everything before it."""


def standing_of(
    partition: Partition, group: Group, offset: int, view: View
) -> tuple[Standing, int] | None:
    """
    How the message at `offset` stands with `group`, and how often it was handed out: counted
    attempts and the one that is on. 0 once it is settled, for then nobody counts any more.

    Returns:
        None if no message stands there, or the group was never given it.
    """
    prefix = keys.rows_prefix(partition.number, group.channel)
    found = view.last(prefix, keys.at(prefix, offset + 1))
    if found is None or offset >= sum(keys.row_place(found[0])) or offset < group.start:
        return None
    if offset < group.committed(view):
        return Standing.COMMITTED, 0
    leased = group.lease_at(offset)
    if leased is not None:
        return Standing.HANDED_OUT, leased[0].attempts + 1
    part = group.retry_row(offset, view)
    if part is not None:
        was_handed_out = part.attempts or part.releases
        return (Standing.WAITING, part.attempts) if was_handed_out else None
    if group.done.holds(offset):
        return Standing.SETTLED, 0
    return (Standing.HANDED_OUT, 1) if offset <= group.consumed else None
