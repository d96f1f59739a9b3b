"""
Which loop carries which partition: the node's own, or one of a replicated log that it leads.

Everything that concerns a partition asks here first. A partition that is led elsewhere is
refused with an error that says where.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Final

from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen, SharedCatalog, Steward
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.partition import Partition
from sandglass.core.topic import PartitionRef, Topic, TopicGroup
from sandglass.errors import (
    NotLeaderError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)

is_near: Final[ContextVar[bool]] = ContextVar("is_near", default=False)
"""A call that came from another node: it takes what is led here, where it may choose."""


def is_replicated(number: int) -> bool:
    """Does a partition of this number live in a log of its own?"""
    return number >= limits.REPLICATED_NUMBER_MIN


def is_own(number: int) -> bool:
    """Does a partition of this number live in the node's own log?"""
    return number < limits.FOREIGN_NUMBER_MIN


class Loops:
    """
    `own` is the loop of the node's own log. What a loop tells goes to whoever has set
    `on_deliveries`, `on_dispatched` and `on_stopped` here, whichever loop it is; `on_lost` is
    told a partition that isn't led here any more.
    """

    def __init__(self, own: NodeLoop) -> None:
        self.own = own
        self.on_deliveries: Callable[[list[Delivery]], None] = lambda _: None
        self.on_dispatched: Callable[[Partition], None] = lambda _: None
        self.on_stopped: Callable[[int, SandglassError], None] = lambda *_: None
        self.on_lost: Callable[[int, SandglassError], None] = lambda *_: None
        self.whereabouts: Callable[[int], SandglassError] = lambda number: NotLeaderError(
            f"partition {number} is not led here"
        )
        """Why a partition isn't served here, and where it is."""
        self.shared: SharedCatalog | None = None
        """The cluster's topics and groups, once the node has joined one."""
        self.steward: Steward | None = None
        """Of that cluster, as above."""
        self.why_alone: Callable[[], str] = lambda: "this node serves alone"
        """Why there is none."""
        self.is_member: Callable[[], bool] = lambda: False
        """The node has joined a cluster, now or once: names of topics are the cluster's."""
        self.node_at: Callable[[str], NodeSeen | None] = lambda _: None
        """The member that serves at an address, there or not."""
        self.others: Callable[[], list[str]] = list
        """The addresses of the other members that are there, as far as is known here."""
        self.look_around: Callable[[], ClusterSeen] = lambda: ClusterSeen(
            warnings=self.stuck_texts()
        )
        """The cluster, as it is known here."""
        self.on_moved: list[Callable[[int], None]] = []
        """Told a partition that somebody else leads than before, as far as is known here."""
        self.on_changed: list[Callable[[Topic], None]] = []
        """Told a topic that may have more partitions than before."""
        self._led: dict[int, NodeLoop] = {}
        own.stuck_error = self._stuck_error
        self._listen(own)

    def __iter__(self) -> Iterator[NodeLoop]:
        yield self.own
        yield from self._led.values()

    def of(self, number: int) -> NodeLoop:
        """
        The loop of a partition.

        Raises:
            NotLeaderError: another node leads it, or none does.
            UnavailableError: the one node on which it lives is not there.
        """
        loop = self.of_any(number)
        if loop is None:
            raise self.whereabouts(number)
        return loop

    def partition(self, number: int) -> Partition:
        """
        A partition, to admit something to.

        Raises:
            NotLeaderError: another node leads it, or none does.
            InternalError: it was stopped, because a rule of it was broken.
            UnavailableError: the node is stopping.
        """
        return self.of(number).partition(number)

    def of_any(self, number: int) -> NodeLoop | None:
        """The loop of a partition, in whatever state; None if it is not led here."""
        return self.own if is_own(number) else self._led.get(number)

    def is_here(self, number: int) -> bool:
        """Is a partition led here, and not on its way to another log?"""
        loop = self.of_any(number)
        return loop is not None and not loop.is_moving(number)

    def working(self, number: int) -> NodeLoop | None:
        """The loop of a partition that is here and works; None if there is none."""
        loop = self.of_any(number)
        if loop is None or loop.failure is not None:
            return None
        if number not in loop.machine.refs or number in loop.stopped or loop.is_moving(number):
            return None
        return loop

    def ready(self, number: int) -> None:
        """A partition may have something to hand out; see `NodeLoop.ready`."""
        loop = self.of_any(number)
        if loop is not None:
            loop.ready(number)

    def topics(self) -> list[Topic]:
        """All topics that are known here, by name."""
        own = self.own.machine.topics
        names = {*own, *self.shared.topics} if self.shared is not None else own
        found = (self.topic(name) for name in sorted(names))
        return [topic for topic in found if topic is not None]

    def topic(self, name: str) -> Topic | None:
        """A topic by its name; None if none is known."""
        found = self.own.machine.topics.get(name)
        if found is not None and not found.is_moving:
            return found
        shared = None if self.shared is None else self.shared.topics.get(name)
        # One that moves, and is nowhere else, is what there is: it is served here in a moment.
        return found if shared is None else shared

    def renewed(self, ref: PartitionRef) -> PartitionRef:
        """A partition with the number that it has now: it has another one in another log."""
        every = (each for topic in self.topics() for each in topic.partitions)
        return next((each for each in every if each.id == ref.id), ref)

    def groups(self, topic: str) -> Mapping[str, TopicGroup]:
        """
        The groups of a topic, by name.

        Raises:
            NotLeaderError, UnavailableError: as `check_home`.
        """
        own = self.own.machine.topics.get(topic)
        if own is not None and self.topic(topic) is own:
            self.check_home(topic)
            return self.own.machine.groups[topic]
        if self.shared is None:
            return {}
        self.check_home(topic)
        return self.shared.groups.get(topic, {})

    def check_home(self, topic: str) -> None:
        """
        Are a topic's settings and groups this node's to change? Those of a topic with one
        replica are its home's.

        Raises:
            NotLeaderError: another node is its home.
            UnavailableError: that node is not there.
        """
        found = self.topic(topic)
        number = 0 if found is None else found.partitions[0].number
        if found is not None and is_own(number) and self.own.is_moving(number):
            raise self.own.stuck_error(number) or NotLeaderError(
                f"topic '{topic}' is on its way to other nodes",
                retry_after_ms=limits.BUSY_RETRY_MS,
            )
        if not is_own(number) and not is_replicated(number):
            raise self.whereabouts(number)

    def stuck_texts(self) -> tuple[str, ...]:
        """
        What to say of topics that were on their way between this node's log and others when it
        ended, and don't get on: it is not in its cluster, which alone knows where they are.
        """
        own = self.own.machine.topics if self.shared is None else {}
        return tuple(
            self._stuck_text(name) for name, each in sorted(own.items()) if each.is_moving
        )

    def _stuck_text(self, topic: str) -> str:
        return (
            f"topic '{topic}' is not served: it was on its way between this node and others as"
            " this node ended, and its cluster alone can tell where it lives. Nothing is lost:"
            " start the node with its cluster, and the move goes on there, or comes to nothing"
            f" ({self.why_alone()})"
        )

    def _stuck_error(self, number: int) -> SandglassError | None:
        found = self.own.machine.refs.get(number)
        if self.shared is not None or found is None:
            return None
        text = self._stuck_text(found[0].name)
        if self.is_member():
            return UnavailableError(text, field="topic", retry_after_ms=limits.BUSY_RETRY_MS)
        return PreconditionError(text, field="topic")

    async def freshen(self, numbers: Iterable[int]) -> None:
        """See `NodeLoop.freshen`."""
        wanted = [(number, self.of(number)) for number in numbers]
        for loop in [*self]:
            some = [number for number, each in wanted if each is loop]
            if some:
                await loop.freshen(some)

    def add(self, number: int, loop: NodeLoop) -> None:
        """The node leads a replicated partition from here on."""
        self._led[number] = loop
        self._listen(loop)
        self.moved(number)

    def moved(self, number: int) -> None:
        """A partition may be led by somebody else than before."""
        for told in self.on_moved:
            told(number)

    def changed(self, topic: Topic) -> None:
        """A topic may have more partitions than before."""
        for told in self.on_changed:
            told(topic)

    def remove(self, number: int, error: SandglassError) -> None:
        """The node leads a replicated partition no longer; who reads it is told why."""
        if self._led.pop(number, None) is not None:
            self.on_lost(number, error)

    def leave(self, number: int) -> None:
        """A partition is on its way to another log; who reads it is told so."""
        self.on_lost(
            number,
            NotLeaderError(
                f"partition {number} is on its way to other nodes",
                retry_after_ms=limits.BUSY_RETRY_MS,
            ),
        )

    def _listen(self, loop: NodeLoop) -> None:
        loop.on_deliveries = self._deliveries
        loop.on_dispatched = self._dispatched
        loop.on_stopped = self._stopped

    # Looked up at each call: who listens comes after the loop.

    def _deliveries(self, deliveries: list[Delivery]) -> None:
        self.on_deliveries(deliveries)

    def _dispatched(self, partition: Partition) -> None:
        self.on_dispatched(partition)

    def _stopped(self, number: int, error: SandglassError) -> None:
        self.on_stopped(number, error)
