"""
What clients of a simulated cluster see of topics that move, and what stands in its logs.

`MovingHistory` is told by clients what they send, what they are answered, and what they are
given; partitions go by their ids, which stay the same wherever a topic lives. `LogWatch` is
told what becomes durable in any log. Both raise `Violation` at what must not be.

Of the invariants of the guarantees: I1, I2, I3, I5, I6, I7, I8, I9, I10 and I12; and M: exactly
one log of a topic takes what clients do and hands out, which is the one that its entry names,
and which is neither sealed nor being filled.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sandglass.cluster.placed import Placed, topic_key
from sandglass.core import codec
from sandglass.core.lease import TOKEN_BITS
from sandglass.core.machine import decode_topic
from sandglass.core.record import (
    NODE,
    Append,
    Attach,
    CreateGroup,
    DeleteTopic,
    Ending,
    Move,
    PutTopic,
    Record,
    Settle,
)
from sandglass.core.topic import Topic
from sandglass.ports import Entry
from sandglass.testing.seen import Violation

MAX_DELIVERIES = 5

OF_CLIENTS = (Append, Attach, CreateGroup, Move, Settle)
"""What is in a log because somebody asked for it, or was given something."""

Key = tuple[str, int]
"""The id of a partition, and a message's number."""


@dataclass(slots=True)
class Sent:
    """A message, as it was sent; times are true ones, whatever clocks show."""

    partition: str
    value: bytes
    due_ms: int
    """Before this nobody is to have it."""
    passed: int
    """How far the partition had been read by then."""
    offset: int | None = None
    is_answered: bool = False
    is_refused: bool = False


@dataclass(slots=True)
class Holding:
    """A message under a lease, as its holder knows."""

    token: int
    holder: str
    ends_ms: int
    is_settled: bool = False
    """An outcome was taken for it."""


@dataclass(slots=True)
class GroupSeen:
    """What a group of a topic was given, and said."""

    delivered: dict[int, int] = field(default_factory=dict[int, int])
    nacked: dict[int, int] = field(default_factory=dict[int, int])
    """Answered ones."""
    acking: set[int] = field(default_factory=set[int])
    acked: set[int] = field(default_factory=set[int])
    burying: set[int] = field(default_factory=set[int])
    buried: set[int] = field(default_factory=set[int])
    not_before_ms: dict[int, int] = field(default_factory=dict[int, int])
    holds: dict[int, Holding] = field(default_factory=dict[int, Holding])
    highest: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    committed: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(slots=True)
class Given:
    """One message of a delivery."""

    number: int
    offset: int
    value: bytes


class MovingHistory:
    """All that was produced, and what became of it."""

    def __init__(self) -> None:
        self.sent: dict[int, Sent] = {}
        self.at: dict[tuple[str, int], int] = {}
        self.groups: dict[tuple[str, str], GroupSeen] = {}
        """By topic and name."""
        self.passed: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.trace: list[str] = []
        self.delivered_count = 0

    def group(self, topic: str, name: str) -> GroupSeen:
        """A group, as far as anybody has seen it."""
        return self.groups.setdefault((topic, name), GroupSeen())

    # --- producing ----------------------------------------------------------------------------

    def send(self, number: int, partition: str, value: bytes, due_ms: int) -> None:
        """A produce leaves a client."""
        passed = self.passed.get(partition, -1)
        self.sent[number] = Sent(partition, value, due_ms, passed)

    def answer(self, number: int, offset: int) -> None:
        """It is durable, it is said."""
        self._place(self.sent[number].partition, number, offset)
        self.sent[number].is_answered = True

    def refuse(self, number: int) -> None:
        """Nothing was taken, it is said."""
        if self.sent[number].offset is not None:
            raise Violation(f"I2: message {number} was refused, and is there")
        self.sent[number].is_refused = True

    def _place(self, partition: str, number: int, offset: int) -> Sent:
        message = self.sent.get(number)
        if message is None or message.is_refused:
            raise Violation(f"I2: message {number} is there, and nobody produced it")
        if message.partition != partition:
            raise Violation(f"I2: message {number} is in another partition")
        if message.offset is not None and message.offset != offset:
            raise Violation(f"I9: message {number} was at {message.offset:x}, now {offset:x}")
        other = self.at.setdefault((partition, offset), number)
        if other != number:
            raise Violation(f"I9: messages {other} and {number} are both at {offset:x}")
        if offset <= message.passed:
            raise Violation(f"I9: message {number} appears at {offset:x}, which was passed")
        message.offset = offset
        return message

    # --- reading ------------------------------------------------------------------------------

    def read(self, partition: str, found: Sequence[Given], known: Iterable[int]) -> None:
        """
        A reader was shown a partition from its beginning; of what was `known` before, all up to
        the last one has to be there.
        """
        shown = {each.number for each in found}
        if len(shown) != len(found):
            raise Violation(f"I9: partition {partition} shows a message twice")
        for each in found:
            message = self._place(partition, each.number, each.offset)
            if message.value != each.value:
                raise Violation(f"I2: message {each.number} has other bytes")
        top = found[-1].offset if found else -1
        for number in known:
            offset = self.sent[number].offset
            if offset is not None and offset <= top and number not in shown:
                raise Violation(f"I1: message {number} at {offset:x} isn't shown any more")
        self.passed[partition] = max(self.passed.get(partition, -1), top)

    def known(self, partition: str) -> list[int]:
        """Messages that were answered."""
        return [
            number
            for number, each in self.sent.items()
            if each.partition == partition and each.is_answered
        ]

    # --- deliveries ---------------------------------------------------------------------------

    def give(
        self,
        topic: str,
        name: str,
        partition: str,
        messages: Sequence[Given],
        *,
        token: int,
        attempt: int,
        is_retry: bool,
        holder: str,
        now_ms: int,
        ends_ms: int,
        there: Collection[str],
    ) -> None:
        """
        A consumer is given messages.

        Args:
            holder: the way by which its session came; of those some are `there` still.
        """
        group = self.group(topic, name)
        self._take_token(partition, token)
        for each in messages:
            message = self._place(partition, each.number, each.offset)
            number = each.number
            if message.value != each.value:
                raise Violation(f"I2: message {number} has other bytes")
            early_ms = max(message.due_ms, group.not_before_ms.get(number, 0)) - now_ms
            if early_ms > 0:
                raise Violation(f"I3: message {number} comes {early_ms} ms early")
            if number in group.acked:
                raise Violation(f"I6: message {number} was acked, and comes back to {name}")
            if number in group.buried:
                raise Violation(f"I8: message {number} is dead, and comes back to {name}")
            self._check_attempt(group, number, attempt)
            self._check_alone(group, number, token, now_ms, there)
            if not is_retry and number not in group.delivered:
                at = (holder, f"{partition} {token >> TOKEN_BITS}")
                if group.highest.get(at, -1) >= each.offset:
                    raise Violation(f"I9: message {number} comes out of order to {holder}")
                group.highest[at] = each.offset
            group.delivered[number] = group.delivered.get(number, 0) + 1
            group.holds[number] = Holding(token, holder, ends_ms)
            self.passed[partition] = max(self.passed.get(partition, -1), each.offset)
        self.delivered_count += len(messages)
        numbers = [each.number for each in messages]
        self.trace.append(f"{now_ms} {name} {partition} {token:x} {attempt} {numbers}")

    def _take_token(self, partition: str, token: int) -> None:
        before = self.tokens.get(partition, 0)
        if token <= before:
            raise Violation(f"I7: token {token:x} of {partition} after {before:x}")
        self.tokens[partition] = token

    def _check_attempt(self, group: GroupSeen, number: int, attempt: int) -> None:
        least, most = group.nacked.get(number, 0), group.delivered.get(number, 0)
        if not least < attempt <= most + 1:
            raise Violation(
                f"I8: message {number} comes for the {attempt}th time, after {least} nacks and"
                f" {most} deliveries"
            )
        if attempt > MAX_DELIVERIES:
            raise Violation(f"I8: message {number} comes for the {attempt}th time")

    def _check_alone(
        self,
        group: GroupSeen,
        number: int,
        token: int,
        now_ms: int,
        there: Collection[str],
    ) -> None:
        held = group.holds.get(number)
        if held is None or held.is_settled or now_ms >= held.ends_ms:
            return
        is_same = held.token >> TOKEN_BITS == token >> TOKEN_BITS
        if is_same and held.holder in there:
            raise Violation(f"I7: message {number} is given out while {held.holder} holds it")

    def claim(
        self,
        topic: str,
        name: str,
        partition: str,
        numbers: Sequence[int],
        *,
        token: int,
        holder: str,
        now_ms: int,
        ends_ms: int,
        there: Collection[str],
    ) -> None:
        """A session goes on with what it held, under this token: the one before, or a new."""
        group = self.group(topic, name)
        is_new = any(group.holds[number].token != token for number in numbers)
        if any(group.holds[number].token > token for number in numbers):
            raise Violation(f"I7: {holder} claims {numbers} under {token:x}, and it was higher")
        self.tokens[partition] = max(self.tokens.get(partition, 0), token)
        for number in numbers:
            if number in group.acked or number in group.buried:
                raise Violation(f"I6: message {number} is settled, and {holder} may claim it")
            if is_new and group.holds[number].holder != holder:
                self._check_alone(group, number, token, now_ms, there)
            group.holds[number] = Holding(token, holder, ends_ms)

    # --- outcomes -----------------------------------------------------------------------------

    def settle(
        self, topic: str, name: str, numbers: Sequence[int], token: int, ending: Ending
    ) -> None:
        """An outcome is taken; the answer is still to come."""
        group = self.group(topic, name)
        for number in numbers:
            if group.holds[number].token != token:
                raise Violation(f"I7: an outcome of {number} is taken under an old token")
            group.holds[number].is_settled = True
            if ending is Ending.ACKED:
                group.acking.add(number)
            elif ending is Ending.DEAD:
                group.burying.add(number)

    def settled(
        self,
        topic: str,
        name: str,
        numbers: Sequence[int],
        ending: Ending,
        *,
        not_before_ms: int = 0,
    ) -> None:
        """It is durable, it is said."""
        group = self.group(topic, name)
        for number in numbers:
            if ending is Ending.ACKED:
                group.acked.add(number)
            elif ending is Ending.DEAD:
                group.buried.add(number)
            elif ending is Ending.NACKED:
                group.nacked[number] = group.nacked.get(number, 0) + 1
                group.not_before_ms[number] = not_before_ms

    def commit(self, topic: str, name: str, partition: str, committed: int) -> None:
        """A group's committed offset in a partition is shown."""
        group = self.group(topic, name)
        if committed < group.committed.get(partition, 0):
            raise Violation(f"I10: committed goes back to {committed:x} in {partition}")
        group.committed[partition] = committed
        for number, message in self.sent.items():
            if message.partition != partition or message.offset is None:
                continue
            if message.offset < committed and not self.may_be_over(group, number):
                raise Violation(f"I10: message {number} is below committed of {name}")

    def may_be_over(self, group: GroupSeen, number: int) -> bool:
        """Can it be settled, by all that is known?"""
        is_said = number in group.acking or number in group.burying
        return is_said or group.delivered.get(number, 0) >= MAX_DELIVERIES

    # --- the end ------------------------------------------------------------------------------

    def left(self, topic: str, name: str, partitions: Iterable[str]) -> list[int]:
        """Messages that were answered, and that the group may not be done with."""
        group, wanted = self.group(topic, name), {*partitions}
        return [
            number
            for number, message in self.sent.items()
            if message.is_answered
            and message.partition in wanted
            and not self.may_be_over(group, number)
        ]

    def check_letters(self, topic: str, name: str, letters: Sequence[int]) -> None:
        """In the end: all dead letters of a group."""
        group, once = self.group(topic, name), {*letters}
        if len(once) != len(letters):
            raise Violation(f"I8: {name} of {topic} has a dead letter twice: {letters}")
        if lost := group.buried - once:
            raise Violation(f"I8: messages {sorted(lost)} are dead, without a letter")
        if both := group.acked & once:
            raise Violation(f"I8: messages {sorted(both)} were acked, and are dead letters")
        for number in once:
            is_over = group.delivered.get(number, 0) >= MAX_DELIVERIES
            if number not in group.burying and not is_over:
                raise Violation(f"I8: message {number} is a dead letter, and nobody said so")


class LogWatch:
    """`entries` is the truth of what members have agreed on, as it is now."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries = entries
        self._topics: dict[str, dict[str, Topic]] = {}
        """By log and name, as its records say."""
        self._epochs: dict[tuple[str, int], int] = {}
        self.sealed_count = 0
        self.unsealed_count = 0

    @property
    def is_sealed(self) -> bool:
        """Some log is, by its records."""
        return any(each.seal for topics in self._topics.values() for each in topics.values())

    def stored(self, log: str, raws: Iterable[bytes]) -> None:
        """Records have become durable in the log of a node, or in that of a number."""
        topics = self._topics.setdefault(log, {})
        for raw in raws:
            record = codec.decode(raw)
            of = (log, record.partition)
            if record.head.epoch < self._epochs.get(of, 0):
                raise Violation(f"I12: epoch {record.head.epoch} in {of} after a higher one")
            self._epochs[of] = record.head.epoch
            if record.partition == NODE:
                for operation in record.operations:
                    self._land(topics, operation)
            else:
                self._check(log, topics, record)

    def _land(self, topics: dict[str, Topic], operation: object) -> None:
        if isinstance(operation, PutTopic):
            topic = decode_topic(operation.value)
            before = topics.get(operation.name)
            was_sealed = before is not None and before.seal != 0
            self.sealed_count += topic.seal != 0 and not was_sealed
            self.unsealed_count += topic.seal == 0 and was_sealed
            topics[operation.name] = topic
        elif isinstance(operation, DeleteTopic):
            topics.pop(operation.name, None)

    def _check(self, log: str, topics: Mapping[str, Topic], record: Record) -> None:
        asked = [each for each in record.operations if isinstance(each, OF_CLIENTS)]
        number = record.partition
        for topic in topics.values() if asked else ():
            if any(ref.number == number for ref in topic.partitions):
                self.check_alone(log, topic, number, type(asked[0]).__name__)
                return

    def check_served(self, log: str, number: int) -> None:
        """A log hands something out."""
        for topic in self._topics.get(log, {}).values():
            if any(ref.number == number for ref in topic.partitions):
                self.check_alone(log, topic, number, "a delivery")
                return
        raise Violation(f"M: {log} hands out of {number}, of which it knows nothing")

    def check_alone(self, log: str, topic: Topic, number: int, what: str) -> None:
        """Is this log the one that takes what clients do?"""
        if topic.is_moving:
            how = "sealed" if topic.seal else "being filled"
            raise Violation(f"M: {what} of {topic.name} in {log}, which is {how}")
        entry = self._entries.get(topic_key(topic.name))
        if entry is None:
            raise Violation(f"M: {what} of {topic.name} in {log}, and no entry names it")
        placed = Placed.decode(entry.value)
        if placed.is_at_home:
            is_here = placed.home == log
        else:
            is_here = any(ref.number == number for ref in placed.topic.partitions)
            is_here = is_here and log == str(number)
        if not is_here:
            raise Violation(f"M: {what} of {topic.name} in {log}, which is not where it lives")
