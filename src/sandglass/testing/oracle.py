"""
Who knows what a simulated stream really holds: a reader that sees every message at the moment
it is stored, and judges what members believe.

What members apply has to be what stands here (I16), what a leader calls committed has to stand
here (I1, I12), and nobody may be frozen, or go on, without reason. The history hears of records
from here, in the order of the log: those of a leader when it applies them, the rest of them
when the next one takes over.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from sandglass.adapters.memory_store import MemoryStore
from sandglass.core import codec, keys
from sandglass.core.dispatch import Moment
from sandglass.core.machine import Machine
from sandglass.core.record import Record
from sandglass.core.view import Overlay
from sandglass.replication.entry import WRITER_BYTES, EntryKind
from sandglass.replication.reader import Accepted, Frozen, Mark, Reader
from sandglass.testing.checkers import History
from sandglass.testing.seen import Violation, take_messages

ALL_ROWS = (b"", b"\xff" * 8)


@dataclass(slots=True)
class Oracle:
    """Invariant: `landed <= len(records)`; records up to `landed` are in the history."""

    chance: random.Random
    history: History
    reader: Reader = field(default_factory=Reader)
    records: list[bytes] = field(default_factory=list[bytes])
    marks: dict[int, Mark] = field(default_factory=dict[int, Mark])
    """After each entry that is accepted, by its last position."""
    landed: int = 0
    is_damaged: bool = False
    """The engine has broken its word: who had read more has to be frozen. Clients are gone, and
    the history is over."""
    frozen: dict[int, Frozen] = field(default_factory=dict[int, Frozen])
    restored_count: int = 0
    overlapped_count: int = 0
    """Times that a leader published while other entries of it were under way."""
    torn_count: int = 0
    """Doubts in which a later entry was known to be stored, and an earlier one not."""
    _replayed: tuple[int, dict[bytes, bytes]] = (-1, {})
    """The last position at which rows were looked at, and what they have to be."""
    _decoded: dict[int, Record] = field(default_factory=dict[int, Record])
    handed_over_count: int = 0

    def draw_writer(self) -> bytes:
        """The id of a writer."""
        return self.chance.randbytes(WRITER_BYTES)

    # --- the stream ---------------------------------------------------------------------------

    def look(self, stream: str, raws: Sequence[bytes] = ()) -> None:
        """Begins at the first message of a stream, which holds these."""
        self.reader = Reader(Mark(stream=stream))
        self.records, self.marks, self._decoded = [], {}, {}
        for sequence, raw in enumerate(raws, 1):
            self.stored(sequence, raw)

    def stored(self, sequence: int, raw: bytes) -> None:
        """The engine has stored this."""
        accepted = self.reader.take(sequence, raw)
        if self.reader.frozen is not None and not self.is_damaged:
            raise Violation(f"I12: no reader goes on: {self.reader.frozen}")
        if accepted is not None:
            self.records += accepted.entry.records
            self.marks[accepted.mark.position] = accepted.mark

    def check(self, number: int, accepted: Accepted) -> None:
        """
        A member has accepted this. One that had read more than there is may take a fence: it
        says what its writer had read at least. What comes after it tells; and it doesn't lead.
        """
        if self.is_damaged and accepted.entry.kind is EntryKind.FENCE:
            return
        for position, raw in accepted.records():
            if position > len(self.records) or self.records[position - 1] != raw:
                raise Violation(f"I16: member {number} reads another record at {position}")
        if not accepted.mark.stream:
            raise Violation(f"member {number} reads a stream that it hasn't looked at")

    def freeze(self, number: int, frozen: Frozen) -> None:
        """A member doesn't go on."""
        if not self.is_damaged:
            raise Violation(f"I5: member {number} is frozen: {frozen}")
        self.frozen[number] = frozen

    def decoded(self, position: int, raw: bytes) -> Record:
        """The record at a position, as everybody reads it: it is read once for all."""
        record = self._decoded.get(position)
        if record is None:
            record = self._decoded[position] = codec.decode(raw)
        return record

    # --- the history --------------------------------------------------------------------------

    def begin(self, position: int) -> None:
        """A leader takes over where the log ends at `position`."""
        if self.is_damaged:
            return
        if position > len(self.records):
            raise Violation(f"I12: a leader begins at {position}, beyond {len(self.records)}")
        while self.landed < position:
            self.landed += 1
            self.history.land(self.decoded(self.landed, self.records[self.landed - 1]))
        self.history.lose_all()

    def land(self, position: int, record: Record) -> None:
        """A leader takes this to be committed at `position`."""
        if self.is_damaged:
            return
        raw = codec.encode(record)
        if position > len(self.records) or self.records[position - 1] != raw:
            raise Violation(f"I12: what was committed at {position} is nowhere to be read")
        if position > self.landed:
            assert position == self.landed + 1, "a record is left out"
            self.history.land(record)
            self.landed = position

    # --- rows ---------------------------------------------------------------------------------

    def check_rows(self, number: int, store: MemoryStore) -> None:
        """What a member has written is what the log gives, replayed from nothing."""
        position = store.applied_position
        replayed, lived = self._replay(position), dict(store.range(*ALL_ROWS))
        if replayed == lived:
            return
        for key in sorted(replayed.keys() | lived.keys()):
            if replayed.get(key) != lived.get(key):
                raise Violation(
                    f"I16: row {key!r} of member {number} is {lived.get(key)!r} at {position};"
                    f" replayed {replayed.get(key)!r}"
                )

    def _replay(self, position: int) -> dict[bytes, bytes]:
        if self._replayed[0] != position:
            fresh = MemoryStore()
            view = Overlay(fresh)
            machine = Machine.load(take_messages, view)
            for place, raw in enumerate(self.records[:position], 1):
                view.lay(machine.apply(self.decoded(place, raw), view))
            if position:
                view.changes.rows[keys.MARK_KEY] = self.marks[position].encode()
            fresh.write(view.take(), position)
            self._replayed = (position, dict(fresh.range(*ALL_ROWS)))
        return self._replayed[1]


@dataclass(slots=True)
class Term:
    """The observer of one leader's node: what it calls committed is checked."""

    oracle: Oracle
    position: int
    """Of the last record before its own."""

    def see(self, wall_ms: int, monotonic_ms: int) -> None:
        """The leader's wall clock shows this."""
        self.oracle.history.see(wall_ms, monotonic_ms)

    def begin_epoch(self, closed: dict[int, int]) -> None:
        """It takes over."""
        self.oracle.begin(self.position)
        self.oracle.history.begin_epoch(closed)

    def admit(self, record: Record, moment: Moment) -> None:
        """A record is on its way."""
        if not self.oracle.is_damaged:
            self.oracle.history.admit(record, moment)

    def land(self, record: Record) -> None:
        """It is committed, so the leader says."""
        self.position += 1
        self.oracle.land(self.position, record)

    def lose(self, record: Record) -> None:
        """No record of a replicated log is taken back."""
        raise AssertionError(f"{record} is taken back")
