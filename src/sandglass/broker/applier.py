"""
What is durable is carried out here: records of the log into the machine and its view.

Recovery, a replica that follows its log and a node at work are one way. A partition of which a
rule is broken stops alone, for good: `sandglass.broker.quarantine`. One whose rows in the view
cannot be read stops alone, too, until the next start.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from sandglass.broker import quarantine
from sandglass.broker.agenda import Agenda
from sandglass.core import codec, limits
from sandglass.core.keys import MARK_KEY
from sandglass.core.machine import Machine
from sandglass.core.partition import Slicer
from sandglass.core.record import NODE, Record
from sandglass.core.view import Changes, Overlay
from sandglass.errors import (
    BusyError,
    CorruptError,
    InternalError,
    NotFoundError,
    SandglassError,
)
from sandglass.ports import Log, Store
from sandglass.telemetry import Counts

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Applier:
    """The machine of one log, and the store that holds what it has come to."""

    store: Store
    slicer: Slicer
    stats: Counts
    agenda: Agenda

    machine: Machine = field(init=False)
    view: Overlay = field(init=False)
    applied: int = 0
    """Position of the last record that was carried out."""
    is_stalled: bool = False
    """The store takes nothing just now: what was carried out waits in the view."""
    stopped: dict[int, str] = field(default_factory=dict[int, str])
    """Partitions whose rules were broken, or whose rows cannot be read, and how: they stand
    still, the others go on."""
    on_stopped: Callable[[int, SandglassError], None] = lambda *_: None
    """Told of each that stands still from now on, and why."""
    watchers: list[Callable[[Changes], None]] = field(
        default_factory=list[Callable[[Changes], None]]
    )
    """Told what each record changes, as it is carried out."""
    mark_at: Callable[[int], bytes] | None = None
    """By position: what the store of a replicated log keeps beside it."""
    _damaged: set[int] = field(default_factory=set[int])
    """Those of `stopped` whose rows cannot be read."""

    def open(self) -> None:
        """Finds what the store holds."""
        self.view = Overlay(self.store)
        self.machine = Machine.load(self.slicer, self.view)
        self.applied = self.store.applied_position
        self.stopped = {number: reason for number, _, reason in quarantine.read(self.view)}

    def recover(self, log: Log) -> None:
        """Carries out what the log has beyond the store."""
        for position, raw in log.read(self.applied + 1):
            self.replay(position, raw)
            if len(self.view.changes.rows) >= limits.REPLAY_ROW_COUNT:
                self.write_replayed()
        for number in quarantine.release(self.machine, self.view):
            del self.stopped[number]
            self._damaged.discard(number)
        self.write_replayed()

    def replay(self, position: int, raw: bytes) -> None:
        """Carries out a record that another wrote, or this node before it ended."""
        assert position == self.applied + 1, "a record was left out"
        self.applied = position
        self._carry_out(codec.decode(raw))

    def write_replayed(self, mark: bytes | None = None) -> None:
        """
        Writes what was replayed, with the mark of the log's reader where there is one.

        Raises:
            BusyError: the store is stalled; repeat.
        """
        if mark is not None:
            self.view.changes.rows[MARK_KEY] = mark
        if not self.view.changes and self.applied == self.store.applied_position:
            return
        changes = self.view.take()
        try:
            self.store.write(changes, self.applied)
        except BusyError:
            self.view.lay(changes)
            raise

    def apply(self, record: Record) -> None:
        """Carries out the next record of the log; a stopped partition's are set aside."""
        self.applied += 1
        self._carry_out(record)

    def _carry_out(self, record: Record) -> None:
        number = record.partition
        if number not in self.stopped:
            try:
                changes = self.machine.apply(record, self.view)
                self.view.lay(changes)
                for told in self.watchers:
                    told(changes)
                self.stats.applied(record)
            except (AssertionError, CorruptError) as error:
                if number == NODE:
                    raise
                self.stop_partition(number, error)
        if number in self.stopped:
            reason = self.stopped[number]
            self.view.lay(quarantine.keep(record, self.applied, reason, self.machine))
        elif number == NODE:
            self.agenda.add_all()
        else:
            self.agenda.add(number)

    def write(self) -> BusyError | None:
        """Writes what was carried out; if the store takes nothing, why: it waits then."""
        if not self.view.changes:
            self.is_stalled = False
            return None
        if self.mark_at is not None:
            self.view.changes.rows[MARK_KEY] = self.mark_at(self.applied)
        changes = self.view.take()
        try:
            self.store.write(changes, self.applied)
        except BusyError as error:
            self.stats.stall_count += 1
            self.is_stalled = True
            self.view.lay(changes)
            return error
        self.is_stalled = False
        return None

    def stop_partition(self, number: int, error: AssertionError | CorruptError) -> None:
        """It stands still from now on."""
        self.stopped[number] = f"partition {number} stands still: {error}"
        is_damaged = isinstance(error, CorruptError)
        if is_damaged:
            self._damaged.add(number)
        logger.critical(
            "partition %d is stopped: %s", number, error, exc_info=None if is_damaged else error
        )
        self.machine.restore(number, self.view)
        self.on_stopped(number, self.stopped_error(number))

    def stopped_error(self, number: int) -> SandglassError:
        """Why nothing comes of a stopped partition."""
        kind = CorruptError if number in self._damaged else InternalError
        return kind(self.stopped[number])

    def error_of(self, number: int) -> SandglassError | None:
        """Why nothing more comes of a partition; None if something does."""
        if number != NODE and number not in self.machine.refs:
            return NotFoundError(f"partition {number} was deleted with its topic")
        if number in self.stopped:
            return self.stopped_error(number)
        return None
