"""
What a node counts: every metric's name, kind and text in one list, and what counts while the
node works.

Nothing here runs once for each message: a batch, a record, a delivery adds its numbers at once.
Counters begin at 0 when the process does. How a scrape reads them, and what it looks up in the
view, is in `sandglass.broker.figures`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate
from operator import itemgetter, mul
from typing import Final

from sandglass.core.message import Slice
from sandglass.core.record import (
    NODE,
    Append,
    Ending,
    Move,
    Purge,
    Put,
    Record,
    Redrive,
    Settle,
)

LATENESS_BOUNDS_MS: Final = (
    1, 2, 5, 10, 25, 50, 100, 250, 1000, 5000, 60_000, 3_600_000,
)  # fmt: skip
SYNC_BOUNDS_MS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 1000, 5000)

OTHER_TOPICS: Final = "_other"
"""Label of what belongs to topics beyond the limit, or deleted ones. No topic is called so."""

OUTCOMES: Final = {
    Ending.ACKED: "ack",
    Ending.NACKED: "nack",
    Ending.RELEASED: "release",
    Ending.DEAD: "dead",
    Ending.TIMED_OUT: "timeout",
    Ending.BROKEN: "broken",
    Ending.EXPIRED: "expired",
}
"""Label of each ending that is one; waiting for the clock is none."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A `counter` gets `_total` behind its name, where it is read."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


_TOPIC = ("topic",)
_GROUP = ("topic", "channel", "group")

METRICS: Final = (
    Metric(
        "produced_messages",
        "counter",
        "Messages produced, and put under keys, durable.",
        _TOPIC,
    ),
    Metric(
        "delivered_messages",
        "counter",
        "Messages handed to consumers, repeats included.",
        _TOPIC,
    ),
    Metric(
        "outcomes",
        "counter",
        "Messages by how their lease ended, durable: ack, nack, release, dead, timeout, broken"
        " (a session), expired (by retention).",
        ("topic", "kind"),
    ),
    Metric(
        "ignored_outcomes",
        "counter",
        "Offsets in outcomes that held no message, or were never handed out.",
    ),
    Metric("purged_messages", "counter", "Dead letters purged, durable.", _TOPIC),
    Metric("pending_messages", "gauge", "Messages that are not due yet.", _TOPIC),
    Metric("ready_messages", "gauge", "Messages due and not handed out yet.", _GROUP),
    Metric("leased_messages", "gauge", "Messages handed out, without an outcome.", _GROUP),
    Metric("waiting_messages", "gauge", "Messages that wait to be handed out again.", _GROUP),
    Metric(
        "skipped_messages",
        "gauge",
        "Messages due before the group's start, where it begins or was moved to.",
        _GROUP,
    ),
    Metric(
        "lower_bounds",
        "gauge",
        "1 if this scrape had more to count than it may: pending and ready are lower bounds"
        " then, and groups may be missing.",
    ),
    Metric(
        "lateness_seconds",
        "histogram",
        "From due time to the first handing out, by wall clock; for messages that are due at"
        " once, from their production.",
    ),
    Metric("sync_seconds", "histogram", "One sync of the log."),
    Metric("turns", "counter", "Turns of the node's loop."),
    Metric("records", "counter", "Records written to the log."),
    Metric("stalls", "counter", "Writes that the view refused because it was behind."),
    Metric("pauses", "counter", "Times that the process stood still for 0.5 s or more."),
    Metric("queued_bytes", "gauge", "Produced and not yet durable."),
    Metric("view_stalled", "gauge", "1 while the view takes no writes."),
    Metric("disk_full", "gauge", "1 while the disk has no room for another segment."),
    Metric(
        "clock_step_alarm",
        "gauge",
        "1 while a forward step of the clock is not believed; `sandctl clock` shows and accepts"
        " it.",
    ),
    Metric("stopped_partitions", "gauge", "Partitions that stand still: a rule was broken."),
    Metric("snapshots", "counter", "Snapshots of replicated logs that this node made."),
    Metric("snapshot_failures", "counter", "Snapshots that came to nothing."),
    Metric(
        "snapshot_sent_bytes", "counter", "Bytes of snapshots sent: parts that had changed."
    ),
    Metric("snapshot_restores", "counter", "Times that a replica here began at a snapshot."),
    Metric(
        "snapshot_age_seconds",
        "gauge",
        "Since the newest snapshot was made, of partitions led here; of each topic the oldest.",
        _TOPIC,
    ),
    Metric(
        "log_trimmed_entries",
        "gauge",
        "Entries trimmed from the streams of partitions led here, as far as is known.",
        _TOPIC,
    ),
    Metric("topics", "gauge", "Topics."),
    Metric("sessions", "gauge", "Sessions, those in their grace included."),
    Metric("subscriptions", "gauge", "Consumers that are reading."),
    Metric("http_answers", "counter", "Answers of the HTTP surface, by status.", ("code",)),
    Metric("http_connections", "gauge", "Open connections of the HTTP surface."),
    Metric("http_streams", "gauge", "Open consuming streams of the HTTP surface."),
    Metric("http_refused_connections", "counter", "Connections refused: there were too many."),
)
PREFIX: Final = "sandglass_"
NAMES: Final = frozenset(each.name for each in METRICS)


class Histogram:
    """Counts by size, and their sum. `bounds` ascend; a value at a bound is below it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """The last one is beyond every bound."""
        self.total: float = 0

    def observe(self, value: float, count: int = 1) -> None:
        """So many values of this size."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def observe_ages(self, now: int, times: Sequence[int], counts: Sequence[int]) -> None:
        """Values `now - time`, so many of each; `times` ascend."""
        ends = [*accumulate(counts, initial=0)]
        count = ends[-1]
        self.total += now * count - sum(map(mul, times, counts))
        below = 0
        for place, bound in enumerate(self.bounds):
            at_most = count - ends[bisect_left(times, now - bound)]
            self.counts[place] += at_most - below
            below = at_most
        self.counts[-1] += count - below


@dataclass(slots=True)
class Counts:
    """What the node has done. Dictionaries are by partition number."""

    turn_count: int = 0
    record_count: int = 0
    sync_count: int = 0
    stall_count: int = 0
    pause_count: int = 0
    produced: Counter[int] = field(default_factory=Counter[int])
    delivered: Counter[int] = field(default_factory=Counter[int])
    purged: Counter[int] = field(default_factory=Counter[int])
    outcomes: dict[Ending, Counter[int]] = field(
        default_factory=lambda: {ending: Counter() for ending in Ending}
    )
    lateness_ms: Histogram = field(default_factory=lambda: Histogram(LATENESS_BOUNDS_MS))
    sync_ms: Histogram = field(default_factory=lambda: Histogram(SYNC_BOUNDS_MS))

    def applied(self, record: Record) -> None:
        """A record is durable, and has done its work."""
        for operation in record.operations:
            if isinstance(operation, Append):
                if operation.origin is None:
                    self.produced[record.partition] += sum(operation.counts)
            elif isinstance(operation, Put):
                self.produced[record.partition] += len(operation.keys)
            elif isinstance(operation, (Settle, Move)):
                count = sum([each for _, _, each in operation.main])
                count += sum([each for _, _, each in operation.retry])
                self.outcomes[operation.ending][record.partition] += count
            elif isinstance(operation, Purge):
                self.purged[record.partition] += sum([each for _, _, each in operation.ranges])
            elif isinstance(operation, Redrive):
                # They leave the dead letters by the same record, and are not gone.
                self.purged[record.partition] -= sum(operation.append.counts)

    def handed_out(self, partition: int, count: int) -> None:
        """A delivery left."""
        self.delivered[partition] += count

    def came(self, wall_ms: int, slices: Sequence[Slice]) -> None:
        """Messages were handed out for the first time, in the order of their due times."""
        if len(slices) == 1:
            self.lateness_ms.observe(max(0, wall_ms - slices[0].due_ms), slices[0].count)
            return
        dues, counts = [*map(_DUE, slices)], [*map(_COUNT, slices)]
        self.lateness_ms.observe_ages(max(wall_ms, dues[-1]), dues, counts)

    def fold(self, known: Container[int]) -> None:
        """Partitions that are gone leave their numbers to `NODE`, so that no sum goes back."""
        for counts in (self.produced, self.delivered, self.purged, *self.outcomes.values()):
            for number in [each for each in counts if each not in known and each != NODE]:
                counts[NODE] += counts.pop(number)


@dataclass(slots=True)
class HttpCounts:
    """What the HTTP surface has done, and what is open there."""

    connections: Sized
    streams: Sized
    answers: Counter[int] = field(default_factory=Counter[int])
    refused_count: int = 0

    def answered(self, code: int) -> None:
        """An answer with this status; 499 if nobody was there any more."""
        self.answers[code] += 1

    def refused(self) -> None:
        """A connection found no room."""
        self.refused_count += 1


_COUNT: Final = itemgetter(Slice._fields.index("count"))
_DUE: Final = itemgetter(Slice._fields.index("due_ms"))
