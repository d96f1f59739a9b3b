"""
A client's frame, from its bytes.

What a frame costs is its items, not its bytes: two bytes make an empty one, and five million
bytes of them held up a node for a tenth of a second and more. So a frame is bounded where items
are small, and only a produce, which is one item, may be larger.
"""

from typing import Final

from google.protobuf.message import DecodeError

from sandglass.core import limits
from sandglass.errors import InvalidError
from sandglass.wire.v1 import broker_pb2

_PRODUCE_TAG: Final = broker_pb2.ClientFrame.PRODUCES_FIELD_NUMBER << 3 | 2


def parse_frame(raw: bytes) -> broker_pb2.ClientFrame:
    """
    A serialized `ClientFrame`.

    Raises:
        InvalidError: it is none, or is larger than `limits.FRAME_BYTES_MAX` and something else
            than one produce.
    """
    if len(raw) > limits.FRAME_BYTES_MAX and not _is_one_produce(raw):
        raise InvalidError(
            f"frame is {len(raw)} bytes; the limit is {limits.FRAME_BYTES_MAX}, or one larger"
            " produce alone",
            field="frame",
        )
    try:
        return broker_pb2.ClientFrame.FromString(raw)
    except DecodeError as error:
        raise InvalidError("request is not a ClientFrame") from error


def _is_one_produce(raw: bytes) -> bool:
    """A tag, a length, and as many bytes: nothing before, and nothing behind."""
    if raw[0] != _PRODUCE_TAG:
        return False
    size_bytes = at = shift = 0
    for at, byte in enumerate(raw[1:6], 2):  # noqa: B007 - where it ends is wanted
        size_bytes |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return at + size_bytes == len(raw)
