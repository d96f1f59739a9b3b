"""
Looking at the messages of a channel without being a reader of it.

Nothing is closed by it, and nothing promised: a message may still appear below one that was
seen. What one look costs is bounded; where it stops, the next goes on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sandglass.core import keys, limits
from sandglass.core.message import Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.rows import read_row, read_slices
from sandglass.core.view import View


@dataclass(slots=True)
class Look:
    """
    What a look has found: slices, and where the next one begins; None if there is no more.

    `row_count` and `size_bytes` are of all that was read, found or not.
    """

    found: list[Slice] = field(default_factory=list[Slice])
    next_offset: int | None = None
    row_count: int = 0
    size_bytes: int = 0


def look(
    view: View,
    prefix: bytes,
    low: int,
    high: int,
    *,
    is_wanted: Callable[[Slice], bool] = lambda _: True,
    is_newest_first: bool = False,
    found_count_max: int = limits.LOOK_ROW_COUNT_MAX,
    message_count_max: int = limits.ATOM_MESSAGE_COUNT_MAX,
    found_bytes_max: int = limits.FRAME_BYTES_MAX,
) -> Look:
    """
    Messages in `[low, high)` of the rows that `prefix` names, in order, or the other way round.

    `next_offset` is the `low` of the next look, or its `high` if the newest come first.
    """
    seen = Look()
    found_count = found_bytes = 0
    slices = _backwards if is_newest_first else read_slices
    for part in slices(view, prefix, low, high):
        first_offset = part.due_ms << INDEX_BITS | part.first_index
        is_enough = (
            seen.row_count == limits.LOOK_ROW_COUNT_MAX
            or len(seen.found) == found_count_max
            or found_count == message_count_max
            or (seen.row_count > 0 and seen.size_bytes > limits.LOOK_BYTES_MAX)
            or (found_count > 0 and found_bytes > found_bytes_max)
        )
        if is_enough:
            seen.next_offset = first_offset + part.count if is_newest_first else first_offset
            return seen
        seen.row_count += 1
        seen.size_bytes += len(part.body)
        if not is_wanted(part):
            continue
        room = message_count_max - found_count
        taken = part
        if part.count > room:
            skipped = part.count - room if is_newest_first else 0
            taken = part._replace(
                first=part.first + skipped, first_index=part.first_index + skipped, count=room
            )
        seen.found.append(taken)
        found_count += taken.count
        found_bytes += len(part.body)
        if taken is not part:
            seen.next_offset = first_offset + (
                part.count - room if is_newest_first else taken.count
            )
            return seen
    return seen


def count_between(view: View, prefix: bytes, low: int, high: int) -> tuple[int, int | None]:
    """
    How many messages `[low, high)` holds, and where the count goes on; None if that is all.

    The keys say it: rows are counted without a look at what they hold.
    """
    count = size_bytes = 0
    before = view.last(prefix, keys.at(prefix, low))
    if before is not None:
        offset, row_count = keys.row_place(before[0])
        count = max(0, min(offset + row_count, high) - low)
    for rows, (key, value) in enumerate(
        view.range(keys.at(prefix, low), keys.at(prefix, high))
    ):
        offset, row_count = keys.row_place(key)
        if rows == limits.LOOK_ROW_COUNT_MAX or size_bytes > limits.LOOK_BYTES_MAX:
            return count, offset
        count += min(row_count, high - offset)
        size_bytes += len(value)
    return count, None


def _backwards(view: View, prefix: bytes, low: int, high: int) -> Iterator[Slice]:
    """As `read_slices`, the last row first; each step is a look-up of its own."""
    while low < high:
        found = view.last(prefix, keys.at(prefix, high))
        if found is None:
            return
        row, _, _ = read_row(*found)
        first_offset = row.due_ms << INDEX_BITS | row.first_index
        first, end = max(0, low - first_offset), min(row.count, high - first_offset)
        if first >= end:
            return
        yield row._replace(first=first, first_index=row.first_index + first, count=end - first)
        high = first_offset
