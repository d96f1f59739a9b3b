"""
What a history must show: the invariants of the guarantees, checked from the outside.

`History` is told what clients and readers see (a produce and its answer, deliveries, outcomes,
reads), and which records the log took. It remembers it in a naive model
(`sandglass.testing.seen`). It raises `Violation` at the first thing that must not be.

The numbers I1 to I16 are those of the guarantees. Which of them a check is for stands in the
violation's text.
"""

from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.lease import TOKEN_BITS
from sandglass.core.machine import decode_group, decode_topic
from sandglass.core.message import DEAD_LETTER_CHANNEL, Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import (
    NODE,
    Append,
    Attach,
    CreateGroup,
    Cut,
    DeleteTopic,
    Detach,
    DropGroup,
    Ending,
    Move,
    OpenEpoch,
    Purge,
    PutGroup,
    PutTopic,
    Record,
    Redrive,
    SeekGroup,
    Settle,
)
from sandglass.testing.endings import (
    check,
    check_counts,
    check_ending,
    cut,
    move,
    named,
    settle,
)
from sandglass.testing.letters import COPY_FIRST, land_dead_letters, land_purge
from sandglass.testing.seen import (
    GroupHistory,
    Hold,
    Origin,
    PartitionHistory,
    Sent,
    Violation,
    numbers_of,
    take_messages,
)


@dataclass(slots=True)
class History:
    """The observer. `on_ended` is told of each message that leaves a lease of a live leader."""

    on_ended: Callable[[GroupHistory, Hold], None]
    sent: dict[int, Sent] = field(default_factory=dict[int, Sent])
    partitions: dict[int, PartitionHistory] = field(default_factory=dict[int, PartitionHistory])
    answered: set[int] = field(default_factory=set[int])
    copies: list[int] = field(default_factory=list[int])
    """What each dead letter is a copy of."""
    trace: list[str] = field(default_factory=list[str])
    last_sent: int = 0
    delivered_count: int = 0
    epoch: int = 0
    lateness_from_ms: int | None = None
    """Since this wall time nothing disturbs; then the lateness is bounded."""
    _waiting: dict[tuple[int, int], list[Sent]] = field(
        default_factory=dict[tuple[int, int], list[Sent]]
    )
    _unshown: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    _aheads: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(since when, by how much) wall stood ahead of monotonic time, as it was seen."""

    # --- clocks and leaders -------------------------------------------------------------------

    def see(self, wall_ms: int, monotonic_ms: int) -> None:
        """The leader's wall clock shows this, at this time of a clock that never steps."""
        ahead_ms = wall_ms - monotonic_ms
        if not self._aheads or self._aheads[-1][1] != ahead_ms:
            self._aheads.append((monotonic_ms, ahead_ms))
        while self._unshown and self._unshown[0][0] <= wall_ms:
            self.sent[heappop(self._unshown)[1]].is_shown = True

    def begin_epoch(self, closed: dict[int, int]) -> None:
        """A leader starts with these closed offsets; what the one before held is gone."""
        for partition in self.partitions.values():
            partition.going.clear()
            partition.closed_at_start = closed.get(partition.number, 0)
            for group in partition.groups.values():
                for number in group.ending:  # what was on its way is lost, its delay too
                    group.not_before_ms.pop(number, None)
                group.held.clear()
                group.ending.clear()
                group.seeks.clear()
                group.is_going = False
                group.highest = -1
                group.awaited = dict(group.attached)
                group.renewed.clear()

    # --- producing ----------------------------------------------------------------------------

    def produce(self, first_index: int, messages: list[Sent]) -> None:
        """A batch is admitted, and on its way."""
        self._waiting[messages[0].partition, first_index] = messages
        self.last_sent = messages[-1].number
        for message in messages:
            self.sent[message.number] = message
            if message.left_ms > 0:
                heappush(self._unshown, (message.due_ms, message.number))

    def answer(self, messages: list[Sent]) -> None:
        """A producer is told that its batch is durable."""
        self.answered.update(message.number for message in messages)

    # --- records ------------------------------------------------------------------------------

    def admit(self, record: Record, moment: Moment) -> None:
        """A record is on its way: what it names is no longer held."""
        partition = self.partitions.get(record.partition)
        if partition is None:
            return
        for operation in record.operations:
            if isinstance(operation, CreateGroup):
                partition.asked[operation.group] = self.last_sent
            if isinstance(operation, SeekGroup):
                self._let_go(partition.groups[operation.group])
            if isinstance(operation, DropGroup):
                partition.groups[operation.group].is_going = True
                self._let_go(partition.groups[operation.group])
            if isinstance(operation, Purge):
                self._take_back(partition, operation)
            if not isinstance(operation, Settle | Move):
                continue
            group = partition.groups[operation.group]
            check_ending(group, operation, record, moment)
            for number in named(partition, group, operation):
                check_counts(group, operation, number, record)
                is_over = number in group.acked or number in group.dead
                check(not is_over, "I6", "ends again", group, number)
                check(number not in group.ending, "I7", "ends twice", group, number)
                group.ending[number] = operation.ending
                hold = group.held.pop(number, None)
                if hold is not None:
                    is_early = hold.ends_ms > moment.lease_ms
                    is_expiry = operation.ending is Ending.TIMED_OUT
                    check(not (is_early and is_expiry), "I7", "times out early", group, number)
                    self.on_ended(group, hold)

    def seek(self, group: GroupHistory, start: int | None) -> None:
        """Somebody asks for a move of a group to `start`, or to its end."""
        group.seeks.append((start, self.last_sent if start is None else 1 << 62))

    def _let_go(self, group: GroupHistory) -> None:
        """Whatever the group held, it holds no longer."""
        for hold in group.held.values():
            self.on_ended(group, hold)
        group.held.clear()

    def _take_back(self, partition: PartitionHistory, purge: Purge) -> None:
        """Dead letters are about to go: nobody holds them any longer."""
        for low, high, count in purge.ranges:
            numbers = partition.numbers_in(DEAD_LETTER_CHANNEL, low, high, is_all=True)
            if len(numbers) != count or partition.going.intersection(numbers):
                raise Violation(f"I8: dead letters {numbers} are taken as {count}, or twice")
            partition.going.update(numbers)
            for group in partition.groups.values():
                for number in numbers if group.channel == DEAD_LETTER_CHANNEL else ():
                    hold = group.held.pop(number, None)
                    if hold is not None:
                        self.on_ended(group, hold)

    def land(self, record: Record) -> None:
        """A record is durable, and applied or about to be."""
        if record.head.epoch < self.epoch:
            raise Violation(f"I12: epoch {record.head.epoch} after {self.epoch}")
        self.epoch = record.head.epoch
        for operation in record.operations:
            if record.partition == NODE:
                self._land_node(operation)
            elif record.partition in self.partitions:
                self._land(self.partitions[record.partition], operation, record)

    def lose(self, record: Record) -> None:
        """A record went with its leader, or was taken back: what it carried is never seen."""
        for operation in record.operations:
            if isinstance(operation, Append) and operation.origin is None:
                self._waiting.pop((record.partition, operation.first_index), None)

    def lose_all(self) -> None:
        """Another leader begins, and all that has landed is known: the rest never will."""
        self._waiting.clear()

    def _land_node(self, operation: object) -> None:
        if isinstance(operation, OpenEpoch):
            self.trace.append(f"epoch {operation.epoch}")
        elif isinstance(operation, DeleteTopic):
            for number in operation.partitions:
                self.partitions[number].is_deleted = True
        elif isinstance(operation, PutTopic):
            for ref in decode_topic(operation.value).partitions:
                self.partitions[ref.number].is_created = True
        elif isinstance(operation, PutGroup):
            settings = decode_group(operation.value).settings
            for partition in self.partitions.values():
                is_there = partition.is_created and not partition.is_deleted
                if is_there and partition.topic == operation.topic:
                    partition.settings[operation.name] = settings
                    for group in partition.groups.values():
                        if group.name == operation.name:
                            group.set(settings)

    def _land(self, partition: PartitionHistory, operation: object, record: Record) -> None:
        if partition.is_deleted:
            return
        match operation:
            case Append(origin=None):
                self._land_append(partition, operation)
            case Append() | Redrive():
                pass  # with what they belong to
            case Purge():
                land_purge(self, partition, operation, record)
            case Settle():
                group = partition.groups[operation.group]
                numbers = named(partition, group, operation)
                if operation.ending is Ending.DEAD:
                    land_dead_letters(self, partition, group, numbers, record)
                for number in numbers:
                    settle(partition, group, number, operation.ending)
            case Move():
                group = partition.groups[operation.group]
                for number in named(partition, group, operation):
                    move(group, number, operation)
            case CreateGroup():
                partition.groups[operation.group] = GroupHistory(
                    partition.number,
                    operation.group,
                    operation.channel,
                    operation.name,
                    operation.start,
                    partition.max_deliveries,
                    asked_after=partition.asked[operation.group],
                    most_deliveries=partition.max_deliveries,
                )
                own = partition.settings.get(operation.name)
                if own is not None:
                    partition.groups[operation.group].set(own)
            case Attach():
                partition.groups[operation.group].attached[operation.session] = None
            case Detach():
                self._land_detach(partition.groups.get(operation.group), operation)
            case DropGroup():
                del partition.groups[operation.group]
            case SeekGroup():
                self._land_seek(partition, operation)
            case Cut():
                cut(partition, operation.below)
            case _:
                pass

    def _land_detach(self, group: GroupHistory | None, operation: Detach) -> None:
        for session in operation.sessions if group is not None else ():
            assert group is not None
            group.attached.pop(session, None)
            group.awaited.pop(session, None)

    def _land_seek(self, partition: PartitionHistory, operation: SeekGroup) -> None:
        """A new generation begins: nothing of the one before is left."""
        before = partition.groups[operation.group]
        asked, asked_after = before.seeks.pop(0)
        if asked is not None and operation.start != asked:
            raise Violation(
                f"I5: {before.name} was to go to {asked:x}, and is at {operation.start:x}"
            )
        partition.groups[operation.group] = GroupHistory(
            partition.number,
            before.number,
            before.channel,
            before.name,
            operation.start,
            before.max_deliveries,
            asked_after=asked_after,
            seeks=before.seeks,
            is_going=before.is_going,
            most_deliveries=before.max_deliveries,
            backoff=before.backoff,
            generation=before.generation + 1,
            attached=before.attached,
            awaited=before.awaited,
        )
        for key in [key for key in partition.buried if key[0] == operation.group]:
            del partition.buried[key]

    def _land_append(self, partition: PartitionHistory, append: Append) -> None:
        messages = self._waiting.pop((partition.number, append.first_index))
        index, place = append.first_index, 0
        for due_ms, count in zip(append.dues, append.counts, strict=True):
            for message in messages[place : place + count]:
                offset = due_ms << INDEX_BITS | index
                if message.due_ms and due_ms < message.due_ms:
                    raise Violation(f"I3: message {message.number} is placed early")
                message.offset = offset
                self.appear(partition, append.channel, offset, message.number)
                index += 1
            place += count

    def appear(self, partition: PartitionHistory, name: str, offset: int, number: int) -> None:
        """A message stands there from now on, where nobody has read yet."""
        channel = partition.channel(name)
        if offset <= channel.passed:
            raise Violation(
                f"I9: message {number} appears at {offset:x} in {name!r} of partition"
                f" {partition.number}, which was read up to {channel.passed:x}"
            )
        if offset in channel.numbers:
            raise Violation(f"I9: two messages at {offset:x}")
        channel.numbers[offset] = number
        insort(channel.offsets, offset)
        for group in partition.groups.values():
            is_passed_over = number > group.asked_after and offset < group.start
            if group.channel == name and is_passed_over and number < COPY_FIRST:
                raise Violation(
                    f"I5: message {number} came after {group.name}, and is before it"
                )

    # --- deliveries ---------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, moment: Moment, monotonic_ms: int) -> list[int]:
        """A consumer is given messages; returns their numbers, by place."""
        partition = self.partitions[delivery.partition]
        group = partition.groups[delivery.group.number]
        lease = delivery.lease
        if group.seeks or group.is_going:
            raise Violation(f"I7: {group.name} is moving, or going, and hands out")
        if group.awaited:
            raise Violation(f"I7: {group.name} hands out, though {[*group.awaited]} may claim")
        if lease.token <= partition.last_token:
            raise Violation(f"I7: token {lease.token:x} after {partition.last_token:x}")
        partition.last_token = lease.token
        if lease.token >> TOKEN_BITS < partition.last_epoch:
            raise Violation(f"I12: a token of epoch {lease.token >> TOKEN_BITS}")
        partition.last_epoch = lease.token >> TOKEN_BITS
        numbers: list[int] = []
        for part in delivery.slices:
            for offset, number in self._look(partition, group.channel, part, group.redriven):
                self._deliver(group, number, offset, delivery, moment, monotonic_ms)
                group.held[number] = Hold(
                    number,
                    lease.token,
                    len(numbers),
                    lease.consumer,
                    lease.ends_ms,
                    len(part.body) // part.row_count,
                )
                numbers.append(number)
        if len(numbers) != lease.count:
            raise Violation(f"I2: a lease of {lease.count} came with {len(numbers)} messages")
        self.delivered_count += len(numbers)
        self.trace.append(
            f"deliver {partition.number}/{group.name} {lease.token:x}"
            f" {delivery.attempt} {numbers}"
        )
        return numbers

    def _deliver(
        self,
        group: GroupHistory,
        number: int,
        offset: int,
        delivery: Delivery,
        moment: Moment,
        monotonic_ms: int,
    ) -> None:
        message = self.sent[number]
        self._check_lateness(group, message, delivery, moment)
        check(not group.is_settled(number), "I6", "comes back", group, number)
        check(number not in group.held, "I7", "is leased twice", group, number)
        check(number not in group.ending, "I7", "comes while it ends", group, number)
        is_first = offset not in group.redriven
        check(
            not is_first or offset >= group.start, "I9", "stood before the start", group, number
        )
        attempts = group.attempts.get(number, 0) + 1
        check(attempts == delivery.attempt, "I8", f"not attempt {attempts}", group, number)
        check(attempts <= group.most_deliveries, "I8", "one too many", group, number)
        check(not self.is_early(message, monotonic_ms), "I3", "is early", group, number)
        if delivery.lease.is_retry:
            least_ms = group.not_before_ms.pop(number, 0)
            check(monotonic_ms >= least_ms, "I3", "its retry is early", group, number)
        else:
            check(offset > group.highest, "I9", "out of order", group, number)
            group.highest = offset

    def is_early(self, message: Sent, monotonic_ms: int) -> bool:
        """
        Its time has neither been shown since it was sent, nor passed: as much time as was left
        by any clock that a leader has seen since.
        """
        if message.is_shown or message.left_ms <= 0:
            return False
        left_ms = message.left_ms + message.monotonic_ms - monotonic_ms
        ahead_ms = message.due_ms - message.left_ms - message.monotonic_ms
        since = [each for at_ms, each in self._aheads if at_ms >= message.monotonic_ms]
        return left_ms > max(0, max(since, default=ahead_ms) - ahead_ms)

    def _check_lateness(
        self, group: GroupHistory, message: Sent, delivery: Delivery, moment: Moment
    ) -> None:
        if self.lateness_from_ms is None or delivery.lease.is_retry:
            return
        due_ms = message.offset >> INDEX_BITS
        late = due_ms > self.lateness_from_ms and moment.wall_ms - due_ms > 100
        check(not late, "I4", "is late", group, message.number)

    def _look(
        self,
        partition: PartitionHistory,
        name: str,
        part: Slice,
        redriven: Mapping[int, int] | None = None,
    ) -> Iterable[tuple[int, int]]:
        """(offset, number) of what a slice shows, checked against what stands there."""
        raw = take_messages(part.body, part.row_count, part.first, part.count)
        width = len(part.body) // part.row_count
        channel = partition.channel(name)
        first = part.due_ms << INDEX_BITS | part.first_index
        for place, shown in enumerate(numbers_of(raw, part.count)):
            offset = first + place
            number = channel.numbers.get(offset)
            if number is None and redriven is not None:
                number = redriven.get(offset)
            if number is None:
                raise Violation(f"I2: message {shown} at {offset:x} was never accepted")
            message = self.sent[number]
            if raw[place * width : (place + 1) * width] != message.body:
                raise Violation(f"I2: message {shown} came for {number}, at {offset:x}")
            if offset < partition.cut:
                raise Violation(f"I2: message {number} was cut by retention")
            if number in partition.going and redriven is not None:
                raise Violation(f"I6: dead letter {number} is handed out while it goes")
            if message.origin != _told(part, place):
                raise Violation(f"I8: dead letter {number} shows {_told(part, place)}")
            yield offset, number

    # --- reading ------------------------------------------------------------------------------

    def read(self, number: int, name: str, low: int, top: int, slices: Iterable[Slice]) -> None:
        """A reader was shown `[low, top]` of a channel: exactly what stands there, for ever."""
        partition = self.partitions[number]
        channel = partition.channel(name)
        shown: list[int] = []
        for part in slices:
            shown.extend(each for _, each in self._look(partition, name, part))
        expected = partition.numbers_in(name, low, top + 1)
        if shown != expected:
            raise Violation(
                f"I9: {name!r} of partition {number} shows {shown} up to {top:x},"
                f" not {expected}"
            )
        channel.passed = max(channel.passed, top)

    # --- groups -------------------------------------------------------------------------------

    def commit(self, group: GroupHistory, committed: int) -> None:
        """A group's committed offset is shown."""
        if committed < group.committed:
            raise Violation(f"I10: committed goes back to {committed:x} in {group.name}")
        group.committed = committed
        partition = self.partitions[group.partition]
        for number in partition.numbers_for(group, 0, committed):
            check(group.is_settled(number), "I10", "is below committed", group, number)

    def count(self, group: GroupHistory, counted: tuple[int, ...], now_ms: int) -> None:
        """
        At a quiet point: (acked, dead, expired, waiting for a retry, redriven) as the group
        counts, and skipped: what stands before its start.
        """
        each = (group.acked, group.dead, group.expired, group.moved, group.redriven)
        partition = self.partitions[group.partition]
        end = min(group.start, now_ms + 1 << INDEX_BITS)
        skipped = partition.numbers_in(group.channel, 0, end)
        expected = (*map(len, each), len(skipped))
        if counted != expected:
            raise Violation(f"I15: {group.name} counts {counted}, but it is {expected}")

    def rest(self, group: GroupHistory, now_ms: int, steady_ms: int) -> None:
        """The node has nothing to do, though somebody has credit: nothing is due."""
        partition = self.partitions[group.partition]
        end = now_ms + 1 << INDEX_BITS
        for number in partition.numbers_for(group, 0, end):
            if group.is_settled(number) or number in group.held or number in group.ending:
                continue
            if number in group.moved:
                is_due = group.until_ms[number] <= steady_ms
            else:
                message = self.sent[number]
                is_due = message.is_shown or message.left_ms <= 0
            check(not is_due, "I4", "is due, and nobody cares", group, number)

    def drained(self, group: GroupHistory, target: int, steady_ms: int) -> None:
        """A drain is over: what stood up to `target`, and was ready, has been handed out."""
        partition = self.partitions[group.partition]
        for number in partition.numbers_for(group, 0, target + 1):
            if group.is_settled(number) or number in group.held or number in group.ending:
                continue
            is_later = number in group.moved and group.until_ms[number] > steady_ms
            check(is_later, "I5", "was left out by a drain", group, number)

    def lost(self) -> list[tuple[GroupHistory, int]]:
        """What is not settled in each group, of all that came and was not cut."""
        return [
            (group, number)
            for partition in self.partitions.values()
            if not partition.is_deleted
            for group in partition.groups.values()
            for number in partition.numbers_for(group, 0, 1 << 112)
            if not group.is_settled(number)
        ]

    def end(self) -> None:
        """Everything was given time and consumers: nothing answered is missing anywhere."""
        for number in sorted(self.answered):
            message = self.sent[number]
            partition = self.partitions[message.partition]
            channel = partition.channel(message.channel)
            if message.offset not in channel.numbers and not partition.is_deleted:
                raise Violation(f"I1: message {number} was answered, and is lost")
        for group, number in self.lost():
            check(False, "I5", "never comes to an end", group, number)


def _told(part: Slice, place: int) -> Origin | None:
    """What a slice says of the message at `place` of it, if that is a dead letter."""
    origin = part.origin
    if origin is None:
        return None
    offset = origin.offset + part.first + place
    return Origin(offset, origin.group, origin.attempts, origin.reason)
