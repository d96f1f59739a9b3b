"""
What stands in the logs of a simulated cluster whose topics move.

`LogWatch` is told what becomes durable in any log, and raises `Violation` at what must not be.
M: exactly one log of a topic takes what clients do and hands out, which is the one that its
entry names, and which is neither sealed nor being filled. I12: epochs never go back.
"""

from collections.abc import Iterable, Mapping

from sandglass.cluster.placed import Placed, topic_key
from sandglass.core import codec
from sandglass.core.machine import decode_topic
from sandglass.core.record import (
    NODE,
    Append,
    Attach,
    CreateGroup,
    Cut,
    Delete,
    DeleteTopic,
    Move,
    Purge,
    Put,
    PutTopic,
    Record,
    Redrive,
    SeekGroup,
    Settle,
)
from sandglass.core.topic import Topic
from sandglass.ports import Entry
from sandglass.testing.seen import Violation

OF_CLIENTS = (
    Append,
    Attach,
    CreateGroup,
    Cut,
    Delete,
    Move,
    Purge,
    Put,
    Redrive,
    SeekGroup,
    Settle,
)
"""What is in a log because somebody asked for it, or was given something, or it was old."""


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
    def sealed(self) -> set[str]:
        """Topics that are sealed in some log, by its records."""
        logs = self._topics.values()
        return {name for topics in logs for name, each in topics.items() if each.seal}

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
