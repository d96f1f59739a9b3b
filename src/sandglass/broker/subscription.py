"""
Sessions and subscriptions: who consumes.

A subscription is one consumer of one group over some partitions of a topic. Its credit belongs
to it, not to a partition: one `Consumer` is shared by all of them. A session holds
subscriptions. When its connection breaks, nothing is handed out to it, and for its grace its
leases stand: it may come back and go on. After that its leases end: messages it had begun on
count an attempt, the others are given back.

The code here knows no transport: deliveries and endings go to whoever is attached.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from sandglass.core.dispatch import Delivery
from sandglass.core.group import Group
from sandglass.core.lease import Consumer, Lease
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import SandglassError

OnMoved = Callable[["Subscription", int, SandglassError], None]
"""Told a partition, by its number, that is led elsewhere now, and the error that says where."""

OnGrown = Callable[["Subscription"], None]


class Receiver(Protocol):
    """Where a subscription's messages go."""

    def deliver(self, subscription: "Subscription", delivery: Delivery) -> None:
        """Takes messages; must not block."""
        ...

    def ended(self, subscription: "Subscription", error: SandglassError | None) -> None:
        """There is nothing more to come: a drain is over, or `error` says why."""
        ...


@dataclass(slots=True, eq=False)
class Subscription:
    """
    One consumer of one group. `id` is its session's name for it.

    Invariant: `groups` has an entry for each of `refs`, by partition number.
    """

    id: int
    topic: Topic
    refs: list[PartitionRef]
    channel: str
    group: str
    name: str
    consumer: Consumer
    receiver: Receiver
    groups: dict[int, Group] = field(default_factory=dict[int, Group])
    drain_targets: dict[int, int] | None = None
    """Partitions that are still to be drained, and how far; None for a lasting subscription."""
    held_credit: tuple[int, int] | None = None
    """Credit kept back while the session is away."""
    waiting: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])
    """Partitions that have something for it and found no credit, in line."""
    offer_count: int = 0
    """Of these that have their turn just now."""
    places: dict[int, int] = field(init=False)
    """By partition number: its place in the topic's list."""
    is_closed: bool = False
    on_moved: OnMoved | None = None
    """Of a part of a subscription, which goes on without partitions that are led elsewhere; one
    without it ends when that happens."""
    on_grown: OnGrown | None = None
    """Of one that reads all partitions of its topic: told, before anything comes of them, that
    there are more. Where there is none, it goes on with those that it began with."""
    is_grown: bool = False
    """It reads more partitions than it began with."""
    session: "Session | None" = None
    reader: str = ""
    """The id of the session that its groups know, and that claims."""
    claimed: list[Lease | None] = field(default_factory=list[Lease | None])
    """What it was leased anew at the beginning, claim by claim; None where nothing was left."""
    late_claims: set[int] = field(default_factory=set[int])
    """Places in `claimed` of those that came too late."""
    moved: set[int] = field(default_factory=set[int])
    """Partitions that it read, and that are led elsewhere now."""
    is_left: bool = False
    """Whether the consumer has unsubscribed; it is kept for the leases that it still holds."""

    def __post_init__(self) -> None:
        self.places = {ref.number: place for place, ref in enumerate(self.topic.partitions)}

    def is_outgrown_by(self, topic: Topic) -> bool:
        """Has the topic more partitions, all of which this is to read?"""
        known = self.topic.partitions
        is_same = topic.partitions[: len(known)] == known
        return self.on_grown is not None and is_same and len(topic.partitions) > len(known)

    def grow(self, topic: Topic) -> list[PartitionRef]:
        """It is to read the partitions that its topic has got, which are returned."""
        more = [*topic.partitions[len(self.topic.partitions) :]]
        self.topic, self.is_grown = topic, True
        self.refs = [*self.refs, *more]
        self.places = {ref.number: place for place, ref in enumerate(topic.partitions)}
        return more

    def drop(self, number: int) -> None:
        """A partition is led elsewhere, and not read here any more."""
        self.moved.add(number)
        self.refs = [ref for ref in self.refs if ref.number != number]
        self.groups.pop(number, None)
        self.waiting.pop(number, None)

    def hold(self) -> None:
        """Nobody is there: nothing is handed out."""
        if self.held_credit is None:
            self.held_credit = (self.consumer.credit_count, self.consumer.credit_bytes)
            self.consumer.credit_count = self.consumer.credit_bytes = 0

    def go_on(self) -> None:
        """Somebody is there again."""
        if self.held_credit is not None:
            self.consumer.credit_count, self.consumer.credit_bytes = self.held_credit
            self.held_credit = None


@dataclass(slots=True, eq=False)
class Session:
    """A client's session; `is_attached` while it has a connection."""

    id: str
    client_name: str
    owner: str
    """Whose token opened it, by name: nobody else goes on with it. Empty without tokens."""
    on_taken_over: Callable[[], None]
    """Of the connection that it has: called when another one takes its place."""
    subscriptions: dict[int, Subscription] = field(default_factory=dict[int, Subscription])
    attached: dict[tuple[int, int, str], None] = field(
        default_factory=dict[tuple[int, int, str], None]
    )
    """(partition number, group number, reader) of the groups that know a reader of it."""
    connection: int = 0
    """Which one of its client's connections it has, as far as that counts them."""
    readers: dict[str, int] = field(default_factory=dict[str, int])
    """The sessions that it has read for: itself, or those of clients at other nodes; and over
    which of their connections."""
    is_attached: bool = True
    is_closed: bool = False
    attachment: int = 0
    """Counts connections, so that a late end of an old one changes nothing."""

    @property
    def consumer_keys(self) -> set[int]:
        """Of its subscriptions, those that were left included."""
        return {each.consumer.key for each in self.subscriptions.values()}
