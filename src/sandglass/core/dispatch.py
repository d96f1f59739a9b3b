"""
Dispatch: due messages meet credit, and leases begin.

A group hands out what its retry rows owe first, then the main order from its cursor to the read
bound. What one turn hands out is bounded, and shared evenly among the consumers that have
credit. A lease's tile ends just above its last message: never at the next row, before which a
message produced for now may still be placed.

A scheduled message whose time the clock doesn't show (it was stepped back), or whose wait is
not over, is moved to a retry row instead of being handed out.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from sandglass.core import keys, limits
from sandglass.core.group import Group, RetryPart, read_row, read_slices
from sandglass.core.lease import Consumer, Lease
from sandglass.core.message import DeadLetterOrigin, Slice
from sandglass.core.offset import INDEX_BITS, INDEX_MAX
from sandglass.core.record import Ending, Move, Operation, Range, Settle
from sandglass.core.view import View


@dataclass(frozen=True, slots=True)
class Moment:
    """
    The leader's clocks, in ms: `wall` (may be stepped), `steady` (never), and `lease` (steady,
    less the pauses of the process).
    """

    wall_ms: int
    steady_ms: int
    lease_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages for one consumer, under a lease that has begun. `attempt` counts from 1."""

    partition: int
    group: Group
    consumer: Consumer
    lease: Lease
    attempt: int
    slices: list[Slice]


@dataclass(slots=True)
class Turn:
    """One dispatch of one partition: what it may use, and what comes of it."""

    view: View
    moment: Moment
    reached_ms: int
    now_ms: int
    end: int
    """Nothing at or above this offset may be read."""
    next_token: int
    ack_timeout_ms: int
    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    operations: list[Operation] = field(default_factory=list[Operation])
    """Moves and expiries, to become records."""


def dispatch_group(group: Group, turn: Turn) -> None:
    """
    Hands out what `group` has ready. Afterwards `is_ready` says whether there is more at once;
    `next_wall_ms` and `next_steady_ms` when there will be.
    """
    group.is_ready = group.is_blocked = False
    group.next_wall_ms = group.next_steady_ms = None
    if group.held_count:
        return
    _dispatch_retries(group, turn)
    credit_count, credit_bytes = _credit(group)
    if not credit_count:
        group.is_ready = True  # nobody has looked; with credit it is the first thing to do
        return
    found = _gather(
        group,
        turn,
        count_max=credit_count,
        bytes_max=min(credit_bytes, limits.TURN_DELIVERY_BYTES_MAX),
    )
    if found:
        _share_out(group, found, turn)


def _credit(group: Group) -> tuple[int, int]:
    count = bytes_ = 0
    for consumer in group.consumers:
        if consumer.has_credit:
            count += consumer.credit_count
            bytes_ += consumer.credit_bytes
    return count, bytes_


# --- retry rows -------------------------------------------------------------------------------


def _dispatch_retries(group: Group, turn: Turn) -> None:
    parts = group.retry_parts
    rows = group.retries(turn.view, turn.moment.steady_ms)
    for _ in range(limits.TURN_ROW_COUNT_MAX):
        if not group.has_credit():
            return
        if not parts:
            part = next(rows, None)
            if part is None:
                return
            group.retry_cursor = (part.until_ms, part.high - 1)
            parts.append(part)
        # Only now: a turn that is taken without a retry would undo the one of the main order.
        _dispatch_retry(group, parts.pop(0), _next_consumer(group), turn)
    group.is_ready = True


def _dispatch_retry(group: Group, part: RetryPart, consumer: Consumer, turn: Turn) -> None:
    prefix = keys.rows_prefix(group.partition, group.channel)
    slices, is_all = _read_some(turn.view, prefix, part, consumer)
    if not slices:
        expired: Range = (part.low, part.high, 0)
        turn.operations.append(Settle(group.number, Ending.EXPIRED, [], [expired]))
        return
    queue = deque(slices)
    taken = _take(queue, consumer, limits.ROW_MESSAGE_COUNT_MAX)
    high = part.high
    if queue or not is_all:
        high = _end_of(taken[-1])
        rest = RetryPart(part.until_ms, high, part.high, part.attempts, part.releases)
        group.retry_parts.insert(0, rest)
    _begin_lease(group, consumer, taken, turn, high=high, retry=part)


def _read_some(
    view: View, prefix: bytes, part: RetryPart, consumer: Consumer
) -> tuple[list[Slice], bool]:
    """What credit can take of a retry row, and whether that is all of it."""
    slices: list[Slice] = []
    count = size_bytes = 0
    for found in read_slices(view, prefix, part.low, part.high):
        if slices and (count >= consumer.credit_count or size_bytes >= consumer.credit_bytes):
            return slices, False
        slices.append(found)
        count += found.count
        size_bytes += len(found.body) * found.count // found.row_count
    return slices, True


def _next_consumer(group: Group) -> Consumer:
    while True:
        consumer = group.consumers.pop(0)
        group.consumers.append(consumer)
        if consumer.has_credit:
            return consumer


# --- the main order ---------------------------------------------------------------------------


def _gather(group: Group, turn: Turn, *, count_max: int, bytes_max: int) -> list[Slice]:
    """
    What stands from the cursor on, below the read bound and up to these sums. Only looks; but
    rows at the cursor that wait for the clock are moved, and the cursor passes them.
    """
    done = group.done
    cursor, _ = done.skip(group.cursor)
    if cursor != group.cursor:
        group.cursor, group.head, group.is_aligned = cursor, None, False
    found: list[Slice] = []
    count = size_bytes = 0
    low = cursor
    last_done = done.highs[-1] if done.highs else done.floor
    for row, flags, wait_until_ms in _rows(group, turn.view):
        first_offset = row.due_ms << INDEX_BITS | row.first_index
        row_end = first_offset + row.count
        at = max(first_offset, low)
        while at < row_end:
            stop = row_end
            if at < last_done:
                skipped, next_done = done.skip(at)
                if skipped != at:
                    low = at = skipped
                    continue
                stop = min(stop, next_done) if next_done is not None else stop
            if at >= turn.end:
                if row.due_ms > turn.now_ms:
                    group.next_wall_ms = row.due_ms
                else:
                    group.is_blocked = True
                group.scanned_to = turn.end
                return found
            stop = min(stop, turn.end)
            left_ms = flags and wait_ms(row, flags, wait_until_ms, turn.moment, turn.reached_ms)
            if left_ms:
                if not found:
                    _move_waiting(group, turn, low, stop, stop - at, left_ms)
                    low = at = stop
                    continue
                group.is_ready = True
                return found
            if (
                count >= count_max
                or size_bytes >= bytes_max
                or len(found) >= limits.TURN_ROW_COUNT_MAX
            ):
                group.is_ready = True
                return found
            found.append(
                Slice(
                    row.body,
                    row.count,
                    at - first_offset,
                    stop - at,
                    row.due_ms,
                    (at & INDEX_MAX),
                    row.produced_ms,
                    row.origin,
                    low,
                )
            )
            count += stop - at
            size_bytes += len(row.body) * (stop - at) // row.count
            low = at = stop
    group.scanned_to = turn.end
    return found


def _rows(group: Group, view: View) -> Iterator[tuple[Slice, int, int]]:
    """Rows that hold something at or above the cursor: (row, flags, wait until)."""
    prefix = keys.rows_prefix(group.partition, group.channel)
    first = keys.at(prefix, group.cursor)
    if group.head is not None:
        yield group.head, 0, 0
        head = group.head
        first = keys.at(prefix, (head.due_ms << INDEX_BITS | head.first_index) + 1)
    elif not group.is_aligned:
        before = view.last(prefix, first)
        if before is not None:
            offset, row_count = keys.row_place(before[0])
            if offset + row_count > group.cursor:
                yield read_row(*before)
        group.is_aligned = True
    for key, value in view.range(first, keys.after_prefix(prefix)):
        yield read_row(key, value)


def wait_ms(row: Slice, flags: int, wait_until_ms: int, moment: Moment, reached_ms: int) -> int:
    """How long this row has to wait still; 0 if it may be handed out."""
    if flags & keys.HAS_WAIT:
        return max(0, wait_until_ms - moment.steady_ms)
    if flags & keys.IS_SCHEDULED:
        return row.due_ms - moment.wall_ms if row.due_ms > reached_ms else 0
    return 0


def _move_waiting(
    group: Group, turn: Turn, low: int, high: int, count: int, left_ms: int
) -> None:
    until_ms = group.retry_clamp(turn.moment.steady_ms + left_ms)
    turn.operations.append(
        Move(group.number, Ending.CLOCK, until_ms, 0, 0, [(low, high, count)], [])
    )
    group.moving_ms.append(until_ms)
    group.cursor = high
    group.head, group.is_aligned = None, False


# --- leases -----------------------------------------------------------------------------------


def _share_out(group: Group, found: list[Slice], turn: Turn) -> None:
    """Leases what was found, evenly; what credit in bytes doesn't allow stays."""
    willing = [consumer for consumer in group.consumers if consumer.has_credit]
    group.consumers.append(group.consumers.pop(0))
    share = -(-sum(part.count for part in found) // len(willing))
    queue = deque(found)
    for limit in (share, limits.CREDIT_COUNT_MAX):
        for consumer in willing:
            left = limit
            while queue and left > 0 and consumer.has_credit:
                taken = _take(queue, consumer, left)
                left -= sum(part.count for part in taken)
                _begin_lease(group, consumer, taken, turn)
    if queue:
        group.is_ready = True  # what credit didn't allow is the first thing when there is more


def _take(queue: deque[Slice], consumer: Consumer, count_max: int) -> list[Slice]:
    """Takes slices for one lease off the queue, and uses up credit: at least one message."""
    taken: list[Slice] = []
    room = min(count_max, consumer.credit_count)
    room_bytes = min(consumer.credit_bytes, limits.DELIVERY_BYTES_MAX)
    while queue and room > 0 and (room_bytes > 0 or not taken):
        part = queue[0]
        if taken and part.low != _end_of(taken[-1]):
            break  # something done lies between: a lease's tile holds its own messages only
        if taken and not _is_same_death(taken[-1].origin, part.origin):
            break  # a delivery names one group, reason and count of attempts for all it holds
        each_bytes = max(1, len(part.body) // part.row_count)
        count = min(part.count, room)
        if count * each_bytes > room_bytes:
            count = min(count, max(room_bytes // each_bytes, 0 if taken else 1))
        if count == 0:
            break
        if count == part.count:
            taken.append(queue.popleft())
        else:
            taken.append(part._replace(count=count))
            queue[0] = part._replace(
                first=part.first + count,
                count=part.count - count,
                first_index=part.first_index + count,
                low=(part.due_ms << INDEX_BITS | part.first_index) + count,
            )
        room -= count
        room_bytes -= count * each_bytes
        consumer.credit_count -= count
        consumer.credit_bytes -= count * each_bytes
    return taken


def _is_same_death(one: DeadLetterOrigin | None, other: DeadLetterOrigin | None) -> bool:
    """Dead letters that differ in their offset alone; or no dead letters."""
    if one is None or other is None:
        return one is other
    return (one.group, one.attempts, one.reason) == (other.group, other.attempts, other.reason)


def _begin_lease(
    group: Group,
    consumer: Consumer,
    slices: list[Slice],
    turn: Turn,
    *,
    high: int | None = None,
    retry: RetryPart | None = None,
) -> None:
    """Begins a lease; in the main order (no `retry`) the cursor goes to its end."""
    last = slices[-1]
    last_end = _end_of(last)
    count = sum(part.count for part in slices)
    lease_ms = consumer.ack_timeout_ms or turn.ack_timeout_ms
    lease = Lease(
        token=turn.next_token,
        group=group.number,
        consumer=consumer.key,
        attempts=retry.attempts if retry else 0,
        releases=retry.releases if retry else 0,
        is_retry=retry is not None,
        low=slices[0].low,
        high=last_end if high is None else high,
        lease_ms=lease_ms,
        ends_ms=turn.moment.lease_ms + lease_ms,
        pieces=[
            (part.low, part.due_ms << INDEX_BITS | part.first_index, part.count)
            for part in slices
        ],
        starts=list(accumulate((part.count for part in slices[:-1]), initial=0)),
        count=count,
        open=(1 << count) - 1,
    )
    turn.next_token += 1
    group.add_lease(lease)
    group.consumed = max(group.consumed, last_end - 1)
    if retry is None:
        group.cursor = last_end
        is_whole = last.first + last.count == last.row_count
        group.head = None if is_whole else _whole(last)
        group.is_aligned = True
    delivery = Delivery(group.partition, group, consumer, lease, lease.attempts + 1, slices)
    turn.deliveries.append(delivery)


def _end_of(part: Slice) -> int:
    """Just above its last message."""
    return (part.due_ms << INDEX_BITS | part.first_index) + part.count


def _whole(part: Slice) -> Slice:
    """The row that a slice is of."""
    return part._replace(
        first=0, count=part.row_count, first_index=part.first_index - part.first
    )
