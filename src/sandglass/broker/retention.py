"""Retention: what is older than its topic keeps it is cut from the view, by record."""

import logging

from sandglass.broker.loops import Loops
from sandglass.core import limits
from sandglass.core.counting import has_below
from sandglass.core.dispatch import Moment
from sandglass.core.offset import INDEX_BITS
from sandglass.core.topic import Topic, TopicKind
from sandglass.errors import CorruptError

logger = logging.getLogger(__name__)

LOOK_MS_MAX = 60_000
"""A partition is looked at this often, and more often where its topic keeps things shortly."""


class Retention:
    """Looks at some partitions each time that the loop keeps house; the rest wait in line."""

    def __init__(self, loops: Loops) -> None:
        self.loops = loops
        self._waiting: dict[int, Topic] = {}
        """Partitions to look at, by number, in line."""

    def keep_house(self, moment: Moment) -> None:
        """
        Each topic's partitions are looked at a twentieth of its time apart. A KV topic keeps
        what stands under its keys.
        """
        for topic in self.loops.topics():
            every_ms = min(LOOK_MS_MAX, topic.settings.retention_ms // 20)
            every_ms = max(limits.CUT_INTERVAL_MS, every_ms)
            is_due = moment.steady_ms % every_ms < limits.CUT_INTERVAL_MS
            if is_due and topic.kind is not TopicKind.KV:
                self._waiting |= {ref.number: topic for ref in topic.partitions}
        for number in [*self._waiting][: limits.TURN_CUT_COUNT_MAX]:
            self._cut(number, self._waiting.pop(number))

    def _cut(self, number: int, topic: Topic) -> None:
        loop = self.loops.working(number)
        if loop is None:
            return
        partition, moment = loop.partition(number), loop.moment()
        below = max(0, moment.wall_ms - topic.settings.retention_ms) << INDEX_BITS
        try:
            if not has_below(partition, below, loop.view):
                return
        except CorruptError as error:
            logger.error("nothing is cut from partition %d: %s", number, error)
            return
        record = partition.admit_cut(below, moment)
        if record is not None:
            loop.submit(record)
