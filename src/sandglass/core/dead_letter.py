"""
Dead letters: redriven to the group that gave them up, or thrown away, as records.

A dead letter that comes back gets a new place, as everything does that moves: a new index and
offset, in a channel that nobody reads (`message.REDRIVE_CHANNEL`), and a retry row of its
group that leads there. So it comes to that group alone, its attempts start anew, `committed`
doesn't go back, and it makes no difference whether retention has taken the original: the dead
letter has the bytes. In the same record its dead letter goes.

Consumers of the dead letters' own channel lose what goes: leases on it end at admission, and
for their groups it has expired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sandglass.core.dispatch import Moment
from sandglass.core.group import Group
from sandglass.core.message import DEAD_LETTER_CHANNEL, REDRIVE_CHANNEL, Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import Append, Operation, Purge, Range, Record, Redrive
from sandglass.core.view import View
from sandglass.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: of a group, of its channel, of a reason; empty is any."""

    group: str = ""
    channel: str = ""
    reason: str = ""

    def takes(self, part: Slice) -> bool:
        """Is this run of dead letters meant?"""
        origin = part.origin
        assert origin is not None, "another message among the dead letters"
        return all(
            not wanted or wanted == found
            for wanted, found in (
                (self.group, origin.group),
                (self.channel, origin.channel),
                (self.reason, origin.reason),
            )
        )


def admit_redrive(
    partition: Partition, letters: Sequence[Slice], moment: Moment, view: View
) -> tuple[Record | None, int]:
    """
    Gives dead letters back to their groups; those whose group is gone stay.

    Returns:
        The record, None if nothing is left to do, and how many messages it brings back.
    """
    partition.see(moment.wall_ms)
    operations: list[Operation] = []
    ranges: list[Range] = []
    first_index = partition.assigned_index + 1
    for part in _free(partition, letters):
        group = _group_of(partition, part, view)
        if group is None:
            continue
        operations.append(_redrive(partition, group, part, moment))
        ranges.append(_range(part))
    if not ranges:
        return None, 0
    lowest = partition.now_ms << INDEX_BITS | first_index
    return _with_purge(partition, operations, ranges, moment, view, lowest)


def admit_purge(
    partition: Partition, letters: Sequence[Slice], moment: Moment, view: View
) -> tuple[Record | None, int]:
    """Throws dead letters away; returns as `admit_redrive`."""
    partition.see(moment.wall_ms)
    ranges = [_range(part) for part in _free(partition, letters)]
    if not ranges:
        return None, 0
    return _with_purge(partition, [], ranges, moment, view, None)


def _redrive(partition: Partition, group: Group, part: Slice, moment: Moment) -> Redrive:
    origin = part.origin
    assert origin is not None, "another message among the dead letters"
    append = Append(
        REDRIVE_CHANNEL,
        partition.assigned_index + 1,
        part.produced_ms,
        [partition.now_ms],
        [part.count],
        [partition.slicer(part.body, part.row_count, part.first, part.count)],
        [False],
        [],
        replace(origin, offset=origin.offset + part.first),
    )
    partition.assigned_index += part.count
    until_ms = group.retry_clamp(moment.steady_ms)
    group.moving_ms.append(until_ms)
    return Redrive(group.number, until_ms, append)


def _with_purge(
    partition: Partition,
    operations: list[Operation],
    ranges: list[Range],
    moment: Moment,
    view: View,
    lowest: int | None,
) -> tuple[Record, int]:
    readers = partition.groups.of(DEAD_LETTER_CHANNEL, view)
    for low, high, _ in ranges:
        for reader in readers:
            reader.take_back(low, high)
    operations.append(Purge(ranges))
    record = partition.record(operations, moment, lowest=lowest, held=readers)
    return record, sum(count for _, _, count in ranges)


def _free(partition: Partition, letters: Sequence[Slice]) -> list[Slice]:
    """Those that no record on its way takes."""
    going = [
        each
        for operation in partition.in_flight.operations()
        if isinstance(operation, Purge)
        for each in operation.ranges
    ]
    if not going:
        return list(letters)
    return [
        part
        for part in letters
        if not any(
            low < taken_high and taken_low < high
            for low, high, _ in (_range(part),)
            for taken_low, taken_high, _ in going
        )
    ]


def _group_of(partition: Partition, part: Slice, view: View) -> Group | None:
    assert part.origin is not None, "another message among the dead letters"
    try:
        return partition.group(part.origin.channel, part.origin.group, view)
    except NotFoundError:
        return None


def _range(part: Slice) -> Range:
    low = part.due_ms << INDEX_BITS | part.first_index
    return low, low + part.count, part.count
