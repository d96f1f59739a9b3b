"""
How a replica begins at a snapshot: the steps, without I/O.

The replica's rows go first. Then parts come, each whole or not at all, and last of all the
mark, in one write with the position: until then it has rows and no mark, and who finds it so
after a crash wipes it and begins again.

The newest generation is taken; the older one where an object of that is gone or damaged. One
that stands before the stream's first entry helps nobody: what comes between is nowhere.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sandglass.core import limits
from sandglass.core.view import Row
from sandglass.errors import CorruptError
from sandglass.replication.making import Get, closed_in
from sandglass.replication.reader import Mark
from sandglass.replication.snapshot import Generation, Generations, Manifest, Part, decode_part


@dataclass(frozen=True, slots=True)
class Wipe:
    """The replica's rows go, its mark and its position with them."""


@dataclass(frozen=True, slots=True)
class Write:
    """These rows, at position 0."""

    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Finish:
    """The mark and its position: all rows of the snapshot are there."""

    mark: Mark


@dataclass(frozen=True, slots=True)
class Expect:
    """`Get` comes for these next, in this order: they may be fetched before."""

    parts: Sequence[Part]


Restoring = Generator[Get | Expect | Wipe | Write | Finish, Any, "Restored"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What would help. `position` is where the replica stands, and `first_sequence` where the
    stream of this name begins.
    """

    cluster: str
    log: int
    position: int
    first_sequence: int
    stream: str


@dataclass(frozen=True, slots=True)
class Restored:
    """How it went: with the mark, or with what was wrong with each generation."""

    mark: Mark | None
    trouble: str
    size_bytes: int = 0


def restore(wanted: Wanted, generations: Generations) -> Restoring:
    """Begins at the newest generation that helps and is whole."""
    troubles: list[str] = []
    for each in generations.kept:
        manifest: Manifest | None = None
        try:
            _check_place(wanted, each)
            manifest = yield from _manifest(wanted, each)
            yield Expect(manifest.parts)
            yield Wipe()
            yield from _load(manifest)
        except CorruptError as error:
            troubles.append(f"of the snapshot at position {each.position} {error.message}")
            if manifest is not None:
                yield Wipe()
            continue
        yield Finish(manifest.mark)
        return Restored(manifest.mark, "", manifest.size_bytes)
    return Restored(None, "; ".join(troubles) or "there is no snapshot")


def _check_place(wanted: Wanted, each: Generation) -> None:
    if each.sequence + 1 < wanted.first_sequence:
        raise CorruptError(
            f"the last entry is {each.sequence}, and the stream begins at"
            f" {wanted.first_sequence}"
        )
    if each.position <= wanted.position:
        raise CorruptError(f"nothing helps: the replica stands at {wanted.position}")


def _manifest(wanted: Wanted, each: Generation) -> Generator[Any, Any, Manifest]:
    raw: bytes | None = yield Get(each.manifest)
    if raw is None:
        raise CorruptError("the manifest is gone or damaged")
    manifest = Manifest.decode(raw)
    mark = manifest.mark
    if (manifest.cluster, manifest.log) != (wanted.cluster, wanted.log):
        raise CorruptError(
            f"the manifest is one of log {manifest.log} of cluster {manifest.cluster!r}"
        )
    if (mark.sequence, mark.position) != (each.sequence, each.position):
        raise CorruptError(f"the manifest stands at position {mark.position}")
    if mark.stream != wanted.stream:
        raise CorruptError(f"the stream was {mark.stream!r}; now it is {wanted.stream!r}")
    return manifest


def _load(manifest: Manifest) -> Generator[Any, Any, None]:
    closed: list[tuple[int, int]] = []
    for part in manifest.parts:
        raw: bytes | None = yield Get(part.name)
        if raw is None:
            raise CorruptError(f"part {part.name} is gone or damaged")
        rows = decode_part(raw)
        if len(rows) != part.row_count or rows[0][0] != part.low:
            raise CorruptError(f"part {part.name} holds other rows than the manifest says")
        closed += closed_in(rows)
        for piece in _pieces(rows):
            yield Write(piece)
    if tuple(closed) != manifest.closed:
        raise CorruptError("the closed offsets are others than the manifest says")


def _pieces(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Slices, each a write that nobody notices."""
    first, size_bytes = 0, 0
    for at, (key, value) in enumerate(rows):
        size_bytes += len(key) + len(value)
        is_full = at + 1 - first == limits.SNAPSHOT_SLICE_ROW_COUNT
        if is_full or size_bytes >= limits.SNAPSHOT_SLICE_BYTES:
            yield rows[first : at + 1]
            first, size_bytes = at + 1, 0
    if first < len(rows):
        yield rows[first:]
