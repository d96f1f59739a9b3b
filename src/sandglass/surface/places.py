"""The partitions that a request means, by their names or their places in the topic's list."""

from collections.abc import Sequence

from sandglass.broker.broker import Broker
from sandglass.core import limits
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import InvalidError


def partitions_of(broker: Broker, topic: Topic, names: Sequence[str]) -> Sequence[PartitionRef]:
    """
    The partitions that a request names, each once; all of them if it names none.

    Raises:
        InvalidError: more names than a topic may have partitions.
        NotFoundError: there is no such partition.
    """
    limits.check_range(
        len(names), field="count of partitions", low=0, high=limits.PARTITION_COUNT_MAX
    )
    named = dict.fromkeys(names)
    return [broker.catalog.partition(topic, name) for name in named] or topic.partitions


def partition_at(topic: Topic, place: int) -> PartitionRef:
    """
    A partition by its place in the topic's list.

    Raises:
        InvalidError: there are not so many.
    """
    if place >= len(topic.partitions):
        raise InvalidError(
            f"partition_number is {place}; the topic has {len(topic.partitions)} partitions",
            field="partition_number",
        )
    return topic.partitions[place]
