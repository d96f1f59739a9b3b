"""
JSON of the HTTP surface: bodies to messages of the protocols, and messages back to JSON.

Rules, as the prototype's gateway had them, or CONTRACT as they were mended:

1. Names are lowerCamelCase; a field's own name is understood too. What isn't known is ignored;
   null is a field that isn't there. Empty fields are left out of answers.
2. bytes are base64, of either alphabet, padded or not. An offset may be a list of numbers too.
3. 64-bit numbers are texts in answers, texts or numbers in requests. Enums are names in
   answers, names or numbers in requests.
4. A Duration is `"1.5s"`, or whole nanoseconds as a number or a text. A Timestamp is RFC 3339.

What a body costs is bounded before it is parsed: by its bytes, and by its commas, colons and
brackets. An error names the place, `messages[3].key`, and never shows a payload.
"""

import json
import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from sandglass.core import limits, offset
from sandglass.core.message import Slice
from sandglass.errors import InvalidError
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.convert import raw_messages, slice_body
from sandglass.wire.v1 import broker_pb2, raw_pb2

OFFSET_FIELDS: Final = frozenset({"offset", "offsets", "from", "to"})
"""bytes that may be lists of numbers: what the prototype's gateway wrote for offsets."""

DURATION_S_MAX: Final = 315_576_000_000
"""Ten thousand years: what a Duration may hold."""

_WHOLE: Final = re.compile(r"-?[0-9]{1,20}\Z")
_DURATION: Final = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s\Z")
_ZONE: Final = re.compile(r"(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])\Z")
_NS: Final = 1_000_000_000

Fields = dict[str, Any]
"""A JSON object."""

Made = TypeVar("Made", bound=Message)

_Read = Callable[[Any, str], Any]
"""From a JSON value and its place to the value of a field."""


# --- in ---------------------------------------------------------------------------------------


def parse(body: bytes) -> Fields:
    """
    A body as a JSON object; an empty one holds nothing.

    Raises:
        InvalidError: no UTF-8, no JSON, nested too deeply, too many items, no object.
    """
    if not body.strip():
        return {}
    item_count = sum(map(body.count, (b",", b":", b"[", b"{")))
    if item_count > limits.HTTP_JSON_ITEM_COUNT_MAX:
        raise InvalidError(
            f"body has {item_count} items of JSON; the limit is"
            f" {limits.HTTP_JSON_ITEM_COUNT_MAX}: send it in parts",
            field="body",
        )
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidError("body is not UTF-8", field="body") from error
    except RecursionError as error:
        raise InvalidError("body is nested too deeply", field="body") from error
    except ValueError as error:
        # The parser's text says where; a number of a thousand digits gets one of Python's own.
        where = f": {error}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidError(f"body is not JSON{where}", field="body") from error
    if not isinstance(value, dict):
        raise _wrong("body", value, "an object")
    return cast("Fields", value)


def to_message(fields: Fields, kind: type[Made], *, place: str = "") -> Made:
    """
    A message of the protocol from a JSON object.

    Args:
        place: what the object's fields are called in errors: `messages[3].`.

    Raises:
        InvalidError: a field of a wrong type or outside its range.
    """
    readers = _readers(kind.DESCRIPTOR)
    found: dict[str, Any] = {}
    for name, value in fields.items():
        reader = readers.get(name)
        if reader is not None and value is not None:
            found[reader[0]] = reader[1](value, place + name)
    return kind(**found)


def objects(fields: Fields, name: str) -> list[Fields]:
    """
    A list of objects, taken out of `fields`: for those whose number makes reading them slow.

    Raises:
        InvalidError: it is no such list.
    """
    found = fields.pop(name, None)
    if found is None:
        return []
    if not isinstance(found, list):
        raise _wrong(name, found, "a list")
    for number, each in enumerate(cast("list[object]", found)):
        if not isinstance(each, dict):
            raise _wrong(f"{name}[{number}]", each, "an object")
    return cast("list[Fields]", found)


def object_of(fields: Fields, name: str) -> Fields:
    """
    A field that is an object; an empty one if it isn't there.

    Raises:
        InvalidError: it is something else.
    """
    found = fields.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _wrong(name, found, "an object")
    return cast("Fields", found)


def text(fields: Fields, name: str) -> str:
    """
    A field that is a text, or isn't there.

    Raises:
        InvalidError: it is something else.
    """
    value = fields.get(name)
    return "" if value is None else _read_text(value, name)


def due_ms(value: object, place: str) -> int:
    """
    A moment as RFC 3339, in Unix ms, rounded up: never early.

    Raises:
        InvalidError: it is none.
    """
    moment = _read_timestamp(value, place)
    return moment.seconds * 1000 - -moment.nanos // 1_000_000


def _refuse_constant(name: str) -> None:
    raise InvalidError(f"body holds {name}, which JSON doesn't have", field="body")


@cache
def _readers(descriptor: Descriptor) -> dict[str, tuple[str, _Read]]:
    """By JSON name and by the field's own: its own name, and what reads it."""
    readers: dict[str, tuple[str, _Read]] = {}
    for field in descriptor.fields:
        read = _reader(field)
        if field.is_repeated:
            read = _each(read)
        readers[field.name] = readers[field.json_name] = (field.name, read)
    return readers


def _reader(field: FieldDescriptor) -> _Read:
    if field.message_type is not None:
        return _message_reader(field.message_type)
    if field.enum_type is not None:
        return _enum_reader({each.name: each.number for each in field.enum_type.values})
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return _read_bool
        case FieldDescriptor.CPPTYPE_INT32:
            return _whole_reader(-(1 << 31), (1 << 31) - 1)
        case FieldDescriptor.CPPTYPE_UINT32:
            return _whole_reader(0, (1 << 32) - 1)
        case FieldDescriptor.CPPTYPE_INT64:
            return _whole_reader(-(1 << 63), (1 << 63) - 1)
        case FieldDescriptor.CPPTYPE_UINT64:
            return _whole_reader(0, (1 << 64) - 1)
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type != FieldDescriptor.TYPE_BYTES:
                return _read_text
            return _read_offset if field.name in OFFSET_FIELDS else _read_bytes
        case other:
            raise AssertionError(f"{field.full_name} has a type {other} that nobody reads")


def _message_reader(descriptor: Descriptor) -> _Read:
    kind = GetMessageClass(descriptor)
    if kind is Timestamp:
        return _read_timestamp
    if kind is Duration:
        return _read_duration

    def read(value: Any, place: str) -> Message:
        if not isinstance(value, dict):
            raise _wrong(place, value, "an object")
        return to_message(cast("Fields", value), kind, place=place + ".")

    return read


def _each(read: _Read) -> _Read:
    def read_all(value: Any, place: str) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(place, value, "a list")
        listed = cast("list[object]", value)
        return [read(each, f"{place}[{number}]") for number, each in enumerate(listed)]

    return read_all


def _enum_reader(numbers: dict[str, int]) -> _Read:
    read_number = _whole_reader(-(1 << 31), (1 << 31) - 1)

    def read(value: Any, place: str) -> int:
        if not isinstance(value, str):
            return read_number(value, place)
        if value not in numbers:
            raise InvalidError(
                f"{place} is not known; it must be one of {', '.join(numbers)}", field=place
            )
        return numbers[value]

    return read


def _whole_reader(low: int, high: int) -> _Read:
    def read(value: Any, place: str) -> int:
        return limits.check_range(_whole(value, place), field=place, low=low, high=high)

    return read


def _whole(value: Any, place: str) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.match(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(place, value, "a whole number")
    return value


def _read_bool(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(place, value, "true or false")
    return value


def _read_text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise _wrong(place, value, "a text")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidError(
                f"{place} holds half of a surrogate pair, which is no character", field=place
            ) from error
    return value


def _read_bytes(value: Any, place: str) -> bytes:
    if not isinstance(value, str):
        raise _wrong(place, value, "a text of base64")
    try:
        padded = value.rstrip("=")
        padded = padded.translate(_FROM_URL_SAFE) + "=" * (-len(padded) % 4)
        return a2b_base64(padded, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InvalidError(f"{place} is not base64", field=place) from error


def _read_offset(value: Any, place: str) -> bytes:
    if not isinstance(value, list):
        return _read_bytes(value, place)
    try:
        numbers = cast("list[int]", value)
        if any(isinstance(each, bool) for each in numbers):
            raise ValueError
        return bytes(numbers)
    except (TypeError, ValueError) as error:
        raise InvalidError(
            f"{place} is neither base64 nor a list of numbers from 0 to 255", field=place
        ) from error


def _read_timestamp(value: Any, place: str) -> Timestamp:
    moment = Timestamp()
    try:
        # The parser takes +99:99 for a zone.
        is_zoned = isinstance(value, str) and _ZONE.search(value)
        moment.FromJsonString(value if is_zoned else "")
    except ValueError as error:
        raise InvalidError(
            f"{place} is not a time such as 2027-01-01T09:00:00Z (RFC 3339)", field=place
        ) from error
    return moment


def _read_duration(value: Any, place: str) -> Duration:
    if isinstance(value, str) and _DURATION.match(value):
        seconds, _, rest = value.rstrip("s").partition(".")
        sign = -1 if value.startswith("-") else 1
        ns = int(seconds) * _NS + sign * int(rest.ljust(9, "0") or 0)
    else:
        try:
            ns = _whole(value, place)
        except InvalidError as error:
            raise InvalidError(
                f'{place} is neither a duration such as "1.5s" nor whole nanoseconds',
                field=place,
            ) from error
    ns = limits.check_range(
        ns, field=f"{place} (ns)", low=-DURATION_S_MAX * _NS, high=DURATION_S_MAX * _NS
    )
    whole = abs(ns) // _NS
    return Duration(
        seconds=whole if ns >= 0 else -whole,
        nanos=abs(ns) % _NS if ns >= 0 else -(abs(ns) % _NS),
    )


def _wrong(place: str, value: object, wanted: str) -> InvalidError:
    return InvalidError(f"{place} is {_kind_of(value)}; it must be {wanted}", field=place)


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    for kind, name in (
        (bool, "true or false"),
        (str, "a text"),
        ((int, float), "a number"),
        (list, "a list"),
    ):
        if isinstance(value, kind):
            return name
    return "an object"


_FROM_URL_SAFE: Final = {ord("-"): "+", ord("_"): "/"}


# --- out --------------------------------------------------------------------------------------


def to_fields(message: Message) -> Fields:
    """A message of the protocol as a JSON object."""
    return {
        field.json_name: (
            [_shown(field, each) for each in value]
            if field.is_repeated
            else _shown(field, value)
        )
        for field, value in message.ListFields()
    }


def message_objects(piece: Slice, channel: str) -> Iterator[str]:
    """
    Each message of a slice as a JSON object: the fields of the compatible `Message`, and
    `id` and `headers` where there are any.
    """
    body = slice_body(piece.body, piece.row_count, piece.first, piece.count)
    messages = broker_pb2.MessageBatch.FromString(body).messages
    waits = _waits_of(body)
    head = f'{{"channel":"{channel}","index":"'
    due = piece.due_ms.to_bytes(6, "big")
    stamp = f'","producedAt":"{_rfc3339(piece.produced_ms)}"'
    for place, message in enumerate(messages):
        index = piece.first_index + place
        shown = b64encode(due + index.to_bytes(8, "big")).decode()
        parts = [head, str(index), '","offset":"', shown, stamp]
        if waits and waits[place]:
            parts.append(f',"consumeIn":"{waits[place]}"')
        if message.key:
            parts.append(f',"key":"{b64encode(message.key).decode()}"')
        if message.clustering_key:
            parts.append(f',"clusteringKey":"{b64encode(message.clustering_key).decode()}"')
        if message.value:
            parts.append(f',"value":"{b64encode(message.value).decode()}"')
        if message.id:
            parts.append(f',"id":{json.dumps(message.id)}')
        if message.headers:
            parts.append(
                f',"headers":{json.dumps([to_fields(each) for each in message.headers])}'
            )
        parts.append("}")
        yield "".join(parts)


def _waits_of(body: bytes) -> list[str]:
    """`consumeIn` of each message as its producer wrote it; empty if none of them has one."""
    raws = raw_messages(body)
    if not raw_pb2.RawColumns.FromString(b"".join(raws)).consume_in:
        return []
    waits = [compat.Message.FromString(raw).consumeIn for raw in raws]
    return [wait.ToJsonString() if wait.seconds or wait.nanos else "" for wait in waits]


def _rfc3339(ms: int) -> str:
    return offset.to_datetime(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None:
        if isinstance(value, (Timestamp, Duration)):
            return value.ToJsonString()
        return to_fields(value)
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return named.name if named is not None else value
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b64encode(value).decode()
    if field.cpp_type in {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}:
        return str(value)
    return value
