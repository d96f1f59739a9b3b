"""
A node's part in a cluster: its engine, its membership, the replicas that it holds and leads.

    cluster = Cluster(ClusterConfig(...), ...)
    await cluster.start()     # the engine runs; the rest comes when there is a quorum
    ...
    await cluster.stop()      # what it led is handed over

The founder makes the bucket on which members agree, as soon as two engines of the cluster are
there, and enters the cluster's id. Whoever comes later takes that id into its own data, and
never joins another cluster with them.

Who leads a partition: the first of its replicas whose node is there. A leader is entered in the
catalog, by compare-and-set, before it opens its epoch; if it doesn't lead within some time, the
next replica's node may.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sandglass.adapters.engine import ACCOUNT_USER, Engine, EngineConfig
from sandglass.adapters.jetstream import Stream
from sandglass.adapters.nats import Connection
from sandglass.adapters.placement import JetStreamPlacement
from sandglass.adapters.rocksdb import RocksStore
from sandglass.adapters.shared_store import StorePart
from sandglass.broker.loops import Loops, is_replicated
from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen, PartitionSeen
from sandglass.cluster.catalog import GROUPS, LEADERS, ClusterCatalog, Leadership
from sandglass.cluster.members import Member, Members
from sandglass.cluster.placed import TOPICS
from sandglass.cluster.replica import Replica, State
from sandglass.core.machine import encode_group, encode_topic
from sandglass.core.partition import Slicer
from sandglass.core.record import DeleteGroup, Operation, PutGroup, PutTopic
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import (
    ConflictError,
    NotFoundError,
    NotLeaderError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)
from sandglass.ports import Clock, Entropy
from sandglass.replication.writer import next_epoch
from sandglass.sandflake import Generator

logger = logging.getLogger(__name__)

CLUSTER: Final = "cluster"
CLUSTER_VERSION: Final = 1
BUCKET_REPLICAS: Final = (3, 2)
"""So many members hold the bucket, or so many while no more are there."""

AGAIN_S: Final = 0.5
TURN_S: Final = 0.25
PATIENCE_MS: Final = 3000
"""A replica that should lead, and doesn't within this, is passed over."""

FOUNDED_S: Final = 30.0
NOT_LED_RETRY_MS: Final = 100


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """
    What a node is told of its cluster. `engine` says how its engine runs; `grpc` and `http` are
    the addresses at which others reach the node.
    """

    engine: EngineConfig
    is_founder: bool
    replicas: Path
    """Where the database of the replicas lies."""
    grpc: str = ""
    http: str = ""
    software: str = ""


@dataclass(slots=True)
class Identity:
    """Whose data these are; `save` keeps the cluster's id with them, durably."""

    node_id: bytes
    cluster_id: bytes
    save: Callable[[bytes], None] = field(repr=False)


class Cluster:
    """`start` once, `stop` once. All calls run in the event loop's thread."""

    def __init__(
        self,
        config: ClusterConfig,
        loops: Loops,
        identity: Identity,
        *,
        clock: Clock,
        entropy: Entropy,
        ids: Generator,
        slicer: Slicer,
        stopwatch_ns: Callable[[], int],
    ) -> None:
        self.config = config
        self.loops = loops
        self.identity = identity
        self.clock = clock
        self.entropy = entropy
        self.ids = ids
        self.slicer = slicer
        self.stopwatch_ns = stopwatch_ns
        self.engine = Engine(config.engine)
        self.replicas: dict[int, Replica] = {}
        self.catalog: ClusterCatalog | None = None
        """Once the node has joined."""
        self.members: Members | None = None
        self.trouble = "the cluster's engine has no quorum yet"
        """Why the node has not joined; empty once it has."""
        self._connection: Connection | None = None
        self._placement: JetStreamPlacement | None = None
        self._store: RocksStore | None = None
        self._vacant_ms: dict[int, int] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_draining = False

    # --- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """
        Starts the engine, and joins the cluster when there is a quorum, which nobody waits for.

        Raises:
            PreconditionError: the engine can't be started as it is told to.
            UnavailableError: it ended, or doesn't answer.
        """
        await self.engine.start()
        self.loops.whereabouts = self.whereabouts
        self.loops.why_alone = lambda: self.trouble
        self.loops.is_member = lambda: any(self.identity.cluster_id)
        self.loops.look_around = self.seen
        self._tasks.append(asyncio.create_task(self._join(), name="cluster-join"))

    async def stop(self) -> None:
        """Hands over what the node leads, says goodbye, and ends the engine."""
        self._is_draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.catalog is not None:
            await self.catalog.homes.stop()
        await asyncio.gather(*[self._end(each) for each in [*self.replicas.values()]])
        if self.members is not None:
            await self.members.leave()
        if self._placement is not None:
            await self._placement.close()
        if self._connection is not None:
            await self._connection.close()
        await self.engine.stop()
        if self._store is not None:
            self._store.close()

    async def _end(self, replica: Replica) -> None:
        await replica.stop()
        if self.catalog is not None and replica.epoch:
            with suppress(SandglassError):
                await self.catalog.yield_(replica.number, replica.epoch)

    # --- joining ------------------------------------------------------------------------------

    async def _join(self) -> None:
        engine = self.config.engine
        began_ms, has_said = self.clock.monotonic_ms(), False
        while True:
            try:
                await self._join_once(engine)
                self.trouble = ""
                break
            except PreconditionError as error:
                self.trouble = error.message
                logger.error("this node does not join the cluster: %s", error.message)
                return
            except (SandglassError, TimeoutError) as error:
                self.trouble = str(error)
                waited_ms = self.clock.monotonic_ms() - began_ms
                if waited_ms > FOUNDED_S * 1000 and not has_said:
                    has_said = True
                    logger.warning(
                        "not in a cluster after %d s: %s. More than half of the nodes have to"
                        " be there, and one of them is started with bootstrap_raft. Topics with"
                        " replication_factor 1 are served meanwhile",
                        FOUNDED_S,
                        error,
                    )
            await asyncio.sleep(AGAIN_S)
        logger.info("joined the cluster %s", self.identity.cluster_id.hex())
        self._tasks.append(asyncio.create_task(self._run(), name="cluster"))

    async def _join_once(self, engine: EngineConfig) -> None:
        if self._connection is None:
            connection = Connection(
                (engine.url,), ACCOUNT_USER, engine.password(ACCOUNT_USER), engine.name
            )
            await connection.connect()
            self._connection = connection
        if self._placement is None:
            placement = JetStreamPlacement(self._connection)
            await self._open(placement)
            self._placement = placement
        await self._check_id(self._placement)
        members = Members(
            self._placement,
            self.clock,
            self.entropy,
            Member(
                engine.name,
                self.identity.node_id.hex(),
                "",
                self.config.grpc,
                self.config.http,
                self.config.software,
            ),
        )
        await members.join()
        members.on_change.append(self._news.set)
        members.on_lost.append(self._lost)
        self.members = members
        own = self.loops.own.machine
        self.catalog = ClusterCatalog(
            self._placement,
            members,
            self._connection,
            self.ids,
            self.clock,
            lambda: own.topics,
        )
        self._placement.follow(self._on_entry)
        self._store = self._open_store()
        self.loops.shared = self.catalog
        self.catalog.homes.start()

    async def _open(self, placement: JetStreamPlacement) -> None:
        try:
            await placement.open()
            return
        except NotFoundError:
            if not self.config.is_founder:
                raise NotFoundError("nobody has founded the cluster yet") from None
        for count in BUCKET_REPLICAS:
            try:
                await placement.create(count)
                break
            except PreconditionError:
                continue
        await placement.open()

    async def _check_id(self, placement: JetStreamPlacement) -> None:
        """The cluster's id, into the node's data; the founder gives it."""
        entry = placement.entries.get(CLUSTER)
        mine = self.identity.cluster_id
        if entry is None:
            if not self.config.is_founder:
                raise NotFoundError("nobody has founded the cluster yet")
            if not any(mine):
                mine = self.entropy.token_bytes(len(mine))
                self._save_id(mine)
            fields = {"version": CLUSTER_VERSION, "id": mine.hex()}
            with suppress(ConflictError):
                await placement.set(CLUSTER, json.dumps(fields).encode(), 0)
                return
            raise NotFoundError("another node founds the cluster")
        theirs = bytes.fromhex(json.loads(entry.value)["id"])
        if mine == theirs:
            return
        if any(mine):
            raise PreconditionError(
                f"the data of this node belong to cluster {mine.hex()}, and the cluster here is"
                f" {theirs.hex()}: its own topics are served, and nothing is merged. Start it"
                " with an empty data directory to let it join"
            )
        self._save_id(theirs)

    def _save_id(self, cluster_id: bytes) -> None:
        self.identity.save(cluster_id)
        self.identity.cluster_id = cluster_id

    def _open_store(self) -> RocksStore:
        directory = self.config.replicas
        return RocksStore(directory, is_new=not (directory / "CURRENT").exists())

    # --- who leads what -----------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._hold_replicas()
                for replica in [*self.replicas.values()]:
                    await self._consider(replica)
            except SandglassError as error:
                logger.warning("cluster: %s", error)
                await asyncio.sleep(TURN_S)

    def _on_entry(self, key: str) -> None:
        if key.startswith((TOPICS, GROUPS, LEADERS)):
            self._news.set()

    def _lost(self) -> None:
        for replica in self.replicas.values():
            replica.drop()

    async def _hold_replicas(self) -> None:
        """The replicas that the catalog gives to this node, and no others."""
        assert self.catalog is not None
        assert self._store is not None
        assert self._connection is not None
        me = self.config.engine.name
        wanted = {
            ref.number
            for placed in self.catalog.placed.values()
            for ref, names in zip(placed.topic.partitions, placed.replicas, strict=True)
            if me in names
        }
        for number in wanted - self.replicas.keys():
            replica = Replica(
                Stream(self._connection, number),
                StorePart(self._store, number),
                clock=self.clock,
                entropy=self.entropy,
                slicer=self.slicer,
                stats=self.loops.own.stats,
                stopwatch_ns=self.stopwatch_ns,
                may_serve=self._may_serve,
                on_leading=self._on_leading,
                on_ended=self._on_ended,
            )
            self.replicas[number] = replica
            replica.start()
        for number in self.replicas.keys() - wanted:
            replica = self.replicas.pop(number)
            await replica.stop()
            StorePart(self._store, number).wipe()

    def _may_serve(self) -> bool:
        return self.members is not None and self.members.may_serve()

    async def _consider(self, replica: Replica) -> None:
        """Is it this node's turn to lead, or no longer?"""
        assert self.catalog is not None
        assert self.members is not None
        number, me = replica.number, self.members.me
        leadership = self.catalog.leadership(number)
        leader = self.members.named(leadership.node) if leadership.node else None
        is_held = (
            leader is not None
            and leader.incarnation == leadership.incarnation
            and self.members.is_alive(leader)
        )
        is_mine = (leadership.node, leadership.incarnation) == (me.name, me.incarnation)
        if is_held and not is_mine:
            self._vacant_ms.pop(number, None)
            if replica.state in {State.LEADING, State.OPENING}:
                replica.drop()
            return
        if is_held and replica.state in {State.LEADING, State.OPENING}:
            self._vacant_ms.pop(number, None)
            if replica.state is State.LEADING:
                await self._reconcile(replica)
            return
        # Nobody leads it, or this node should and does not.
        now_ms = self.clock.monotonic_ms()
        since_ms = self._vacant_ms.setdefault(number, now_ms)
        is_able = replica.is_current and not replica.is_called
        if not is_able or self._is_draining or not self._may_serve():
            return
        if now_ms - since_ms < self._rank(number) * PATIENCE_MS:
            return
        if leader is not None and self._is_silent(leader, leadership):
            is_over = await self.members.declare_over(leader)
            if not is_over:
                return
        epoch = next_epoch(catalog_epoch=leadership.epoch, mark=replica.mark)
        if await self.catalog.lead(number, epoch):
            self._vacant_ms[number] = now_ms
            replica.lead(epoch)

    def _is_silent(self, leader: Member, leadership: Leadership) -> bool:
        """It led, has not said goodbye, and nobody has declared it over."""
        is_same = leader.incarnation == leadership.incarnation
        return is_same and not leader.is_over and leader.name != self.config.engine.name

    def _rank(self, number: int) -> int:
        """The place of this node among the replicas whose nodes are there."""
        assert self.members is not None
        placed = self._placed(number)
        if placed is None:
            return 0
        names = [name for name in placed[1] if self._is_there(name)]
        me = self.config.engine.name
        return names.index(me) if me in names else len(names)

    def _is_there(self, name: str) -> bool:
        assert self.members is not None
        member = self.members.named(name)
        return member is not None and self.members.is_alive(member) and not member.is_draining

    def _placed(self, number: int) -> tuple[Topic, tuple[str, ...]] | None:
        assert self.catalog is not None
        for placed in self.catalog.placed.values():
            for ref, names in zip(placed.topic.partitions, placed.replicas, strict=True):
                if ref.number == number:
                    return placed.topic, names
        return None

    def whereabouts(self, number: int) -> SandglassError:
        """Why a partition isn't served here, and where it is."""
        catalog, members = self.catalog, self.members
        if catalog is None or members is None:
            return NotLeaderError(self.trouble, retry_after_ms=NOT_LED_RETRY_MS)
        if not is_replicated(number):
            return self._home_of(*catalog.homes.place(number), members)
        leadership = catalog.leadership(number)
        leader = members.named(leadership.node) if leadership.node else None
        if leader is None or leader.is_over or leader.name == members.me.name:
            return NotLeaderError(
                f"partition {number} has no leader just now", retry_after_ms=NOT_LED_RETRY_MS
            )
        return NotLeaderError(
            f"partition {number} is led by node {leader.name}, at {leader.grpc}",
            retry_after_ms=NOT_LED_RETRY_MS,
            leader=leader.grpc,
        )

    def _home_of(self, topic: str, node: str, members: Members) -> SandglassError:
        home = members.named(node)
        if not topic:
            return NotFoundError("the topic was deleted", field="topic")
        if home is None or not members.is_alive(home):
            return UnavailableError(
                f"topic '{topic}' lives on node {node} alone, which is not there",
                retry_after_ms=NOT_LED_RETRY_MS,
            )
        return NotLeaderError(
            f"topic '{topic}' lives on node {node}, at {home.grpc}",
            retry_after_ms=NOT_LED_RETRY_MS,
            leader=home.grpc,
        )

    def seen(self) -> ClusterSeen:
        """The cluster, as it is known here."""
        catalog, members = self.catalog, self.members
        cluster_id = self.identity.cluster_id
        shown = cluster_id.hex() if any(cluster_id) else ""
        if catalog is None or members is None:
            return ClusterSeen(shown, self.trouble)
        nodes = tuple(
            NodeSeen(each.name, each.grpc, each.http, members.is_alive(each))
            for each in members.all
        )
        partitions = tuple(
            self._partition_seen(placed.topic.name, ref, names)
            for _, placed in sorted((catalog.placed | catalog.homes.placed).items())
            for ref, names in zip(placed.topic.partitions, placed.replicas, strict=True)
        )
        return ClusterSeen(shown, self.trouble, nodes, partitions, self._warnings(nodes))

    def _partition_seen(
        self, topic: str, ref: PartitionRef, names: tuple[str, ...]
    ) -> PartitionSeen:
        assert self.catalog is not None
        assert self.members is not None
        if not is_replicated(ref.number):
            home = names[0] if self._is_there(names[0]) else ""
            return PartitionSeen(topic, ref.id, home, 0, names, "", 0)
        leadership, replica = self.catalog.leadership(ref.number), self.replicas.get(ref.number)
        leader = self.members.named(leadership.node) if leadership.node else None
        is_led = (
            leader is not None
            and leader.incarnation == leadership.incarnation
            and self.members.is_alive(leader)
        )
        return PartitionSeen(
            topic,
            ref.id,
            leadership.node if is_led else "",
            leadership.epoch,
            names,
            replica.state.value if replica is not None else "",
            replica.mark.position if replica is not None else 0,
        )

    def _warnings(self, nodes: tuple[NodeSeen, ...]) -> tuple[str, ...]:
        alive_count = sum(each.is_alive for each in nodes)
        warnings = [f"node {each.name} is not there" for each in nodes if not each.is_alive]
        if alive_count <= 2:
            warnings.append(
                f"{alive_count} members replicate, and survive the loss of none of them"
            )
        warnings += [
            f"partition {number} is frozen here: {each.trouble}"
            for number, each in self.replicas.items()
            if each.state is State.FROZEN
        ]
        if self.catalog is not None:
            homes = self.catalog.homes
            warnings += [homes.clash_text(name) for name in sorted(homes.clashes)]
        return tuple(warnings)

    # --- what a new leader does ---------------------------------------------------------------

    async def _on_leading(self, replica: Replica) -> None:
        await self._reconcile(replica)
        if replica.loop is not None:
            self.loops.add(replica.number, replica.loop)

    def _on_ended(self, replica: Replica) -> None:
        self.loops.remove(replica.number, self.whereabouts(replica.number))
        self._news.set()

    async def _reconcile(self, replica: Replica) -> None:
        """The catalog's topic and groups, into the log that a leader leads."""
        assert self.catalog is not None
        placed, loop = self._placed(replica.number), replica.loop
        if placed is None or loop is None:
            return
        operations = self._differences(placed[0], replica.number, loop)
        if operations:
            await loop.commit(loop.machine.record(operations, loop.moment()))

    def _differences(self, topic: Topic, number: int, loop: NodeLoop) -> list[Operation]:
        assert self.catalog is not None
        refs = tuple(
            PartitionRef(ref.id, ref.number) for ref in topic.partitions if ref.number == number
        )
        topic = replace(topic, partitions=refs)
        operations: list[Operation] = []
        if loop.machine.topics.get(topic.name) != topic:
            operations.append(PutTopic(topic.name, encode_topic(topic)))
        wanted = self.catalog.groups.get(topic.name, {})
        known = loop.machine.groups.get(topic.name, {})
        operations += [
            PutGroup(topic.name, name, encode_group(group))
            for name, group in wanted.items()
            if known.get(name) != group
        ]
        operations += [DeleteGroup(topic.name, name) for name in known if name not in wanted]
        return operations
