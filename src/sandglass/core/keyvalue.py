"""
Putting and deleting on a KV topic: admission to a partition.

A put is an append whose messages stand under their keys instead of in time: each takes the next
index, which is its revision, and an offset that is now. A delete takes an index for each key,
too. Whether a key held something is decided when the record is applied, since other records may
be on their way before it.
"""

from sandglass.core.dispatch import Moment
from sandglass.core.message import Entries, EntryKey, Placed, Removed
from sandglass.core.partition import Partition
from sandglass.core.record import Delete, Put, Record, lowest_offset
from sandglass.core.view import View


def admit_put(
    partition: Partition, channel: str, entries: Entries, moment: Moment, view: View
) -> tuple[Record, Placed]:
    """
    Gives entries their revisions.

    Raises:
        BusyError: the partition has as many channels as it may.
    """
    partition.see(moment.wall_ms)
    partition.check_channel(channel, view)
    first, now_ms = partition.assigned_index + 1, partition.now_ms
    put = Put(channel, first, now_ms, entries.keys, entries.messages)
    partition.assigned_index += len(entries.keys)
    record = partition.record([put], moment, lowest=lowest_offset(put))
    return record, Placed(partition.id, first, [now_ms], [len(entries.keys)])


def admit_delete(
    partition: Partition, channel: str, keys: list[EntryKey], moment: Moment
) -> tuple[Record, Removed]:
    """Empties keys; what is returned beside the record holds once that is applied."""
    partition.see(moment.wall_ms)
    delete = Delete(channel, partition.assigned_index + 1, partition.now_ms, keys)
    partition.assigned_index += len(keys)
    removed = Removed()
    record = partition.record([delete], moment, lowest=lowest_offset(delete), removed=removed)
    return record, removed
