"""How one message stands with a group: what has happened to it there, as far as is known."""

from enum import IntEnum

from sandglass.core import keys
from sandglass.core.group import Group
from sandglass.core.partition import Partition
from sandglass.core.rows import read_row
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
    part = group.retry_rows.at(offset, view)
    is_there = any(
        _holds(group.rows_prefix(is_redriven=is_redriven), group, offset, view)
        for is_redriven in (False, True)
    )
    if not is_there or offset < group.start:
        return None
    if offset < group.committed(partition.closed, view):
        return Standing.COMMITTED, 0
    leased = group.lease_at(offset)
    if leased is not None:
        return Standing.HANDED_OUT, leased[0].attempts + 1
    if part is not None:
        was_handed_out = part.attempts or part.releases
        return (Standing.WAITING, part.attempts) if was_handed_out else None
    if group.done.holds(offset):
        return Standing.SETTLED, 0
    return (Standing.HANDED_OUT, 1) if offset <= group.consumed else None


def _holds(prefix: bytes, group: Group, offset: int, view: View) -> bool:
    """Does a message of the group stand at `offset`, in its channel or on its way back?"""
    found = view.last(prefix, keys.at(prefix, offset + 1))
    if found is None or offset >= sum(keys.row_place(found[0])):
        return False
    row, _, _ = read_row(*found)
    is_redriven = prefix == group.rows_prefix(is_redriven=True)
    return not is_redriven or (
        row.origin is not None
        and (row.origin.group, row.origin.channel) == (group.name, group.channel)
    )
