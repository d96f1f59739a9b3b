"""
Groups in a partition: how they begin, move to another place, and end, as records.

The catalog's groups (`sandglass.core.machine`) hold for a whole topic; here are their parts,
one for each channel of a partition in which somebody has read. Moving and ending take effect
when they are admitted: leases are gone, and nothing is handed out until the record is applied.
"""

from sandglass.core import limits
from sandglass.core.dispatch import Moment
from sandglass.core.group import Group
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import CreateGroup, DropGroup, Record, SeekGroup
from sandglass.core.view import View
from sandglass.errors import BusyError


def admit_group(
    partition: Partition,
    channel: str,
    name: str,
    *,
    moment: Moment,
    view: View,
    start: int | None = 0,
) -> Record | None:
    """
    Creates a group that starts at an offset, or with what comes from now on; None if it exists.

    Raises:
        BusyError: the partition has as many groups as it may.
    """
    if partition.groups.has(channel, name, view):
        return None
    if partition.assigned_group > limits.GROUP_COUNT_MAX:
        _check_count(partition, view)
    partition.see(moment.wall_ms)
    operation = CreateGroup(
        partition.assigned_group,
        channel,
        name,
        start_now(partition) if start is None else start,
    )
    partition.assigned_group += 1
    partition.groups.creating.add((channel, name))
    return partition.record([operation], moment)


def admit_seek(
    partition: Partition, group: Group, *, moment: Moment, start: int | None = 0
) -> Record:
    """
    Moves a group to an offset, or to what comes from now on: a new generation of it begins,
    and what was leased in the one before can't be settled any more.
    """
    partition.see(moment.wall_ms)
    group.drop_leases()
    group.retry_parts = []
    operation = SeekGroup(group.number, start_now(partition) if start is None else start)
    return partition.record([operation], moment, held=(group,))


def admit_drop(partition: Partition, group: Group, moment: Moment) -> Record:
    """Ends a group with all its state. Its consumers have been told, and are gone."""
    assert not group.consumers, f"group {group.name} has consumers still"
    group.drop_leases()
    group.is_dropped = True
    return partition.record([DropGroup(group.number)], moment, held=(group,))


def start_now(partition: Partition) -> int:
    """Above all that was produced so far for now or before."""
    return partition.now_ms << INDEX_BITS | partition.assigned_index + 1


def _check_count(partition: Partition, view: View) -> None:
    """Numbers are never given out twice, so the highest says only that it is time to count."""
    count = len(partition.groups.names(view)) + len(partition.groups.creating)
    if count >= limits.GROUP_COUNT_MAX:
        raise BusyError(f"partition {partition.id} has {count} groups, the most it may have")
