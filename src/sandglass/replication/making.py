"""
How a snapshot is made, kept, and what goes then: the steps, without I/O.

`make` is a generator: it gives out steps, and is sent what came of each. A node carries them
out over the engine; the simulation does with crashes, delays and rivals between any two.

    look at what is there -> send the parts that are not -> send the manifest -> read back what
    was sent -> look again -> enter the generation, by compare-and-set -> trim -> clear away

1. The rows are those of one moment, and so is the mark.
2. A part that is there isn't sent again. There is what a kept generation has, or what was sent
   on the same revision of the catalog's entry: nothing else, for it may be about to go.
3. A generation is entered when all that was sent was read back, and all parts were seen to be
   there. It replaces the entry that its maker had read at the beginning, or none.
4. The stream is trimmed behind the older of two generations.
5. What goes are objects of an earlier stamp than the entry's revision, and of no generation
   that is kept. Who went on an earlier revision can't enter anything any more, and by rule 2
   nobody else counts on what they sent. So a deletion is right however late it comes, and
   nobody has to know who else is making, or whether this node still leads.

Any replica could make snapshots, since what it applies is committed. The leader does, for it is
known, and there is one.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandglass.core import keys
from sandglass.core.view import Row
from sandglass.errors import CorruptError, UnavailableError
from sandglass.replication.cutting import CutPart, Cutter
from sandglass.replication.reader import Mark
from sandglass.replication.snapshot import (
    MANIFEST,
    PART,
    Generation,
    Generations,
    Manifest,
    ObjectName,
    Part,
)

# --- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Digest:
    """`digest_of` these bytes: it takes milliseconds, so it isn't done here. Sent: it."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class ListNames:
    """Sent: the names of all objects of the log, those that were put before included."""


@dataclass(frozen=True, slots=True)
class Put:
    """Keep this object. It may go on while the next parts are made."""

    name: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Get:
    """Sent: the object's bytes; None if it isn't there, or not `is_whole`."""

    name: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Let others run."""


@dataclass(frozen=True, slots=True)
class Enter:
    """
    Put this value in place of the catalog's entry of that revision. Sent: the new revision, 0
    if the entry is of another one. Whether it was entered must be known.
    """

    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Trim:
    """Let the stream begin at this sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Delete:
    """These objects may go."""

    names: frozenset[str]


Making = Generator[
    Digest | ListNames | Put | Get | Rest | Enter | Trim | Delete, Any, "Made | None"
]


@dataclass(frozen=True, slots=True)
class Source:
    """
    What a snapshot is made of: rows of one moment, and where the log's reader stood then.

    `take` gives the next rows in order, a slice of them; none at the end.
    """

    cluster: str
    log: int
    mark: Mark
    made_ms: int
    take: Callable[[], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Made:
    """A generation that was entered."""

    generations: Generations
    revision: int
    sent_bytes: int
    sent_count: int


# --- making -----------------------------------------------------------------------------------


def make(source: Source, generations: Generations, revision: int) -> Making:
    """
    Makes a snapshot.

    Args:
        generations: that are kept, as the catalog's entry says.
        revision: of that entry; 0 if there is none.

    Returns:
        None if another was entered meanwhile, or one is kept that is as new.

    Raises:
        CorruptError: what was sent is not what is there, or a manifest can't be read.
        PreconditionError: there are too many parts.
        UnavailableError: parts went meanwhile.
    """
    newest = generations.newest
    if newest is not None and source.mark.position <= newest.position:
        return None
    names = yield ListNames()
    before = yield from _readable(source, generations)
    there = {
        found.digest: str(found)
        for _, manifest in before
        for found in map(ObjectName.read, manifest.names & names)
        if found is not None
    }
    work = _Work(names, there, revision)
    manifest = yield from work.send_parts(source)
    raw = manifest.encode()
    digest = yield Digest(raw)
    name = str(ObjectName(MANIFEST, revision, digest))
    yield from work.send(name, raw)
    for each in work.sent:
        if (yield Get(each)) is None:
            raise CorruptError(f"object {each} of log {source.log} was not kept as it was sent")
    names = yield ListNames()
    if not manifest.names <= names:
        raise UnavailableError(f"parts of a snapshot of log {source.log} went meanwhile")
    made = Generation(
        name, source.mark.sequence, source.mark.position, manifest.size_bytes, source.made_ms
    )
    older = next((each for each in before if each[1].names <= names), None)
    kept = Generations((made,) if older is None else (made, older[0]))
    entered: int = yield Enter(kept.encode(), revision)
    if not entered:
        return None
    if kept.trim_sequence:
        yield Trim(kept.trim_sequence)
    used = manifest.names | {name}
    if older is not None:
        used |= older[1].names | {older[0].manifest}
    garbage = garbage_of(names, used=used, revision=entered)
    if garbage:
        yield Delete(garbage)
    return Made(kept, entered, work.sent_bytes, len(work.sent))


def garbage_of(names: Iterable[str], *, used: frozenset[str], revision: int) -> frozenset[str]:
    """
    Of the names of a log's objects those that nobody will ever want.

    Args:
        used: the objects of the generations that are kept at `revision` of the entry.
    """
    found = ((name, ObjectName.read(name)) for name in names if name not in used)
    return frozenset(name for name, read in found if read is not None and read.stamp < revision)


def _readable(
    source: Source, generations: Generations
) -> Generator[Get, Any, list[tuple[Generation, Manifest]]]:
    """The kept generations of this stream whose manifests can be read."""
    found: list[tuple[Generation, Manifest]] = []
    for each in generations.kept:
        raw: bytes | None = yield Get(each.manifest)
        if raw is None:
            continue
        manifest = Manifest.decode(raw)
        if manifest.mark.stream == source.mark.stream:
            found.append((each, manifest))
    return found


@dataclass(slots=True)
class _Work:
    """What one attempt has found and sent."""

    names: frozenset[str]
    there: dict[str, str]
    """Parts of the kept generations, by digest."""

    revision: int
    sent: list[str] = field(default_factory=list[str])
    sent_bytes: int = 0

    def send_parts(self, source: Source) -> Generator[Any, Any, Manifest]:
        """Cuts the rows, and sends what is not there."""
        cutter, parts, closed = Cutter(), list[Part](), list[tuple[int, int]]()
        while rows := source.take():
            closed += closed_in(rows)
            for cut in cutter.take(row for row in rows if row[0] != keys.MARK_KEY):
                parts.append((yield from self._part(cut)))
            yield Rest()
        for cut in cutter.end():
            parts.append((yield from self._part(cut)))
        return Manifest(
            source.cluster,
            source.log,
            source.mark,
            source.made_ms,
            tuple(parts),
            tuple(closed),
        )

    def _part(self, cut: CutPart) -> Generator[Any, Any, Part]:
        digest: str = yield Digest(cut.raw)
        name = self.there.get(digest)
        if name is None:
            name = str(ObjectName(PART, self.revision, digest))
            yield from self.send(name, cut.raw)
        return Part(name, cut.low, cut.row_count, len(cut.raw))

    def send(self, name: str, raw: bytes) -> Generator[Any, Any, None]:
        """Sends an object, unless an attempt on the same revision did, and it is whole."""
        if name in self.names and (yield Get(name)) is not None:
            return
        yield Put(name, raw)
        self.sent.append(name)
        self.sent_bytes += len(raw)


def closed_in(rows: Iterable[Row]) -> list[tuple[int, int]]:
    """Partitions whose own rows are among these, and their closed offsets."""
    return [
        (keys.partition_of(key), keys.closed_of(value))
        for key, value in rows
        if key.startswith(keys.PARTITIONS_PREFIX)
    ]
