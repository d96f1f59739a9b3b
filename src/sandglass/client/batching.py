"""
Messages of many callers into few requests.

Messages for one topic, partition and channel gather in an open batch. It is cut when a frame
is about to leave and nothing of the same route is on its way, or when it is full: so a lone
message goes at once, and those that come while an answer is awaited share the next request. One
request has due times or delays, not both; a message for now goes with either, as 0.

No I/O and no clock here.
"""

from dataclasses import dataclass, field
from typing import Final

from sandglass.client.events import Produce

BATCH_COUNT_MAX: Final = 1000
"""A row of the view; more would be cut there anyway."""

BATCH_BYTES_MAX: Final = 512 * 1024
"""Two in a frame. One larger message goes alone."""

Route = tuple[str, str, str]
"""Topic, partition, channel."""


@dataclass(slots=True, eq=False)
class OpenBatch:
    """
    Messages that wait for each other; `sinks` are told, one each.

    Invariant: `parts`, `times` and `sinks` are equally long. If `is_timed`, `times` are the
    column `due_ms`, or `delay_ms` if `is_delay`; otherwise all are 0.
    """

    route: Route
    deadline_ms: int
    parts: list[bytes] = field(default_factory=list[bytes])
    times: list[int] = field(default_factory=list[int])
    sinks: list[object] = field(default_factory=list[object])
    size_bytes: int = 0
    is_timed: bool = False
    is_delay: bool = False

    def to_produce(self) -> Produce:
        """The request. Its owner is this batch."""
        topic, partition, channel = self.route
        times: list[int] = []
        if self.is_timed:
            is_one = min(self.times) == max(self.times)
            times = self.times[:1] if is_one else self.times
        return Produce(
            topic=topic,
            partition=partition,
            channel=channel,
            batch=b"".join(self.parts),
            count=len(self.parts),
            deadline_ms=self.deadline_ms,
            owner=self,
            due_ms=() if self.is_delay else times,
            delay_ms=times if self.is_delay else (),
        )

    def alone(self, place: int) -> "OpenBatch":
        """The message at a place in a batch of its own."""
        return OpenBatch(
            route=self.route,
            deadline_ms=self.deadline_ms,
            parts=[self.parts[place]],
            times=[self.times[place]],
            sinks=[self.sinks[place]],
            size_bytes=len(self.parts[place]),
            is_timed=self.is_timed,
            is_delay=self.is_delay,
        )


class Batcher:
    """
    Gathers messages, and says when they should go.

    Invariant: an open batch isn't empty; `_flying` holds routes with something unanswered.
    """

    def __init__(self) -> None:
        self._open: dict[Route, OpenBatch] = {}
        self._full: list[OpenBatch] = []
        self._flying: dict[Route, int] = {}

    def add(
        self,
        route: Route,
        part: bytes,
        *,
        time_ms: int,
        is_delay: bool,
        sink: object,
        deadline_ms: int,
    ) -> None:
        """
        Adds a serialized batch of one message.

        Args:
            time_ms: Unix ms, or ms from now if `is_delay`; 0 for now.
            deadline_ms: when its caller gives up; a batch has the earliest of its messages.
        """
        batch = self._open.get(route)
        if batch is not None and (
            len(batch.parts) >= BATCH_COUNT_MAX
            or batch.size_bytes + len(part) > BATCH_BYTES_MAX
            or (time_ms and batch.is_timed and batch.is_delay is not is_delay)
        ):
            self._full.append(self._open.pop(route))
            batch = None
        if batch is None:
            batch = self._open[route] = OpenBatch(route, deadline_ms)
        if time_ms:
            batch.is_timed = True
            batch.is_delay = is_delay
        batch.parts.append(part)
        batch.times.append(time_ms)
        batch.sinks.append(sink)
        batch.size_bytes += len(part)

    def cut(self) -> list[OpenBatch]:
        """Batches that should go now: they count as on their way."""
        if not self._full and not self._open:
            return []
        ready = self._full
        self._full = []
        full_routes = {batch.route for batch in ready}
        for route in [each for each in self._open if each not in self._flying]:
            if route not in full_routes:
                ready.append(self._open.pop(route))
        for batch in ready:
            self.sent(batch.route)
        return ready

    def sent(self, route: Route) -> None:
        """One more request of this route is on its way."""
        self._flying[route] = self._flying.get(route, 0) + 1

    def answered(self, route: Route) -> None:
        """One request of this route less is on its way."""
        left = self._flying[route] - 1
        if left:
            self._flying[route] = left
        else:
            del self._flying[route]

    def expire(self, now_ms: int) -> list[OpenBatch]:
        """Takes out batches whose time is over."""
        late = [route for route, batch in self._open.items() if batch.deadline_ms <= now_ms]
        return [self._open.pop(route) for route in late]
