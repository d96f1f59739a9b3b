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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct

from sandglass.core import entry, keys, limits
from sandglass.core.appending import place_batch, write_rows
from sandglass.core.channels import Channels
from sandglass.core.deadlines import Deadlines
from sandglass.core.dispatch import Delivery, Moment, Turn, dispatch_group
from sandglass.core.group import Group
from sandglass.core.group_table import GroupTable
from sandglass.core.in_flight import InFlight
from sandglass.core.lease import Consumer, first_token
from sandglass.core.message import DEAD_LETTER_CHANNEL, Batch, Placed, Removed, Slice
from sandglass.core.offset import INDEX_BITS, OFFSET_BYTES
from sandglass.core.purge import apply_purge
from sandglass.core.record import (
    Append,
    Attach,
    CreateGroup,
    Cut,
    Delete,
    Detach,
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
from sandglass.core.written import Written
from sandglass.errors import BusyError, LeaseLostError, NotFoundError

Slicer = Callable[[bytes, int, int, int], bytes]
"""(body, row_count, first, count) -> the batch of those messages. The core never parses."""

_META = Struct(">Q14sQQQI14sI14s")


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
    written: Written = field(default_factory=Written)
    cut: int = 0
    promised: int = 0
    """By a promise of this partition's own; the node's reaches for all of them."""
    claims_until_ms: int = 0
    """In lease time: so long groups wait for sessions that were attached before."""
    closed_at_start: int = 0
    """When this leader began: up to here, messages count as handed out before."""
    next_group: int = 1

    assigned_index: int = 0
    assigned_group: int = 1
    next_token: int = 0
    groups: GroupTable = field(init=False)
    channels: Channels = field(init=False)
    in_flight: InFlight = field(default_factory=InFlight)
    deadlines: Deadlines = field(default_factory=Deadlines)
    reading: list[Group] = field(default_factory=list[Group])
    """Groups that have consumers."""
    starved: list[Group] = field(default_factory=list[Group])
    """Groups that the last turn found, or left, with something due and without credit: they
    have just become starved."""

    def __post_init__(self) -> None:
        self.groups = GroupTable(self.number)
        self.channels = Channels(self.number)

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
            partition.written = Written(partition.closed, now, reached, steady, epoch)
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
        self.next_token = first_token(epoch, self.id)
        self.groups.lead()
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
        dues, scheduled, waits = place_batch(batch, now_ms=self.now_ms, moment=moment)
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
        written = (
            operation.channel
            for operation in self.in_flight.operations()
            if isinstance(operation, Append | Put)
        )
        if not self.channels.has_room(channel, written, view):
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
        lease = group.lease(token)
        if lease is None:
            raise LeaseLostError(
                f"lease {token:x} of group {group.name!r} in partition {self.id} has ended"
            )
        lease.begun = max(lease.begun, min(begun, lease.count))
        before_ms = lease.ends_ms
        lease.ends_ms = moment.lease_ms + (lease_ms or lease.lease_ms)
        if lease.ends_ms < before_ms:
            self.deadlines.push(lease.ends_ms, group.number, lease.token)
        return lease.ends_ms

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
        groups = self.groups.loaded
        self.in_flight.add(record, groups, lowest=lowest, held=held, removed=removed)
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
        self.in_flight.land(record)
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
                group = self.groups.at(operation.group, scratch)
                group.apply_settle(operation, self.cut, scratch)
            case Move():
                group = self.groups.at(operation.group, scratch)
                group.apply_move(operation, self.cut, scratch)
            case CreateGroup():
                self.groups.apply_create(operation, self.cut, scratch.changes)
                self.next_group = operation.group + 1
                self.assigned_group = max(self.assigned_group, self.next_group)
            case SeekGroup():
                group = self.groups.at(operation.group, scratch)
                group.apply_seek(operation.start, self.cut, scratch)
            case DropGroup():
                self.groups.apply_drop(operation.group, scratch)
            case Attach():
                self.groups.apply_attach(operation, scratch)
            case Detach():
                self.groups.apply_detach(operation, scratch.changes)
            case Redrive():
                self._apply_append(operation.append, scratch.changes)
                group = self.groups.at(operation.group, scratch)
                group.apply_redrive(operation, scratch)
            case Purge():
                readers = self.groups.of(DEAD_LETTER_CHANNEL, scratch)
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
        write_rows(self.number, append, changes)
        self.channels.note(append.channel, changes)
        self._wake_readers(append)

    def _apply_put(self, put: Put, changes: Changes) -> None:
        self._take_indexes(put)
        entry.apply_put(self.number, put, changes)
        self.channels.note(put.channel, changes)

    def _apply_delete(self, delete: Delete, scratch: Overlay) -> None:
        self._take_indexes(delete)
        existed = entry.apply_delete(self.number, delete, scratch)
        self.in_flight.tell_removed(delete.first_index, existed=existed)

    def _take_indexes(self, operation: Indexed) -> None:
        first_index = operation.first_index
        assert first_index == self.last_index + 1, "an index is left out or used twice"
        assert lowest_offset(operation) > self.closed, "an append below what is closed"
        self.last_index += index_count(operation)
        self.assigned_index = max(self.assigned_index, self.last_index)

    def _wake_readers(self, append: Append) -> None:
        due_ms = min(append.dues)
        for group in self.reading:
            if group.channel == append.channel and not group.is_ready:
                if due_ms <= self.now_ms:
                    group.is_ready = True
                elif group.next_wall_ms is None or due_ms < group.next_wall_ms:
                    group.next_wall_ms = due_ms

    def _apply_cut(self, below: int, scratch: Overlay) -> None:
        for group in self.groups.of(None, scratch):
            group.apply_cut(below, scratch)
        for channel in self.channels.names(scratch):
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

    # --- groups -------------------------------------------------------------------------------

    def group(self, channel: str, name: str, view: View) -> Group:
        """
        A group by its name.

        Raises:
            NotFoundError: there is none.
        """
        group = self.groups.named(channel, name, view)
        if group is None:
            raise NotFoundError(f"no group {name!r} reads channel {channel!r} of {self.id}")
        return group

    def settings_of(self, group: Group) -> TopicSettings:
        """The group's own settings, else the topic's."""
        own = self.topic_groups.get(group.name)
        return self.settings if own is None else own.settings.over(self.settings)

    def add_consumer(self, group: Group, consumer: Consumer) -> None:
        """A consumer reads a group from now on."""
        group.consumers.append(consumer)
        group.is_ready, group.is_starved = True, False
        if group not in self.reading:
            self.reading.append(group)

    def leads(self, group: Group) -> bool:
        """Is it a group as it is led now? What one of an earlier leader has leased is void."""
        return self.groups.loaded.get(group.number) is group

    def remove_consumer(self, group: Group, consumer: Consumer) -> None:
        """It reads no longer; its leases stay until they end."""
        if consumer in group.consumers:
            group.consumers.remove(consumer)
        if not group.consumers and group in self.reading:
            self.reading.remove(group)

    # --- reading ------------------------------------------------------------------------------

    def read_bound(self) -> int:
        """The highest offset that may be read now, promises aside."""
        return self.in_flight.bound(self.now_ms << INDEX_BITS | self.last_index)

    def readable(self, promised: int) -> int:
        """The highest offset that may be read now; `promised` is the node's, durable."""
        return min(self.read_bound(), max(promised, self.promised, self.closed))

    def wake_at(self) -> tuple[int | None, int | None, int | None]:
        """When to dispatch or expire next: in wall, steady and lease time; None for never."""
        wall_ms = steady_ms = None
        for group in self.reading:
            if group.is_starved:
                continue  # an offer brings its turn
            if group.is_ready and not group.is_held:
                return 0, 0, 0
            wall_ms = _earlier(wall_ms, group.next_wall_ms)
            steady_ms = _earlier(steady_ms, group.next_steady_ms)
        return wall_ms, steady_ms, self.deadlines.first_ms()

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
        late: list[Record] = []
        self.starved = []
        for place, group in enumerate(self.reading):
            if turn.is_over():
                self.reading = self.reading[place:] + self.reading[:place]
                break
            if group.is_starved or not group.is_due(moment.wall_ms, moment.steady_ms):
                continue
            if group.returning is not None and group.returning.owners:
                late += self._wait_for_claims(group, moment)
            else:
                self._serve(group, turn)
        self.next_token = turn.next_token
        for delivery in turn.deliveries:
            lease = delivery.lease
            self.deadlines.push(lease.ends_ms, lease.group, lease.token)
        self.deadlines.tidy(self.groups.loaded.values())
        return turn.deliveries, late + self.admit_turn(turn.operations, moment)

    def _serve(self, group: Group, turn: Turn) -> None:
        """Hands out what is due of a group, or finds it starved."""
        if group.has_credit():
            turn.ack_timeout_ms = self.settings_of(group).ack_timeout_ms
            dispatch_group(group, turn)
            self.closed = max(self.closed, min(group.cursor, turn.end) - 1)
        else:
            group.wait_for_credit()
        if group.is_waiting_for_credit():
            group.is_starved = True
            self.starved.append(group)

    def _wait_for_claims(self, group: Group, moment: Moment) -> list[Record]:
        """Who has not come back in time may claim nothing, before anything is handed out."""
        gone = group.wait_for_claims(moment.lease_ms, self.claims_until_ms, moment.steady_ms)
        detach = Detach(group.number, gone)
        return [self.record([detach], moment, held=(group,))] if gone else []

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
