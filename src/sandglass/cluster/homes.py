"""
Topics with one replica: their names are the whole cluster's, their messages one node's.

Such a topic lives in the log of its *home*, the node on which it was made, and that log is the
truth. In what the members agree on it has an entry that says where: so every node knows it,
lists it, and hands calls on, and no second one takes its name.

1. A topic that is made takes its name first, by compare-and-set, and comes into the log then.
2. Whatever becomes of it in the log (settings, its end, a making that failed) is published
   afterwards: here, one name after the other, until entry and log say the same.
3. A node may come with topics of its own, from before it joined. Where the name stands for
   another one, its own stays what it is, for those who ask this node, and a warning says so.

To the rest of the node, partitions that live elsewhere have numbers of a range of their own,
given out here, for as long as the process lives.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count

from sandglass.cluster.placed import Placed, topic_key
from sandglass.core import limits
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import ConflictError, SandglassError, UnavailableError
from sandglass.ports import Placement

logger = logging.getLogger(__name__)

AGAIN_S = 0.5
LET_GO_S = 1.0
LOOK_S = 0.005


class Homes:
    """
    `start` once, `stop` once. All calls run in the event loop's thread. `own` gives the topics
    of the node's own log.
    """

    def __init__(
        self, placement: Placement, node: str, own: Callable[[], Mapping[str, Topic]]
    ) -> None:
        self.topics: dict[str, Topic] = {}
        """Those that live elsewhere, by name, with numbers of ours."""
        self.placed: dict[str, Placed] = {}
        """All of them, by name, as their homes know them."""
        self.clashes: set[str] = set()
        """Topics of the node's own log whose names stand for others in the cluster."""
        self._placement = placement
        self._node = node
        self._own = own
        self._next_number = count(limits.FOREIGN_NUMBER_MIN)
        self._numbers: dict[str, int] = {}
        """By the id of a partition."""
        self._places: dict[int, tuple[str, str]] = {}
        """By number, a partition's topic and home."""
        self._moved: set[int] = set()
        """Numbers of partitions of others that live in other logs by now."""
        self._claiming: set[str] = set()
        self._unpublished: dict[str, None] = {}
        self._work = asyncio.Event()
        self._lock = asyncio.Lock()
        """Held by whoever changes entries: what was looked at is what is changed."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Publishes what the node's own log has, and what has gone from it; and goes on so."""
        mine = [name for name, placed in self.placed.items() if placed.home == self._node]
        for name in (*self._own(), *mine):
            self.publish(name)
        self._task = asyncio.create_task(self._run(), name="cluster-homes")

    async def stop(self) -> None:
        """Publishes nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def place(self, number: int) -> tuple[str, str]:
        """The topic of a partition that lives elsewhere, and the node on which it does."""
        return self._places.get(number, ("", ""))

    async def claim(self, topic: Topic) -> None:
        """See `SharedCatalog.claim`."""
        self._claiming.add(topic.name)
        try:
            async with self._lock:
                await self._take(topic)
        except ConflictError as error:
            raise ConflictError(
                f"ErrTopicAlreadyExist: topic '{topic.name}' already exists", field="topic"
            ) from error
        except UnavailableError as error:
            raise UnavailableError(
                f"topic '{topic.name}' is not created: its name has to be unique in the"
                f" cluster, and {error.message}",
                field="topic",
            ) from error

    def publish(self, name: str) -> None:
        """See `SharedCatalog.publish`."""
        self._claiming.discard(name)
        self._unpublished[name] = None
        self._work.set()

    async def let_go(self, name: str) -> None:
        """
        Returns once a topic that is in the log no longer has no entry any more, or after a
        moment: without a quorum its name is free later.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(LET_GO_S):
                while (entry := self._placement.entries.get(topic_key(name))) is not None:
                    if not self._is_left_over(Placed.decode(entry.value)):
                        return
                    await asyncio.sleep(LOOK_S)

    def has_moved(self, number: int) -> bool:
        """Does a partition that was known here by this number live in another log by now?"""
        return number in self._moved

    def note_moved(self, refs: Iterable[PartitionRef]) -> None:
        """These live in other logs from here on, by other numbers."""
        self._moved.update(ref.number for ref in refs)

    def heard(self, name: str, placed: Placed | None, *, has_moved: bool = False) -> None:
        """
        The entry of a topic with one replica has changed; None if there is none any more, or
        if it has moved to replicated logs.
        """
        before, found = self.placed.get(name), self.topics.pop(name, None)
        for ref in found.partitions if found is not None else ():
            self._places.pop(ref.number, None)
        if has_moved and found is not None:
            self.note_moved(found.partitions)
        if placed is None:
            self.placed.pop(name, None)
            for ref in before.topic.partitions if before is not None else ():
                self._numbers.pop(ref.id, None)
        else:
            self.placed[name] = placed
            if placed.home != self._node:
                self.topics[name] = self._numbered(placed)
        if name in self.clashes:
            self.publish(name)

    def _numbered(self, placed: Placed) -> Topic:
        refs: list[PartitionRef] = []
        for ref, (home, *_) in zip(placed.topic.partitions, placed.replicas, strict=True):
            number = self._numbers.get(ref.id)
            if number is None:
                number = self._numbers[ref.id] = next(self._next_number)
            self._places[number] = (placed.topic.name, home)
            refs.append(PartitionRef(ref.id, number))
        return replace(placed.topic, partitions=tuple(refs))

    # --- publishing ---------------------------------------------------------------------------

    async def _take(self, topic: Topic) -> None:
        key = topic_key(topic.name)
        entry = self._placement.entries.get(key)
        if entry is not None and not self._is_left_over(Placed.decode(entry.value)):
            raise ConflictError(f"{key} is taken")
        revision = 0 if entry is None else entry.revision
        await self._placement.set(key, self._placed(topic).encode(), revision)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            names, self._unpublished = [*self._unpublished], {}
            for place, name in enumerate(names):
                try:
                    async with self._lock:
                        await self._publish(name)
                except SandglassError as error:
                    logger.debug("topic %s is not published yet: %s", name, error)
                    self._unpublished |= dict.fromkeys(names[place:])
                    self._work.set()
                    await asyncio.sleep(AGAIN_S)
                    break

    async def _publish(self, name: str) -> None:
        """Makes the entry say what the log says."""
        if name in self._claiming:
            return  # it is told again
        key, own = topic_key(name), self._own().get(name)
        if own is not None and own.is_moving:
            return  # as above
        entry = self._placement.entries.get(key)
        placed = None if entry is None else Placed.decode(entry.value)
        is_ours = placed is not None and self._is_here(placed)
        revision = 0 if entry is None else entry.revision
        if own is None:
            self.clashes.discard(name)
            if is_ours:
                logger.info("topic %s is not in this node's log: its name is free", name)
                await self._placement.delete(key, revision)
            return
        if placed is not None and not is_ours:
            self._clash(name, placed)
            return
        self.clashes.discard(name)
        wanted = self._placed(own)
        if placed != wanted:
            await self._placement.set(key, wanted.encode(), revision)

    def _clash(self, name: str, placed: Placed) -> None:
        if name not in self.clashes:
            self.clashes.add(name)
            logger.error("%s", self.clash_text(name, placed))

    def clash_text(self, name: str, placed: Placed | None = None) -> str:
        """What to do about a name that stands for two topics."""
        placed = placed or self.placed.get(name)
        where = f", on node {placed.home}," if placed and placed.is_at_home else ""
        return (
            f"topic '{name}' of node {self._node}'s own log has the name of another topic of"
            f" the cluster{where} and is served to those alone who ask that node: consume what"
            " it holds there, and delete it"
        )

    def _placed(self, topic: Topic) -> Placed:
        return Placed(topic, tuple((self._node,) for _ in topic.partitions))

    def _is_here(self, placed: Placed) -> bool:
        return placed.is_at_home and placed.home == self._node

    def _is_left_over(self, placed: Placed) -> bool:
        """An entry of a topic that this node once had, and has no more."""
        return self._is_here(placed) and placed.topic.name not in self._own()
