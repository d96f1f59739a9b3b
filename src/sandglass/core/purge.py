"""Dead letters that go, by record: their rows, and what readers of their channel have."""

from collections.abc import Callable, Iterable

from sandglass.core import keys
from sandglass.core.group import Group
from sandglass.core.message import DEAD_LETTER_CHANNEL, Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Purge
from sandglass.core.rows import read_row, read_slices
from sandglass.core.view import Overlay

Slicer = Callable[[bytes, int, int, int], bytes]


def apply_purge(
    partition: int, purge: Purge, readers: Iterable[Group], slicer: Slicer, scratch: Overlay
) -> None:
    """
    Removes messages of the dead letters' channel; for its own `readers` they expire.

    Each range is a run of messages. What retention has removed meanwhile isn't missed.
    """
    prefix = keys.rows_prefix(partition, DEAD_LETTER_CHANNEL)
    for low, high, _ in purge.ranges:
        before = _end_before(low, prefix, scratch)
        for reader in readers:
            reader.apply_remove(before, high, scratch)
        for part in list(read_slices(scratch, prefix, low, high)):
            _remove(part, prefix, slicer, scratch)


def _remove(part: Slice, prefix: bytes, slicer: Slicer, scratch: Overlay) -> None:
    """Takes a slice out of its row; what is left of the row stands in rows of its own."""
    first_index = part.first_index - part.first
    key = keys.row_key(prefix, part.due_ms, first_index, part.row_count)
    value = scratch.get(key)
    assert value is not None, f"a row of {part.row_count} messages is missing"
    columns = value[: len(value) - len(part.body)]
    rows = scratch.changes.rows
    rows[key] = None
    end = part.first + part.count
    for first, count in ((0, part.first), (end, part.row_count - end)):
        if count:
            body = slicer(part.body, part.row_count, first, count)
            rest = keys.row_key(prefix, part.due_ms, first_index + first, count)
            rows[rest] = keys.moved_origin(columns, first) + body


def _end_before(low: int, prefix: bytes, scratch: Overlay) -> int:
    """Just above the message before the one at `low`: what lies between holds none."""
    found = scratch.last(prefix, keys.at(prefix, low))
    if found is None:
        return 0
    row, _, _ = read_row(*found)
    return min(low, (row.due_ms << INDEX_BITS | row.first_index) + row.count)
