"""
The catalog of a cluster, in what its members agree on.

| entry | holds |
| --- | --- |
| `topic.<name>` | a topic, and which members hold its partitions; with one replica: its home |
| `group.<topic>.<name>` | a group of it |
| `leader.<number>` | which member leads a partition, since which incarnation, in which epoch |
| `drained.<node>` | an operator wants that it leads nothing, and gets no replicas |
| `snapshot.<number>` | which snapshots of a partition's log are kept |
| `removed.<id>` | the data of a node that was removed |
| `numbers` | the next number of a partition |
| `switch.<name>` | a topic moves to other logs, and who carries that out |
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final

from sandglass.adapters.jetstream import Stream
from sandglass.adapters.nats import Connection
from sandglass.cluster.homes import Homes
from sandglass.cluster.members import Members, key_part
from sandglass.cluster.placed import TOPICS, Placed, check_version, topic_key
from sandglass.cluster.placing import held_counts, with_factor
from sandglass.cluster.switch import SWITCHES, Switch, inward, switch_key
from sandglass.core import limits
from sandglass.core.machine import GROUP_VERSION, decode_group, encode_group
from sandglass.core.topic import PartitionRef, Topic, TopicGroup, TopicKind, TopicSettings
from sandglass.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    SandglassError,
)
from sandglass.ports import Clock, Placement
from sandglass.sandflake import Generator

GROUPS: Final = "group."
LEADERS: Final = "leader."
DRAINED: Final = "drained."
NUMBERS: Final = "numbers"
AGAIN_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Leadership:
    """
    Who leads a partition. It holds while that incarnation of the member is there. Where nobody
    does, `heir` is the node to which the leader before has handed over.
    """

    node: str
    incarnation: str
    epoch: int
    heir: str = ""

    def encode(self) -> bytes:
        """The entry's value."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @staticmethod
    def decode(value: bytes) -> "Leadership":
        """Reads an entry's value."""
        return _decoded(value)


@lru_cache(maxsize=4096)
def _decoded(value: bytes) -> Leadership:
    """Asked for each partition several times a second."""
    found = json.loads(value)
    heir = found.get("heir", "")
    return Leadership(found["node"], found["incarnation"], found["epoch"], heir)


NOBODY: Final = Leadership("", "", 0)


class ClusterCatalog:
    """`SharedCatalog` over what the members agree on. All calls run in the loop's thread."""

    def __init__(
        self,
        placement: Placement,
        members: Members,
        connection: Connection,
        ids: Generator,
        clock: Clock,
        own_topics: Callable[[], Mapping[str, Topic]],
        forget_snapshots: Callable[[int, int], Awaitable[None]] | None = None,
    ) -> None:
        self.placement = placement
        self.members = members
        self.connection = connection
        self.ids = ids
        self.clock = clock
        self.forget_snapshots = forget_snapshots
        self.placed: dict[str, Placed] = {}
        """The replicated topics, by name."""
        self.unreadable: dict[str, str] = {}
        """Topics whose entries a newer program has written, and what to do."""
        self.drained: set[str] = set()
        """Members that lead nothing, and get no replicas, because an operator wants it so."""
        self.on_changed: Callable[[Topic], None] = lambda _: None
        """Told a topic that has other partitions than it had, as far as is known here."""
        self.homes = Homes(placement, members.me.name, own_topics)
        self.switches: dict[str, Switch] = {}
        """Topics that move to other logs, by name."""
        self._topics: dict[str, Topic] = {}
        self._partitions: dict[int, tuple[Topic, tuple[str, ...]]] = {}
        self._groups: dict[str, dict[str, TopicGroup]] = {}
        for key in [*placement.entries]:
            self._on_entry(key)
        placement.follow(self._on_entry)

    # --- the protocol -------------------------------------------------------------------------

    @property
    def topics(self) -> Mapping[str, Topic]:
        """See `SharedCatalog.topics`."""
        return self._topics

    @property
    def groups(self) -> Mapping[str, Mapping[str, TopicGroup]]:
        """See `SharedCatalog.groups`."""
        return self._groups

    @property
    def revision(self) -> int:
        """See `SharedCatalog.revision`."""
        return self.placement.revision

    async def reached(self, revision: int) -> None:
        """See `SharedCatalog.reached`."""
        await self.placement.reached(revision)

    async def create_topic(
        self,
        name: str,
        kind: TopicKind,
        partition_count: int,
        replication_factor: int,
        settings: TopicSettings,
    ) -> Topic:
        """See `SharedCatalog.create_topic`."""
        self._able_members(replication_factor)
        if topic_key(name) in self.placement.entries:
            raise ConflictError(
                f"ErrTopicAlreadyExist: topic '{name}' already exists", field="topic"
            )
        refs, replicas = await self._new_partitions(partition_count, replication_factor)
        topic = Topic(name, kind, refs, replication_factor, self.clock.wall_ms(), settings)
        try:
            await self.placement.set(topic_key(name), Placed(topic, replicas).encode(), 0)
        except ConflictError:
            await self._delete_streams(refs)
            raise ConflictError(
                f"ErrTopicAlreadyExist: topic '{name}' already exists", field="topic"
            ) from None
        return topic

    def _with_factor(self, placed: Placed, factor: int) -> Placed:
        before = placed.topic.replication_factor
        able = self._able_members(factor if factor > before else 0)
        held = held_counts(self.placed.values())
        replicas = tuple(with_factor(names, factor, able, held) for names in placed.replicas)
        return Placed(replace(placed.topic, replication_factor=factor), replicas)

    async def _new_partitions(
        self, count: int, factor: int
    ) -> tuple[tuple[PartitionRef, ...], tuple[tuple[str, ...], ...]]:
        """Partitions with streams of their own, and who is to hold them."""
        members = self._able_members(factor)
        first = await self._take_numbers(count)
        refs = tuple(
            PartitionRef(str(self.ids.next()), first + place) for place in range(count)
        )
        replicas = tuple(
            tuple(members[(first + place + rank) % len(members)] for rank in range(factor))
            for place in range(count)
        )
        for ref in refs:
            await Stream(self.connection, ref.number).create(factor)
        return refs, replicas

    async def _delete_streams(self, refs: Iterable[PartitionRef]) -> None:
        for ref in refs:
            await Stream(self.connection, ref.number).delete()

    async def claim(self, topic: Topic) -> None:
        """See `SharedCatalog.claim`."""
        me = self.members.me.name
        if me in self.drained:
            raise PreconditionError(
                f"node {me} is drained, and gets no topics: make '{topic.name}' at another",
                field="topic",
            )
        await self.homes.claim(topic)

    def publish(self, name: str) -> None:
        """See `SharedCatalog.publish`."""
        self.homes.publish(name)

    async def let_go(self, name: str) -> None:
        """See `SharedCatalog.let_go`."""
        await self.homes.let_go(name)

    async def change_topic(
        self,
        topic: Topic,
        changes: Mapping[str, Any],
        partition_count: int = 0,
        replication_factor: int = 0,
    ) -> Topic:
        """See `SharedCatalog.change_topic`."""
        while True:
            with suppress(ConflictError):
                topic = await self._change_topic(
                    topic, changes, partition_count, replication_factor
                )
                break
            await asyncio.sleep(AGAIN_S)
        if replication_factor:
            for ref in topic.partitions:
                await Stream(self.connection, ref.number).replicate(replication_factor)
        return topic

    async def _change_topic(
        self,
        topic: Topic,
        changes: Mapping[str, Any],
        partition_count: int,
        replication_factor: int,
    ) -> Topic:
        key = topic_key(topic.name)
        entry = self.placement.entries.get(key)
        before = None if entry is None else Placed.decode(entry.value)
        if entry is None or before is None or before.is_at_home:
            raise NotFoundError(
                f"ErrTopicNotFound: topic {topic.name!r} not found", field="topic"
            )
        settings = replace(before.topic.settings, **changes)
        settings.check()
        placed = replace(before, topic=replace(before.topic, settings=settings))
        if replication_factor:
            placed = self._with_factor(placed, replication_factor)
        more = partition_count - len(placed.topic.partitions)
        refs: tuple[PartitionRef, ...] = ()
        if more > 0:
            refs, new = await self._new_partitions(more, placed.topic.replication_factor)
            grown = replace(placed.topic, partitions=(*placed.topic.partitions, *refs))
            placed = Placed(grown, (*placed.replicas, *new))
        try:
            await self.placement.set(key, placed.encode(), entry.revision)
        except ConflictError:
            await self._delete_streams(refs)
            raise
        return placed.topic

    async def delete_topic(self, topic: Topic) -> None:
        """See `SharedCatalog.delete_topic`."""
        for name in [*self._groups.get(topic.name, {})]:
            await self.delete_group(topic.name, name)
        await self.placement.delete(topic_key(topic.name))
        for ref in topic.partitions:
            await self.delete_log(ref.number, topic.replication_factor)

    async def delete_log(self, number: int, factor: int) -> None:
        """A replicated log goes, with its snapshots, and the entry of its leader."""
        await Stream(self.connection, number).delete()
        if self.forget_snapshots is not None:
            await self.forget_snapshots(number, factor)
        with suppress(SandglassError):
            await self.placement.delete(f"{LEADERS}{number}")

    # --- topics that move to other logs -------------------------------------------------------

    async def move_out(self, topic: Topic, factor: int, *, heir: str = "") -> None:
        """See `SharedCatalog.move_out`."""
        me = self.members.me.name
        if heir:
            self._check_able(heir)
        members = [heir, me] if heir else self._able_members(factor)
        target = await self._new_logs(topic, factor, members)
        source = Placed(topic, tuple((me,) for _ in topic.partitions))
        await self._begin_switch(topic.name, Switch(me, source, target, heir))
        await self._arrived(topic.name, 1 if heir else factor, heir)

    def is_home(self, name: str, node: str) -> bool:
        """See `SharedCatalog.is_home`."""
        placed = self.homes.placed.get(name)
        return placed is not None and placed.home == node

    async def _new_logs(self, topic: Topic, factor: int, members: Sequence[str]) -> Placed:
        """Logs that are yet to be made: see `sandglass.cluster.coming`."""
        first = await self._take_numbers(len(topic.partitions))
        refs = tuple(
            PartitionRef(ref.id, first + place) for place, ref in enumerate(topic.partitions)
        )
        replicas = tuple(
            tuple(members[(ref.number + rank) % len(members)] for rank in range(factor))
            for ref in refs
        )
        return Placed(replace(topic, partitions=refs, replication_factor=factor), replicas)

    async def _begin_switch(self, name: str, switch: Switch) -> None:
        with suppress(ConflictError):
            if name not in self.switches:
                await self.placement.set(switch_key(name), switch.encode(), 0)
                return
        raise BusyError(f"topic '{name}' is on its way to other nodes", field="topic")

    async def move_in(self, topic: Topic, node: str) -> None:
        """See `SharedCatalog.move_in`."""
        while topic.name not in self.switches:
            entry = self.placement.entries.get(topic_key(topic.name))
            placed = None if entry is None else Placed.decode(entry.value)
            if entry is None or placed is None or placed.is_at_home:
                break  # it is there already, or gone
            home = node or self._home_for(placed)
            self._check_able(home)
            switch = inward(placed, home)
            with suppress(ConflictError):
                if switch.source != placed:
                    key = topic_key(topic.name)
                    await self.placement.set(key, switch.source.encode(), entry.revision)
                await self._begin_switch(topic.name, switch)
            await asyncio.sleep(AGAIN_S)
        await self._arrived(topic.name, 1, node)

    def _home_for(self, placed: Placed) -> str:
        """Who leads its first partition, or could."""
        number = placed.topic.partitions[0].number
        names = (self.leadership(number).node, *placed.replicas[0])
        able = {member.name for member in self.members.alive} - self.drained
        return next((name for name in names if name in able), names[-1])

    def _check_able(self, node: str) -> None:
        member = self.members.named(node)
        if member is None:
            raise NotFoundError(f"the cluster has no node {node[:200]!r}", field="node")
        if not self.members.is_alive(member) or node in self.drained:
            why = "drained" if node in self.drained else "not there"
            raise PreconditionError(f"node {node} is {why}, and gets no topics", field="node")

    async def moved(self, name: str) -> None:
        """See `SharedCatalog.moved`."""
        while name in self.switches:  # noqa: ASYNC110
            await asyncio.sleep(AGAIN_S)

    async def _arrived(self, name: str, factor: int, node: str = "") -> None:
        """Waits until a topic has come to where it was to go."""
        await self.moved(name)
        entry = self.placement.entries.get(topic_key(name))
        placed = None if entry is None else Placed.decode(entry.value)
        if placed is None:
            raise NotFoundError(f"ErrTopicNotFound: topic {name!r} not found", field="topic")
        if placed.topic.replication_factor != factor or (node and placed.home != node):
            raise ConflictError(
                f"topic '{name}' has not moved: the node that was to carry it out says why in"
                " its log",
                field="topic",
            )

    async def put_group(self, group: TopicGroup) -> None:
        """See `SharedCatalog.put_group`."""
        await self.placement.set(_group_key(group.topic, group.name), encode_group(group))

    async def delete_group(self, topic: str, name: str) -> None:
        """See `SharedCatalog.delete_group`."""
        await self.placement.delete(_group_key(topic, name))

    async def drain(self, node: str, *, is_drained: bool) -> None:
        """
        Enters whether a member is to lead nothing.

        Raises:
            NotFoundError: there is no such member.
            PreconditionError: nobody would be left.
            UnavailableError: no quorum.
        """
        if self.members.named(node) is None:
            raise NotFoundError(f"the cluster has no node {node[:200]!r}", field="node")
        key = DRAINED + key_part(node)
        if not is_drained:
            await self.placement.delete(key)
            return
        left = {member.name for member in self.members.alive} - self.drained - {node}
        if not left:
            raise PreconditionError(
                f"node {node} is the last one that is there and not drained", field="node"
            )
        await self.placement.set(key, b"{}")

    def _able_members(self, count: int) -> list[str]:
        """Those that may get replicas, if there are so many."""
        alive = [member.name for member in self.members.alive]
        able = [name for name in alive if name not in self.drained]
        if count > len(able):
            drained_count = len(alive) - len(able)
            but = f", {drained_count} of them drained" if drained_count else ""
            now = f"; {len(able)} can be had now" if able else ""
            there = "1 is there" if len(alive) == 1 else f"{len(alive)} are there"
            raise PreconditionError(
                f"ErrUnableToSelectReplicas: replication_factor {count} needs {count} members,"
                f" and {there}{but}: {count - len(able)} missing{now}",
                field="replication_factor",
            )
        return able

    # --- leaders ------------------------------------------------------------------------------

    def leadership(self, number: int) -> Leadership:
        """Who is entered as the leader of a partition, there or not."""
        entry = self.placement.entries.get(f"{LEADERS}{number}")
        return NOBODY if entry is None else Leadership.decode(entry.value)

    def led_by(self, node: str) -> list[int]:
        """The partitions that a node is entered for as the leader."""
        return [number for number in self._partitions if self.leadership(number).node == node]

    async def lead(self, number: int, epoch: int) -> bool:
        """
        Enters this node as a partition's leader; false if another was faster.

        Raises:
            UnavailableError: no quorum.
        """
        key = f"{LEADERS}{number}"
        entry = self.placement.entries.get(key)
        me = self.members.me
        value = Leadership(me.name, me.incarnation, epoch).encode()
        try:
            await self.placement.set(key, value, 0 if entry is None else entry.revision)
        except ConflictError:
            return False
        return True

    async def yield_(self, number: int, epoch: int, heir: str = "") -> None:
        """
        Enters that nobody leads a partition, if this node was entered, in this epoch; and who
        is to be next.

        Raises:
            UnavailableError: no quorum.
        """
        key = f"{LEADERS}{number}"
        entry = self.placement.entries.get(key)
        if entry is None:
            return
        found, me = Leadership.decode(entry.value), self.members.me
        if (found.node, found.incarnation, found.epoch) == (me.name, me.incarnation, epoch):
            with suppress(ConflictError):
                await self.placement.set(
                    key, Leadership("", "", epoch, heir).encode(), entry.revision
                )

    def is_coming(self, number: int) -> bool:
        """Is this the log of a partition that is on its way there?"""
        found = self._partitions.get(number)
        return found is not None and found[0].is_coming

    def held_by(self, node: str) -> set[int]:
        """The partitions of which a node is to have a replica."""
        return {number for number, (_, names) in self._partitions.items() if node in names}

    def placed_of(self, number: int) -> tuple[Topic, tuple[str, ...]] | None:
        """The topic of a replicated partition, and its replicas, the first to lead first."""
        return self._partitions.get(number)

    # --- what is known ------------------------------------------------------------------------

    def _on_entry(self, key: str) -> None:
        entry = self.placement.entries.get(key)
        if key.startswith(TOPICS):
            name = key.removeprefix(TOPICS).replace("=2E", ".")
            self.unreadable.pop(name, None)
            try:
                placed = None if entry is None else Placed.decode(entry.value)
            except PreconditionError as error:
                # What was known of it stays: nothing of it is wiped for our lack of words.
                self.unreadable[name] = error.message
                return
            self._on_topic(name, placed)
        elif key.startswith(SWITCHES):
            name = key.removeprefix(SWITCHES).replace("=2E", ".")
            try:
                switch = None if entry is None else Switch.decode(entry.value)
            except PreconditionError as error:
                self.unreadable[name] = error.message
                return
            self._on_switch(name, switch)
        elif key.startswith(DRAINED):
            self._on_drained(key.removeprefix(DRAINED).replace("=2E", "."), entry is not None)
        elif key.startswith(GROUPS):
            topic, name = (part.replace("=2E", ".") for part in key.split(".")[1:])
            self._on_group(topic, name, None if entry is None else entry.value)

    def _on_group(self, topic: str, name: str, row: bytes | None) -> None:
        if row is None:
            self._groups.get(topic, {}).pop(name, None)
            return
        try:
            check_version(
                f"the row of group '{name}'", json.loads(row)["version"], GROUP_VERSION
            )
        except PreconditionError as error:
            self.unreadable[topic] = error.message
            return
        self._groups.setdefault(topic, {})[name] = decode_group(row)

    def _on_topic(self, name: str, placed: Placed | None) -> None:
        is_at_home = placed is not None and placed.is_at_home
        self.homes.heard(
            name,
            placed if is_at_home else None,
            has_moved=placed is not None and not is_at_home,
        )
        before = self.placed.pop(name, None)
        if before is not None and is_at_home:
            self.homes.note_moved(before.topic.partitions)
        for ref in before.topic.partitions if before is not None else ():
            self._partitions.pop(ref.number, None)
        if placed is not None and not is_at_home:
            self.placed[name] = placed
            for ref, names in zip(placed.topic.partitions, placed.replicas, strict=True):
                self._partitions[ref.number] = (placed.topic, names)
        topic = self.homes.topics.get(name) if is_at_home else placed and placed.topic
        self._topics.pop(name, None)
        if topic is not None:
            self._topics[name] = topic
            self.on_changed(topic)

    def _on_switch(self, name: str, switch: Switch | None) -> None:
        before = self.switches.pop(name, None)
        for ref in before.target.topic.partitions if before is not None else ():
            if self.is_coming(ref.number):
                del self._partitions[ref.number]
        if switch is None:
            return
        self.switches[name] = switch
        if switch.target.is_at_home:
            return
        topic = replace(switch.target.topic, is_coming=True)
        for ref, names in zip(topic.partitions, switch.target.replicas, strict=True):
            # Whoever carries it out leads the new logs meanwhile, wherever they are led then.
            others = (each for each in names if each != switch.node)
            self._partitions.setdefault(ref.number, (topic, (switch.node, *others)))

    def _on_drained(self, node: str, is_drained: bool) -> None:
        if is_drained:
            self.drained.add(node)
        else:
            self.drained.discard(node)

    async def _take_numbers(self, count: int) -> int:
        """The first of so many numbers that no partition ever had."""
        while True:
            entry = self.placement.entries.get(NUMBERS)
            first = limits.REPLICATED_NUMBER_MIN if entry is None else int(entry.value)
            if first - limits.REPLICATED_NUMBER_MIN + count >= limits.REPLICATED_NUMBER_MIN:
                raise BusyError("the numbers of partitions are used up")
            with suppress(ConflictError):
                await self.placement.set(
                    NUMBERS,
                    str(first + count).encode(),
                    0 if entry is None else entry.revision,
                )
                return first
            await asyncio.sleep(AGAIN_S)  # until it is known here what was faster


def _group_key(topic: str, name: str) -> str:
    return f"{GROUPS}{key_part(topic)}.{key_part(name)}"
