"""
A partition: the state machine at the heart of Sandglass. It has no outside.

The way of everything: `admit_*` checks a request against the leader's state, gives it its final
offsets, and returns a record; the host makes the record durable; `apply` carries it out, and is
the only thing that changes durable state, on a leader, on a replica and in recovery alike;
`dispatch` hands out what is due. Dispatch and `extend` change leases only, which are volatile.

Three rules make time the index (each has a simulation that finds its absence):

1. *Closed offset*: the highest offset that any reader may have been given or told is absent.
   Every later append gets an offset above it: an immediate message takes `now`, and its index
   is higher than any before.
2. *Read bound*: reads stay at or below `(now, last index applied)`, and below the lowest offset
   that is admitted but not yet applied. Applied, not assigned: an index in flight may be
   assigned anew after a crash.
3. *Promise*: nothing is handed out beyond a durable promise, to which a starting leader raises
   the closed offset. So the closed offset survives a crash without being written at each read.

Clocks: `reached` is the highest wall clock that the leader has accepted, `now` the greater of
it and the closed offset's time. Neither goes back. Offsets go by now, waits by steady time.

Invariants: `closed` and indexes never go back; every offset of an append is above `closed` when
it is applied; operations in flight are applied in the order of their admission.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappush
from itertools import islice
from operator import add
from struct import Struct

from sandglass.core import entry, keys, limits
from sandglass.core.dispatch import Delivery, Moment, Turn, dispatch_group
from sandglass.core.group import Group
from sandglass.core.lease import Consumer
from sandglass.core.message import DEAD_LETTER_CHANNEL, Batch, Placed, Removed, Slice
from sandglass.core.offset import INDEX_BITS, OFFSET_BYTES
from sandglass.core.purge import apply_purge
from sandglass.core.record import (
    Append,
    CreateGroup,
    Cut,
    Delete,
    DropGroup,
    Head,
    Indexed,
    Move,
    Operation,
    PromiseExact,
    Purge,
    Put,
    Record,
    Redrive,
    SeekGroup,
    Settle,
    index_count,
    lowest_offset,
)
from sandglass.core.rows import read_slices
from sandglass.core.topic import TopicGroup, TopicSettings
from sandglass.core.view import Changes, Overlay, View
from sandglass.errors import BusyError, LeaseLostError, NotFoundError

Slicer = Callable[[bytes, int, int, int], bytes]
"""(body, row_count, first, count) -> the batch of those messages. The core never parses."""

TOKEN_BITS = 40
"""Leases of one partition in one epoch."""

DEADLINE_COUNT_MIN = 1000
"""So many deadlines, stale ones included, aren't worth looking through."""

_META = Struct(">Q14sQQQI14sI14s")


@dataclass(slots=True)
class InFlight:
    """A record that is admitted and not yet applied, and what it holds back until then."""

    record: Record
    lowest: int | None
    moves: list[tuple[Group, int]]
    held: Sequence[Group]
    removed: Removed | None
    """Told, when it is applied, what a delete has done."""


@dataclass(slots=True)
class _Written:
    """
    What records have carried of the leader's state: this goes into the view, so that replay
    gives the same bytes. The leader's own state is ahead of it.
    """

    closed: int = 0
    now_ms: int = 0
    reached_ms: int = 0
    steady_ms: int = 0
    epoch: int = 0

    def take(self, head: Head) -> None:
        self.closed = max(self.closed, head.closed)
        self.now_ms = max(self.now_ms, head.now_ms)
        self.reached_ms = max(self.reached_ms, head.reached_ms)
        self.steady_ms = max(self.steady_ms, head.steady_ms)
        self.epoch = max(self.epoch, head.epoch)


@dataclass(slots=True)
class Partition:
    """One partition, on a leader or a replica. See the head of this file."""

    number: int
    id: str
    settings: TopicSettings
    slicer: Slicer
    topic_groups: Mapping[str, TopicGroup] = field(default_factory=dict[str, TopicGroup])
    """The groups of the topic in the catalog, by name; the machine's own."""

    last_index: int = 0
    """Applied."""
    closed: int = 0
    now_ms: int = 0
    reached_ms: int = 0
    epoch: int = 0
    written: _Written = field(default_factory=_Written)
    cut: int = 0
    promised: int = 0
    """By a promise of this partition's own; the node's reaches for all of them."""
    closed_at_start: int = 0
    """When this leader began: up to here, messages count as handed out before."""
    next_group: int = 1

    assigned_index: int = 0
    assigned_group: int = 1
    next_token: int = 0
    groups: dict[int, Group] = field(default_factory=dict[int, Group])
    numbers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    creating: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    channels: set[str] | None = None
    in_flight: deque[InFlight] = field(default_factory=deque[InFlight])
    deadlines: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    """(ends in lease time, group, token); may be earlier than the lease's own end."""
    deadline_count_max: int = DEADLINE_COUNT_MIN
    """With more of them, it is time to see how many are of leases that have ended."""
    reading: list[Group] = field(default_factory=list[Group])
    """Groups that have consumers."""
    starved: list[Group] = field(default_factory=list[Group])
    """Groups that the last turn found, or left, with something due and without credit: they
    have just become starved."""

    # --- a leader begins ----------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        number: int,
        partition_id: str,
        settings: TopicSettings,
        slicer: Slicer,
        view: View,
        topic_groups: Mapping[str, TopicGroup],
    ) -> "Partition":
        """The partition as the view holds it; a new one if it holds nothing."""
        partition = cls(number, partition_id, settings, slicer, topic_groups)
        raw = view.get(keys.partition_key(number))
        if raw is not None:
            last, closed, now, reached, steady, epoch, cut, group, promised = _META.unpack(raw)
            partition.last_index = partition.assigned_index = last
            partition.closed = int.from_bytes(closed, "big")
            partition.now_ms, partition.reached_ms = now, reached
            partition.epoch = epoch
            partition.written = _Written(partition.closed, now, reached, steady, epoch)
            partition.cut = int.from_bytes(cut, "big")
            partition.next_group = partition.assigned_group = group
            partition.promised = int.from_bytes(promised, "big")
        return partition

    def lead(self, epoch: int, promised: int, wall_ms: int) -> None:
        """
        Begins to lead: what was promised counts as closed.

        The host has waited until its clock passed the promise, unless it stands so far behind
        that it was stepped back: then now takes the closed offset's time and stands still.
        """
        self.epoch = epoch
        self.next_token = (epoch << TOKEN_BITS) + 1
        self.closed = max(self.closed, promised, self.promised)
        self.closed_at_start = self.closed
        self.see(wall_ms)
        self.now_ms = max(self.now_ms, self.closed >> INDEX_BITS)

    def see(self, wall_ms: int) -> None:
        """The leader's clock shows this."""
        if wall_ms > self.reached_ms:
            self.reached_ms = wall_ms
            self.now_ms = max(self.now_ms, wall_ms)

    # --- admission ----------------------------------------------------------------------------

    def admit_append(
        self, channel: str, batch: Batch, moment: Moment, view: View
    ) -> tuple[Record, Placed]:
        """
        Gives the messages of a batch their final offsets.

        Raises:
            BusyError: the partition has as many channels as it may.
        """
        self.see(moment.wall_ms)
        self.check_channel(channel, view)
        first_index = self.assigned_index + 1
        dues, scheduled, waits = self._place(batch, moment)
        append = Append(
            channel,
            first_index,
            self.now_ms,
            dues,
            batch.counts,
            batch.bodies,
            scheduled,
            waits,
        )
        lowest = min(dues) << INDEX_BITS | first_index
        assert lowest > self.closed, "an append at or below the closed offset"
        self.assigned_index += batch.count
        record = self.record([append], moment, lowest=lowest)
        return record, Placed(self.id, first_index, dues, batch.counts)

    def check_channel(self, channel: str, view: View) -> None:
        """
        May this channel be written to?

        Raises:
            BusyError: it is new, and the partition has as many channels as it may.
        """
        if self.channels is None:
            prefix = keys.partition_prefix(b"c", self.number)
            rows = view.range(prefix, keys.after_prefix(prefix))
            self.channels = {keys.channel_of(key) for key, _ in rows}
        if channel in self.channels:
            return
        coming = {
            operation.channel
            for landing in self.in_flight
            for operation in landing.record.operations
            if isinstance(operation, Append | Put) and operation.channel not in self.channels
        }
        count = len(self.channels) + len(coming)
        if channel not in coming and count >= limits.CHANNEL_COUNT_MAX:
            raise BusyError(
                f"partition {self.id} has {limits.CHANNEL_COUNT_MAX} channels,"
                " the most it may have",
                field="channel",
            )

    def admit_cut(self, below: int, moment: Moment) -> Record | None:
        """
        Retention: what is below goes, by whole milliseconds, so that no row is cut in two. None
        if it is gone already; what may not be read yet stays. It closes what it takes, where
        nobody else may have read, once it is applied: sooner, readers would rely on it. Nothing
        is placed below it in the meantime, since appends take now or later.
        """
        self.see(moment.wall_ms)
        below = min(below, self.read_bound() + 1) >> INDEX_BITS << INDEX_BITS
        if below <= self.cut or self.last_index == 0:
            return None
        return self.record([Cut(below)], moment)

    def admit_promise(self, moment: Moment) -> Record | None:
        """
        A promise of what exists, for a leader whose clock stands behind now; None if there is
        nothing beyond the last one.
        """
        self.see(moment.wall_ms)
        bound = self.read_bound()
        if bound <= max(self.promised, self.closed):
            return None
        return self.record([PromiseExact(bound)], moment)

    def admit_turn(self, turn_operations: list[Operation], moment: Moment) -> list[Record]:
        """Records for what a dispatch has moved."""
        return [self.record([operation], moment) for operation in turn_operations]

    def extend(
        self, group: Group, token: int, *, lease_ms: int, begun: int, moment: Moment
    ) -> int:
        """
        Keeps a lease for `lease_ms` more from now, or for its own length if that is 0.

        Returns:
            When it ends, in lease time.

        Raises:
            LeaseLostError: the lease has ended.
        """
        lease = group.leases.get(token)
        if lease is None:
            raise LeaseLostError(
                f"lease {token:x} of group {group.name!r} in partition {self.id} has ended"
            )
        lease.begun = max(lease.begun, min(begun, lease.count))
        before_ms = lease.ends_ms
        lease.ends_ms = moment.lease_ms + (lease_ms or lease.lease_ms)
        if lease.ends_ms < before_ms:
            heappush(self.deadlines, (lease.ends_ms, group.number, token))
        return lease.ends_ms

    def _place(self, batch: Batch, moment: Moment) -> tuple[list[int], list[bool], list[int]]:
        """Final due times, which rows are scheduled, and the waits of those that have one."""
        now_ms, wall_ms = self.now_ms, moment.wall_ms
        asked = batch.dues
        if batch.is_delay:
            asked = [wall_ms + delay_ms if delay_ms else 0 for delay_ms in asked]
            asked = [min(due_ms, limits.DUE_MS_MAX) for due_ms in asked]
        if min(asked) > now_ms:
            return asked, [True] * len(asked), []
        dues = [due_ms if due_ms > now_ms else now_ms for due_ms in asked]
        scheduled = [due_ms > wall_ms for due_ms in asked]
        waits: list[int] = []
        if now_ms > wall_ms and any(wall_ms < due_ms <= now_ms for due_ms in asked):
            # The clock was stepped back: now has passed this due time, the clock has not.
            steady_ms = moment.steady_ms
            waits = [
                steady_ms + due_ms - wall_ms if wall_ms < due_ms <= now_ms else 0
                for due_ms in asked
            ]
        return dues, scheduled, waits

    def apply_close(self, closed: int, changes: Changes) -> None:
        """The closed offset as a leader that stops has left it."""
        self._close(closed)
        self._write(changes)

    def head(self, moment: Moment) -> Head:
        """The state that a record carries."""
        return Head(self.epoch, self.closed, self.now_ms, self.reached_ms, moment.steady_ms)

    def record(
        self,
        operations: list[Operation],
        moment: Moment,
        *,
        lowest: int | None = None,
        held: Sequence[Group] = (),
        removed: Removed | None = None,
    ) -> Record:
        """
        A record on its way.

        Args:
            lowest: the lowest offset that it gives to anything.
            held: groups that wait for it: until then nothing is handed out to them.
            removed: told what a delete has done.
        """
        record = Record(self.number, self.head(moment), operations)
        moves = [
            (self.groups[operation.group], operation.until_ms)
            for operation in operations
            if isinstance(operation, Move | Redrive)
        ]
        for group in held:
            group.held_count += 1
        self.in_flight.append(InFlight(record, lowest, moves, held, removed))
        return record

    # --- the one door -------------------------------------------------------------------------

    def apply(self, record: Record, view: View) -> Changes:
        """
        Carries out a record. Nothing else changes durable state.

        `view` shows everything up to the record before; the changes are for the host to lay
        over it, and to write together with the position.
        """
        assert record.partition == self.number, "a record of another partition"
        head = record.head
        self.written.take(head)
        self.closed = max(self.closed, head.closed)
        self.now_ms = max(self.now_ms, head.now_ms)
        self.reached_ms = max(self.reached_ms, head.reached_ms)
        self.epoch = max(self.epoch, head.epoch)
        scratch = Overlay(view)
        for operation in record.operations:
            self._apply(operation, scratch)
        self._write(scratch.changes)
        if self.in_flight:
            landing = self.in_flight.popleft()
            assert landing.record is record, "records are applied in the order of admission"
            self._landed(landing)
        return scratch.changes

    def _apply(self, operation: Operation, scratch: Overlay) -> None:
        match operation:
            case Append():
                self._apply_append(operation, scratch.changes)
            case Put():
                self._apply_put(operation, scratch.changes)
            case Delete():
                self._apply_delete(operation, scratch)
            case Settle():
                group = self._group(operation.group, scratch)
                group.apply_settle(operation, self.cut, scratch)
            case Move():
                group = self._group(operation.group, scratch)
                group.apply_move(operation, self.cut, scratch)
            case CreateGroup():
                self._apply_create_group(operation, scratch.changes)
            case SeekGroup():
                group = self._group(operation.group, scratch)
                group.apply_seek(operation.start, self.cut, scratch)
            case DropGroup():
                self._apply_drop_group(operation.group, scratch)
            case Redrive():
                self._apply_append(operation.append, scratch.changes)
                group = self._group(operation.group, scratch)
                group.apply_redrive(operation, scratch)
            case Purge():
                readers = self.groups_of(DEAD_LETTER_CHANNEL, scratch)
                apply_purge(self.number, operation, readers, self.slicer, scratch)
                self._close(max(high for _, high, _ in operation.ranges) - 1)
            case Cut():
                self._apply_cut(operation.below, scratch)
            case PromiseExact():
                self.promised = max(self.promised, operation.offset)
            case _:
                raise AssertionError(f"{operation} in a record of a partition")

    def _apply_append(self, append: Append, changes: Changes) -> None:
        self._take_indexes(append)
        rows, prefix = changes.rows, keys.rows_prefix(self.number, append.channel)
        columns = [
            keys.row_columns(append.produced_ms, is_scheduled=flag, origin=append.origin)
            for flag in (False, True)
        ]
        places = keys.row_keys(prefix, append.dues, append.first_index, append.counts)
        starts = [columns[flag] for flag in append.scheduled]
        for number, wait_until_ms in enumerate(append.waits):
            if wait_until_ms:
                starts[number] = keys.row_columns(
                    append.produced_ms, is_scheduled=True, wait_until_ms=wait_until_ms
                )
        rows.update(zip(places, map(add, starts, append.bodies), strict=True))
        self._note_channel(append.channel, changes)
        self._wake_readers(append)

    def _apply_put(self, put: Put, changes: Changes) -> None:
        self._take_indexes(put)
        entry.apply_put(self.number, put, changes)
        self._note_channel(put.channel, changes)

    def _apply_delete(self, delete: Delete, scratch: Overlay) -> None:
        self._take_indexes(delete)
        existed = entry.apply_delete(self.number, delete, scratch)
        removed = self.in_flight[0].removed if self.in_flight else None
        if removed is not None:
            removed.first_revision, removed.existed = delete.first_index, existed

    def _take_indexes(self, operation: Indexed) -> None:
        first_index = operation.first_index
        assert first_index == self.last_index + 1, "an index is left out or used twice"
        assert lowest_offset(operation) > self.closed, "an append below what is closed"
        self.last_index += index_count(operation)
        self.assigned_index = max(self.assigned_index, self.last_index)

    def _note_channel(self, channel: str, changes: Changes) -> None:
        if self.channels is None or channel not in self.channels:
            changes.rows[keys.channel_key(self.number, channel)] = b""
            if self.channels is not None:
                self.channels.add(channel)

    def _wake_readers(self, append: Append) -> None:
        due_ms = min(append.dues)
        for group in self.reading:
            if group.channel == append.channel and not group.is_ready:
                if due_ms <= self.now_ms:
                    group.is_ready = True
                elif group.next_wall_ms is None or due_ms < group.next_wall_ms:
                    group.next_wall_ms = due_ms

    def _apply_create_group(self, operation: CreateGroup, changes: Changes) -> None:
        group = Group.create(self.number, operation)
        group.done.raise_floor(self.cut)
        group.cursor = group.done.floor
        self.groups[operation.group] = group
        self.numbers[operation.channel, operation.name] = operation.group
        self.creating.discard((operation.channel, operation.name))
        self.next_group = operation.group + 1
        self.assigned_group = max(self.assigned_group, self.next_group)
        key = keys.group_name_key(self.number, operation.channel, operation.name)
        changes.rows[key] = operation.group.to_bytes(4, "big")
        group.write(changes)

    def _apply_drop_group(self, number: int, scratch: Overlay) -> None:
        group = self._group(number, scratch)
        group.cut_state(scratch)
        for key in (
            keys.group_prefix(b"h", self.number, number),
            keys.group_name_key(self.number, group.channel, group.name),
        ):
            scratch.changes.rows[key] = None
        del self.groups[number]
        self.numbers.pop((group.channel, group.name), None)

    def _apply_cut(self, below: int, scratch: Overlay) -> None:
        for group in self.groups_of(None, scratch):
            group.apply_cut(below, scratch)
        for channel in self.channel_names(scratch):
            rows = keys.rows_prefix(self.number, channel)
            scratch.cut(rows, keys.at(rows, below))
        self.cut = max(self.cut, below)
        self._close(below - 1)

    def _close(self, closed: int) -> None:
        """By a record: what it removes stays an exact name for what stood there."""
        self.closed = max(self.closed, closed)
        self.written.closed = max(self.written.closed, closed)

    def _write(self, changes: Changes) -> None:
        changes.rows[keys.partition_key(self.number)] = _META.pack(
            self.last_index,
            self.written.closed.to_bytes(OFFSET_BYTES, "big"),
            self.written.now_ms,
            self.written.reached_ms,
            self.written.steady_ms,
            self.written.epoch,
            self.cut.to_bytes(OFFSET_BYTES, "big"),
            self.next_group,
            self.promised.to_bytes(OFFSET_BYTES, "big"),
        )

    def _landed(self, landed: InFlight) -> None:
        """A record of this leader is applied: what it held back goes on."""
        for group, until_ms in landed.moves:
            group.moving_ms.remove(until_ms)
            group.wake_at_steady(until_ms)
        for group in landed.held:
            group.held_count -= 1
            group.is_ready = True

    # --- groups -------------------------------------------------------------------------------

    def group(self, channel: str, name: str, view: View) -> Group:
        """
        A group by its name.

        Raises:
            NotFoundError: there is none.
        """
        number = self._number(channel, name, view)
        if not number or self._group(number, view).is_dropped:
            raise NotFoundError(f"no group {name!r} reads channel {channel!r} of {self.id}")
        return self._group(number, view)

    def peek_group(self, channel: str, name: str, view: View) -> Group | None:
        """A group, only to be looked at: one that isn't in memory doesn't stay there."""
        raw = view.get(keys.group_name_key(self.number, channel, name))
        if raw is None:
            return None
        number = int.from_bytes(raw, "big")
        return self.groups.get(number) or Group.load(self.number, number, view, self.cut)

    def has_group(self, channel: str, name: str, view: View) -> bool:
        """There is such a group, or it is on its way."""
        return bool(self._number(channel, name, view)) or (channel, name) in self.creating

    def settings_of(self, group: Group) -> TopicSettings:
        """The group's own settings, else the topic's."""
        own = self.topic_groups.get(group.name)
        return self.settings if own is None else own.settings.over(self.settings)

    def groups_of(self, channel: str | None, view: View) -> list[Group]:
        """The groups that read a channel, or all."""
        prefix = keys.partition_prefix(b"g", self.number)
        if channel is not None:
            prefix += channel.encode() + b"\0"
        numbers = [
            int.from_bytes(raw, "big")
            for _, raw in view.range(prefix, keys.after_prefix(prefix))
        ]
        return [self._group(number, view) for number in sorted(numbers)]

    def group_names(
        self, view: View, *, count_max: int = limits.GROUP_COUNT_MAX
    ) -> list[tuple[str, str]]:
        """(channel, name) of every group, or of the first so many."""
        prefix = keys.partition_prefix(b"g", self.number)
        rows = view.range(prefix, keys.after_prefix(prefix))
        return [keys.group_of(key) for key, _ in islice(rows, count_max)]

    def channel_names(
        self, view: View, *, count_max: int = limits.CHANNEL_COUNT_MAX + 1
    ) -> list[str]:
        """The channels in use, by name; all, with that of the dead letters, or so many."""
        prefix = keys.partition_prefix(b"c", self.number)
        rows = view.range(prefix, keys.after_prefix(prefix))
        return [keys.channel_of(key) for key, _ in islice(rows, count_max)]

    def count_pending(self, channel: str, view: View, *, row_count_max: int) -> tuple[int, int]:
        """Messages that are not due yet, in no more than so many rows; and how many rows."""
        prefix = keys.rows_prefix(self.number, channel)
        first = keys.at(prefix, (self.now_ms + 1) << INDEX_BITS)
        count = row_count = 0
        for key, _ in islice(view.range(first, keys.after_prefix(prefix)), row_count_max):
            count += keys.row_place(key)[1]
            row_count += 1
        return count, row_count

    def has_below(self, below: int, view: View) -> bool:
        """Is there a message below this offset, for retention to cut?"""
        for channel in self.channel_names(view):
            prefix = keys.rows_prefix(self.number, channel)
            first = keys.at(prefix, self.cut)
            if next(iter(view.range(first, keys.at(prefix, below))), None) is not None:
                return True
        return False

    def count_unread(
        self, group: Group, moment: Moment, view: View, *, row_count_max: int
    ) -> tuple[int, int]:
        """
        Due messages that the group has not been given, in no more than so many rows; and how
        many rows.
        """
        prefix = keys.rows_prefix(self.number, group.channel)
        end = (max(self.now_ms, moment.wall_ms) + 1) << INDEX_BITS
        count = row_count = 0
        slices = read_slices(view, prefix, group.cursor, end)
        for part in islice(slices, row_count_max):
            first = part.due_ms << INDEX_BITS | part.first_index
            count += part.count if not group.done.holds(first) else 0
            row_count += 1
        return count, row_count

    def add_consumer(self, group: Group, consumer: Consumer) -> None:
        """A consumer reads a group from now on."""
        group.consumers.append(consumer)
        group.is_ready, group.is_starved = True, False
        if group not in self.reading:
            self.reading.append(group)

    def remove_consumer(self, group: Group, consumer: Consumer) -> None:
        """It reads no longer; its leases stay until they end."""
        if consumer in group.consumers:
            group.consumers.remove(consumer)
        if not group.consumers and group in self.reading:
            self.reading.remove(group)

    def _number(self, channel: str, name: str, view: View) -> int:
        number = self.numbers.get((channel, name))
        if number is None:
            raw = view.get(keys.group_name_key(self.number, channel, name))
            if raw is None:
                return 0
            number = self.numbers[channel, name] = int.from_bytes(raw, "big")
        return number

    def _group(self, number: int, view: View) -> Group:
        group = self.groups.get(number)
        if group is None:
            group = self.groups[number] = Group.load(self.number, number, view, self.cut)
        return group

    # --- reading ------------------------------------------------------------------------------

    def read_bound(self) -> int:
        """The highest offset that may be read now, promises aside."""
        bound = self.now_ms << INDEX_BITS | self.last_index
        for landing in self.in_flight:
            if landing.lowest is not None and landing.lowest <= bound:
                bound = landing.lowest - 1
        return bound

    def readable(self, promised: int) -> int:
        """The highest offset that may be read now; `promised` is the node's, durable."""
        return min(self.read_bound(), max(promised, self.promised, self.closed))

    def wake_at(self) -> tuple[int | None, int | None, int | None]:
        """When to dispatch or expire next: in wall, steady and lease time; None for never."""
        wall_ms = steady_ms = None
        for group in self.reading:
            if group.is_starved:
                continue  # an offer brings its turn
            if group.is_ready and not group.held_count:
                return 0, 0, 0
            wall_ms = _earlier(wall_ms, group.next_wall_ms)
            steady_ms = _earlier(steady_ms, group.next_steady_ms)
        return wall_ms, steady_ms, self.deadlines[0][0] if self.deadlines else None

    def dispatch(
        self, moment: Moment, promised: int, view: View
    ) -> tuple[list[Delivery], list[Record]]:
        """
        Hands out what is due to whom has credit. Begins leases; changes nothing durable.

        A turn ends when it has handed out enough: the other groups are the first of the next.
        `starved` are then those that have found their consumers' credit used up, or have used
        it up. They are passed over until the host offers them credit: see `Group.is_starved`.

        Returns:
            Deliveries, and records of what was moved instead.
        """
        self.see(moment.wall_ms)
        end = self.readable(promised) + 1
        turn = Turn(
            view,
            moment,
            self.reached_ms,
            self.now_ms,
            end,
            self.next_token,
            self.settings.ack_timeout_ms,
        )
        self.starved = []
        for place, group in enumerate(self.reading):
            if turn.is_over():
                self.reading = self.reading[place:] + self.reading[:place]
                break
            if group.is_starved or not group.is_due(moment.wall_ms, moment.steady_ms):
                continue
            if group.has_credit():
                turn.ack_timeout_ms = self.settings_of(group).ack_timeout_ms
                dispatch_group(group, turn)
                self.closed = max(self.closed, min(group.cursor, end) - 1)
            else:
                group.wait_for_credit()
            if group.is_waiting_for_credit():
                group.is_starved = True
                self.starved.append(group)
        self.next_token = turn.next_token
        for delivery in turn.deliveries:
            lease = delivery.lease
            heappush(self.deadlines, (lease.ends_ms, lease.group, lease.token))
        self._tidy_deadlines()
        return turn.deliveries, self.admit_turn(turn.operations, moment)

    def _tidy_deadlines(self) -> None:
        """Those of leases that have ended go, once they are most of the heap."""
        if len(self.deadlines) <= self.deadline_count_max:
            return
        lease_count = sum(len(group.leases) for group in self.groups.values())
        if len(self.deadlines) >= 2 * lease_count:
            self.deadlines = [
                (lease.ends_ms, group.number, lease.token)
                for group in self.groups.values()
                for lease in group.leases.values()
            ]
            heapify(self.deadlines)
        self.deadline_count_max = max(DEADLINE_COUNT_MIN, 2 * lease_count)

    def fetch(
        self, channel: str, low: int, high: int, promised: int, view: View
    ) -> Iterator[Slice]:
        """
        Messages of a channel in `[low, high]`, up to what is readable now, which it closes.

        The iterator is for use at once: what comes later is not in it.
        """
        top = min(high, self.readable(promised))
        self.closed = max(self.closed, top)
        return read_slices(view, keys.rows_prefix(self.number, channel), low, top + 1)


def _earlier(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
