"""
A consumer group in one partition and channel: what it has done with, and what it waits for.

Durable, and changed by `apply` alone:

- *done*: a floor and ranges above it (`sandglass.core.done`). Done means settled or moved.
- *retry rows*: messages that come again (`sandglass.core.retry_rows`). Every ending that
  settles nothing makes one; so does a dead letter that is redriven, whose bytes stand in a
  channel of their own (`message.REDRIVE_CHANNEL`).

Volatile, and made anew by a starting leader:

- *cursor*: everything below it is done or leased. It starts at the floor, and the scan from it
  skips what is done, so nothing is lost when leases vanish.
- *retry cursor*: retry rows below it are leased, or on their way to settled or moved. A scan
  passes neither the clock nor a move that is admitted but not yet applied, and a move's due
  time is clamped above the cursor: no row ever appears behind it.
- leases, by token and by place; consumers, with their credit.
- who may come back, and what they have claimed (`sandglass.core.claim`): the scans pass it by.

Invariants: `floor <= cursor`; a leased tile is below the cursor or inside a retry row.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from struct import Struct

from sandglass.core import keys, limits
from sandglass.core.done import DoneRanges
from sandglass.core.lease import Consumer, Lease
from sandglass.core.message import REDRIVE_CHANNEL, Slice
from sandglass.core.offset import INDEX_BITS, OFFSET_BYTES
from sandglass.core.record import CreateGroup, Ending, Move, Range, Redrive, Settle
from sandglass.core.retry_rows import NEVER_MS, RetryPart, RetryRows
from sandglass.core.returning import Returning
from sandglass.core.rows import read_slices
from sandglass.core.view import Changes, Overlay, View

_STATE = Struct(">14s14sQQQQQI")
_LAST = Struct(">14s14sQ")


@dataclass(slots=True)
class Group:
    """See the head of this file."""

    partition: int
    number: int
    channel: str
    name: str
    start: int
    done: DoneRanges
    acked_count: int = 0
    dead_count: int = 0
    expired_count: int = 0
    retry_count: int = 0
    """Messages in retry rows."""
    moved_count: int = 0
    """Moves ever made."""
    redriven_count: int = 0
    """Dead letters that came back."""
    generation: int = 1
    acked: int = 0
    """The greatest offset that was acked."""
    recorded: int = 0
    """The last offset handed out, as far as records say."""

    cursor: int = 0
    head: Slice | None = None
    """The row that the cursor stands in, whole; None if it stands between rows."""
    is_aligned: bool = False
    """The cursor stands at the start of a row, or between two."""
    retry_cursor: tuple[int, int] = (0, -1)
    """(due, highest offset) of the last retry row scanned: also past what may be left of it."""
    retry_parts: list[RetryPart] = field(default_factory=list[RetryPart])
    """Read from the store, not handed out yet: in order, all below the retry cursor."""
    moving_ms: list[int] = field(default_factory=list[int])
    """Due times of moves that are admitted and not yet applied, in order of admission."""
    held_count: int = 0
    """Outcomes by offset on their way for messages that aren't leased: dispatch waits."""
    ending_count: int = 0
    """Settles and moves on their way, in records."""
    leases: dict[int, Lease] = field(default_factory=dict[int, Lease])
    order: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(low, token) of each lease, sorted."""
    returning: Returning | None = None
    """None if nobody was attached when the leader began."""
    passed: DoneRanges = field(init=False)
    """What the scan from the cursor passes by: what is done, and what was claimed above it."""
    consumers: list[Consumer] = field(default_factory=list[Consumer])
    consumed: int = 0
    """The last offset handed out; a starting leader knows what was recorded."""
    is_ready: bool = False
    """There may be something to hand out now."""
    is_blocked: bool = False
    """Something is due, but a promise or a record in flight stands before it."""
    is_starved: bool = False
    """
    Something is due, and nobody had credit when it was last looked at. Credit is shared with
    other partitions, which may have waited longer: so the group is not looked at again before
    the host clears this, to offer it credit, or a consumer comes.
    """
    next_wall_ms: int | None = None
    next_steady_ms: int | None = None
    scanned_to: int = 0
    """The last scan found nothing more below this."""
    is_dropped: bool = False
    """Its end is admitted: nothing more is."""
    retry_rows: RetryRows = field(init=False)

    def __post_init__(self) -> None:
        self.retry_rows = RetryRows(self.partition, self.number)
        self.passed = self.done

    # --- durable state ------------------------------------------------------------------------

    @classmethod
    def create(cls, partition: int, operation: CreateGroup) -> "Group":
        """A new group."""
        group = cls(
            partition,
            operation.group,
            operation.channel,
            operation.name,
            operation.start,
            DoneRanges(operation.start),
        )
        group.cursor = operation.start
        return group

    @classmethod
    def load(cls, partition: int, number: int, view: View) -> "Group":
        """A group as the view holds it."""
        key = keys.group_prefix(b"h", partition, number)
        raw = view.get(key)
        assert raw is not None, f"group {number} of partition {partition} has no row"
        floor, start, acked, dead, expired, retry, moved, generation = _STATE.unpack_from(raw)
        # A row of version 1 ends with the name.
        channel, name, *last = raw[_STATE.size :].split(b"\0", 2)
        last_acked, recorded, redriven = _LAST.unpack(last[0]) if last else (b"", b"", 0)
        done = DoneRanges(int.from_bytes(floor, "big"))
        prefix = keys.group_prefix(b"d", partition, number)
        for key, value in view.range(prefix, keys.after_prefix(prefix)):
            done.lows.append(keys.offset_at_end(key))
            done.highs.append(int.from_bytes(value, "big"))
        group = cls(
            partition,
            number,
            channel.decode(),
            name.decode(),
            int.from_bytes(start, "big"),
            done,
            acked,
            dead,
            expired,
            retry,
            moved,
            redriven,
            generation,
            int.from_bytes(last_acked, "big"),
            int.from_bytes(recorded, "big"),
        )
        group.cursor = done.floor
        group.consumed = group.recorded
        return group

    def write(self, changes: Changes) -> None:
        """Puts the group's own row."""
        state = _STATE.pack(
            self.done.floor.to_bytes(OFFSET_BYTES, "big"),
            self.start.to_bytes(OFFSET_BYTES, "big"),
            self.acked_count,
            self.dead_count,
            self.expired_count,
            self.retry_count,
            self.moved_count,
            self.generation,
        )
        names = b"%b\0%b\0" % (self.channel.encode(), self.name.encode())
        last = _LAST.pack(
            self.acked.to_bytes(OFFSET_BYTES, "big"),
            self.recorded.to_bytes(OFFSET_BYTES, "big"),
            self.redriven_count,
        )
        changes.rows[keys.group_prefix(b"h", self.partition, self.number)] = (
            state + names + last
        )

    def apply_settle(self, operation: Settle, cut: int, scratch: Overlay) -> None:
        """Messages are done with. Those below `cut` have expired meanwhile."""
        main = self._left(operation.main, cut, scratch)
        retry = self._left(operation.retry, cut, scratch)
        count = sum(each for _, _, each in (*main, *retry))
        for low, high, _ in main:
            self._mark_done(low, high, scratch.changes)
        for low, high, retry_count in retry:
            self._leave_retry(low, high, scratch)
            self.retry_count -= retry_count
        self._record_handed_out(operation)
        match operation.ending:
            case Ending.ACKED:
                self.acked_count += count
                self.acked = max([self.acked, *(high - 1 for _, high, _ in (*main, *retry))])
            case Ending.DEAD:
                self.dead_count += count
            case _:
                self.expired_count += count
        self.write(scratch.changes)

    def apply_move(self, operation: Move, cut: int, scratch: Overlay) -> None:
        """Messages go to a retry row each range. Those below `cut` have expired meanwhile."""
        main = self._left(operation.main, cut, scratch)
        retry = self._left(operation.retry, cut, scratch)
        for low, high, count in main:
            self._mark_done(low, high, scratch.changes)
            self.retry_count += count
        counts = (operation.attempts, operation.releases)
        parts = [RetryPart(operation.until_ms, low, high, *counts) for low, high, _ in main]
        for low, high, _ in retry:
            left = self._leave_retry(low, high, scratch)
            parts.append(RetryPart(operation.until_ms, low, high, *counts, left.is_redriven))
        for part in parts:
            self.retry_rows.put(part, scratch.changes)
        self.moved_count += 1
        self._record_handed_out(operation)
        self.write(scratch.changes)

    def apply_redrive(self, operation: Redrive, scratch: Overlay) -> None:
        """
        Dead letters come back, each row of them in a retry row. In the main order their places
        are done: so no tile holds one, and no two retry rows overlap.
        """
        prefix = self.rows_prefix()
        append, index = operation.append, operation.append.first_index
        for due_ms, count in zip(append.dues, append.counts, strict=True):
            low = due_ms << INDEX_BITS | index
            part = RetryPart(operation.until_ms, low, low + count, 0, 0, is_redriven=True)
            self.retry_rows.put(part, scratch.changes)
            # Nothing will stand between the message before it and this place any more.
            before = scratch.last(prefix, keys.at(prefix, low))
            end_before = sum(keys.row_place(before[0])) if before is not None else 0
            self._mark_done(min(end_before, low), low + count, scratch.changes)
            self.retry_count += count
            self.redriven_count += count
            index += count
        if self.cursor < self.done.floor:
            self.cursor, self.head, self.is_aligned = self.done.floor, None, False
        self.write(scratch.changes)

    def apply_seek(self, start: int, cut: int, scratch: Overlay) -> None:
        """A new generation, which has nothing of the one before."""
        self.cut_state(scratch)
        self.start = start
        self.done = self.passed = DoneRanges(start)
        self.done.raise_floor(cut)
        if self.returning is not None:
            self.returning = Returning(self.returning.owners)
        self.acked_count = self.dead_count = self.expired_count = self.retry_count = 0
        self.moved_count = self.redriven_count = 0
        self.generation += 1
        self.cursor, self.head, self.is_aligned = self.done.floor, None, False
        self.retry_cursor = (0, -1)
        self.retry_parts = []
        self.scanned_to = self.consumed = self.recorded = self.acked = 0
        self.is_ready = True
        self.write(scratch.changes)

    def cut_state(self, scratch: Overlay) -> None:
        """Removes what stands beside the group's own row."""
        for kind in (b"d", b"r", b"x"):
            prefix = keys.group_prefix(kind, self.partition, self.number)
            scratch.cut(prefix, keys.after_prefix(prefix))

    def apply_remove(self, low: int, high: int, scratch: Overlay) -> None:
        """Messages in `[low, high)` are about to go: those not settled expire."""
        for part in self.retry_rows.within(low, high, scratch):
            left, right = max(low, part.low), min(high, part.high)
            # What came back to the group stands elsewhere, though between them.
            count = 0 if part.is_redriven else self._count(left, right, scratch)
            if count:
                self.retry_rows.leave(left, right, scratch)
                self.forget_retry(left, right)
                self.retry_count -= count
                self.expired_count += count
        for left, right in [*self.done.gaps(max(low, self.start), high)]:
            self.expired_count += self._count(left, right, scratch)
            self._mark_done(left, right, scratch.changes)
        self.head, self.is_aligned = None, False
        self.write(scratch.changes)

    def apply_cut(self, below: int, scratch: Overlay) -> None:
        """Retention is about to remove everything below: what isn't settled expires."""
        for part in self.retry_rows.within(0, below, scratch):
            high = min(part.high, below)
            count = self._count(part.low, high, scratch, is_redriven=part.is_redriven)
            self.retry_rows.leave(part.low, high, scratch)
            self.retry_count -= count
            self.expired_count += count
        for low, high in self.done.gaps(self.done.floor, below):
            self.expired_count += self._count(low, high, scratch)
        if below > self.done.floor:
            for low in self.done.raise_floor(below):
                scratch.changes.rows[self._done_key(low)] = None
            self.passed.raise_floor(below)
            if self.cursor < self.done.floor:
                self.cursor, self.head, self.is_aligned = self.done.floor, None, False
        self.write(scratch.changes)

    def committed(self, closed: int, view: View) -> int:
        """
        Below it everything is settled: the floor, or the lowest offset that waits, and nothing
        above what is `closed`. A group may begin in the future, and what is redriven to it
        until then still finds its place in between.
        """
        bound = min(self.done.floor, closed + 1)
        lowest = self.retry_rows.lowest(view)
        return bound if lowest is None else min(bound, lowest)

    def retries(self, view: View, steady_ms: int) -> Iterator[RetryPart]:
        """Retry rows above the retry cursor that may be scanned now."""
        rows, end_ms = self.retry_rows, self.retry_end(steady_ms)
        if rows.due_ms < end_ms:
            for part in rows.after(*self.retry_cursor, view):
                if part.until_ms >= end_ms:
                    rows.due_ms = part.until_ms
                    break
                yield part
            else:
                rows.due_ms = NEVER_MS
        # One that is due has a move in flight before it, which wakes when it lands.
        if steady_ms < rows.due_ms < NEVER_MS:
            self.next_steady_ms = rows.due_ms

    def _record_handed_out(self, operation: Settle | Move) -> None:
        """A range ends just above its last message."""
        if operation.ending not in {Ending.CLOCK, Ending.EXPIRED}:
            for _, high, _ in (*operation.main, *operation.retry):
                self.recorded = max(self.recorded, high - 1)
            self.consumed = max(self.consumed, self.recorded)

    def _left(self, ranges: list[Range], cut: int, view: View) -> list[Range]:
        """What retention has left of these ranges."""
        if all(low >= cut for low, _, _ in ranges):
            return ranges
        return [
            (low, high, count) if low >= cut else (cut, high, self._count(cut, high, view))
            for low, high, count in ranges
            if high > cut
        ]

    def rows_prefix(self, *, is_redriven: bool = False) -> bytes:
        """What the rows of its messages start with: in its channel, or on their way back."""
        return keys.rows_prefix(
            self.partition, REDRIVE_CHANNEL if is_redriven else self.channel
        )

    def prefix_at(self, low: int, view: View) -> bytes:
        """As `rows_prefix`, for what waits in a retry row at `low`, or doesn't."""
        part = self.retry_rows.at(low, view)
        return self.rows_prefix(is_redriven=part is not None and part.is_redriven)

    def _count(self, low: int, high: int, view: View, *, is_redriven: bool = False) -> int:
        """Messages in `[low, high)`."""
        prefix = self.rows_prefix(is_redriven=is_redriven)
        return sum(part.count for part in read_slices(view, prefix, low, high))

    def _leave_retry(self, low: int, high: int, scratch: Overlay) -> RetryPart:
        if self.returning is not None:
            self.returning.retries.drop(low, high)
        return self.retry_rows.leave(low, high, scratch)

    def _mark_done(self, low: int, high: int, changes: Changes) -> None:
        gone, new = self.done.add(low, high)
        if self.passed is not self.done:
            self.passed.add(low, high)
        for key in gone:
            changes.rows[self._done_key(key)] = None
        if new is not None:
            changes.rows[self._done_key(new[0])] = new[1].to_bytes(OFFSET_BYTES, "big")

    def _done_key(self, low: int) -> bytes:
        return keys.at(keys.group_prefix(b"d", self.partition, self.number), low)

    # --- volatile state -----------------------------------------------------------------------

    def add_lease(self, lease: Lease) -> None:
        """A lease begins."""
        self.leases[lease.token] = lease
        entry = (lease.low, lease.token)
        if self.order and entry < self.order[-1]:
            self.order.insert(bisect_left(self.order, entry), entry)
        else:
            self.order.append(entry)

    def lease(self, token: int) -> Lease | None:
        """The lease of a token, or the one that goes on with what that stood for; or None."""
        lease = self.leases.get(token)
        if lease is None and self.returning is not None:
            lease = self.leases.get(self.returning.renewed.get(token, 0))
        return lease

    def pass_by(self, low: int, high: int) -> None:
        """A claimed lease covers `[low, high)` of the main order: no scan looks there."""
        if self.passed is self.done:
            self.passed = DoneRanges(self.done.floor, [*self.done.lows], [*self.done.highs])
        self.passed.add(low, high)

    def next_place(self) -> int:
        """Where the scan of the main order goes on."""
        place, _ = self.passed.skip(self.cursor)
        if self.returning is not None and place >= self.returning.top:
            self.passed = self.done
        return place

    def unclaimed(self, part: RetryPart) -> Iterable[RetryPart]:
        """What of a retry row nobody has claimed."""
        return (part,) if self.returning is None else self.returning.unclaimed(part)

    def drop_lease(self, lease: Lease) -> None:
        """A lease has nothing open any more."""
        del self.leases[lease.token]
        del self.order[bisect_left(self.order, (lease.low, lease.token))]

    def drop_ended(self, leases: list[Lease]) -> None:
        """
        As `drop_lease`, for many: those that stand beside each other leave the order together.
        One by one, each would move all that stand behind it.
        """
        for lease in leases:
            del self.leases[lease.token]
        entries = sorted([(lease.low, lease.token) for lease in leases])
        while entries:
            first = bisect_left(self.order, entries[0])
            count = len(entries)
            while self.order[first : first + count] != entries[:count]:
                assert count > 1, "a lease is missing in the order"
                count -= count // 2
            del self.order[first : first + count]
            del entries[:count]

    def lease_at(self, offset: int) -> tuple[Lease, int] | None:
        """
        The lease under which the message at `offset` is open, and its place there.

        What left a lease and was leased again lies inside the older lease's tile, so the newest
        is looked at first. Leases of the main order don't overlap: behind one nothing is found.
        But one that was claimed may have holes, which others hold.
        """
        has_holes = self.returning is not None and offset < self.returning.top
        for number in reversed(range(bisect_right(self.order, (offset, 1 << 64)))):
            lease = self.leases[self.order[number][1]]
            place = lease.place_of(offset) if offset < lease.high else None
            if place is not None and lease.open >> place & 1:
                return lease, place
            if not lease.is_retry and not has_holes:
                break
        return None

    @property
    def is_held(self) -> bool:
        """Nothing is handed out before some of what is on its way is applied."""
        return bool(self.held_count) or self.ending_count >= limits.GROUP_ENDING_COUNT_MAX

    def ended(self) -> None:
        """One of `ending_count` is applied: the group goes on, if it was held for them."""
        self.ending_count -= 1
        if self.ending_count == limits.GROUP_ENDING_COUNT_MAX - 1:
            self.is_ready = True

    def has_credit(self) -> bool:
        """Somebody can take messages."""
        return any(consumer.has_credit for consumer in self.consumers)

    def wait_for_credit(self) -> None:
        """Something is due, and nobody can take it: the clock has nothing more to tell."""
        self.is_ready = True
        self.next_wall_ms = self.next_steady_ms = None

    def is_waiting_for_credit(self) -> bool:
        """There is something to hand out, or was when it was last looked at."""
        has_more = self.is_ready or self.is_blocked
        return has_more and not self.is_held and not self.has_credit()

    def is_due(self, wall_ms: int, steady_ms: int) -> bool:
        """A dispatch may find something."""
        return (
            self.is_ready
            or self.is_blocked
            or (self.next_wall_ms is not None and self.next_wall_ms <= wall_ms)
            or (self.next_steady_ms is not None and self.next_steady_ms <= steady_ms)
        )

    def wait_for_claims(self, moment_ms: int, until_ms: int, steady_ms: int) -> list[str]:
        """
        Waits for those who have not come back, from `moment_ms` to `until_ms` in lease time.

        Returns:
            Those who have not come in time: nobody waits for them any more.
        """
        assert self.returning is not None, "a wait for nobody"
        self.is_ready = self.is_blocked = False
        self.next_wall_ms = None
        self.next_steady_ms = steady_ms + until_ms - moment_ms
        if moment_ms < until_ms:
            return []
        gone = list(self.returning.owners)
        self.returning.owners.clear()
        return gone

    def is_drained(self, target: int) -> bool:
        """All that stood at or below `target` when it was readable has been handed out."""
        return (
            self.scanned_to > target
            and not self.is_ready
            and not self.retry_parts
            and not self.moving_ms
            and not self.is_held
        )

    def wake_at_steady(self, until_ms: int) -> None:
        """There may be a retry at this time."""
        if self.next_steady_ms is None or until_ms < self.next_steady_ms:
            self.next_steady_ms = until_ms

    def forget_retry(self, low: int, high: int) -> None:
        """Messages that wait to be handed out again get an outcome: they aren't handed out."""
        parts: list[RetryPart] = []
        for part in self.retry_parts:
            if part.high <= low or high <= part.low:
                parts.append(part)
                continue
            if part.low < low:
                parts.append(replace(part, high=low))
            if high < part.high:
                parts.append(replace(part, low=high))
        self.retry_parts = parts

    def drop_leases(self) -> None:
        """Whoever holds a message of the group holds it no longer."""
        self.leases.clear()
        self.order.clear()

    def take_back(self, low: int, high: int) -> None:
        """As `drop_leases`, for messages in `[low, high)`: their outcomes come too late."""
        for lease in [*self.leases.values()]:
            if lease.low < high and low < lease.high:
                lease.close(low, high)
                if not lease.open:
                    self.drop_lease(lease)
        self.forget_retry(low, high)

    def retry_clamp(self, until_ms: int) -> int:
        """A due time for a move such that no scan has passed it."""
        return max(until_ms, self.retry_cursor[0] + 1 if self.retry_cursor[1] >= 0 else 0)

    def retry_end(self, steady_ms: int) -> int:
        """Retry rows due before this may be scanned: neither the clock nor a move is passed."""
        return min(steady_ms + 1, *self.moving_ms) if self.moving_ms else steady_ms + 1
