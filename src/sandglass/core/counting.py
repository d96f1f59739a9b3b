"""What a partition holds, counted row by row, for metrics and retention. Looks are bounded."""

from itertools import islice

from sandglass.core import keys
from sandglass.core.dispatch import Moment
from sandglass.core.group import Group
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.rows import read_slices
from sandglass.core.view import View


def count_pending(
    partition: Partition, channel: str, view: View, *, row_count_max: int
) -> tuple[int, int]:
    """Messages that are not due yet, in no more than so many rows; and how many rows."""
    prefix = keys.rows_prefix(partition.number, channel)
    first = keys.at(prefix, (partition.now_ms + 1) << INDEX_BITS)
    count = row_count = 0
    for key, _ in islice(view.range(first, keys.after_prefix(prefix)), row_count_max):
        count += keys.row_place(key)[1]
        row_count += 1
    return count, row_count


def has_below(partition: Partition, below: int, view: View) -> bool:
    """Is there a message below this offset, for retention to cut?"""
    for channel in partition.channels.names(view):
        prefix = keys.rows_prefix(partition.number, channel)
        first = keys.at(prefix, partition.cut)
        if next(iter(view.range(first, keys.at(prefix, below))), None) is not None:
            return True
    return False


def count_unread(
    partition: Partition, group: Group, moment: Moment, view: View, *, row_count_max: int
) -> tuple[int, int]:
    """
    Due messages that the group has not been given, in no more than so many rows; and how
    many rows.
    """
    prefix = keys.rows_prefix(partition.number, group.channel)
    end = (max(partition.now_ms, moment.wall_ms) + 1) << INDEX_BITS
    count = row_count = 0
    slices = read_slices(view, prefix, group.cursor, end)
    for part in islice(slices, row_count_max):
        first = part.due_ms << INDEX_BITS | part.first_index
        count += part.count if not group.passed.holds(first) else 0
        row_count += 1
    return count, row_count


def count_skipped(
    partition: Partition, group: Group, moment: Moment, view: View, *, row_count_max: int
) -> tuple[int, int]:
    """
    Due messages that stand before the group's start, as far as retention has left them, in no
    more than so many rows; and how many rows.
    """
    prefix = keys.rows_prefix(partition.number, group.channel)
    end = min(group.start, (max(partition.now_ms, moment.wall_ms) + 1) << INDEX_BITS)
    count = row_count = 0
    for key, _ in islice(
        view.range(keys.at(prefix, partition.cut), keys.at(prefix, end)), row_count_max
    ):
        offset, row = keys.row_place(key)
        count += min(row, end - offset)
        row_count += 1
    return count, row_count
