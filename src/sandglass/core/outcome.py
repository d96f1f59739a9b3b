"""
Outcomes: how messages leave a lease, as records of a partition.

An ending is decided at admission, which reserves: what is being settled can't expire, and
neither can end twice. What settles nothing becomes a move to a retry row; the last counted
attempt becomes, in one record, a dead letter and the end for the group. `Partition.apply`
carries the records out.
"""

from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from operator import itemgetter

from sandglass.core import keys, limits
from sandglass.core.dispatch import Moment, wait_ms
from sandglass.core.group import Group, read_row, read_slices
from sandglass.core.lease import Lease, Places, merged
from sandglass.core.message import DEAD_LETTER_CHANNEL, DeadLetterOrigin
from sandglass.core.offset import INDEX_BITS, MAX
from sandglass.core.partition import Partition
from sandglass.core.record import Append, Ending, Move, Operation, Range, Record, Settle
from sandglass.core.view import View
from sandglass.errors import LeaseLostError


def admit_outcome(
    partition: Partition,
    group: Group,
    token: int,
    places: Places,
    ending: Ending,
    *,
    moment: Moment,
    view: View,
    delay_ms: int = 0,
    reason: str = "",
) -> Record:
    """
    An outcome for messages under a lease; no places means all that are open.

    Raises:
        LeaseLostError: the lease ended, or one of the messages has an outcome already.
        InvalidError: a place outside the delivery.
    """
    lease = group.leases.get(token)
    if lease is None or not lease.open:
        raise LeaseLostError(
            f"lease {token:x} of group {group.name!r} in partition {partition.id} has ended"
        )
    taken = lease.take(places)
    return _end(partition, group, lease, taken, ending, moment, view, delay_ms, reason)


def admit_break(
    partition: Partition, group: Group, token: int, moment: Moment, view: View
) -> list[Record]:
    """
    The session that held a lease is gone: messages that had been begun count an attempt,
    the others are given back.
    """
    lease = group.leases.get(token)
    if lease is None:
        return []
    records: list[Record] = []
    begun: Places = []
    rest: Places = []
    for first, count in lease.take([]):
        some = min(count, max(0, lease.begun - first))
        if some:
            begun.append((first, some))
        if count > some:
            rest.append((first + some, count - some))
    for taken, ending in ((begun, Ending.BROKEN), (rest, Ending.RELEASED)):
        if taken:
            records.append(_end(partition, group, lease, taken, ending, moment, view))
    return records


def admit_expired(partition: Partition, moment: Moment, view: View) -> list[Record]:
    """Ends leases whose time is over: a slice of them a turn."""
    records: list[Record] = []
    size_bytes = 0
    while partition.deadlines and partition.deadlines[0][0] <= moment.lease_ms:
        is_full = len(records) == limits.TURN_ENDING_COUNT_MAX
        if is_full or size_bytes >= limits.TURN_ENDING_BYTES_MAX:
            break
        _, number, token = heappop(partition.deadlines)
        lease = partition.groups[number].leases.get(token)
        if lease is None:
            continue
        if lease.ends_ms > moment.lease_ms:
            heappush(partition.deadlines, (lease.ends_ms, number, token))
            continue
        taken = lease.take([])
        group = partition.groups[number]
        record = _end(partition, group, lease, taken, Ending.TIMED_OUT, moment, view)
        records.append(record)
        size_bytes += record.body_bytes
    return records


def admit_offsets(
    partition: Partition,
    group: Group,
    offsets: Sequence[int],
    ending: Ending,
    moment: Moment,
    view: View,
) -> tuple[list[Record], int]:
    """
    An outcome by offsets, from a protocol without tokens: taken for whoever holds a
    message.

    Settled is final. Offsets that hold no message, or were never handed out, are ignored;
    what was closed when this leader began counts as handed out.

    Returns:
        The records, and how many offsets were ignored.
    """
    by_lease: dict[int, Places] = {}
    elsewhere: list[int] = []
    for offset in dict.fromkeys(offsets):
        found = group.lease_at(offset)
        if found is None:
            elsewhere.append(offset)
        else:
            by_lease.setdefault(found[0].token, []).append((found[1], 1))
    records = [
        _end(
            partition,
            group,
            lease := group.leases[token],
            lease.take(merged(places)),
            ending,
            moment,
            view,
        )
        for token, places in by_lease.items()
    ]
    taken = sum(len(places) for places in by_lease.values())
    coming = _coming(partition, group) if elsewhere else []
    for offset in elsewhere:
        if _is_among(coming, offset):
            continue  # an outcome for it is on its way
        record = _end_unleased(partition, group, offset, ending, moment, view)
        if record is not None:
            records.append(record)
            taken += 1
    return records, len(offsets) - taken


def _end(
    partition: Partition,
    group: Group,
    lease: Lease,
    taken: Places,
    ending: Ending,
    moment: Moment,
    view: View,
    delay_ms: int = 0,
    reason: str = "",
) -> Record:
    """A record for places that were taken out of a lease."""
    if not lease.open and lease.token in group.leases:
        group.drop_lease(lease)
    ranges = lease.ranges(taken)
    main, retry = ([], ranges) if lease.is_retry else (ranges, [])
    counts = (lease.attempts, lease.releases)
    return _ending(
        partition, group, main, retry, counts, ending, moment, view, delay_ms, reason
    )


def _ending(
    partition: Partition,
    group: Group,
    main: list[Range],
    retry: list[Range],
    counts: tuple[int, int],
    ending: Ending,
    moment: Moment,
    view: View,
    delay_ms: int = 0,
    reason: str = "",
    held: Group | None = None,
) -> Record:
    partition.see(moment.wall_ms)
    attempts, releases = counts
    if ending is Ending.ACKED:
        settle = Settle(group.number, ending, main, retry)
        return partition.record([settle], moment, held=held)
    if ending is Ending.RELEASED:
        releases += 1
        is_dead = releases >= limits.RELEASE_FACTOR * partition.settings.max_deliveries
        reason = reason or "released"
    else:
        attempts += 1
        is_dead = ending is Ending.DEAD or attempts >= partition.settings.max_deliveries
        reason = reason or ending.name.lower()
    if is_dead:
        return _bury(partition, group, main, retry, attempts, reason, moment, view, held)
    until_ms = group.retry_clamp(moment.steady_ms + delay_ms)
    move = Move(group.number, ending, until_ms, attempts, releases, main, retry)
    group.moving_ms.append(until_ms)
    return partition.record([move], moment, held=held)


def _bury(
    partition: Partition,
    group: Group,
    main: list[Range],
    retry: list[Range],
    attempts: int,
    reason: str,
    moment: Moment,
    view: View,
    held: Group | None,
) -> Record:
    """One record: the messages appear as dead letters, and are done with for the group."""
    prefix = keys.rows_prefix(partition.number, group.channel)
    operations: list[Operation] = []
    first_index = partition.assigned_index + 1
    for low, high, _ in (*main, *retry):
        for part in read_slices(view, prefix, low, high):
            offset = part.due_ms << INDEX_BITS | part.first_index
            body = partition.slicer(part.body, part.row_count, part.first, part.count)
            operations.append(
                Append(
                    DEAD_LETTER_CHANNEL,
                    partition.assigned_index + 1,
                    part.produced_ms,
                    [partition.now_ms],
                    [part.count],
                    [body],
                    [False],
                    [],
                    DeadLetterOrigin(offset, group.name, attempts, reason),
                )
            )
            partition.assigned_index += part.count
    lowest = partition.now_ms << INDEX_BITS | first_index if operations else None
    operations.append(Settle(group.number, Ending.DEAD, main, retry))
    return partition.record(operations, moment, lowest=lowest, held=held)


def _end_unleased(
    partition: Partition, group: Group, offset: int, ending: Ending, moment: Moment, view: View
) -> Record | None:
    """An outcome for a message that waits for its retry, or was held before this leader."""
    if offset >= MAX:
        return None  # no key lies above it
    prefix = keys.rows_prefix(partition.number, group.channel)
    found = view.last(prefix, keys.at(prefix, offset + 1))
    if found is None or offset >= sum(keys.row_place(found[0])):
        return None  # no message stands there
    if group.done.holds(offset):
        part = group.retry_row(offset, view)
        if part is None:
            return None
        counts = (part.attempts, part.releases)
        if part.until_ms > moment.steady_ms and counts == (0, 0):
            return None  # it waits for the clock, and never was handed out
        group.forget_retry(offset)
        main, retry = list[Range](), [(offset, offset + 1, 1)]
    else:
        if not group.cursor <= offset <= partition.closed_at_start:
            return None
        row, flags, wait_until_ms = read_row(*found)
        if wait_ms(row, flags, wait_until_ms, moment, partition.reached_ms):
            return None
        low = _end_before(partition, prefix, offset, keys.row_place(found[0])[0], view)
        counts = (0, 0)
        main, retry = [(max(low, group.done.floor), offset + 1, 1)], list[Range]()
    group.held_count += 1
    return _ending(partition, group, main, retry, counts, ending, moment, view, held=group)


def _coming(partition: Partition, group: Group) -> list[tuple[int, int]]:
    """The parts of the group's offset space that outcomes on their way name, sorted."""
    return sorted(
        (low, high)
        for landing in partition.in_flight
        for operation in landing.record.operations
        if isinstance(operation, Settle | Move) and operation.group == group.number
        for low, high, _ in (*operation.main, *operation.retry)
    )


def _is_among(parts: list[tuple[int, int]], offset: int) -> bool:
    """Parts are disjoint: what is ending can't end twice."""
    place = bisect_right(parts, offset, key=itemgetter(0))
    return place > 0 and offset < parts[place - 1][1]


def _end_before(
    partition: Partition, prefix: bytes, offset: int, row_offset: int, view: View
) -> int:
    """Just above the message before the one at `offset`."""
    if offset > row_offset:
        return offset
    before = view.last(prefix, keys.at(prefix, row_offset))
    return sum(keys.row_place(before[0])) if before else 0
