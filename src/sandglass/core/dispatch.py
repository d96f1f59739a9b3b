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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from sandglass.core import keys, limits
from sandglass.core.group import Group
from sandglass.core.lease import Consumer, Lease
from sandglass.core.message import DeadLetterOrigin, Slice
from sandglass.core.offset import INDEX_BITS, INDEX_MAX
from sandglass.core.record import Ending, Move, Operation, Range, Settle
from sandglass.core.retry_rows import RetryPart
from sandglass.core.rows import read_row, read_slices
from sandglass.core.view import Row, View

_new_slice: Callable[[type[Slice], tuple[object, ...]], Slice] = tuple.__new__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
"""Makes a `Slice` in half the time that its own constructor takes."""


@dataclass(frozen=True, slots=True)
class Moment:
    """
    The leader's clocks, in ms: `wall` (may be stepped), `steady` (never), and `lease` (steady,
    less the pauses of the process); and `chance`, a number in [0, 1) to spread things by.
    """

    wall_ms: int
    steady_ms: int
    lease_ms: int
    chance: float = 0.0


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
    """Of the group whose turn it is."""
    deliveries: list[Delivery] = field(default_factory=list[Delivery])
    operations: list[Operation] = field(default_factory=list[Operation])
    """Moves and expiries, to become records."""
    size_bytes: int = 0
    """Handed out from the main order, about."""

    def is_over(self) -> bool:
        """It has handed out enough: other groups have theirs in the next."""
        return (
            len(self.deliveries) >= limits.TURN_DELIVERY_COUNT_MAX
            or self.size_bytes >= limits.TURN_DELIVERY_BYTES_MAX
        )

    bodies: dict[tuple[str, int], bytes] = field(default_factory=dict[tuple[str, int], bytes])
    """Of rows that retries were read from, by channel and first offset: see `share`."""

    def share(self, channel: str, part: Slice) -> Slice:
        """
        The slice, with the bytes of its row that another one has already. A thousand messages
        of one row that failed one by one would hold it a thousand times.
        """
        offset = part.due_ms << INDEX_BITS | part.first_index - part.first
        return part._replace(body=self.bodies.setdefault((channel, offset), part.body))


def dispatch_group(group: Group, turn: Turn) -> None:
    """
    Hands out what `group` has ready. Afterwards `is_ready` says whether there is more at once;
    `next_wall_ms` and `next_steady_ms` when there will be.
    """
    group.is_ready = group.is_blocked = False
    group.next_wall_ms = group.next_steady_ms = None
    if group.is_held:
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
    if found.stretches:
        turn.size_bytes += found.size_bytes
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
            parts += group.unclaimed(part)
            if not parts:
                continue
        # Only now: a turn that is taken without a retry would undo the one of the main order.
        _dispatch_retry(group, parts.pop(0), _next_consumer(group), turn)
    group.is_ready = True


def _dispatch_retry(group: Group, part: RetryPart, consumer: Consumer, turn: Turn) -> None:
    prefix = group.rows_prefix(is_redriven=part.is_redriven)
    slices, is_all = _read_some(turn.view, prefix, part, consumer)
    if not slices:
        expired: Range = (part.low, part.high, 0)
        turn.operations.append(Settle(group.number, Ending.EXPIRED, [], [expired]))
        return
    queue = deque([[turn.share(group.channel, each) for each in slices]])
    taken, count = _take(queue, consumer, limits.ROW_MESSAGE_COUNT_MAX)
    high = part.high
    if queue or not is_all:
        high = _end_of(taken[-1])
        group.retry_parts.insert(0, replace(part, low=high))
    _begin_lease(group, consumer, taken, count, turn, high=high, retry=part)


def _read_some(
    view: View, prefix: bytes, part: RetryPart, consumer: Consumer
) -> tuple[list[Slice], bool]:
    """What credit can take of a retry row, in one delivery, and whether that is all of it."""
    slices: list[Slice] = []
    count = size_bytes = 0
    for found in read_slices(view, prefix, part.low, part.high):
        if slices and (
            count >= consumer.credit_count
            or size_bytes >= consumer.credit_bytes
            or not _is_same_death(slices[-1].origin, found.origin)
        ):
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


@dataclass(slots=True)
class _Found:
    """
    What stands from the cursor on, in stretches: a lease holds messages of one.

    A stretch has no gap in its tile (nothing done lies between), and is not of two deaths: a
    delivery names one group, reason and count of attempts for all that it holds.
    """

    low: int
    """Where the next slice's part of offset space begins."""
    count_max: int
    bytes_max: int
    stretches: deque[list[Slice]] = field(default_factory=deque[list[Slice]])
    count: int = 0
    size_bytes: int = 0
    slice_count: int = 0

    def is_enough(self) -> bool:
        """Credit, or a turn, allows no more."""
        return (
            self.count >= self.count_max
            or self.size_bytes >= self.bytes_max
            or self.slice_count >= limits.TURN_ROW_COUNT_MAX
        )

    def add(self, part: Slice) -> None:
        """Takes a slice, which begins at `low`."""
        stretch = self.stretches[-1] if self.stretches else None
        if (
            stretch is None
            or _end_of(stretch[-1]) != part.low
            or not _is_same_death(stretch[-1].origin, part.origin)
        ):
            self.stretches.append([part])
        else:
            stretch.append(part)
        self.count += part.count
        self.size_bytes += len(part.body) * part.count // part.row_count
        self.slice_count += 1
        self.low = _end_of(part)

    def add_all(self, slices: list[Slice]) -> None:
        """Takes whole rows, each of which begins where the one before ends; no dead letters."""
        if not slices:
            return
        self.add(slices[0])
        self.stretches[-1] += slices[1:]
        self.count += sum([part.count for part in slices[1:]])
        self.size_bytes += sum([len(part.body) for part in slices[1:]])
        self.slice_count += len(slices) - 1
        self.low = _end_of(slices[-1])


def _gather(group: Group, turn: Turn, *, count_max: int, bytes_max: int) -> _Found:
    """
    What stands from the cursor on, below the read bound and up to these sums. Only looks; but
    rows at the cursor that wait for the clock are moved, and the cursor passes them.
    """
    cursor = group.next_place()
    if cursor != group.cursor:
        group.cursor, group.head, group.is_aligned = cursor, None, False
    found = _Found(cursor, count_max, bytes_max)
    prefix = keys.rows_prefix(group.partition, group.channel)
    first = keys.at(prefix, cursor)
    before = _row_at_cursor(group, turn.view, prefix, first)
    if before is not None:
        row = before[0]
        first = keys.at(prefix, (row.due_ms << INDEX_BITS | row.first_index) + 1)
        if not _gather_row(group, turn, found, *before):
            return found
    group.is_aligned = True
    if _gather_rows(group, turn, found, turn.view.range(first, keys.after_prefix(prefix))):
        group.scanned_to = turn.end
    return found


def _row_at_cursor(
    group: Group, view: View, prefix: bytes, first: bytes
) -> tuple[Slice, int, int] | None:
    """The row that the cursor stands in: (row, flags, wait until)."""
    if group.head is not None:
        return group.head, 0, 0
    if group.is_aligned:
        return None
    before = view.last(prefix, first)
    if before is None or sum(keys.row_place(before[0])) <= group.cursor:
        return None
    return read_row(*before)


def _gather_rows(group: Group, turn: Turn, found: _Found, rows: Iterator[Row]) -> bool:
    """Adds rows; false if there may be more to add."""
    done = group.passed
    done_end = max(found.low, done.highs[-1] if done.highs else done.floor)
    while True:
        found.low, _ = done.skip(found.low)  # there may be places of redriven messages
        row = _gather_plain(turn, found, rows, done_end)
        if row is None:
            return True
        if not _gather_row(group, turn, found, *read_row(*row)):
            return False


def _gather_plain(turn: Turn, found: _Found, rows: Iterator[Row], done_end: int) -> Row | None:
    """
    Adds rows with nothing particular about them: due, whole, above what is done, no wait, and
    room for more. Returns the first that is not so, or None at the end.

    A row a message is the costliest shape to hand out, and this loop is most of its price.
    """
    reached_ms, end = turn.reached_ms, turn.end
    read_place, read_columns = keys.PLACE.unpack_from, keys.COLUMNS.unpack_from
    place_bytes, columns_bytes = keys.PLACE_BYTES, keys.COLUMNS.size
    count_left, bytes_left = found.count_max - found.count, found.bytes_max - found.size_bytes
    slice_count_left = limits.TURN_ROW_COUNT_MAX - found.slice_count
    slices: list[Slice] = []
    low = found.low
    for key, value in rows:
        high_ms, low_ms, index, row_count = read_place(key, len(key) - place_bytes)
        due_ms = high_ms << 32 | low_ms
        flags, produced_ms = read_columns(value)
        first_offset = due_ms << INDEX_BITS | index
        if (
            flags > keys.IS_SCHEDULED
            or due_ms > reached_ms
            or first_offset + row_count > end
            or first_offset < done_end
            or count_left <= 0
            or bytes_left <= 0
            or len(slices) == slice_count_left
        ):
            found.add_all(slices)
            return key, value
        body = value[columns_bytes:]
        slices.append(
            _new_slice(
                Slice,
                (body, row_count, 0, row_count, due_ms, index, produced_ms, None, low),
            )
        )
        low = first_offset + row_count
        count_left -= row_count
        bytes_left -= len(body)
    found.add_all(slices)
    return None


def _gather_row(
    group: Group, turn: Turn, found: _Found, row: Slice, flags: int, wait_until_ms: int
) -> bool:
    """Adds what of a row may be handed out; false if there may be more to add."""
    done = group.passed
    first_offset = row.due_ms << INDEX_BITS | row.first_index
    row_end = first_offset + row.count
    at = max(first_offset, found.low)
    while at < row_end:
        skipped, next_done = done.skip(at)
        if skipped != at:
            found.low = at = skipped
            continue
        stop = min(row_end, next_done) if next_done is not None else row_end
        if at >= turn.end:
            if row.due_ms > turn.now_ms:
                group.next_wall_ms = row.due_ms
            else:
                group.is_blocked = True
            group.scanned_to = turn.end
            return False
        stop = min(stop, turn.end)
        left_ms = flags and wait_ms(row, flags, wait_until_ms, turn.moment, turn.reached_ms)
        if left_ms and not found.stretches:
            _move_waiting(group, turn, found.low, stop, stop - at, left_ms)
            found.low = at = stop
            continue
        if left_ms or found.is_enough():
            group.is_ready = True
            return False
        found.add(
            row._replace(
                first=at - first_offset,
                count=stop - at,
                first_index=at & INDEX_MAX,
                low=found.low,
            )
        )
        at = stop
    return True


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


def _share_out(group: Group, found: _Found, turn: Turn) -> None:
    """Leases what was found, evenly; what credit in bytes doesn't allow stays."""
    willing = [consumer for consumer in group.consumers if consumer.has_credit]
    group.consumers.append(group.consumers.pop(0))
    share = -(-found.count // len(willing))
    queue = found.stretches
    for limit in (share, limits.CREDIT_COUNT_MAX):
        for consumer in willing:
            left = limit
            while queue and left > 0 and consumer.has_credit:
                taken, count = _take(queue, consumer, left)
                left -= count
                _begin_lease(group, consumer, taken, count, turn)
    if queue:
        group.is_ready = True  # what credit didn't allow is the first thing when there is more


def _take(
    queue: deque[list[Slice]], consumer: Consumer, count_max: int
) -> tuple[list[Slice], int]:
    """
    Takes slices of the first stretch for one lease, and uses up credit: at least one message.

    Returns:
        The slices, and how many messages they hold.
    """
    stretch = queue.popleft()
    room_max = min(count_max, consumer.credit_count, limits.DELIVERY_MESSAGE_COUNT_MAX)
    room_bytes_max = min(consumer.credit_bytes, limits.DELIVERY_BYTES_MAX)
    room, room_bytes = room_max, room_bytes_max
    place = 0
    for part in stretch:
        size_bytes = charged_bytes(part)
        if part.count > room or size_bytes > room_bytes:
            break
        room -= part.count
        room_bytes -= size_bytes
        place += 1
    taken, rest = stretch[:place], stretch[place:]
    if rest and room > 0:
        part, each_bytes = rest[0], charged_bytes(rest[0]) // rest[0].count
        count = min(part.count, room, max(room_bytes // each_bytes, 0 if taken else 1))
        if count:
            taken.append(part._replace(count=count))
            room -= count
            room_bytes -= count * each_bytes
            if count < part.count:
                rest[0] = _after(part, count)
            else:
                del rest[0]
    if rest:
        queue.appendleft(rest)
    consumer.credit_count -= room_max - room
    consumer.credit_bytes -= room_bytes_max - room_bytes
    return taken, room_max - room


def charged_bytes(part: Slice) -> int:
    """Its bytes, as credit counts them: each message as the mean of its row, at least 1."""
    return (len(part.body) // part.row_count or 1) * part.count


def _after(part: Slice, count: int) -> Slice:
    """What is left of a slice without its first `count` messages."""
    return part._replace(
        first=part.first + count,
        count=part.count - count,
        first_index=part.first_index + count,
        low=(part.due_ms << INDEX_BITS | part.first_index) + count,
    )


def _is_same_death(one: DeadLetterOrigin | None, other: DeadLetterOrigin | None) -> bool:
    """Dead letters that differ in their offset and channel alone; or no dead letters."""
    if one is None or other is None:
        return one is other
    return (one.group, one.attempts, one.reason) == (other.group, other.attempts, other.reason)


def _begin_lease(
    group: Group,
    consumer: Consumer,
    slices: list[Slice],
    count: int,
    turn: Turn,
    *,
    high: int | None = None,
    retry: RetryPart | None = None,
) -> None:
    """Begins a lease; in the main order (no `retry`) the cursor goes to its end."""
    last = slices[-1]
    last_end = _end_of(last)
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
        dues=tuple([part.due_ms for part in slices]),
        indexes=tuple([part.first_index for part in slices]),
        counts=tuple([part.count for part in slices]),
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
