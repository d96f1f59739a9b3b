"""
The figures of a node, as its metrics show them: what was counted, and what is looked up.

Pending and ready messages, and groups, are looked up in the view when somebody asks. That is
bounded: so many topics, partitions, groups and rows a time, and no more than a thousand rows of
one partition and channel, so that one long queue doesn't hide the others. Where there is more,
the figure is a lower bound, and `lower_bounds` says so. After each look others have the loop.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sandglass.broker.shared_catalog import SnapshotsSeen
from sandglass.core import limits
from sandglass.core.counting import count_pending, count_skipped, count_unread
from sandglass.core.partition import Partition
from sandglass.core.topic import Topic
from sandglass.telemetry import OTHER_TOPICS, OUTCOMES, Counts

if TYPE_CHECKING:
    from sandglass.broker.broker import Broker

LOOK_ROW_COUNT_MAX: Final = 1000
LOOK_COST_ROWS: Final = 10
"""What a look costs that finds nothing: it is a search."""

Labels = tuple[str, ...]


@dataclass(slots=True)
class Figures:
    """Values by metric and labels, as `sandglass.telemetry.METRICS` has them."""

    values: dict[str, Counter[Labels]] = field(default_factory=dict[str, Counter[Labels]])

    def add(self, name: str, value: float, *labels: str) -> None:
        """Adds to what is there under these labels."""
        self.values.setdefault(name, Counter())[labels] += value  # pyright: ignore[reportArgumentType]  # some are floats


@dataclass(slots=True)
class _Budget:
    """What one reading may still look at."""

    row_count: int = limits.METRICS_ROW_COUNT_MAX
    partition_count: int = limits.METRICS_PARTITION_COUNT_MAX
    group_count: int = limits.METRICS_GROUP_COUNT_MAX
    is_short: bool = False

    def rows(self) -> int:
        """Rows that the next look may read; 0 if nothing is left."""
        self.row_count -= LOOK_COST_ROWS
        if self.row_count <= 0:
            self.is_short = True
            return 0
        return min(LOOK_ROW_COUNT_MAX, self.row_count)

    def took(self, row_count: int, *, of: int) -> None:
        """A look has read so many of the rows that it might."""
        self.row_count -= row_count
        self.is_short = self.is_short or row_count >= of


async def read_figures(broker: "Broker") -> Figures:
    """All figures of the node, but those of its surfaces."""
    figures = Figures()
    _add_counts(figures, broker)
    _add_state(figures, broker)
    budget = _Budget()
    topics = broker.catalog.topics()
    for topic in topics[: limits.METRICS_TOPIC_COUNT_MAX]:
        await _look_at_topic(figures, broker, topic, budget)
    is_short = budget.is_short or len(topics) > limits.METRICS_TOPIC_COUNT_MAX
    figures.add("lower_bounds", int(is_short))
    return figures


def _add_counts(figures: Figures, broker: "Broker") -> None:
    counts, refs = broker.loop.stats, broker.loop.machine.refs
    counts.fold(refs)
    named = {each.name for each in broker.catalog.topics()[: limits.METRICS_TOPIC_COUNT_MAX]}
    for name, numbers in (
        ("produced_messages", counts.produced),
        ("delivered_messages", counts.delivered),
        ("purged_messages", counts.purged),
    ):
        for topic, count in _by_topic(numbers, broker, named).items():
            figures.add(name, count, topic)
    for ending, kind in OUTCOMES.items():
        for topic, count in _by_topic(counts.outcomes[ending], broker, named).items():
            figures.add("outcomes", count, topic, kind)
    _add_plain_counts(figures, counts)
    _add_snapshots(figures, broker.loops.look_around().snapshots, named)
    figures.add("ignored_outcomes", broker.outcomes.ignored_count)


def _add_plain_counts(figures: Figures, counts: Counts) -> None:
    figures.add("turns", counts.turn_count)
    figures.add("records", counts.record_count)
    figures.add("stalls", counts.stall_count)
    figures.add("pauses", counts.pause_count)


def _add_state(figures: Figures, broker: "Broker") -> None:
    loop = broker.loop
    figures.add("queued_bytes", loop.queued_bytes)
    figures.add("view_stalled", int(loop.is_stalled))
    figures.add("disk_full", int(loop.is_full))
    figures.add("clock_step_alarm", int(loop.clocks.keeper.is_stepped))
    figures.add("stopped_partitions", len(loop.stopped))
    figures.add("topics", len(loop.machine.topics))
    figures.add("sessions", len(broker.consumers.sessions))
    figures.add("subscriptions", broker.consumers.reading_count)


def _add_snapshots(figures: Figures, seen: SnapshotsSeen, named: set[str]) -> None:
    figures.add("snapshots", seen.made_count)
    figures.add("snapshot_failures", seen.failed_count)
    figures.add("snapshot_sent_bytes", seen.sent_bytes)
    figures.add("snapshot_restores", seen.restored_count)
    ages_ms: dict[str, int] = {}
    for log in seen.logs:
        topic = log.topic if log.topic in named else OTHER_TOPICS
        figures.add("log_trimmed_entries", log.trimmed_count, topic)
        if log.snapshot_age_ms is not None:
            ages_ms[topic] = max(ages_ms.get(topic, 0), log.snapshot_age_ms)
    for topic, age_ms in ages_ms.items():
        figures.add("snapshot_age_seconds", age_ms / 1000, topic)


def _by_topic(
    numbers: Mapping[int, int], broker: "Broker", named: set[str]
) -> Mapping[str, int]:
    found: Counter[str] = Counter()
    for number, count in numbers.items():
        ref = broker.loop.machine.refs.get(number)
        topic = ref[0].name if ref is not None else OTHER_TOPICS
        found[topic if topic in named else OTHER_TOPICS] += count
    return found


async def _look_at_topic(
    figures: Figures, broker: "Broker", topic: Topic, budget: _Budget
) -> None:
    figures.add("pending_messages", 0, topic.name)
    await asyncio.sleep(0)
    for ref in topic.partitions:
        if not budget.partition_count:
            budget.is_short = True
            return
        budget.partition_count -= 1
        if broker.loops.working(ref.number) is not None:
            await _look(figures, broker, topic, ref.number, budget)


async def _look(
    figures: Figures, broker: "Broker", topic: Topic, number: int, budget: _Budget
) -> None:
    """One partition: what is not due in each channel, and its groups."""
    loop = broker.loops.of(number)
    partition = loop.machine.partition(number, loop.view)
    if not partition.last_index or not (allowed := budget.rows()):
        return
    channels = partition.channels.names(loop.view, count_max=allowed)
    budget.took(len(channels), of=allowed)
    for channel in channels:
        if not (allowed := budget.rows()):
            return
        count, row_count = count_pending(partition, channel, loop.view, row_count_max=allowed)
        budget.took(row_count, of=allowed)
        figures.add("pending_messages", count, topic.name)
        await asyncio.sleep(0)
    if not (allowed := min(budget.rows(), budget.group_count)):
        budget.is_short = True
        return
    groups = partition.groups.names(loop.view, count_max=allowed)
    budget.took(len(groups), of=allowed)
    budget.group_count -= len(groups)
    for channel, name in groups:
        _look_at_group(figures, broker, topic, partition, (channel, name), budget)
        await asyncio.sleep(0)


def _look_at_group(
    figures: Figures,
    broker: "Broker",
    topic: Topic,
    partition: Partition,
    place: tuple[str, str],
    budget: _Budget,
) -> None:
    loop = broker.loops.working(partition.number)
    if loop is None:
        return  # its topic was deleted meanwhile
    group = partition.groups.peek(*place, loop.view)
    if group is None:
        return
    labels = (topic.name, *place)
    leased = sum(lease.open.bit_count() for lease in group.leases.values())
    figures.add("leased_messages", leased, *labels)
    figures.add("waiting_messages", group.retry_count, *labels)
    if not (allowed := budget.rows()):
        return
    count, row_count = count_unread(
        partition, group, loop.moment(), loop.view, row_count_max=allowed
    )
    budget.took(row_count, of=allowed)
    figures.add("ready_messages", count, *labels)
    if not group.start:
        figures.add("skipped_messages", 0, *labels)
        return
    if not (allowed := budget.rows()):
        return
    count, row_count = count_skipped(
        partition, group, loop.moment(), loop.view, row_count_max=allowed
    )
    budget.took(row_count, of=allowed)
    figures.add("skipped_messages", count, *labels)
