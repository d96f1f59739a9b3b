"""
A node's part in a cluster: its engine, its membership, the replicas that it holds and leads.

    cluster = Cluster(ClusterConfig(...), ...)
    await cluster.start()     # the engine runs; the rest comes when there is a quorum
    ...
    await cluster.stop()      # what it led is handed over

The founder makes the bucket on which members agree, as soon as two engines of the cluster are
there, and enters the cluster's id. Whoever comes later takes that id into its own data, and
never joins another cluster with them.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sandglass.adapters.jetstream import Stream
from sandglass.adapters.nats import Connection
from sandglass.adapters.placement import JetStreamPlacement
from sandglass.adapters.rocksdb import RocksStore
from sandglass.adapters.shared_store import StorePart
from sandglass.broker.loops import Loops
from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen, SnapshotsSeen
from sandglass.cluster.catalog import DRAINED, GROUPS, LEADERS, ClusterCatalog
from sandglass.cluster.engines import ClusterEngine
from sandglass.cluster.founding import REMOVED_TEXT, Identity, settle_id
from sandglass.cluster.holding import Holding
from sandglass.cluster.leaders import Leaders
from sandglass.cluster.members import Member, Members
from sandglass.cluster.placed import TOPICS
from sandglass.cluster.replica import Replica
from sandglass.cluster.sight import NOT_LED_RETRY_MS, Sight
from sandglass.cluster.snapshots import Snapshots, open_snapshots
from sandglass.cluster.steward import ClusterSteward
from sandglass.cluster.streams import Streams
from sandglass.cluster.switch import SWITCHES
from sandglass.cluster.switching import Switching
from sandglass.core import limits
from sandglass.core.partition import Slicer
from sandglass.core.topic import Topic
from sandglass.errors import (
    NotFoundError,
    NotLeaderError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)
from sandglass.ports import Clock, Entropy
from sandglass.sandflake import Generator

logger = logging.getLogger(__name__)

BUCKET_REPLICAS: Final = (3, 2)
"""So many members hold the bucket, or so many while no more are there."""

AGAIN_S: Final = 0.5
TURN_S: Final = 0.25
WHOLE_S: Final = 2.0
"""Without news, what leaders have is held against the catalog so often."""

FOUNDED_S: Final = 30.0
"""After so long without a cluster it is said what to do."""

APART_S: Final = 2.0
"""How often the peers of a node that has not joined are looked at."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """
    What a node is told of its cluster. `grpc` and `http` are the addresses at which others
    reach the node.
    """

    is_founder: bool
    replicas: Path
    """Where the database of the replicas lies."""
    grpc: str = ""
    http: str = ""
    software: str = ""
    snapshot_bytes: int = limits.SNAPSHOT_BYTES_DEFAULT
    snapshot_folder: Path | None = None
    """That all nodes share; without one, snapshots lie in the engine."""


class Cluster:
    """`start` once, `stop` once. All calls run in the event loop's thread."""

    def __init__(
        self,
        config: ClusterConfig,
        engine: ClusterEngine,
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
        self.engine = engine
        self.replicas: dict[int, Replica] = {}
        self.catalog: ClusterCatalog | None = None
        """Once the node has joined."""
        self.members: Members | None = None
        self.snapshots: Snapshots | None = None
        self._why_alone = "the cluster's engine has no quorum yet"
        self._apart = ""
        """What keeps the engine from those of its peers, as far as that shows."""
        self.leaders: Leaders | None = None
        self.sight: Sight | None = None
        self._holding: Holding | None = None
        self._streams: Streams | None = None
        self.switching: Switching | None = None
        self._connection: Connection | None = None
        self._placement: JetStreamPlacement | None = None
        self._store: RocksStore | None = None
        self._leaving: asyncio.Task[None] | None = None
        """Once an operator has removed this node."""
        self._widened_for: tuple[str, ...] = ()
        """Who was there when it was last looked at how many hold the bucket."""
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def trouble(self) -> str:
        """Why the node has not joined; empty once it has."""
        return "; ".join(filter(None, (self._why_alone, self._apart)))

    # --- start and stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """
        Starts the engine, and joins the cluster when there is a quorum, which nobody waits for.

        Raises:
            PreconditionError: the engine can't be started as it is told to.
            UnavailableError: it ended, or doesn't answer.
        """
        self.loops.whereabouts = self.whereabouts
        self.loops.why_alone = lambda: self.trouble
        self.loops.is_member = lambda: any(self.identity.cluster_id)
        self.loops.node_at = self.node_at
        self.loops.others = self.others
        self.loops.look_around = self.seen
        if self.identity.is_removed:
            self._why_alone = REMOVED_TEXT
            logger.error("this node does not join the cluster: %s", REMOVED_TEXT)
            self._warn_of_stuck()
            return
        await self.engine.open()
        self._tasks.append(asyncio.create_task(self._join(), name="cluster-join"))

    async def hand_over(self) -> None:
        """Others lead what this node leads; it takes nothing over any more."""
        if self.leaders is not None:
            await self.leaders.stop()

    async def stop(self) -> None:
        """Hands over what the node leads, says goodbye, and ends the engine."""
        if self._leaving is not None:
            await self._leaving
        await self._leave()
        await self.engine.stop()
        if self._store is not None:
            self._store.close()

    async def _leave(self) -> None:
        """Takes part no longer."""
        await self.hand_over()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.catalog is not None:
            await self.catalog.homes.stop()
        if self.switching is not None:
            await self.switching.stop()
        if self.snapshots is not None:
            await self.snapshots.stop()
        if self._streams is not None:
            await self._streams.stop()
        await asyncio.gather(*[each.stop() for each in self.replicas.values()])
        if self.members is not None:
            await self.members.leave()
            self.members = None
        if self._placement is not None:
            await self._placement.close()
            self._placement = None
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        self.leaders = None

    async def _leave_for_good(self) -> None:
        """An operator has removed this node."""
        self._why_alone = REMOVED_TEXT
        logger.error("this node is no longer in the cluster: %s", REMOVED_TEXT)
        self.identity.mark_removed()
        self.identity.is_removed = True
        self.loops.shared = self.loops.steward = self.sight = None
        await self._leave()
        try:
            # Whoever removed it does so, too; but then its engine may have come back with it.
            await self.engine.remove(self.engine.name)
        except (SandglassError, TimeoutError) as error:
            logger.warning("its engine stays in the engines' group: %s", error)
        await self.engine.stop()

    # --- joining ------------------------------------------------------------------------------

    async def _join(self) -> None:
        looking = asyncio.create_task(self._look_apart(), name="cluster-apart")
        try:
            if not await self._until_joined():
                return
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self._apart = ""
        logger.info("joined the cluster %s", self.identity.cluster_id.hex())
        self._tasks.append(asyncio.create_task(self._run(), name="cluster"))

    async def _until_joined(self) -> bool:
        """False if it never will, as it is."""
        began_ms, has_said = self.clock.monotonic_ms(), False
        while True:
            try:
                await self._join_once()
                self._why_alone = ""
                return True
            except PreconditionError as error:
                self._why_alone = error.message
                logger.error("this node does not join the cluster: %s", error.message)
                self._look_whether_removed()
                return False
            except (SandglassError, TimeoutError) as error:
                self._why_alone = str(error)
                waited_ms = self.clock.monotonic_ms() - began_ms
                if waited_ms > FOUNDED_S * 1000 and not has_said:
                    has_said = True
                    logger.warning(
                        "not in a cluster after %d s: %s. More than half of the nodes have to"
                        " be there, and one of them is started with bootstrap_raft. Topics with"
                        " replication_factor 1 are served meanwhile",
                        FOUNDED_S,
                        self.trouble,
                    )
                    self._warn_of_stuck()
            await asyncio.sleep(AGAIN_S)

    def _warn_of_stuck(self) -> None:
        for text in self.loops.stuck_texts():
            logger.warning("%s", text)

    async def _look_apart(self) -> None:
        """Keeps up to date what keeps the engines apart."""
        while True:
            self._apart = await self.engine.why_apart()
            await asyncio.sleep(APART_S)

    async def _join_once(self) -> None:
        if not await self.engine.start():
            raise UnavailableError("nobody has founded the cluster yet")
        connection, placement = await self._connect()
        await settle_id(
            placement,
            self.identity,
            is_founder=self.config.is_founder,
            entropy=self.entropy,
        )
        members = await self._become_member(connection, placement)
        self._take_part(connection, placement, members)

    async def _connect(self) -> tuple[Connection, JetStreamPlacement]:
        if self._connection is None:
            self._connection = await self.engine.connect()
        if self._placement is None:
            placement = JetStreamPlacement(self._connection)
            await self._open(placement)
            self._placement = placement
        return self._connection, self._placement

    async def _become_member(
        self, connection: Connection, placement: JetStreamPlacement
    ) -> Members:
        config = self.config
        node_id = self.identity.node_id.hex()
        own = Member(self.engine.name, node_id, "", config.grpc, config.http, config.software)
        members = Members(placement, self.clock, self.entropy, own)
        await members.join()
        members.on_change.append(self._news.set)
        members.on_change.append(self._hear_of_engines)
        members.on_lost.append(self._lost)
        connection.on_back.append(members.tell_engine_was_away)
        self.members = members
        self._hear_of_engines()
        return members

    def _take_part(
        self, connection: Connection, placement: JetStreamPlacement, members: Members
    ) -> None:
        """Makes the parts of this node in the cluster, from the catalog up, and begins."""
        self.snapshots = open_snapshots(
            connection,
            placement,
            self.identity.cluster_id.hex(),
            self.config.snapshot_folder,
            topic_of=self._topic_of,
            clock=self.clock,
            stopwatch_ns=self.stopwatch_ns,
            snapshot_bytes=self.config.snapshot_bytes,
        )
        own = self.loops.own.machine
        self.catalog = ClusterCatalog(
            placement,
            members,
            connection,
            self.ids,
            self.clock,
            lambda: own.topics,
            self.snapshots.forget,
        )
        self.catalog.on_changed = self.loops.changed
        placement.follow(self._on_entry)
        self._store = self._open_store()
        self.leaders = Leaders(self.catalog, members, self.replicas, self.clock)
        self._holding = Holding(
            self.catalog,
            self.leaders,
            self.replicas,
            self.loops,
            make=self._make_replica,
            wipe=self._wipe_replica,
            whereabouts=self.whereabouts,
            on_led=self._wake_switching,
            on_ended=self._news.set,
        )
        self._streams = Streams(self.catalog, self.replicas)
        self.sight = Sight(self.catalog, members, self.leaders, self.replicas, self.engine)
        self.loops.shared = self.catalog
        self.loops.steward = ClusterSteward(
            self.catalog,
            members,
            placement,
            self.engine,
        )
        self.switching = Switching(
            placement,
            self.engine.name,
            self.loops.own,
            self._holding,
            left=self.loops.leave,
            published=self.catalog.homes.publish,
        )
        self.catalog.homes.start()
        self.snapshots.start()
        self.switching.start()

    def _topic_of(self, number: int) -> Topic:
        placed = None if self.catalog is None else self.catalog.placed_of(number)
        if placed is None:
            raise NotFoundError(f"partition {number} was deleted with its topic")
        return placed[0]

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

    def _look_whether_removed(self) -> None:
        placement = self._placement
        if placement is None or self._leaving is not None:
            return
        if self.identity.removed_key in placement.entries:
            self._leaving = asyncio.create_task(self._leave_for_good(), name="cluster-leave")

    def _open_store(self) -> RocksStore:
        directory = self.config.replicas
        return RocksStore(directory, is_new=not (directory / "CURRENT").exists())

    # --- who leads what -----------------------------------------------------------------------

    async def _run(self) -> None:
        assert self.leaders is not None
        assert self._holding is not None
        whole_s, loop = 0.0, asyncio.get_running_loop()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    await self._news.wait()
            is_news = self._news.is_set() or loop.time() >= whole_s
            self._news.clear()
            try:
                await self._holding.hold()
                if is_news:
                    whole_s = loop.time() + WHOLE_S
                    await self._holding.reconcile_all()
                await self.leaders.consider()
                await self._widen()
                if self._streams is not None:
                    self._streams.look()
            except SandglassError as error:
                logger.warning("cluster: %s", error)
                self._news.set()
                await asyncio.sleep(TURN_S)

    async def _widen(self) -> None:
        """More members hold the bucket as more come; the first of them sees to it."""
        assert self.members is not None
        assert self._placement is not None
        alive = tuple(member.name for member in self.members.alive)
        wanted = min(BUCKET_REPLICAS[0], len(alive))
        if alive == self._widened_for or alive[:1] != (self.engine.name,):
            return
        count = await self._placement.replica_count()
        if count < wanted:
            try:
                await self._placement.replicate(wanted)
            except PreconditionError as error:
                logger.debug("the bucket stays on %d members: %s", count, error)
                return
            logger.info("what members agree on is held by %d of them", wanted)
        self._widened_for = alive

    def _on_entry(self, key: str) -> None:
        if key.startswith((TOPICS, GROUPS, LEADERS, DRAINED, SWITCHES)):
            self._news.set()
        if key.startswith((TOPICS, SWITCHES)):
            self._wake_switching()
        if key.startswith(LEADERS):
            self.loops.moved(int(key.removeprefix(LEADERS)))
        if key == self.identity.removed_key:
            self._look_whether_removed()

    def _wake_switching(self) -> None:
        if self.switching is not None:
            self.switching.wake()

    def _hear_of_engines(self) -> None:
        if not self.engine.goes_with_nodes:
            return
        if self.members is not None and self._connection is not None:
            self._connection.heard(self.members.engines)

    def _lost(self) -> None:
        if self._holding is not None:
            self._holding.drop_all()

    def _make_replica(self, number: int) -> Replica:
        assert self._store is not None
        assert self._connection is not None
        assert self.snapshots is not None
        assert self._holding is not None
        return Replica(
            Stream(self._connection, number),
            StorePart(self._store, number),
            clock=self.clock,
            entropy=self.entropy,
            slicer=self.slicer,
            stats=self.loops.own.stats,
            stopwatch_ns=self.stopwatch_ns,
            session_grace_ms=self.loops.own.session_grace_ms,
            may_serve=self._may_serve,
            snapshots=self.snapshots,
            on_leading=self._holding.began,
            on_ended=self._holding.ended,
        )

    def _wipe_replica(self, number: int) -> None:
        assert self._store is not None
        StorePart(self._store, number).wipe()

    def _may_serve(self) -> bool:
        return self.members is not None and self.members.may_serve()

    def whereabouts(self, number: int) -> SandglassError:
        """Why a partition isn't served here, and where it is."""
        if self.sight is None:
            return NotLeaderError(self.trouble, retry_after_ms=NOT_LED_RETRY_MS)
        return self.sight.whereabouts(number)

    def others(self) -> list[str]:
        """The addresses of the other members that are there."""
        members = self.members
        if members is None:
            return []
        return [each.grpc for each in members.alive if each.name != members.me.name]

    def node_at(self, address: str) -> NodeSeen | None:
        """The member that serves at an address, there or not."""
        return None if self.sight is None else self.sight.node_at(address)

    def seen(self) -> ClusterSeen:
        """The cluster, as it is known here."""
        cluster_id = self.identity.cluster_id
        shown = cluster_id.hex() if any(cluster_id) else ""
        if self.sight is None:
            return ClusterSeen(shown, self.trouble, warnings=self.loops.stuck_texts())
        snapshots = self.snapshots.seen() if self.snapshots is not None else SnapshotsSeen()
        return replace(self.sight.seen(shown), snapshots=snapshots)
