"""
A row of a partition as it stands in another log, under another number.

Times in steady time are counted on by as much as the other log's is ahead of this one's. One
that has passed there and would lie before the beginning of time is 0: it has passed as well.
"""

from struct import Struct
from typing import Final

from sandglass.core import keys
from sandglass.core.view import Row

_STEADY: Final = Struct(">Q")


def moved_row(row: Row, to: int, *, ahead_ms: int) -> Row:
    """
    The row of partition `to` that says the same.

    Args:
        ahead_ms: how far the steady time of the other log is ahead; below 0 if it is behind.
    """
    key, value = row
    moved = keys.renumbered(key, to)
    match key[:1]:
        case b"r":
            return _later(moved, keys.RETRY_STEADY_AT, ahead_ms), value
        case b"x":
            return moved, _later(value, 0, ahead_ms)
        case b"m" if value[0] & keys.HAS_WAIT:
            return moved, _later(value, keys.COLUMNS.size, ahead_ms)
        case b"p":
            return moved, _later(value, keys.PARTITION_STEADY_AT, ahead_ms)
        case _:
            return moved, value


def _later(raw: bytes, at: int, by_ms: int) -> bytes:
    """With the time that stands at a place counted on."""
    (time_ms,) = _STEADY.unpack_from(raw, at)
    return raw[:at] + _STEADY.pack(max(0, time_ms + by_ms)) + raw[at + _STEADY.size :]
