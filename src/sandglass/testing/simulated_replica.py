"""
A replica of a simulated cluster: a view made from what a reader accepts, and nothing else.

Rows and mark are one write, after whole entries; a crash takes the last writes, as it does on a
disk, and the reader begins again at the mark that is left.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from sandglass.adapters.memory_store import MemoryStore
from sandglass.core import keys
from sandglass.core.machine import Machine
from sandglass.core.view import Overlay
from sandglass.replication.reader import Accepted, Mark, Reader
from sandglass.testing.oracle import ALL_ROWS, Oracle
from sandglass.testing.seen import Violation, take_messages
from sandglass.testing.simulated_engine import Engine


def empty_store() -> MemoryStore:
    """What a member begins with."""
    return MemoryStore(flush_write_count=4)


@dataclass(slots=True)
class Replica:
    """Invariant: the rows of `store` are those of the entries up to its mark."""

    number: int
    engine: Engine
    oracle: Oracle
    store: MemoryStore = field(default_factory=empty_store)
    reader: Reader = field(default_factory=Reader)
    machine: Machine = field(init=False)
    view: Overlay = field(init=False)
    applied: int = 0
    _subscribed: Reader | None = None
    """The reader that reads on where it was: it doesn't look at its mark again."""

    def load(self) -> None:
        """What a process does first: the view, as it was written."""
        if self.store.get(keys.MARK_KEY) is None and [*self.store.range(*ALL_ROWS)]:
            self.wipe()  # it was beginning at a snapshot
        self.view = Overlay(self.store)
        self.machine = Machine.load(take_messages, self.view)
        self.applied = self.store.applied_position
        mark = Mark.decode(self.store.get(keys.MARK_KEY))
        if mark.position != self.applied:
            raise Violation(f"I16: rows up to {self.applied} with {mark}")
        self.reader = Reader(mark)

    def crash(self) -> None:
        """The process ends, here and now."""
        kept_count = self.oracle.chance.randint(0, self.store.unflushed_write_count)
        self.store.crash(kept_count)
        self.store.reopen()

    def wipe(self) -> None:
        """Its data is gone."""
        self.store = empty_store()

    # --- the stream ---------------------------------------------------------------------------

    def read(self, reader: Reader, end: int, taken: Callable[[Accepted], None]) -> None:
        """Lets a reader read on up to `end`; `taken` is given what it accepts."""
        stream = self.engine.stream
        end = min(end, stream.last_sequence)  # it may have lost its end since that was told
        is_same = reader.check_stream(
            first_sequence=stream.first_sequence,
            last_sequence=stream.last_sequence,
            stream=stream.name,
            at_mark=None if reader is self._subscribed else stream.at(reader.mark.sequence),
        )
        if reader is self.reader:
            self._subscribed = reader
        while is_same and reader.frozen is None and reader.sequence < end:
            sequence = reader.sequence + 1
            accepted = reader.take(sequence, stream.raws[sequence - 1])
            if accepted is not None:
                self.oracle.check(self.number, accepted)
                taken(accepted)

    def subscribe_anew(self) -> None:
        """Its connection broke: it begins to read again at its mark."""
        self._subscribed = None

    def apply(self, accepted: Accepted) -> None:
        """Carries out an entry, and writes it now, or with one of the next."""
        for position, raw in accepted.records():
            record = self.oracle.decoded(position, raw)
            self.view.lay(self.machine.apply(record, self.view))
            self.applied = position
        if self.oracle.chance.random() < 0.5:
            self.write()

    def write(self) -> None:
        """Rows and mark, in one write."""
        if self.applied != self.store.applied_position:
            self.view.changes.rows[keys.MARK_KEY] = self.reader.mark.encode()
            self.store.write(self.view.take(), self.applied)
            self.store.flushed_position()

    def catch_up(self) -> None:
        """Reads to the end, and writes all of it."""
        self.read(self.reader, self.engine.stream.last_sequence, self.apply)
        self.write()
