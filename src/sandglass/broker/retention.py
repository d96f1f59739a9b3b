"""Retention: what is older than its topic keeps it is cut from the view, by record."""

from sandglass.broker.node_loop import NodeLoop
from sandglass.core import limits
from sandglass.core.dispatch import Moment
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Record
from sandglass.core.topic import Topic, TopicKind


def keep_house(loop: NodeLoop, moment: Moment) -> None:
    """
    Retention: each topic's partitions are looked at a twentieth of its time apart. A KV topic
    keeps what stands under its keys.
    """
    machine = loop.machine
    for topic in machine.topics.values():
        if topic.kind is TopicKind.KV:
            continue
        every_ms = max(limits.CUT_INTERVAL_MS, min(60_000, topic.settings.retention_ms // 20))
        if moment.steady_ms % every_ms >= limits.CUT_INTERVAL_MS:
            continue
        for ref in topic.partitions:
            record = _cut(loop, ref.number, topic, moment)
            if record is not None:
                loop.submit(record)


def _cut(loop: NodeLoop, number: int, topic: Topic, moment: Moment) -> Record | None:
    if number in loop.stopped:
        return None
    partition = loop.partition(number)
    below = max(0, moment.wall_ms - topic.settings.retention_ms) << INDEX_BITS
    if not partition.has_below(below, loop.view):
        return None
    return partition.admit_cut(below, moment)
