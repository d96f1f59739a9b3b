"""
Messages into the bytes of a `MessageBatch`, by hand.

Building stub objects costs over a microsecond a message. A batch's bytes are simple enough to
be put together from parts: each message is a tag, its length, and its fields, each with a tag
and a length. A test holds the result against the stubs.

What a batch may hold is checked here, before messages of several callers share a request: one
that the broker refused would take the others down with it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from sandglass.core import limits
from sandglass.errors import InvalidError

_CACHED_LENGTH_MAX: Final = 16_384


def varint(number: int) -> bytes:
    """A non-negative number in protobuf's form: seven bits a byte, lowest first."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def tag(field_number: int) -> bytes:
    """What stands before a field that has a length: text, bytes, a message."""
    return varint(field_number << 3 | 2)


def with_length(field_tag: bytes, raw: bytes) -> bytes:
    """A field with its tag and length."""
    return b"".join((field_tag, varint(len(raw)), raw))


_MESSAGE_TAG: Final = tag(1)
_KEY_TAG: Final = tag(20)
_CLUSTERING_KEY_TAG: Final = tag(21)
_VALUE_TAG: Final = tag(30)
_HEADER_TAG: Final = tag(40)
_ID_TAG: Final = tag(41)
_HEADER_NAME_TAG: Final = tag(1)
_HEADER_VALUE_TAG: Final = tag(2)


class _Prefixes(dict[int, bytes]):
    """Length of a value -> what stands before it when a message has nothing else."""

    def __missing__(self, length: int) -> bytes:
        field = _VALUE_TAG + varint(length) if length else b""
        prefix = _MESSAGE_TAG + varint(len(field) + length) + field
        if length <= _CACHED_LENGTH_MAX:
            self[length] = prefix
        return prefix


_PREFIXES: Final = _Prefixes()


def encode_values(values: Sequence[bytes]) -> bytes:
    """
    A batch of messages that have a value and nothing else.

    Raises:
        InvalidError: a value is too large.
    """
    lengths = set(map(len, values))
    if max(lengths) > limits.VALUE_BYTES_MAX:
        raise _too_large("value", max(lengths), limits.VALUE_BYTES_MAX)
    if len(lengths) == 1:
        prefix = _PREFIXES[len(values[0])]
        return prefix + prefix.join(values)
    return b"".join([part for value in values for part in (_PREFIXES[len(value)], value)])


def encode_value(value: bytes) -> bytes:
    """
    A batch of one message that has a value and nothing else.

    Raises:
        InvalidError: it is too large.
    """
    if len(value) > limits.VALUE_BYTES_MAX:
        raise _too_large("value", len(value), limits.VALUE_BYTES_MAX)
    return _PREFIXES[len(value)] + value


def encode_message(
    value: bytes | str,
    key: bytes | str = b"",
    clustering_key: bytes | str = b"",
    headers: Mapping[str, bytes | str] | None = None,
    id: str = "",  # noqa: A002 - the field's name
) -> bytes:
    """
    A batch of one message.

    Raises:
        InvalidError: a field is too large or of another type; the error names it.
    """
    parts = [
        _part(_KEY_TAG, to_bytes(key, field="key"), "key", limits.KEY_BYTES_MAX),
        _part(
            _CLUSTERING_KEY_TAG,
            to_bytes(clustering_key, field="clustering_key"),
            "clustering_key",
            limits.KEY_BYTES_MAX,
        ),
        _part(_VALUE_TAG, to_bytes(value, field="value"), "value", limits.VALUE_BYTES_MAX),
        _header_parts(headers) if headers else b"",
        _part(_ID_TAG, to_bytes(id, field="id"), "id", limits.KEY_BYTES_MAX),
    ]
    return with_length(_MESSAGE_TAG, b"".join(parts))


def to_bytes(content: bytes | str, *, field: str) -> bytes:
    """
    Text as UTF-8, bytes as they are.

    Raises:
        InvalidError: something else, or text that UTF-8 cannot hold.
    """
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        try:
            return content.encode()
        except UnicodeEncodeError as error:
            raise InvalidError(
                f"{field} is text that UTF-8 cannot hold", field=field
            ) from error
    if isinstance(content, bytearray | memoryview):
        return bytes(content)
    raise InvalidError(f"{field} is {type(content).__name__}; give bytes or str", field=field)


def _part(field_tag: bytes, raw: bytes, name: str, limit: int) -> bytes:
    if not raw:
        return b""
    if len(raw) > limit:
        raise _too_large(name, len(raw), limit)
    return with_length(field_tag, raw)


def _header_parts(headers: Mapping[str, bytes | str]) -> bytes:
    if not isinstance(headers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        raise InvalidError(
            f"headers is {type(headers).__name__}; give a mapping", field="headers"
        )
    if len(headers) > limits.HEADER_COUNT_MAX:
        raise InvalidError(
            f"headers has {len(headers)} entries; the limit is {limits.HEADER_COUNT_MAX}",
            field="headers",
        )
    size_bytes = 0
    parts: list[bytes] = []
    for name, value in headers.items():
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
            raise InvalidError("the name of a header is not text", field="headers")
        raw_name = to_bytes(name, field="headers")
        raw_value = to_bytes(value, field="headers")
        size_bytes += len(raw_name) + len(raw_value)
        fields = with_length(_HEADER_NAME_TAG, raw_name) if raw_name else b""
        fields += with_length(_HEADER_VALUE_TAG, raw_value) if raw_value else b""
        parts.append(with_length(_HEADER_TAG, fields))
    if size_bytes > limits.HEADER_BYTES_MAX:
        raise _too_large("headers", size_bytes, limits.HEADER_BYTES_MAX)
    return b"".join(parts)


def _too_large(name: str, size_bytes: int, limit: int) -> InvalidError:
    return InvalidError(f"{name} is {size_bytes} bytes; the limit is {limit}", field=name)
