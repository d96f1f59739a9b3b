"""
Outcomes: how messages leave a lease, as records of a partition.

An ending is decided at admission, which reserves: what is being settled can't expire, and
neither can end twice. What settles nothing becomes a move to a retry row; the last counted
attempt becomes, in one record, a dead letter and the end for the group. `Partition.apply`
carries the records out.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    partition: Partition, group: Group, tokens: deque[int], moment: Moment, view: View
) -> list[Record]:
    """
    The session that held these leases is gone: messages that had been begun count an attempt,
    the others are given back. Takes off `tokens` as many as a turn should.
    """
    endings = _Endings(partition, moment, view)
    while tokens and not endings.is_full():
        lease = group.leases.get(tokens.popleft())
        if lease is None:
            continue
        begun: Places = []
        rest: Places = []
        for first, count in lease.take([]):
            some = min(count, max(0, lease.begun - first))
            if some:
                begun.append((first, some))
            if count > some:
                rest.append((first + some, count - some))
        endings.add(group, lease, begun, Ending.BROKEN)
        endings.add(group, lease, rest, Ending.RELEASED)
    return endings.records()


def admit_expired(partition: Partition, moment: Moment, view: View) -> list[Record]:
    """Ends leases whose time is over: a slice of them a turn."""
    endings = _Endings(partition, moment, view)
    deadlines = partition.deadlines
    while deadlines and deadlines[0][0] <= moment.lease_ms and not endings.is_full():
        _, number, token = heappop(deadlines)
        group = partition.groups[number]
        lease = group.leases.get(token)
        if lease is None:
            continue
        if lease.ends_ms > moment.lease_ms:
            heappush(deadlines, (lease.ends_ms, number, token))
            continue
        endings.add(group, lease, lease.take([]), Ending.TIMED_OUT)
    return endings.records()


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


@dataclass(slots=True)
class _Endings:
    """
    Many endings at once: moves that say the same share a record, and messages that stand beside
    each other a retry row. A dead letter is a record by itself: it holds bytes.
    """

    partition: Partition
    moment: Moment
    view: View
    count: int = 0
    body_bytes: int = 0
    dead: list[Record] = field(default_factory=list[Record])
    moves: dict[tuple[int, Ending, int, int], tuple[list[Range], list[Range]]] = field(
        default_factory=dict[tuple[int, Ending, int, int], tuple[list[Range], list[Range]]]
    )

    def is_full(self) -> bool:
        """A turn should take no more."""
        return (
            self.count >= limits.TURN_ENDING_COUNT_MAX
            or self.body_bytes >= limits.TURN_ENDING_BYTES_MAX
        )

    def add(self, group: Group, lease: Lease, taken: Places, ending: Ending) -> None:
        """Places that were taken out of a lease, if there are any."""
        if not taken:
            return
        self.count += 1
        counts = _counted(lease.attempts, lease.releases, ending)
        if _is_last(self.partition, ending, *counts):
            record = _end(self.partition, group, lease, taken, ending, self.moment, self.view)
            self.body_bytes += record.body_bytes
            self.dead.append(record)
            return
        _drop_if_empty(group, lease)
        main, retry = self.moves.setdefault(
            (group.number, ending, lease.attempts, lease.releases), ([], [])
        )
        (retry if lease.is_retry else main).extend(lease.ranges(taken))

    def records(self) -> list[Record]:
        """All of them, in the order of their admission."""
        partition = self.partition
        moved = [
            _ending(
                partition,
                partition.groups[number],
                _joined(main),
                retry,
                (attempts, releases),
                ending,
                self.moment,
                self.view,
            )
            for (number, ending, attempts, releases), (main, retry) in self.moves.items()
        ]
        return self.dead + moved


def _joined(ranges: list[Range]) -> list[Range]:
    """Ranges of the main order, in order; those that touch are one."""
    joined: list[Range] = []
    for low, high, count in sorted(ranges):
        if joined and joined[-1][1] == low:
            low, _, before = joined.pop()
            count += before
        joined.append((low, high, count))
    return joined


def _counted(attempts: int, releases: int, ending: Ending) -> tuple[int, int]:
    """Attempts and releases with this ending."""
    if ending is Ending.RELEASED:
        return attempts, releases + 1
    return attempts + 1, releases


def _is_last(partition: Partition, ending: Ending, attempts: int, releases: int) -> bool:
    """Is this the end, with so many counted?"""
    deliveries_max = partition.settings.max_deliveries
    if ending is Ending.RELEASED:
        return releases >= limits.RELEASE_FACTOR * deliveries_max
    return ending is Ending.DEAD or attempts >= deliveries_max


def _drop_if_empty(group: Group, lease: Lease) -> None:
    if not lease.open and lease.token in group.leases:
        group.drop_lease(lease)


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
    _drop_if_empty(group, lease)
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
    if ending is Ending.ACKED:
        settle = Settle(group.number, ending, main, retry)
        return partition.record([settle], moment, held=held)
    attempts, releases = _counted(*counts, ending)
    if _is_last(partition, ending, attempts, releases):
        reason = reason or ending.name.lower()
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
