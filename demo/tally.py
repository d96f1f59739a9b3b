"""What came of the messages: delivered, early, double, lost; and how late."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from demo.flights import Flight


@dataclass(frozen=True, slots=True)
class Departure:
    """A flight's message as a gate was given it."""

    flight: Flight
    gate: str
    late_ms: float


@dataclass(slots=True)
class Tally:
    """`due` is when each message was scheduled for, by its bytes."""

    due: dict[bytes, tuple[Flight, datetime]]
    late_ms: dict[int, float] = field(default_factory=dict[int, float])
    """Of each flight that was delivered, by number."""
    by_gate: dict[str, int] = field(default_factory=dict[str, int])
    double_count: int = 0
    unknown_count: int = 0
    """Messages that nobody produced: other bytes than those sent."""

    def took(self, value: bytes, received: datetime, gate: str) -> Departure | None:
        """Notes a delivery; None if it is one too many."""
        known = self.due.get(value)
        if known is None:
            self.unknown_count += 1
            return None
        flight, due = known
        if flight.number in self.late_ms:
            self.double_count += 1
            return None
        late_ms = (received - due) / timedelta(milliseconds=1)
        self.late_ms[flight.number] = late_ms
        self.by_gate[gate] = self.by_gate.get(gate, 0) + 1
        return Departure(flight, gate, late_ms)

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
