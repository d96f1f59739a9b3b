"""
Who reads a replicated log: which of its entries count, and when to stop believing it.

The engine stores whatever it is sent, a deposed leader's entries too, and may store an entry
twice, or a later one without an earlier one. Readers filter, all in the same way, so all accept
the same entries in the same order. Of the rules each is a line in `take`:

1. A fence of a higher epoch than any before opens its epoch. Of two with one epoch the first
   in the stream counts, and with it its writer.
2. An entry of a lower epoch, or of another writer, is dropped: of a leader who is deposed, or
   never was one.
3. An entry whose n was accepted already is dropped: a repeat.
4. An entry that comes before its turn is dropped: the engine refused the one before it, whose
   place another's entry had taken. Its writer knows, because it takes only what is stored in
   order, and stores both once more.
5. All else must follow exactly, in n, chain and position. If not, or if an entry shows that its
   writer knew something to be accepted that isn't there, or its bytes are damaged, then the
   stream is not what was written, and the reader is *frozen*: it says why, and never goes on by
   itself.

A *mark* is where a reader stands: the last entry it accepted. A store keeps it in the same
write as the rows, a snapshot carries it; so the epoch's floor is never forgotten.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from sandglass.errors import CorruptError
from sandglass.replication.entry import Entry, EntryKind, chain_after, checksum_of, decode

MARK_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a reader stands: at the last entry that it accepted. All zero before the first."""

    sequence: int = 0
    epoch: int = 0
    n: int = 0
    chain: int = 0
    position: int = 0
    """Of the entry's last record."""
    writer: bytes = b""
    stream: str = ""
    """What tells the stream from one made anew under its name; empty before the first look."""
    checksum: int = 0
    """Of the entry."""

    def encode(self) -> bytes:
        """The mark as a row: JSON, so that a person can read it."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields |= {"version": MARK_VERSION, "writer": self.writer.hex()}
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def decode(cls, raw: bytes | None) -> "Mark":
        """
        Reads a mark's row; without one, the mark before the first entry.

        Raises:
            CorruptError: it is no mark, or one of another version.
        """
        if raw is None:
            return cls()
        try:
            fields = json.loads(raw)
            if fields.pop("version") != MARK_VERSION:
                raise ValueError("a mark of another version")
            return cls(**(fields | {"writer": bytes.fromhex(fields["writer"])}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorruptError(f"a replica's mark cannot be read: {error}") from error


class Freeze(Enum):
    """Why a reader doesn't go on."""

    DAMAGED = "damaged"
    MISSING = "missing"
    """An entry that had been accepted is not there."""

    CHAIN = "chain"
    """An entry follows something else than what was read."""

    SHORTER = "shorter"
    """The stream ends before what was read from it."""

    ANEW = "anew"
    """It is another stream under the same name."""

    TRIMMED = "trimmed"
    """The next entry is no longer kept: a snapshot helps, and nothing else is wrong."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A reader's last word."""

    kind: Freeze
    reason: str
    """For people: what, at which sequence, and what was expected."""

    @property
    def needs_snapshot(self) -> bool:
        """A snapshot from beyond here, and what follows it, is the whole cure."""
        return self.kind is Freeze.TRIMMED


@dataclass(frozen=True, slots=True)
class Accepted:
    """An entry that counts. It is applied as a whole: its mark holds after the last record."""

    entry: Entry
    mark: Mark

    @property
    def position(self) -> int:
        """Of the first record: exact, for a fence too."""
        return self.mark.position - len(self.entry.records) + 1

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(position, record), in order."""
        return enumerate(self.entry.records, self.position)


@dataclass(slots=True)
class Dropped:
    """How many entries didn't count, by reason."""

    stale: int = 0
    """Of a leader that was deposed, or lost the race for its epoch."""
    repeated: int = 0
    early: int = 0


@dataclass(slots=True)
class Reader:
    """
    Reads a stream from a mark on.

    Invariant: `mark.sequence <= sequence`. Nothing changes once `frozen` is set.
    """

    mark: Mark = field(default_factory=Mark)
    sequence: int = field(init=False)
    """The last one that was looked at, accepted or not: reading goes on behind it."""
    frozen: Frozen | None = None
    dropped: Dropped = field(default_factory=Dropped)
    early: set[int] = field(default_factory=set[int])
    """The n of entries of this epoch that came too early, and are still to be accepted."""

    def __post_init__(self) -> None:
        self.sequence = self.mark.sequence

    def check_stream(
        self,
        *,
        first_sequence: int,
        last_sequence: int,
        stream: str,
        at_mark: bytes | None = None,
    ) -> bool:
        """
        Is this still the stream that was read? To be asked whenever reading begins (anew), and
        before a fence is published.

        Args:
            first_sequence: the lowest that is kept; above `last_sequence` when none is.
            last_sequence: the highest ever given out, as the stream's leader says it.
            stream: what a stream made anew under the same name would not have, such as the
                moment when it was made. The first one seen is taken into the mark.
            at_mark: what the stream holds at `mark.sequence`, if that is still kept: one that
                lost its end and grew again to the same length shows by nothing else.

        Returns:
            False if the reader is frozen, now or before.
        """
        if self.frozen is None:
            self.frozen = self._strangeness(first_sequence, last_sequence, stream, at_mark)
        if self.frozen is None and not self.mark.stream:
            self.mark = replace(self.mark, stream=stream)
        return self.frozen is None

    def take(self, sequence: int, raw: bytes) -> Accepted | None:
        """
        What the stream holds at `sequence`, in order; None if it doesn't count.

        A sequence that was looked at before is passed over. One that is not the next means
        that what lies between is no longer kept, or lost.
        """
        if self.frozen is not None or sequence <= self.sequence:
            return None
        if sequence != self.sequence + 1:
            self._freeze(
                Freeze.TRIMMED,
                f"sequences {self.sequence + 1} to {sequence - 1} are not there",
            )
            return None
        self.sequence = sequence
        try:
            entry = decode(sequence, raw)
        except CorruptError as error:
            self._freeze(Freeze.DAMAGED, error.message)
            return None
        if self._is_dropped(entry):
            return None
        wrong = self._wrongness(entry)
        if wrong is not None:
            self._freeze(wrong[0], f"entry {sequence}: {wrong[1]}")
            return None
        return self._accept(entry, sequence, raw)

    # --- the rules ----------------------------------------------------------------------------

    def _is_dropped(self, entry: Entry) -> bool:
        if self._is_stale(entry):
            self.dropped.stale += 1
        elif self._is_repeated(entry):
            self.dropped.repeated += 1
        elif self._is_early(entry):
            self.dropped.early += 1
            self.early.add(entry.n)
        else:
            return False
        return True

    def _is_stale(self, entry: Entry) -> bool:
        mark = self.mark
        return entry.epoch < mark.epoch or (
            entry.epoch == mark.epoch and entry.writer != mark.writer
        )

    def _is_repeated(self, entry: Entry) -> bool:
        return entry.epoch == self.mark.epoch and entry.n <= self.mark.n

    def _is_early(self, entry: Entry) -> bool:
        mark = self.mark
        return entry.epoch == mark.epoch and entry.n > mark.n + 1 and entry.known <= mark.n

    def _wrongness(self, entry: Entry) -> tuple[Freeze, str] | None:
        """What keeps an entry from following, if anything does."""
        mark = self.mark
        if entry.kind is EntryKind.FENCE:
            is_exact = entry.position == mark.position + 1
            if entry.position > mark.position + 1:
                return Freeze.MISSING, (
                    f"the leader of epoch {entry.epoch} had read up to position"
                    f" {entry.position - 1}; here {mark.position} is the last"
                )
            if is_exact and entry.chain != mark.chain:
                return Freeze.CHAIN, f"epoch {entry.epoch} follows another history"
            return None
        if entry.epoch != mark.epoch:
            return Freeze.MISSING, f"epoch {entry.epoch} was never opened, {mark.epoch} was"
        if entry.n != mark.n + 1:
            return Freeze.MISSING, (
                f"n = {entry.n} of epoch {entry.epoch} says that {entry.known} was accepted;"
                f" here {mark.n} is the last"
            )
        if entry.chain != mark.chain:
            return Freeze.CHAIN, f"n = {entry.n} of epoch {entry.epoch} follows another history"
        if entry.position != mark.position + 1:
            return Freeze.CHAIN, (
                f"it begins at position {entry.position}, expected {mark.position + 1}"
            )
        return None

    def _accept(self, entry: Entry, sequence: int, raw: bytes) -> Accepted:
        if entry.kind is EntryKind.FENCE:
            self.early.clear()
        self.early.discard(entry.n)
        self.mark = Mark(
            sequence,
            entry.epoch,
            entry.n,
            chain_after(self.mark.chain, raw),
            self.mark.position + len(entry.records),
            entry.writer,
            self.mark.stream,
            checksum_of(raw),
        )
        return Accepted(entry, self.mark)

    def _strangeness(
        self, first_sequence: int, last_sequence: int, stream: str, at_mark: bytes | None
    ) -> Frozen | None:
        if self.mark.stream and stream != self.mark.stream:
            return Frozen(
                Freeze.ANEW,
                f"the stream is {stream!r}; what was read up to {self.sequence} was"
                f" {self.mark.stream!r}",
            )
        if last_sequence < self.sequence:
            return Frozen(
                Freeze.SHORTER,
                f"the stream ends at {last_sequence}; it was read up to {self.sequence}",
            )
        if at_mark is not None and checksum_of(at_mark) != self.mark.checksum:
            return Frozen(
                Freeze.CHAIN, f"sequence {self.mark.sequence} holds another entry than it did"
            )
        if first_sequence > self.sequence + 1:
            return Frozen(
                Freeze.TRIMMED,
                f"the stream begins at {first_sequence}; it was read up to {self.sequence}",
            )
        return None

    def _freeze(self, kind: Freeze, reason: str) -> None:
        self.frozen = Frozen(kind, reason)
