"""
Taking back admissions for which the log has no room: nothing was told about them yet.

Their indexes go to what was admitted after them, which is made anew with lower ones.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from sandglass.core.in_flight import Landing
from sandglass.core.offset import INDEX_BITS, INDEX_MAX
from sandglass.core.partition import Partition
from sandglass.core.record import (
    Append,
    CreateGroup,
    Delete,
    Operation,
    Put,
    Record,
    Redrive,
    SeekGroup,
    index_count,
    indexed_of,
    lowest_offset,
)


def retract(partition: Partition, records: Iterable[Record]) -> dict[int, Record]:
    """
    Takes back records that are admitted, and will never be in the log.

    Returns:
        What replaces later records in flight, by the `id` of each.
    """
    refused = {id(record) for record in records}
    kept: deque[Landing] = deque()
    moved: dict[int, Record] = {}
    count = 0
    for landing in partition.in_flight.landings:
        before = landing.record
        if id(before) in refused:
            refused.remove(id(before))
            count += sum(map(index_count, before.operations))
            continue
        kept.append(landing)
        if not count:
            continue
        operations = [
            _shifted(each, count, partition.closed, partition.last_index)
            for each in before.operations
        ]
        if operations != before.operations:
            landing.record = moved[id(before)] = replace(before, operations=operations)
            landing.lowest = _lowest(operations)
    assert not refused, "what is taken back is in flight"
    partition.in_flight.landings = kept
    partition.assigned_index -= count
    return moved


def _shifted(operation: Operation, count: int, closed: int, applied: int) -> Operation:
    """
    An operation with indexes lower by so much; later, if it would be below `closed`. What it
    counts from lies above the index that is `applied`.
    """
    match operation:
        case Append():
            first_index = operation.first_index - count
            open_ms = _open_ms(first_index, closed)
            dues = [max(due_ms, open_ms) for due_ms in operation.dues]
            return replace(operation, first_index=first_index, dues=dues)
        case Put() | Delete():
            first_index = operation.first_index - count
            produced_ms = max(operation.produced_ms, _open_ms(first_index, closed))
            return replace(operation, first_index=first_index, produced_ms=produced_ms)
        case CreateGroup() | SeekGroup() if operation.start & INDEX_MAX > applied + count:
            # From now on; an offset that was asked for stays.
            return replace(operation, start=operation.start - count)
        case Redrive():
            append = _shifted(operation.append, count, closed, applied)
            assert isinstance(append, Append)
            return replace(operation, append=append)
        case _:
            return operation


def _open_ms(first_index: int, closed: int) -> int:
    """The earliest time at which this index is above what is closed."""
    closed_ms = closed >> INDEX_BITS
    return closed_ms + (closed_ms << INDEX_BITS | first_index <= closed)


def _lowest(operations: list[Operation]) -> int | None:
    indexed = map(indexed_of, operations)
    return min((lowest_offset(each) for each in indexed if each is not None), default=None)
