"""
What is known of a group of a simulated cluster, and of its messages: see `moving_checks`.

A group has a *generation* in each partition, which a seek raises: what it did before counts no
longer, and this begins anew. Of a seek whose answer nobody heard it is seen later whether it
was carried out: its start lies somewhere then.
"""

from collections import Counter
from dataclasses import dataclass, field

MAX_DELIVERIES = 5


@dataclass(slots=True)
class Sent:
    """A message, as it was sent; times are true ones, whatever clocks show."""

    partition: str
    value: bytes
    due_ms: int
    """Before this nobody is to have it."""
    passed: int
    """How far the partition had been read by then."""
    offset: int | None = None
    is_answered: bool = False
    is_refused: bool = False
    copy_of: int = 0
    """The message whose dead letter came back to a group as this one; 0 for a produced one."""


@dataclass(slots=True)
class Given:
    """One message of a delivery."""

    number: int
    offset: int
    value: bytes
    is_redriven: bool = False


@dataclass(slots=True)
class Holding:
    """A message under a lease, as its holder knows."""

    token: int
    holder: str
    ends_ms: int
    is_settled: bool = False
    """An outcome was taken for it."""


@dataclass(frozen=True, slots=True)
class Seek:
    """Somebody moves a group in a partition, to an offset in `[low, high]`."""

    low: int
    high: int


@dataclass(slots=True, eq=False)
class Take:
    """
    Somebody redrives a dead letter, or purges it. It `is_over` when it was answered: the letter
    `is_taken` then, or not by this.
    """

    number: int
    partition: str
    letter: int
    """Its offset."""
    is_redrive: bool
    at_ms: int
    seek_count: int
    """How often its group had been moved in the partition by then."""
    is_over: bool = False
    is_taken: bool = False


@dataclass(slots=True)
class Place:
    """A group in one partition."""

    generation: int = 1
    start: Seek = Seek(0, 0)
    """Where the generation begins."""
    seeks: list[Seek] = field(default_factory=list[Seek])
    """Those that may be carried out yet, or were."""
    seek_count: int = 0
    asked: int = 0
    """The generation that it was known to have when somebody moved it last."""
    committed: int = 0


@dataclass(slots=True)
class GroupSeen:
    """What a group of a topic was given, and said, in its present generations."""

    delivered: dict[int, int] = field(default_factory=dict[int, int])
    nacked: dict[int, int] = field(default_factory=dict[int, int])
    """Answered ones."""
    acking: set[int] = field(default_factory=set[int])
    acked: set[int] = field(default_factory=set[int])
    burying: dict[int, int] = field(default_factory=dict[int, int])
    """And since when."""
    buried: set[int] = field(default_factory=set[int])
    not_before_ms: dict[int, int] = field(default_factory=dict[int, int])
    holds: dict[int, Holding] = field(default_factory=dict[int, Holding])
    highest: dict[tuple[str, str, int], int] = field(
        default_factory=dict[tuple[str, str, int], int]
    )
    """By holder, partition and epoch."""
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    copies: set[int] = field(default_factory=set[int])
    """Messages that came back to it."""

    copy_counts: Counter[int] = field(default_factory=Counter[int])
    """How often each message came back to it, in all generations."""
    takes: list[Take] = field(default_factory=list[Take])
    death_counts: Counter[int] = field(default_factory=Counter[int])
    """How often each message may have died in generations before."""
    deaths: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """(message, when) of each death that was answered in generations before."""

    def place(self, partition: str) -> Place:
        """The group in a partition."""
        return self.places.setdefault(partition, Place())

    def may_be_dead(self, number: int) -> bool:
        """Can it be a dead letter, by all that is known?"""
        has_used_up = self.delivered.get(number, 0) >= MAX_DELIVERIES
        return number in self.burying or (has_used_up and number not in self.acked)

    def may_be_over(self, number: int) -> bool:
        """Can it be settled, by all that is known?"""
        return number in self.acking or self.may_be_dead(number)

    def begin(
        self, partition: str, generation: int, start: Seek, sent: dict[int, Sent]
    ) -> None:
        """A generation begins in a partition: what was done in the one before is history."""
        place = self.place(partition)
        place.generation, place.start, place.committed = generation, start, 0
        for number, message in sent.items():
            if message.partition == partition:
                self._forget(number, message.copy_of or number)
        self.highest = {at: top for at, top in self.highest.items() if at[1] != partition}

    def _forget(self, number: int, first: int) -> None:
        if self.may_be_dead(number):
            self.death_counts[first] += 1
        if number in self.buried:
            self.deaths.append((number, self.burying[number]))
        for known in (self.acking, self.acked, self.buried, self.copies):
            known.discard(number)
        for tally in (self.delivered, self.nacked, self.burying, self.not_before_ms):
            tally.pop(number, None)
        self.holds.pop(number, None)
