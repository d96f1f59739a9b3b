"""
What a history must show: the invariants of the guarantees, checked from the outside.

`History` is told what clients and readers see (a produce and its answer, deliveries, outcomes,
reads), and which records the log took. It remembers it in a naive model
(`sandglass.testing.seen`). It raises `Violation` at the first thing that must not be.

The numbers I1 to I16 are those of the guarantees. Which of them a check is for stands in the
violation's text.
"""

from bisect import insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from sandglass.core import limits
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.message import DEAD_LETTER_CHANNEL, Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import TOKEN_BITS
from sandglass.core.record import (
    NODE,
    Append,
    CreateGroup,
    Cut,
    DeleteTopic,
    Ending,
    Move,
    OpenEpoch,
    Record,
    Settle,
)
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

COPY_FIRST = 1 << 40
"""Dead letters are numbered from here on; messages that were sent, from 1 on."""


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

    # --- clocks and leaders -------------------------------------------------------------------

    def see(self, wall_ms: int) -> None:
        """The leader's wall clock shows this."""
        while self._unshown and self._unshown[0][0] <= wall_ms:
            self.sent[heappop(self._unshown)[1]].is_shown = True

    def begin_epoch(self, closed: dict[int, int]) -> None:
        """A leader starts with these closed offsets; what the one before held is gone."""
        for partition in self.partitions.values():
            partition.closed_at_start = closed.get(partition.number, 0)
            for group in partition.groups.values():
                for number in group.ending:  # what was on its way is lost, its delay too
                    group.not_before_ms.pop(number, None)
                group.held.clear()
                group.ending.clear()
                group.highest = -1

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
            if not isinstance(operation, Settle | Move):
                continue
            group = partition.groups[operation.group]
            for number in self._named(partition, group, operation):
                is_over = number in group.acked or number in group.dead
                _check(not is_over, "I6", "ends again", group, number)
                _check(number not in group.ending, "I7", "ends twice", group, number)
                group.ending[number] = operation.ending
                hold = group.held.pop(number, None)
                if hold is not None:
                    is_early = hold.ends_ms > moment.lease_ms
                    is_expiry = operation.ending is Ending.TIMED_OUT
                    _check(not (is_early and is_expiry), "I7", "times out early", group, number)
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

    def _land_node(self, operation: object) -> None:
        if isinstance(operation, OpenEpoch):
            self.trace.append(f"epoch {operation.epoch}")
        elif isinstance(operation, DeleteTopic):
            for number in operation.partitions:
                self.partitions[number].is_deleted = True

    def _land(self, partition: PartitionHistory, operation: object, record: Record) -> None:
        if partition.is_deleted:
            return
        match operation:
            case Append(origin=None):
                self._land_append(partition, operation)
            case Append():
                self._land_dead_letter(partition, operation)
            case Settle():
                group = partition.groups[operation.group]
                for number in self._named(partition, group, operation):
                    self._settle(partition, group, number, operation.ending)
            case Move():
                group = partition.groups[operation.group]
                for number in self._named(partition, group, operation):
                    self._move(group, number, operation)
            case CreateGroup():
                partition.groups[operation.group] = GroupHistory(
                    partition.number,
                    operation.group,
                    operation.channel,
                    operation.name,
                    operation.start,
                    partition.max_deliveries,
                    committed=max(operation.start, partition.cut),
                    asked_after=partition.asked[operation.group],
                )
            case Cut():
                self._cut(partition, operation.below)
            case _:
                pass

    def _named(
        self, partition: PartitionHistory, group: GroupHistory, operation: Settle | Move
    ) -> list[int]:
        return [
            number
            for low, high, _ in (*operation.main, *operation.retry)
            for number in partition.numbers_in(
                group.channel, max(low, group.start), high, is_all=True
            )
        ]

    def _land_append(self, partition: PartitionHistory, append: Append) -> None:
        messages = self._waiting.pop((partition.number, append.first_index))
        index, place = append.first_index, 0
        for due_ms, count in zip(append.dues, append.counts, strict=True):
            for message in messages[place : place + count]:
                offset = due_ms << INDEX_BITS | index
                if message.due_ms and due_ms < message.due_ms:
                    raise Violation(f"I3: message {message.number} is placed early")
                message.offset = offset
                self._appear(partition, append.channel, offset, message.number)
                index += 1
            place += count

    def _land_dead_letter(self, partition: PartitionHistory, append: Append) -> None:
        assert append.origin is not None
        origin = append.origin
        (group,) = (
            each
            for each in partition.groups.values()
            if each.name == origin.group
            and origin.offset in partition.channel(each.channel).numbers
        )
        numbers = partition.channel(group.channel).numbers
        width = len(append.bodies[0]) // append.counts[0]
        for place in range(append.counts[0]):
            number = numbers.get(origin.offset + place)
            body = append.bodies[0][place * width : (place + 1) * width]
            if number is None or body != self.sent[number].body:
                raise Violation(f"I8: dead letter of {number} with other bytes")
            if (group.number, number) in partition.buried:
                raise Violation(f"I8: a second dead letter of {number} for {group.name}")
            told = Origin(origin.offset + place, group.name, origin.attempts, origin.reason)
            partition.buried[group.number, number] = told
            copy = COPY_FIRST + len(self.copies)
            self.copies.append(number)
            offset = append.dues[0] << INDEX_BITS | append.first_index + place
            self.sent[copy] = Sent(
                copy, partition.number, DEAD_LETTER_CHANNEL, 0, 0, 0, body, told, offset
            )
            self._appear(partition, DEAD_LETTER_CHANNEL, offset, copy)

    def _appear(self, partition: PartitionHistory, name: str, offset: int, number: int) -> None:
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

    def _settle(
        self, partition: PartitionHistory, group: GroupHistory, number: int, ending: Ending
    ) -> None:
        group.ending.pop(number, None)
        group.held.pop(number, None)
        if number in group.expired:
            return
        _check(not group.is_settled(number), "I6", "settled twice", group, number)
        group.moved.discard(number)
        if ending is Ending.ACKED:
            group.acked.add(number)
            return
        _check(ending is Ending.DEAD, "I5", f"dropped as {ending.name}", group, number)
        buried = partition.buried.get((group.number, number))
        if buried is None:
            raise Violation(f"I8: no dead letter of {number} for {group.name}")
        before = group.attempts.get(number, 0)
        counted = before if buried.reason == "released" else before + 1
        if buried.attempts != counted:
            raise Violation(
                f"I8: {buried.attempts} attempts on {number}, but {counted} were made"
            )
        group.dead.add(number)

    def _move(self, group: GroupHistory, number: int, move: Move) -> None:
        group.ending.pop(number, None)
        group.held.pop(number, None)
        if number in group.expired:
            return
        _check(not group.is_settled(number), "I6", "moved when settled", group, number)
        group.moved.add(number)
        group.until_ms[number] = move.until_ms
        if move.ending is Ending.RELEASED:
            releases = group.releases[number] = group.releases.get(number, 0) + 1
            most = limits.RELEASE_FACTOR * group.max_deliveries
            _check(releases < most, "I8", f"released {releases} times", group, number)
        elif move.ending is not Ending.CLOCK:
            attempts = group.attempts[number] = group.attempts.get(number, 0) + 1
            most = group.max_deliveries
            _check(attempts < most, "I8", f"failed {attempts} times", group, number)
        _check(
            move.attempts == group.attempts.get(number, 0),
            "I8",
            f"moved with {move.attempts} attempts",
            group,
            number,
        )

    def _cut(self, partition: PartitionHistory, below: int) -> None:
        for group in partition.groups.values():
            for number in partition.numbers_in(group.channel, group.start, below):
                if not group.is_settled(number):
                    group.expired.add(number)
                    group.moved.discard(number)
        partition.cut = max(partition.cut, below)

    # --- deliveries ---------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, moment: Moment, monotonic_ms: int) -> list[int]:
        """A consumer is given messages; returns their numbers, by place."""
        partition = self.partitions[delivery.partition]
        group = partition.groups[delivery.group.number]
        lease = delivery.lease
        if lease.token <= partition.last_token:
            raise Violation(f"I7: token {lease.token:x} after {partition.last_token:x}")
        partition.last_token = lease.token
        if lease.token >> TOKEN_BITS < partition.last_epoch:
            raise Violation(f"I12: a token of epoch {lease.token >> TOKEN_BITS}")
        partition.last_epoch = lease.token >> TOKEN_BITS
        numbers: list[int] = []
        for part in delivery.slices:
            for offset, number in self._look(partition, group.channel, part):
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
        _check(not group.is_settled(number), "I6", "comes back", group, number)
        _check(number not in group.held, "I7", "is leased twice", group, number)
        _check(number not in group.ending, "I7", "comes while it ends", group, number)
        _check(offset >= group.start, "I9", "stood before the start", group, number)
        attempts = group.attempts.get(number, 0) + 1
        _check(attempts == delivery.attempt, "I8", f"not attempt {attempts}", group, number)
        _check(attempts <= group.max_deliveries, "I8", "one too many", group, number)
        _check(not self.is_early(message, monotonic_ms), "I3", "is early", group, number)
        if delivery.lease.is_retry:
            least_ms = group.not_before_ms.pop(number, 0)
            _check(monotonic_ms >= least_ms, "I3", "its retry is early", group, number)
        else:
            _check(offset > group.highest, "I9", "out of order", group, number)
            group.highest = offset

    def is_early(self, message: Sent, monotonic_ms: int) -> bool:
        """Its time has neither been shown since it was sent, nor passed."""
        if message.is_shown or message.left_ms <= 0:
            return False
        return monotonic_ms - message.monotonic_ms < message.left_ms

    def _check_lateness(
        self, group: GroupHistory, message: Sent, delivery: Delivery, moment: Moment
    ) -> None:
        if self.lateness_from_ms is None or delivery.lease.is_retry:
            return
        due_ms = message.offset >> INDEX_BITS
        late = due_ms > self.lateness_from_ms and moment.wall_ms - due_ms > 100
        _check(not late, "I4", "is late", group, message.number)

    def _look(
        self, partition: PartitionHistory, name: str, part: Slice
    ) -> Iterable[tuple[int, int]]:
        """(offset, number) of what a slice shows, checked against what stands there."""
        raw = take_messages(part.body, part.row_count, part.first, part.count)
        width = len(part.body) // part.row_count
        channel = partition.channel(name)
        first = part.due_ms << INDEX_BITS | part.first_index
        for place, shown in enumerate(numbers_of(raw, part.count)):
            offset = first + place
            number = channel.numbers.get(offset)
            if number is None:
                raise Violation(f"I2: message {shown} at {offset:x} was never accepted")
            message = self.sent[number]
            if raw[place * width : (place + 1) * width] != message.body:
                raise Violation(f"I2: message {shown} came for {number}, at {offset:x}")
            if offset < partition.cut:
                raise Violation(f"I2: message {number} was cut by retention")
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
        for number in partition.numbers_in(group.channel, group.start, committed):
            _check(group.is_settled(number), "I10", "is below committed", group, number)

    def count(self, group: GroupHistory, counted: tuple[int, int, int, int]) -> None:
        """At a quiet point: (acked, dead, expired, waiting for a retry) as the group counts."""
        expected = (len(group.acked), len(group.dead), len(group.expired), len(group.moved))
        if counted != expected:
            raise Violation(f"I15: {group.name} counts {counted}, but it is {expected}")

    def rest(self, group: GroupHistory, now_ms: int, steady_ms: int) -> None:
        """The node has nothing to do, though somebody has credit: nothing is due."""
        partition = self.partitions[group.partition]
        end = now_ms + 1 << INDEX_BITS
        for number in partition.numbers_in(group.channel, group.start, end):
            if group.is_settled(number) or number in group.held or number in group.ending:
                continue
            if number in group.moved:
                is_due = group.until_ms[number] <= steady_ms
            else:
                message = self.sent[number]
                is_due = message.is_shown or message.left_ms <= 0
            _check(not is_due, "I4", "is due, and nobody cares", group, number)

    def drained(self, group: GroupHistory, target: int, steady_ms: int) -> None:
        """A drain is over: what stood up to `target`, and was ready, has been handed out."""
        partition = self.partitions[group.partition]
        for number in partition.numbers_in(group.channel, group.start, target + 1):
            if group.is_settled(number) or number in group.held or number in group.ending:
                continue
            is_later = number in group.moved and group.until_ms[number] > steady_ms
            _check(is_later, "I5", "was left out by a drain", group, number)

    def lost(self) -> list[tuple[GroupHistory, int]]:
        """What is not settled in each group, of all that came and was not cut."""
        return [
            (group, number)
            for partition in self.partitions.values()
            if not partition.is_deleted
            for group in partition.groups.values()
            for number in partition.numbers_in(group.channel, group.start, 1 << 112)
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
            _check(False, "I5", "never comes to an end", group, number)


def _check(holds: bool, invariant: str, what: str, group: GroupHistory, number: int) -> None:
    if not holds:
        raise Violation(
            f"{invariant}: message {number} {what}, in group {group.name} of partition"
            f" {group.partition}"
        )
    return None


def _told(part: Slice, place: int) -> Origin | None:
    """What a slice says of the message at `place` of it, if that is a dead letter."""
    origin = part.origin
    if origin is None:
        return None
    offset = origin.offset + part.first + place
    return Origin(offset, origin.group, origin.attempts, origin.reason)
