"""
Snapshots of a replicated log's view: what they are made of, as values and as bytes.

A snapshot is all rows of a view where a mark stood, in *parts*: ranges of the order of keys,
each an object that is named by its content. A *manifest*, an object too, lists the parts and
has the mark, and with it all that a reader knows: the floor of the epochs, n, chain, sequence
and position. The mark's own row is in no part, for it changes with every entry.

Of each log two *generations* of snapshots are kept. Which ones stands in one entry of the
catalog, changed by compare-and-set: that is the whole of what makers have to agree on.

An object's name has the revision of that entry on which its maker went, its *stamp*: see
`sandglass.replication.making` for what it is good for.

The formats, and the steps for changing them: docs/internals/snapshot-format.md.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import pairwise
from struct import Struct, pack, unpack_from
from struct import error as StructError
from typing import Any, Final

from sandglass.core import limits
from sandglass.core.view import Row
from sandglass.errors import CorruptError, PreconditionError
from sandglass.replication.reader import Mark

PART_VERSION: Final = 1
MANIFEST_VERSION: Final = 1
GENERATIONS_VERSION: Final = 1

PART: Final = "p"
MANIFEST: Final = "m"

_PART: Final = Struct("<4sBI")
"""Magic, version, count of rows; then the lengths of keys, of values; keys; values."""

_MANIFEST: Final = Struct("<4sB")
"""Magic, version; then JSON, so that a person can read it."""

_PART_MAGIC: Final = b"SGpt"
_MANIFEST_MAGIC: Final = b"SGsm"

_NAME: Final = re.compile(r"([pm])(0|[1-9][0-9]{0,19})-([0-9a-f]{64})", re.ASCII)


# --- names ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ObjectName:
    """What an object's name says: its kind, its stamp, and the SHA-256 of its bytes."""

    kind: str
    stamp: int
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}{self.stamp}-{self.digest}"

    @classmethod
    def read(cls, name: str) -> "ObjectName | None":
        """What a name says; None if it is none of ours."""
        found = _NAME.fullmatch(name)
        return None if found is None else cls(found[1], int(found[2]), found[3])


def digest_of(raw: bytes) -> str:
    """What names an object's content. Milliseconds for a part: in a thread."""
    return sha256(raw).hexdigest()


def is_whole(name: str, raw: bytes) -> bool:
    """Is this what the object was when it was named? In a thread, too."""
    found = ObjectName.read(name)
    return found is not None and found.digest == digest_of(raw)


# --- parts ------------------------------------------------------------------------------------


def encode_part(rows: Sequence[Row]) -> bytes:
    """The bytes of a part."""
    count = len(rows)
    keys, values = [row[0] for row in rows], [row[1] for row in rows]
    lengths = pack(f"<{2 * count}I", *map(len, keys), *map(len, values))
    return b"".join((_PART.pack(_PART_MAGIC, PART_VERSION, count), lengths, *keys, *values))


def decode_part(raw: bytes) -> list[Row]:
    """
    The rows of a part, ascending.

    Raises:
        CorruptError: another version, or bytes that are no part.
    """
    try:
        return _decode_part(raw)
    except (StructError, ValueError) as error:
        raise CorruptError(f"part of a snapshot, of {len(raw)} bytes: {error}") from error


def _decode_part(raw: bytes) -> list[Row]:
    magic, version, count = _PART.unpack_from(raw)
    if magic != _PART_MAGIC:
        raise ValueError("it is no part")
    if version != PART_VERSION:
        raise ValueError(f"it has format version {version}; this node reads {PART_VERSION}")
    if _PART.size + 8 * count > len(raw):
        raise ValueError(f"it can't hold {count} rows")
    lengths = unpack_from(f"<{2 * count}I", raw, _PART.size)
    fields: list[bytes] = []
    at = _PART.size + 8 * count
    for length in lengths:
        fields.append(raw[at : at + length])
        at += length
    if at != len(raw):
        raise ValueError(f"it ends at {at}")
    rows = list(zip(fields[:count], fields[count:], strict=True))
    if any(first[0] >= second[0] for first, second in pairwise(rows)):
        raise ValueError("its rows are out of order")
    return rows


# --- manifests --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its object, the key of its first row, and how much it is."""

    name: str
    low: bytes
    row_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    A snapshot. Invariant: the parts ascend by `low`, and each ends where the next one begins.
    """

    cluster: str
    log: int
    mark: Mark
    made_ms: int
    """Wall time of its maker, for people."""
    parts: tuple[Part, ...]
    closed: tuple[tuple[int, int], ...]
    """Partitions and their closed offsets, as their rows have them."""

    @property
    def size_bytes(self) -> int:
        """Of all parts."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def names(self) -> frozenset[str]:
        """Of the parts' objects."""
        return frozenset(part.name for part in self.parts)

    def encode(self) -> bytes:
        """
        The bytes of its object.

        Raises:
            PreconditionError: it is larger than one may be.
        """
        fields = {
            "cluster": self.cluster,
            "log": self.log,
            "mark": json.loads(self.mark.encode()),
            "made_ms": self.made_ms,
            "closed": [[number, f"{offset:028x}"] for number, offset in self.closed],
            "parts": [
                [part.name, part.low.hex(), part.row_count, part.size_bytes]
                for part in self.parts
            ],
        }
        text = json.dumps(fields, separators=(",", ":"))
        raw = _MANIFEST.pack(_MANIFEST_MAGIC, MANIFEST_VERSION) + text.encode()
        if len(raw) > limits.SNAPSHOT_MANIFEST_BYTES_MAX:
            raise PreconditionError(
                f"a snapshot of log {self.log} has {len(self.parts)} parts, and a manifest of"
                f" {len(raw)} bytes; the limit is {limits.SNAPSHOT_MANIFEST_BYTES_MAX}: the"
                " partition is too large to be replicated whole"
            )
        return raw

    @classmethod
    def decode(cls, raw: bytes) -> "Manifest":
        """
        Reads an object's bytes.

        Raises:
            CorruptError: another version, or bytes that are no manifest.
        """
        try:
            return cls._decode(raw)
        except (
            StructError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
            OverflowError,
        ) as error:  # fmt: skip
            raise CorruptError(f"manifest of {len(raw)} bytes: {error}") from error

    @classmethod
    def _decode(cls, raw: bytes) -> "Manifest":
        magic, version = _MANIFEST.unpack_from(raw)
        if magic != _MANIFEST_MAGIC:
            raise ValueError("it is no manifest")
        if version != MANIFEST_VERSION:
            raise ValueError(
                f"it has format version {version}; this node reads {MANIFEST_VERSION}"
            )
        fields = json.loads(raw[_MANIFEST.size :])
        parts = tuple(
            Part(_checked_name(name), bytes.fromhex(low), int(row_count), int(size_bytes))
            for name, low, row_count, size_bytes in fields["parts"]
        )
        if any(first.low >= second.low for first, second in pairwise(parts)):
            raise ValueError("its parts are out of order")
        return cls(
            str(fields["cluster"]),
            int(fields["log"]),
            Mark.decode(json.dumps(fields["mark"]).encode()),
            int(fields["made_ms"]),
            parts,
            tuple((int(number), int(offset, 16)) for number, offset in fields["closed"]),
        )


def _checked_name(name: str) -> str:
    found = ObjectName.read(name)
    if found is None or found.kind != PART:
        raise ValueError(f"{name[:80]!r} names no part")
    return name


# --- generations ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Generation:
    """A snapshot that is kept: its manifest's object, and where it stands in the log."""

    manifest: str
    sequence: int
    position: int
    size_bytes: int
    made_ms: int


@dataclass(frozen=True, slots=True)
class Generations:
    """
    The snapshots of a log that are kept, the newest first: two, or fewer in the beginning.

    Invariant: sequence and position descend.
    """

    kept: tuple[Generation, ...] = ()

    @property
    def newest(self) -> Generation | None:
        """The one to begin with."""
        return self.kept[0] if self.kept else None

    @property
    def trim_sequence(self) -> int:
        """
        Below it nobody needs the stream: the older of two generations stands there. The entry
        itself stays, to be looked at by who begins at that mark. 0 while there is only one.
        """
        return self.kept[1].sequence if len(self.kept) > 1 else 0

    def encode(self) -> bytes:
        """The value of the catalog's entry: JSON, so that a person can read it."""
        fields = {
            "version": GENERATIONS_VERSION,
            "generations": [asdict(each) for each in self.kept],
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def decode(cls, raw: bytes | None) -> "Generations":
        """
        Reads the entry's value; without one there are none.

        Raises:
            CorruptError: it is none, or one of another version.
        """
        if raw is None:
            return cls()
        try:
            fields: Any = json.loads(raw)
            if fields["version"] != GENERATIONS_VERSION:
                raise ValueError("they are of another version")
            found = cls(tuple(Generation(**each) for each in fields["generations"]))
            places = [(each.sequence, each.position) for each in found.kept]
            is_sound = len(places) <= 2 and places == sorted(places, reverse=True)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise CorruptError(f"a log's snapshots cannot be read: {error}") from error
        if not is_sound:
            raise CorruptError("a log's snapshots cannot be read: they are out of order")
        return found
