"""
The state machine of a node's log: the topics, their partitions, epochs and promises.

Records come in the order of the log, each to its partition, or to the node itself; `apply` is
the same on a leader, in recovery and in simulation. It does no I/O and reads no clock.

The *close promise*: a leader hands out nothing due at or after `promised_ms` before a record
with a later one is durable. Only a leader that starts turns a promise into a closed offset; a
clean stop writes the closed offsets exactly instead, which voids the promise.
"""

import json
from dataclasses import asdict, dataclass, field

from sandglass.core import keys, limits
from sandglass.core.dispatch import Moment
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition, Slicer
from sandglass.core.record import (
    NODE,
    CloseExact,
    DeleteGroup,
    DeleteTopic,
    Head,
    OpenEpoch,
    Operation,
    Promise,
    PutGroup,
    PutRows,
    PutTopic,
    Record,
)
from sandglass.core.topic import (
    GroupSettings,
    PartitionRef,
    Topic,
    TopicGroup,
    TopicKind,
    TopicSettings,
)
from sandglass.core.view import Changes, View

TOPIC_VERSION = 1
GROUP_VERSION = 1


@dataclass(slots=True)
class Machine:
    """All durable state of one log, as far as it is in memory; the rest is in the view."""

    slicer: Slicer
    epoch: int = 0
    promised_ms: int = 0
    reached_ms: int = 0
    steady_ms: int = 0
    next_partition: int = 1
    """Above every number that a partition was ever given, as far as records say."""
    assigned_partition: int = 1
    """As above, with what is on its way."""
    topics: dict[str, Topic] = field(default_factory=dict[str, Topic])
    groups: dict[str, dict[str, TopicGroup]] = field(
        default_factory=dict[str, dict[str, TopicGroup]]
    )
    """By topic and name. A topic's partitions share its dict."""
    partitions: dict[int, Partition] = field(default_factory=dict[int, Partition])
    refs: dict[int, tuple[Topic, PartitionRef]] = field(
        default_factory=dict[int, tuple[Topic, PartitionRef]]
    )
    is_leading: bool = False
    start_wall_ms: int = 0
    """What the clock showed when this leader began."""
    session_grace_ms: int = limits.SESSION_GRACE_MS_DEFAULT
    """How long a leader that begins lets groups wait for their sessions."""
    claims_until_ms: int = 0
    """In lease time: when that is over."""
    closing_ms: int = 0
    """The furthest promise that an epoch began with: due times before it count as closed."""

    @classmethod
    def load(cls, slicer: Slicer, view: View) -> "Machine":
        """The node as the view holds it."""
        machine = cls(slicer)
        raw = view.get(keys.NODE_KEY)
        if raw is not None:
            node = json.loads(raw)
            machine.epoch, machine.promised_ms = node["epoch"], node["promised_ms"]
            machine.reached_ms, machine.steady_ms = node["reached_ms"], node["steady_ms"]
            machine.next_partition, machine.closing_ms = (
                node["next_partition"],
                node["closing_ms"],
            )
            machine.assigned_partition = machine.next_partition
        for _, value in view.range(keys.TOPICS_PREFIX, keys.after_prefix(keys.TOPICS_PREFIX)):
            machine._put_topic(decode_topic(value))
        for _, value in view.range(keys.GROUPS_PREFIX, keys.after_prefix(keys.GROUPS_PREFIX)):
            machine._put_group(decode_group(value))
        return machine

    def clocks(self, view: View) -> tuple[int, int]:
        """The highest (reached, steady) that any record has carried."""
        reached_ms, steady_ms = self.reached_ms, self.steady_ms
        for number in self.refs:
            partition = self.partition(number, view)
            reached_ms = max(reached_ms, partition.reached_ms)
            steady_ms = max(steady_ms, partition.written.steady_ms)
        return reached_ms, steady_ms

    def partition(self, number: int, view: View) -> Partition:
        """A partition, led if this machine leads."""
        partition = self.partitions.get(number)
        if partition is None:
            topic, ref = self.refs[number]
            partition = Partition.load(
                number, ref.id, topic.settings, self.slicer, view, self.groups[topic.name]
            )
            self.partitions[number] = partition
            if self.is_leading:
                self._lead(partition)
        return partition

    def restore(self, number: int, view: View) -> None:
        """
        A partition as the view holds it, in place of the one in memory, which had begun on a
        record that it can't carry out. What readers have been given stays closed.
        """
        closed = self.partitions.pop(number).closed
        partition = self.partition(number, view)
        partition.closed = max(partition.closed, closed)

    def lead(self, moment: Moment) -> Record:
        """
        Begins to lead, under a new epoch; returns the record that says so.

        The host calls this when its clock has passed `promised_ms`, or stands so far behind
        that it was stepped back.
        """
        record = self.opening(self.epoch + 1, moment)
        self.closing_ms = max(self.closing_ms, self.promised_ms)
        self.epoch += 1
        self.take_over(moment)
        return record

    def opening(self, epoch: int, moment: Moment) -> Record:
        """The record that opens an epoch. It changes nothing before it is applied."""
        return self.record([OpenEpoch(epoch)], moment, epoch=epoch)

    def take_over(self, moment: Moment) -> None:
        """
        Leads the epoch that the last record applied has opened; the clocks as for `lead`.

        For a log that others write, too: until this leader's own opening was applied, theirs
        were still coming in.
        """
        self.is_leading = True
        self.reached_ms = max(self.reached_ms, moment.wall_ms)
        self.start_wall_ms = moment.wall_ms
        self.claims_until_ms = moment.lease_ms + self.session_grace_ms
        for partition in self.partitions.values():
            self._lead(partition)

    def _lead(self, partition: Partition) -> None:
        # Not what the node has reached: that may be from before a step back, after which a
        # message was scheduled here for a time that the clock has not shown since.
        promised = self.closing_ms << INDEX_BITS
        partition.claims_until_ms = self.claims_until_ms
        partition.lead(self.epoch, promised, self.start_wall_ms)

    def record(self, operations: list[Operation], moment: Moment, *, epoch: int = 0) -> Record:
        """A record that concerns the node; of this epoch, unless another is named."""
        reached_ms = max(self.reached_ms, moment.wall_ms)
        head = Head(epoch or self.epoch, 0, reached_ms, reached_ms, moment.steady_ms)
        return Record(NODE, head, operations)

    def close_exact(self) -> CloseExact:
        """The closed offsets of all partitions in memory: the others' stand in the view."""
        return CloseExact(
            [
                (number, partition.closed)
                for number, partition in sorted(self.partitions.items())
            ]
        )

    def apply(self, record: Record, view: View) -> Changes:
        """Carries out a record; see `Partition.apply`."""
        if record.partition != NODE:
            if record.partition not in self.refs:
                return Changes()  # of a topic that is deleted; its record was on its way
            return self.partition(record.partition, view).apply(record, view)
        changes = Changes()
        self.reached_ms = max(self.reached_ms, record.head.reached_ms)
        self.steady_ms = max(self.steady_ms, record.head.steady_ms)
        for operation in record.operations:
            self._apply(operation, changes, view)
        node = {
            "epoch": self.epoch,
            "promised_ms": self.promised_ms,
            "reached_ms": self.reached_ms,
            "steady_ms": self.steady_ms,
            "next_partition": self.next_partition,
            "closing_ms": self.closing_ms,
        }
        changes.rows[keys.NODE_KEY] = json.dumps(node).encode()
        return changes

    def _apply(self, operation: Operation, changes: Changes, view: View) -> None:
        match operation:
            case OpenEpoch():
                assert operation.epoch >= self.epoch, "an epoch goes back"
                self.epoch = operation.epoch
                self.closing_ms = max(self.closing_ms, self.promised_ms)
            case Promise():
                self.promised_ms = max(self.promised_ms, operation.until_ms)
            case CloseExact():
                self.promised_ms = 0
                for number, closed in operation.closed:
                    if number in self.refs:
                        self.partition(number, view).apply_close(closed, changes)
            case PutTopic():
                topic = decode_topic(operation.value)
                self._put_topic(topic)
                changes.rows[keys.topic_key(topic.name)] = operation.value
            case DeleteTopic():
                self._delete_topic(operation, changes)
            case PutRows():
                self._put_rows(operation, changes)
            case PutGroup():
                if operation.topic in self.topics:  # else it was deleted meanwhile
                    self._put_group(decode_group(operation.value))
                    key = keys.topic_group_key(operation.topic, operation.name)
                    changes.rows[key] = operation.value
            case DeleteGroup():
                self.groups.get(operation.topic, {}).pop(operation.name, None)
                changes.rows[keys.topic_group_key(operation.topic, operation.name)] = None
            case _:
                raise AssertionError(f"{operation} in a record of the node")

    def _put_topic(self, topic: Topic) -> None:
        before = self.topics.get(topic.name)
        if before is not None and before.is_coming and not topic.is_coming:
            for ref in topic.partitions:
                # It is led from here on, in this epoch: whoever looked at it before did not.
                self.partitions.pop(ref.number, None)
        self.topics[topic.name] = topic
        self.groups.setdefault(topic.name, {})
        for ref in topic.partitions:
            self.refs[ref.number] = (topic, ref)
            self.next_partition = max(self.next_partition, ref.number + 1)
            self.assigned_partition = max(self.assigned_partition, self.next_partition)
            if ref.number in self.partitions:
                self.partitions[ref.number].settings = topic.settings

    def _put_rows(self, operation: PutRows, changes: Changes) -> None:
        number = operation.partition
        if number not in self.refs or not self.refs[number][0].is_coming:
            return  # its topic was deleted, or is served; the record was on its way
        for key, value in operation.rows:
            assert keys.is_of(key, number), "a row of another partition"
            changes.rows[key] = value
        # What is in memory is of before: who asks for it next finds these rows.
        self.partitions.pop(number, None)

    def _put_group(self, group: TopicGroup) -> None:
        self.groups[group.topic][group.name] = group

    def _delete_topic(self, operation: DeleteTopic, changes: Changes) -> None:
        self.topics.pop(operation.name, None)
        self.groups.pop(operation.name, None)
        changes.rows[keys.topic_key(operation.name)] = None
        groups = keys.topic_groups_prefix(operation.name)
        changes.cut(groups, keys.after_prefix(groups))
        for number in operation.partitions:
            self.refs.pop(number, None)
            self.partitions.pop(number, None)
        for low, high in _spans(operation.partitions):
            for kind in keys.PARTITION_KINDS:
                first = keys.partition_prefix(bytes((kind,)), low)
                last = keys.partition_prefix(bytes((kind,)), high)
                changes.cut(first, keys.after_prefix(last))


def _spans(numbers: list[int]) -> list[tuple[int, int]]:
    """The first and last of each stretch of numbers: those of a topic are one, or few."""
    spans: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def encode_topic(topic: Topic) -> bytes:
    """
    A topic's row: JSON, so that a person can read it. Of one that isn't moving it has what it
    had before topics could.
    """
    fields = {"version": TOPIC_VERSION, **asdict(topic)}
    if not topic.is_moving:
        del fields["seal"], fields["is_coming"]
    return json.dumps(fields, sort_keys=True).encode()


def decode_topic(raw: bytes) -> Topic:
    """Reads a topic's row."""
    fields = json.loads(raw)
    assert fields.pop("version") == TOPIC_VERSION, "a topic's row of another version"
    fields["kind"] = TopicKind(fields["kind"])
    fields["settings"] = TopicSettings.of_fields(fields["settings"])
    fields["partitions"] = tuple(PartitionRef(**ref) for ref in fields["partitions"])
    return Topic(**fields)


def encode_group(group: TopicGroup) -> bytes:
    """A group's row in the catalog."""
    return json.dumps({"version": GROUP_VERSION, **asdict(group)}, sort_keys=True).encode()


def decode_group(raw: bytes) -> TopicGroup:
    """Reads a group's row in the catalog."""
    fields = json.loads(raw)
    assert fields.pop("version") == GROUP_VERSION, "a group's row of another version"
    fields["settings"] = GroupSettings.of_fields(fields["settings"])
    return TopicGroup(**fields)


def promise_until(wall_ms: int) -> int:
    """How far a promise made now reaches."""
    return wall_ms + limits.PROMISE_MS


def promise_left_ms(promised_ms: int, wall_ms: int) -> int:
    """
    How long a starting leader waits until its wall clock has passed the promise in the log.

    None reaches further ahead than `PROMISE_MS`: a clock that would have to wait for longer was
    stepped back, or is another machine's, and doesn't wait; now stands still then.
    """
    left_ms = promised_ms - wall_ms
    return left_ms if 0 < left_ms <= limits.PROMISE_MS else 0
