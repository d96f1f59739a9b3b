"""
Entries: the rows of a KV topic, one for each key that holds something.

What a put or a delete does to them is decided here, from the rows alone; who admits them is
`keyvalue`. Nothing is kept in memory for a key: reading is one look at the view.

Why reads are linearizable: they see the view of the leader, and the view holds exactly what is
applied. Nothing is applied before it is durable, and nothing is answered before it is applied.
So whatever a writer or a reader was told is still there for everyone who asks after it, also
after a crash; and what a read shows can't be taken back. On one machine there is no other
leader. In a cluster a leader reads under a valid lease only.
"""

from collections.abc import Iterator
from itertools import count

from sandglass.core import keys
from sandglass.core.message import Entry, EntryKey
from sandglass.core.record import Delete, Put
from sandglass.core.view import Changes, Overlay, View


def apply_put(partition: int, put: Put, changes: Changes) -> None:
    """The messages stand under their keys; the last of equal ones stays."""
    prefix = keys.entries_prefix(partition, put.channel)
    revisions = count(put.first_index)
    for key, message, revision in zip(put.keys, put.messages, revisions, strict=False):
        columns = keys.entry_columns(revision, put.produced_ms)
        changes.rows[keys.entry_key(prefix, key)] = columns + message


def apply_delete(partition: int, delete: Delete, scratch: Overlay) -> list[bool]:
    """The keys hold nothing any more; which of them held something?"""
    prefix = keys.entries_prefix(partition, delete.channel)
    existed: list[bool] = []
    for key in delete.keys:
        row_key = keys.entry_key(prefix, key)
        existed.append(scratch.has(row_key))
        scratch.changes.rows[row_key] = None
    return existed


def find(partition: int, channel: str, key: EntryKey, view: View) -> Entry | None:
    """What stands under a key, exactly; None if nothing does."""
    value = view.get(keys.entry_key(keys.entries_prefix(partition, channel), key))
    return None if value is None else Entry(key, *keys.read_entry(value))


def holds(partition: int, channel: str, key: EntryKey, view: View) -> bool:
    """Does something stand under a key, exactly?"""
    return view.has(keys.entry_key(keys.entries_prefix(partition, channel), key))


def scan(
    partition: int, channel: str, first: EntryKey, end: EntryKey | None, view: View
) -> Iterator[Entry]:
    """
    Entries with keys in `[first, end)`, or from `first` on, in order.

    The iterator is for use at once: it is over with the next change of the view.
    """
    prefix = keys.entries_prefix(partition, channel)
    end_key = keys.after_prefix(prefix) if end is None else keys.entry_key(prefix, end)
    for row_key, value in view.range(keys.entry_key(prefix, first), end_key):
        yield Entry(keys.entry_of(prefix, row_key), *keys.read_entry(value))
