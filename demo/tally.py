"""What came of the messages: delivered, early, double, lost; and how late."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from demo.flights import Flight


@dataclass(frozen=True, slots=True)
class Departure:
    """A flight's message as a gate was given it."""

    flight: Flight
    gate: str
    late_ms: float


@dataclass(slots=True)
class Tally:
    """
    `due` is when each message was scheduled for, by its bytes.

    A message that comes again is double; where a leader may die (`is_forgiving`) only if it was
    acknowledged before.
    """

    due: dict[bytes, tuple[Flight, datetime]]
    is_forgiving: bool = False
    late_ms: dict[int, float] = field(default_factory=dict[int, float])
    """Of each flight that was delivered, by number."""
    by_gate: dict[str, int] = field(default_factory=dict[str, int])
    came_at: list[datetime] = field(default_factory=list[datetime])
    """When the gates were given something, one too many included."""
    acked: dict[int, datetime] = field(default_factory=dict[int, datetime])
    """When a gate knew that a flight is acknowledged, by number."""
    repeats: list[tuple[int, datetime]] = field(default_factory=list[tuple[int, datetime]])
    """Flights that were delivered before, and when they came again."""
    unknown_count: int = 0
    """Messages that nobody produced: other bytes than those sent."""

    def took(self, value: bytes, received: datetime, gate: str) -> Departure | None:
        """Notes a delivery; None if it is one too many."""
        known = self.due.get(value)
        if known is None:
            self.unknown_count += 1
            return None
        flight, due = known
        self.came_at.append(received)
        if flight.number in self.late_ms:
            self.repeats.append((flight.number, received))
            return None
        late_ms = (received - due) / timedelta(milliseconds=1)
        self.late_ms[flight.number] = late_ms
        self.by_gate[gate] = self.by_gate.get(gate, 0) + 1
        return Departure(flight, gate, late_ms)

    def knows_acked(self, value: bytes, at: datetime) -> None:
        """A gate has been told that its acknowledgement is durable."""
        known = self.due.get(value)
        if known is not None:
            self.acked.setdefault(known[0].number, at)

    def longest_wait(self, since: datetime) -> timedelta:
        """The longest time from `since` on in which nothing came, up to the last that did."""
        times = sorted({since, *(at for at in self.came_at if at > since)})
        return max((b - a for a, b in pairwise(times)), default=timedelta(0))

    @property
    def double_count(self) -> int:
        """Messages that came again, and must not have."""
        return sum(
            not self.is_forgiving or (number in self.acked and self.acked[number] <= came)
            for number, came in self.repeats
        )

    @property
    def again_count(self) -> int:
        """Messages that came again since nobody had acknowledged them."""
        return len(self.repeats) - self.double_count

    @property
    def is_complete(self) -> bool:
        """Every message was delivered."""
        return len(self.late_ms) == len(self.due)

    @property
    def lost_count(self) -> int:
        """Messages that nobody was given."""
        return len(self.due) - len(self.late_ms)

    @property
    def early_count(self) -> int:
        """Messages that came before their time."""
        return sum(late_ms < 0 for late_ms in self.late_ms.values())

    @property
    def is_good(self) -> bool:
        """Nothing lost, early, double or changed."""
        return not (
            self.lost_count or self.early_count or self.double_count or self.unknown_count
        )

    def lateness_ms(self, share: float) -> float:
        """The lateness that this share of the messages stays within; 0 if there are none."""
        ordered = sorted(self.late_ms.values())
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
