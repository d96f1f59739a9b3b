"""
Outcomes: how messages leave a lease, as records of a partition.

An ending is decided at admission, which reserves: what is being settled can't expire, and
neither can end twice. What settles nothing becomes a move to a retry row, after the group's
backoff if it was a failed attempt; the last counted attempt becomes, in one record, a dead
letter and the end for the group. `Partition.apply` carries the records out.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from sandglass.core import keys, limits
from sandglass.core.dispatch import Moment, wait_ms
from sandglass.core.group import Group
from sandglass.core.lease import Lease, Places, merged
from sandglass.core.message import DEAD_LETTER_CHANNEL, DeadLetterOrigin, Slice
from sandglass.core.offset import INDEX_BITS, MAX
from sandglass.core.partition import Partition
from sandglass.core.record import (
    Append,
    Ending,
    Move,
    Operation,
    Purge,
    Range,
    Record,
    SeekGroup,
    Settle,
)
from sandglass.core.rows import read_row, read_slices
from sandglass.core.topic import TopicSettings
from sandglass.core.view import View
from sandglass.errors import LeaseLostError

_GOLDEN = 0.6180339887498949
"""Multiples of it lie evenly in [0, 1), however many there are."""

_SPREAD = 16
"""Into so many parts messages that end together come again, where there is jitter."""


def admit_outcome(
    partition: Partition,
    group: Group,
    token: int,
    places: Places,
    ending: Ending,
    *,
    moment: Moment,
    view: View,
    delay_ms: int | None = None,
    reason: str = "",
) -> Record:
    """
    An outcome for messages under a lease; no places means all that are open. A nack's
    `delay_ms` is stronger than the group's backoff.

    Raises:
        LeaseLostError: the lease ended, or one of the messages has an outcome already.
        InvalidError: a place outside the delivery.
    """
    lease = group.lease(token)
    if lease is None or not lease.open:
        raise LeaseLostError(
            f"lease {token:x} of group {group.name!r} in partition {partition.id} has ended"
        )
    assert partition.leads(group), "a lease of an earlier leader ends"
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
    while not endings.is_full() and (ended := deadlines.pop_until(moment.lease_ms)) is not None:
        number, token = ended
        group = partition.groups.loaded.get(number)
        lease = group.leases.get(token) if group is not None else None
        if group is None or lease is None:
            continue
        if lease.ends_ms > moment.lease_ms:
            deadlines.push(lease.ends_ms, number, token)
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
    parts = coming(partition, group) if elsewhere else []
    for offset in elsewhere:
        if _is_among(parts, offset):
            continue  # an outcome for it is on its way, or it won't be there any more
        record = _end_unleased(partition, group, offset, ending, moment, view)
        if record is not None:
            records.append(record)
            taken += 1
    return records, len(offsets) - taken


_Alike = tuple[int, Ending, int, int, int]
"""Group, ending, attempts, releases, and which part of those that come again spread."""


@dataclass(slots=True)
class _Endings:
    """
    Many endings at once: moves that say the same share a record, and messages that stand beside
    each other a retry row. Where the backoff has jitter they come again in `_SPREAD` parts. A
    dead letter is a record by itself: it holds bytes.
    """

    partition: Partition
    moment: Moment
    view: View
    count: int = 0
    body_bytes: int = 0
    dead: list[Record] = field(default_factory=list[Record])
    moves: dict[_Alike, tuple[list[Range], list[Range]]] = field(
        default_factory=dict[_Alike, tuple[list[Range], list[Range]]]
    )
    emptied: dict[int, dict[int, Lease]] = field(default_factory=dict[int, dict[int, Lease]])
    """By group and token, those of `moves` with nothing open any more: they go together."""
    settings: dict[int, TopicSettings] = field(default_factory=dict[int, TopicSettings])
    """By group."""

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
        assert self.partition.leads(group), "a lease of an earlier leader ends"
        self.count += 1
        counts = _counted(lease.attempts, lease.releases, ending)
        settings = self.settings.get(group.number)
        if settings is None:
            settings = self.settings[group.number] = self.partition.settings_of(group)
        if _is_last(settings, ending, *counts):
            record = _end(self.partition, group, lease, taken, ending, self.moment, self.view)
            self.body_bytes += record.body_bytes
            self.dead.append(record)
            return
        assert not lease.open, "all of a lease ends together"
        self.emptied.setdefault(group.number, {})[lease.token] = lease
        part = self.count % _SPREAD if settings.backoff.jitter_percent else 0
        alike = (group.number, ending, lease.attempts, lease.releases, part)
        main, retry = self.moves.setdefault(alike, ([], []))
        (retry if lease.is_retry else main).extend(lease.ranges(taken))

    def records(self) -> list[Record]:
        """All of them, in the order of their admission."""
        partition = self.partition
        for number, leases in self.emptied.items():
            group = partition.groups.loaded[number]
            group.drop_ended([each for each in leases.values() if each.token in group.leases])
        moved = [
            _ending(
                partition,
                partition.groups.loaded[number],
                _joined(main),
                retry,
                (attempts, releases),
                ending,
                replace(self.moment, chance=(self.moment.chance + part * _GOLDEN) % 1),
                self.view,
            )
            for (number, ending, attempts, releases, part), (main, retry) in self.moves.items()
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


def _is_last(settings: TopicSettings, ending: Ending, attempts: int, releases: int) -> bool:
    """Is this the end, with so many counted?"""
    if ending is Ending.RELEASED:
        return releases >= limits.RELEASE_FACTOR * settings.max_deliveries
    return ending is Ending.DEAD or attempts >= settings.max_deliveries


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
    delay_ms: int | None = None,
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
    delay_ms: int | None = None,
    reason: str = "",
    held: Sequence[Group] = (),
) -> Record:
    partition.see(moment.wall_ms)
    if ending is Ending.ACKED:
        settle = Settle(group.number, ending, main, retry)
        return partition.record([settle], moment, held=held)
    settings = partition.settings_of(group)
    attempts, releases = _counted(*counts, ending)
    if _is_last(settings, ending, attempts, releases):
        reason = reason or ending.name.lower()
        return _bury(partition, group, main, retry, attempts, reason, moment, view, held)
    if ending is Ending.RELEASED:
        delay_ms = 0
    elif delay_ms is None:
        delay_ms = settings.backoff.delay_ms(attempts, moment.chance)
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
    held: Sequence[Group],
) -> Record:
    """
    One record: the messages appear as dead letters, and are done with for the group. What is a
    dead letter already stays one: its reader is done with it, and no other takes its place.
    """
    operations: list[Operation] = []
    first_index = partition.assigned_index + 1
    for low, high, _ in (*main, *retry):
        prefix = group.prefix_at(low, view)
        is_redriven = prefix == group.rows_prefix(is_redriven=True)
        if group.channel == DEAD_LETTER_CHANNEL and not is_redriven:
            continue
        for part in read_slices(view, prefix, low, high):
            operations.append(
                _dead_letter(partition, group, part, attempts, reason, is_redriven=is_redriven)
            )
            partition.assigned_index += part.count
    lowest = partition.now_ms << INDEX_BITS | first_index if operations else None
    operations.append(Settle(group.number, Ending.DEAD, main, retry))
    return partition.record(operations, moment, lowest=lowest, held=held)


def _dead_letter(
    partition: Partition,
    group: Group,
    part: Slice,
    attempts: int,
    reason: str,
    *,
    is_redriven: bool,
) -> Append:
    place = part.due_ms << INDEX_BITS | part.first_index
    return Append(
        DEAD_LETTER_CHANNEL,
        partition.assigned_index + 1,
        part.produced_ms,
        [partition.now_ms],
        [part.count],
        [partition.slicer(part.body, part.row_count, part.first, part.count)],
        [False],
        [],
        DeadLetterOrigin(
            first_place(part) if is_redriven else place,
            group.name,
            attempts,
            reason,
            group.channel,
        ),
    )


def first_place(part: Slice) -> int:
    """Where the first message of a slice stood when it was produced: also if it was dead."""
    if part.origin is not None:
        return part.origin.offset + part.first
    return part.due_ms << INDEX_BITS | part.first_index


def _end_unleased(
    partition: Partition, group: Group, offset: int, ending: Ending, moment: Moment, view: View
) -> Record | None:
    """An outcome for a message that waits for its retry, or was held before this leader."""
    if offset >= MAX:
        return None  # no key lies above it
    part = group.retry_rows.at(offset, view)
    prefix = group.rows_prefix(is_redriven=part is not None and part.is_redriven)
    found = view.last(prefix, keys.at(prefix, offset + 1))
    if found is None or offset >= sum(keys.row_place(found[0])):
        return None  # no message stands there
    if part is not None:
        counts = (part.attempts, part.releases)
        if part.until_ms > moment.steady_ms and counts == (0, 0):
            return None  # it waits for the clock, and never was handed out
        group.forget_retry(offset, offset + 1)
        main, retry = list[Range](), [(offset, offset + 1, 1)]
    else:
        if group.done.holds(offset):
            return None
        if not group.cursor <= offset <= partition.closed_at_start:
            return None
        row, flags, wait_until_ms = read_row(*found)
        if wait_ms(row, flags, wait_until_ms, moment, partition.reached_ms):
            return None
        low = _end_before(partition, prefix, offset, keys.row_place(found[0])[0], view)
        counts = (0, 0)
        low, _ = group.done.skip(low)
        main, retry = [(low, offset + 1, 1)], list[Range]()
    return _ending(partition, group, main, retry, counts, ending, moment, view, held=(group,))


def coming(partition: Partition, group: Group) -> list[tuple[int, int]]:
    """
    The parts of the group's offset space that records on their way name, sorted and disjoint:
    outcomes, dead letters that go from under a reader of them, a move of the whole group.
    """
    parts: list[tuple[int, int]] = []
    for operation in partition.in_flight.operations():
        match operation:
            case Settle() | Move() if operation.group == group.number:
                ranges = (*operation.main, *operation.retry)
                parts += [(low, high) for low, high, _ in ranges]
            case SeekGroup() if operation.group == group.number:
                return [(0, MAX)]
            case Purge() if group.channel == DEAD_LETTER_CHANNEL:
                parts += [(low, high) for low, high, _ in operation.ranges]
            case _:
                pass
    disjoint: list[tuple[int, int]] = []
    for low, high in sorted(parts):
        if disjoint and low <= disjoint[-1][1]:
            low, before = disjoint.pop()
            high = max(high, before)
        disjoint.append((low, high))
    return disjoint


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
