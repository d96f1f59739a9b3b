"""
What a leader has admitted and not yet applied, in order, and what it holds back until then.

1. Reads stay below the lowest offset that is given here to anything: see `bound`.
2. Groups of which messages are on their way out of a lease, or that move or end, wait for it.
3. Records land in the order in which they were admitted.

A replica has nothing here.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sandglass.core.group import Group
from sandglass.core.message import Removed
from sandglass.core.record import Move, Operation, Record, Redrive, Settle


@dataclass(slots=True)
class Landing:
    """A record that is admitted and not yet applied, and what it holds back until then."""

    record: Record
    lowest: int | None
    moves: list[tuple[Group, int]]
    ended: list[Group]
    held: Sequence[Group]
    removed: Removed | None
    """Told, when it is applied, what a delete has done."""


@dataclass(slots=True)
class InFlight:
    """The records of one partition that are on their way."""

    landings: deque[Landing] = field(default_factory=deque[Landing])

    def add(
        self,
        record: Record,
        groups: Mapping[int, Group],
        *,
        lowest: int | None,
        held: Sequence[Group],
        removed: Removed | None,
    ) -> None:
        """A record is admitted; `groups` are those in memory, by number."""
        moves = [
            (groups[operation.group], operation.until_ms)
            for operation in record.operations
            if isinstance(operation, Move | Redrive)
        ]
        ended = [
            groups[operation.group]
            for operation in record.operations
            if isinstance(operation, Move | Settle)
        ]
        for group in ended:
            group.ending_count += 1
        for group in held:
            group.held_count += 1
        self.landings.append(Landing(record, lowest, moves, ended, held, removed))

    def operations(self) -> Iterator[Operation]:
        """All that is on its way, in order."""
        for landing in self.landings:
            yield from landing.record.operations

    def bound(self, bound: int) -> int:
        """The highest offset up to `bound` that is below all that is given here."""
        for landing in self.landings:
            if landing.lowest is not None and landing.lowest <= bound:
                bound = landing.lowest - 1
        return bound

    def tell_removed(self, first_revision: int, *, existed: list[bool]) -> None:
        """What a delete has done, of the record that is about to land; on a leader only."""
        removed = self.landings[0].removed if self.landings else None
        if removed is not None:
            removed.first_revision, removed.existed = first_revision, existed

    def land(self, record: Record) -> None:
        """A record is applied: if it was admitted here, what it held back goes on."""
        if not self.landings:
            return
        landing = self.landings.popleft()
        assert landing.record is record, "records are applied in the order of admission"
        for group, until_ms in landing.moves:
            group.moving_ms.remove(until_ms)
            group.wake_at_steady(until_ms)
        for group in landing.ended:
            group.ended()
        for group in landing.held:
            group.held_count -= 1
            group.is_ready = True
