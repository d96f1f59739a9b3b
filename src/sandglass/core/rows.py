"""Message rows of a view as slices: whole ones, and the parts of them that a range holds."""

from collections.abc import Iterator

from sandglass.core import keys
from sandglass.core.message import Slice
from sandglass.core.offset import INDEX_BITS, INDEX_MAX
from sandglass.core.view import View


def read_rows(view: View, prefix: bytes, low: int) -> Iterator[Slice]:
    """Rows of a channel that hold something at or above `low`, whole, in order."""
    first = keys.at(prefix, low)
    before = view.last(prefix, first)
    if before is not None:
        row, _, _ = read_row(*before)
        if (row.due_ms << INDEX_BITS | row.first_index) + row.count > low:
            yield row
    for key, value in view.range(first, keys.after_prefix(prefix)):
        yield read_row(key, value)[0]


def read_row(key: bytes, value: bytes) -> tuple[Slice, int, int]:
    """A message row: one slice of all its messages, flags, and steady ms to wait until."""
    offset, count = keys.row_place(key)
    flags, produced_ms, wait_until_ms, origin, start = keys.read_row(value)
    row = Slice(
        value[start:],
        count,
        0,
        count,
        offset >> INDEX_BITS,
        offset & INDEX_MAX,
        produced_ms,
        origin,
    )
    return row, flags, wait_until_ms


def read_slices(view: View, prefix: bytes, low: int, high: int) -> Iterator[Slice]:
    """What `[low, high)` holds, as slices; `Slice.low` is where each one's part begins."""
    for row in read_rows(view, prefix, low):
        first_offset = row.due_ms << INDEX_BITS | row.first_index
        if max(first_offset, low) >= high:
            return
        first = max(0, low - first_offset)
        end = min(row.count, high - first_offset)
        yield Slice(
            row.body,
            row.count,
            first,
            end - first,
            row.due_ms,
            row.first_index + first,
            row.produced_ms,
            row.origin,
            low,
        )
        low = first_offset + end
