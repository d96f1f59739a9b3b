"""
Hostile messages of any type of the protocols, made from its descriptor.

What is made is bytes, not a message: fields come twice or not at all, with a wrong wire type, a
length that lies, text that is none, a number at its bound, thousands of times, or cut off. So
that some get past the first door, texts and bytes are often those that the node knows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

MANY = (2, 50, 1001, 70_000)
NUMBERS = (0, 1, 2, 127, 128, 1000, 65_537, 2**31 - 1, 2**31, 2**32, 2**48, 2**63 - 1, 2**63)
ODD_BYTES = (
    b"",
    b"\0",
    b"\xff" * 3,
    bytes(13),
    bytes(14),
    b"\xff" * 14,
    bytes(16),
    b"k" * 1025,
)
NESTED_MAX = 3


@dataclass(frozen=True, slots=True)
class Known:
    """What the node knows: names of its topics, partitions, groups; offsets and batches."""

    texts: Sequence[str]
    raws: Sequence[bytes]


class Raw(bytes):
    """Bytes that are short when they are shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        text = bytes(self[:200]).hex()
        return f"bytes.fromhex({text!r})" + (
            f"  # {len(self)} bytes" if len(self) > 200 else ""
        )


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def tagged(number: int, wire_type: int, content: bytes) -> bytes:
    head = varint(number << 3 | wire_type)
    return head + (varint(len(content)) if wire_type == 2 else b"") + content


def hostile(kind: Descriptor, known: Known, depth: int = 0) -> st.SearchStrategy[bytes]:
    """Serialized messages of this type, or nearly."""
    pieces = [_field(field, known, depth) for field in kind.fields]
    listed = st.lists(st.one_of(*pieces, _foreign()) if pieces else _foreign(), max_size=8)
    whole = listed.map(b"".join)
    if depth:
        return whole
    cut = st.builds(_cut, whole, st.integers(1, 40))
    return st.one_of(whole, whole, whole, cut).map(Raw)


def _cut(raw: bytes, end: int) -> bytes:
    return raw[:-end]


def _foreign() -> st.SearchStrategy[bytes]:
    """Fields that nobody knows, groups, and what is no field at all."""
    return st.one_of(
        st.builds(tagged, st.integers(100, 2**29 - 1), st.just(2), st.binary(max_size=9)),
        st.sampled_from(
            (b"\x0b", b"\x0b\x0c", b"\x00\x00", b"\xff" * 11, b"\x12\xff\xff\xff\x7f")
        ),
    )


def _field(field: FieldDescriptor, known: Known, depth: int) -> st.SearchStrategy[bytes]:
    right = _content(field, known, depth)
    many = st.builds(
        lambda raw, count: (raw * count)[:400_000] if len(raw) < 100 else raw,
        right,
        st.sampled_from(MANY),
    )
    wrong = st.builds(
        tagged, st.just(field.number), st.sampled_from((0, 1, 2, 5)), st.binary(max_size=9)
    )
    return st.one_of(right, right, right, right, many if field.is_repeated else right, wrong)


def _content(field: FieldDescriptor, known: Known, depth: int) -> st.SearchStrategy[bytes]:
    number = field.number
    if field.message_type is not None:
        if depth >= NESTED_MAX:
            return st.just(tagged(number, 2, b""))
        inner = hostile(field.message_type, known, depth + 1)
        return inner.map(lambda raw: tagged(number, 2, raw))
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        texts = [each.encode() for each in known.texts]
        found = st.one_of(
            st.sampled_from(
                [*known.raws, *texts] if field.type == FieldDescriptor.TYPE_BYTES else texts
            ),
            st.sampled_from(ODD_BYTES),
            st.binary(max_size=30),
        )
        return found.map(lambda raw: tagged(number, 2, raw))
    bounds = st.sampled_from((*NUMBERS, 2**64 - 1)) | st.integers(0, 5)
    single = bounds.map(lambda value: tagged(number, 0, varint(value)))
    if not field.is_repeated:
        return single
    packed = st.lists(bounds, max_size=6).map(
        lambda values: tagged(number, 2, b"".join(map(varint, values)))
    )
    return single | packed | st.binary(max_size=9).map(lambda raw: tagged(number, 2, raw))
