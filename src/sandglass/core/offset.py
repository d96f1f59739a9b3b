"""
Offset: a message's place in the view of its partition.

Fourteen bytes on disk and wire: six of Unix milliseconds (when it is due), eight of index, big
endian, so that byte order is time order. Inside, the same number as one `int`: comparing is one
instruction, and `offset + 1` is *just above*. Ranges of offsets are half-open, `[low, high)`.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, NewType

from sandglass.errors import InvalidError

Offset = NewType("Offset", int)
"""`due_ms << 64 | index`."""

OFFSET_BYTES: Final = 14
SANDFLAKE_BYTES: Final = 16
INDEX_BITS: Final = 64
INDEX_MAX: Final = (1 << INDEX_BITS) - 1
NIL: Final = Offset(0)
MAX: Final = Offset((1 << 112) - 1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def make(due_ms: int, index: int) -> Offset:
    """The offset of message `index` that is due at `due_ms`."""
    return Offset(due_ms << INDEX_BITS | index)


def index_of(offset: int) -> int:
    """Its place in the order of production."""
    return offset & INDEX_MAX


def to_bytes(offset: int) -> bytes:
    """Fourteen bytes, as on wire and disk."""
    return offset.to_bytes(OFFSET_BYTES, "big")


def from_bytes(raw: bytes) -> Offset:
    """
    Reads fourteen bytes.

    Raises:
        InvalidError: another length.
    """
    if len(raw) != OFFSET_BYTES:
        raise InvalidError(
            f"length of offset should be {OFFSET_BYTES} but got {len(raw)}", field="offset"
        )
    return Offset(int.from_bytes(raw, "big"))


def to_text(offset: int) -> str:
    """28 hex digits."""
    return to_bytes(offset).hex()


def from_text(text: str) -> Offset:
    """
    Reads 28 hex digits.

    Raises:
        InvalidError: anything else.
    """
    try:
        # The length by itself: what reads hex passes over spaces.
        return from_bytes(bytes.fromhex(text) if len(text) == 2 * OFFSET_BYTES else b"")
    except (ValueError, InvalidError) as error:
        raise InvalidError(
            f"offset {text[:40]!r} is not 28 hex digits", field="offset"
        ) from error


def to_datetime(ms: int) -> datetime:
    """Milliseconds since the Unix epoch as an aware datetime in UTC."""
    return _EPOCH + timedelta(milliseconds=ms)


def from_datetime(moment: datetime, *, field: str = "due_at") -> int:
    """
    An aware datetime as milliseconds since the Unix epoch, rounded up: never early.

    Raises:
        InvalidError: a datetime without a time zone; the message names `field`.
    """
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidError(
            f"{field} is {moment.isoformat()}, which has no time zone; give an aware datetime",
            field=field,
        )
    return -((_EPOCH - moment) // timedelta(milliseconds=1))
