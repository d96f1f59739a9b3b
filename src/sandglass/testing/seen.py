"""
What the checkers of a simulation remember: messages, leases, groups, channels, partitions.

A naive model, a dict for each message and group. `sandglass.testing.checkers` fills it, and
judges by it.
"""

from bisect import bisect_left
from dataclasses import dataclass, field

from sandglass.core.backoff import AT_ONCE, Backoff
from sandglass.core.message import REDRIVE_CHANNEL
from sandglass.core.record import Ending
from sandglass.core.topic import GroupSettings

WIDTH_MIN = 8
"""Bytes of a simulated message: its number, then filling."""


class Violation(Exception):
    """An invariant doesn't hold in a history."""


def message_bytes(number: int, width: int) -> bytes:
    """The bytes of message `number`."""
    return number.to_bytes(WIDTH_MIN, "big") + bytes((number % 251,)) * (width - WIDTH_MIN)


def take_messages(body: bytes, row_count: int, first: int, count: int) -> bytes:
    """The core's slicer for simulated messages: all of a row are equally wide."""
    width = len(body) // row_count
    return body[first * width : (first + count) * width]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a dead letter has to say of the message that it was."""

    offset: int
    group: str
    attempts: int
    reason: str


@dataclass(slots=True)
class Sent:
    """A message that a producer has sent; times are the leader's at admission."""

    number: int
    partition: int
    channel: str
    due_ms: int
    """As asked for, Unix time; 0 for at once."""
    left_ms: int
    """Until it is due, by the leader's clock."""
    monotonic_ms: int
    body: bytes
    origin: Origin | None = None
    """What it was, if it is a dead letter, or a redriven one: each is a message of its own."""
    offset: int = 0
    """0 until it is applied."""
    is_shown: bool = False
    """The leader's clock has shown its due time since."""


@dataclass(slots=True)
class Hold:
    """A message under a lease."""

    number: int
    token: int
    place: int
    consumer: int
    ends_ms: int
    width: int
    begun: int = 0


@dataclass(slots=True)
class GroupHistory:
    """What a group of one partition has seen and settled."""

    partition: int
    number: int
    channel: str
    name: str
    start: int
    max_deliveries: int
    acked: set[int] = field(default_factory=set[int])
    dead: set[int] = field(default_factory=set[int])
    expired: set[int] = field(default_factory=set[int])
    attempts: dict[int, int] = field(default_factory=dict[int, int])
    releases: dict[int, int] = field(default_factory=dict[int, int])
    moved: set[int] = field(default_factory=set[int])
    until_ms: dict[int, int] = field(default_factory=dict[int, int])
    """Steady time at which a moved message is due again."""
    not_before_ms: dict[int, int] = field(default_factory=dict[int, int])
    """Monotonic time before which a delayed message must not come again."""
    held: dict[int, Hold] = field(default_factory=dict[int, Hold])
    ending: dict[int, Ending] = field(default_factory=dict[int, Ending])
    """Messages with an outcome on its way under the present leader."""
    highest: int = -1
    """Handed out in the main order by the present leader."""
    committed: int = 0
    asked_after: int = 0
    """The last message that was sent before somebody asked for the group."""
    seeks: list[tuple[int | None, int]] = field(default_factory=list[tuple[int | None, int]])
    """On their way: where to, None for the end, and the last message that was sent before."""
    redriven: dict[int, int] = field(default_factory=dict[int, int])
    """Offset to message, of dead letters that came back to it."""
    is_going: bool = False
    """Its end is on its way."""
    most_deliveries: int = 0
    """The highest `max_deliveries` that it ever had in this generation."""
    backoff: Backoff = AT_ONCE
    generation: int = 1
    attached: dict[str, None] = field(default_factory=dict[str, None])
    """Sessions, as records say."""
    awaited: dict[str, None] = field(default_factory=dict[str, None])
    """Those of them that have not come back to the present leader."""
    renewed: dict[int, int] = field(default_factory=dict[int, int])
    """Old tokens, and those of the leases that were claimed for them."""

    def set(self, settings: GroupSettings) -> None:
        """It has settings of its own from now on."""
        self.max_deliveries = settings.max_deliveries or self.max_deliveries
        self.most_deliveries = max(self.most_deliveries, self.max_deliveries)
        self.backoff = settings.backoff or AT_ONCE

    def is_settled(self, number: int) -> bool:
        """Nothing more is to happen to this message."""
        return number in self.acked or number in self.dead or number in self.expired


@dataclass(slots=True)
class Channel:
    """The messages of a channel, and how far it was read."""

    numbers: dict[int, int] = field(default_factory=dict[int, int])
    """Offset to message."""
    offsets: list[int] = field(default_factory=list[int])
    passed: int = -1
    """A reader has passed this offset."""

    def remove(self, offset: int) -> None:
        """Nothing stands there any more."""
        del self.numbers[offset]
        del self.offsets[bisect_left(self.offsets, offset)]


@dataclass(slots=True)
class PartitionHistory:
    """What was seen of a partition."""

    number: int
    max_deliveries: int
    topic: str
    channels: dict[str, Channel] = field(default_factory=dict[str, Channel])
    groups: dict[int, GroupHistory] = field(default_factory=dict[int, GroupHistory])
    cut: int = 0
    last_token: int = 0
    last_epoch: int = 0
    closed_at_start: int = 0
    is_created: bool = False
    is_deleted: bool = False
    settings: dict[str, GroupSettings] = field(default_factory=dict[str, GroupSettings])
    """Of groups that have some of their own, by name."""
    buried: dict[tuple[int, int], Origin] = field(default_factory=dict[tuple[int, int], Origin])
    """(group, message) of each dead letter, and what it says."""
    going: set[int] = field(default_factory=set[int])
    """Dead letters for whose end a record is on its way."""
    redriven_count: int = 0
    purged_count: int = 0
    asked: dict[int, int] = field(default_factory=dict[int, int])
    """Groups on their way, with the last message that was sent before each was asked for."""

    def find_group(self, channel: str, name: str) -> GroupHistory | None:
        """A group by its name, if it is there and isn't going."""
        for group in self.groups.values():
            if (group.channel, group.name) == (channel, name) and not group.is_going:
                return group
        return None

    def channel(self, name: str) -> Channel:
        """The channel, made if it is new."""
        return self.channels.setdefault(name, Channel())

    def numbers_in(
        self, channel: str, low: int, high: int, *, is_all: bool = False
    ) -> list[int]:
        """Messages of a channel in `[low, high)` that retention has left, or really all."""
        known = self.channel(channel)
        low = low if is_all else max(low, self.cut)
        first, end = bisect_left(known.offsets, low), bisect_left(known.offsets, high)
        return [known.numbers[offset] for offset in known.offsets[first:end]]

    def numbers_for(
        self, group: GroupHistory, low: int, high: int, *, is_all: bool = False
    ) -> list[int]:
        """As `numbers_in`, of all that a group has to settle: also what came back to it."""
        numbers = self.numbers_in(group.channel, max(low, group.start), high, is_all=is_all)
        cut = 0 if is_all else self.cut
        return numbers + [
            number
            for offset, number in group.redriven.items()
            if max(low, cut) <= offset < high
        ]

    def is_there(self, group: GroupHistory, message: Sent) -> bool:
        """Does a message stand where its group would look for it?"""
        if message.channel == REDRIVE_CHANNEL:
            return group.redriven.get(message.offset) == message.number
        return self.channel(message.channel).numbers.get(message.offset) == message.number


def numbers_of(raw: bytes, count: int) -> list[int]:
    """The numbers that equally wide messages carry."""
    width = len(raw) // count
    return [
        int.from_bytes(raw[place * width : place * width + WIDTH_MIN], "big")
        for place in range(count)
    ]
