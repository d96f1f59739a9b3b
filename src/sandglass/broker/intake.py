"""
What producers have brought since the last turn; when the next one begins, it is admitted.

A request by itself is cheap to check; what costs is a record of its own, to encode, apply,
write and answer. So requests to one channel of a partition that wait for the same turn are
admitted as one batch, in one record, and each is told its own places in that.

Rules
1. A run holds at most what a row may. Requests for now share a row, then; others lie beside
   each other as they were cut.
2. The requests of a partition keep the order in which they came.
3. Each is told by itself, once. What a request could be refused for was looked at before it
   came in here; what goes wrong from here on is wrong for the channel, the partition or the
   node, and so for every request of the run.
4. One that comes alone goes the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from sandglass.core import limits
from sandglass.core.message import Batch, Placed
from sandglass.errors import SandglassError

Told = Callable[[Placed | None, SandglassError | None], None]
"""Told once: where a request's messages went, or why they did not."""


@dataclass(slots=True, eq=False)
class Run:
    """
    Requests to one channel of a partition, one after the other.

    `_rows` are a batch in the making: how many messages, due when, and their bodies.
    `_requests` say of each its first row, what it has in its rows, and who is told.
    """

    partition: int
    channel: str
    is_delay: bool
    count: int = 0
    size_bytes: int = 0
    _counts: list[int] = field(default_factory=list[int])
    _dues: list[int] = field(default_factory=list[int])
    _bodies: list[list[bytes]] = field(default_factory=list[list[bytes]])
    _requests: list[tuple[int, list[int], Told]] = field(
        default_factory=list[tuple[int, list[int], Told]]
    )

    @property
    def request_count(self) -> int:
        """How many will be told."""
        return len(self._requests)

    def fits(self, channel: str, batch: Batch) -> bool:
        """Whether one more request may follow."""
        return (
            self.channel == channel
            and self.is_delay == batch.is_delay
            and self.count + batch.count <= limits.ROW_MESSAGE_COUNT_MAX
            and self.size_bytes + batch.size_bytes <= limits.ROW_BYTES_MAX
        )

    def add(self, batch: Batch, told: Told) -> None:
        """One more request; it shares a row with the one before if they are due together."""
        self.count += batch.count
        self.size_bytes += batch.size_bytes
        dues = batch.dues
        if self._dues and len(dues) == 1 and dues[0] == self._dues[-1]:
            self._counts[-1] += batch.count
            self._bodies[-1] += batch.bodies
            self._requests.append((len(self._dues) - 1, batch.counts, told))
            return
        self._requests.append((len(self._dues), batch.counts, told))
        self._counts += batch.counts
        self._dues += dues
        self._bodies += [[body] for body in batch.bodies]

    def batch(self) -> Batch:
        """All of it."""
        bodies = list(map(b"".join, self._bodies))
        return Batch(
            self._counts, self._dues, bodies, self.count, self.size_bytes, self.is_delay
        )

    def tell(self, placed: Placed) -> None:
        """All is durable; `placed` says where it went as one batch."""
        index = placed.first_index
        for row, counts, told in self._requests:
            dues = placed.dues[row : row + len(counts)]
            told(Placed(placed.partition_id, index, dues, counts), None)
            index += sum(counts)

    def refuse(self, error: SandglassError) -> None:
        """Nothing came of it, or nobody knows what."""
        for _, _, told in self._requests:
            told(None, error)


class Intake:
    """Requests of one log that wait to be admitted; `size_bytes` is that of all."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.request_count = 0
        self._runs: dict[int, list[Run]] = {}

    def put(self, partition: int, channel: str, batch: Batch, told: Told) -> None:
        """One request, checked."""
        self.size_bytes += batch.size_bytes
        self.request_count += 1
        runs = self._runs.setdefault(partition, [])
        if not runs or not runs[-1].fits(channel, batch):
            runs.append(Run(partition, channel, batch.is_delay))
        runs[-1].add(batch, told)

    def take(self) -> list[Run]:
        """All that waits, partition by partition; nothing waits any more."""
        if not self.request_count:
            return []
        runs = [run for each in self._runs.values() for run in each]
        self._runs = {}
        self.size_bytes = self.request_count = 0
        return runs
