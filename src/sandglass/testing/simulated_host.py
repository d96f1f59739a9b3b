"""
A node of a simulated cluster whose topics move: real loops, catalog, leaders, switches and
broker, over logs, stores and a bucket in memory.

What differs from a node: its engine is a model (`sandglass.testing.simulated_stream` and
`simulated_bucket`), and nobody comes over a network, but calls its broker.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_store import MemoryStore
from sandglass.adapters.nats import Connection
from sandglass.broker.broker import Broker
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.catalog import ClusterCatalog
from sandglass.cluster.cluster import TURN_S, WHOLE_S
from sandglass.cluster.engines import ClusterEngine
from sandglass.cluster.holding import Holding
from sandglass.cluster.leaders import Leaders
from sandglass.cluster.members import Member, Members
from sandglass.cluster.replica import Replica
from sandglass.cluster.sight import Sight
from sandglass.cluster.switching import Switching
from sandglass.core.dispatch import Delivery
from sandglass.errors import SandglassError
from sandglass.sandflake import Generator
from sandglass.testing.seen import Violation
from sandglass.testing.simulated_bucket import Bucket, BucketView, Network
from sandglass.testing.simulated_stream import SimulatedReplica, Streams
from sandglass.testing.virtual_time import Life, VirtualClock, VirtualLoop
from sandglass.wire.convert import slice_body

GRACE_MS = 600
"""So long a session may stay away."""

OnStored = Callable[[str, list[bytes]], None]
OnGiven = Callable[["Host", list[Delivery]], None]


class OwnLog(MemoryLog):
    """A node's own log; `on_durable` is told what has become durable, once."""

    def __init__(self, on_durable: Callable[[list[bytes]], None]) -> None:
        super().__init__()
        self._on_durable = on_durable
        self._told = 0

    def sync_end(self) -> int:
        """See `MemoryLog`."""
        durable = super().sync_end()
        self._tell()
        return durable

    def reopen(self) -> None:
        """What a crash has left is durable."""
        super().reopen()
        self._tell()

    def _tell(self) -> None:
        told = self._told
        if self.durable_position > told:
            self._told = self.durable_position
            self._on_durable([raw for _, raw in self.read(told + 1)])


class Host:
    """A machine, life after life."""

    def __init__(
        self,
        name: str,
        loop: VirtualLoop,
        network: Network,
        bucket: Bucket,
        streams: Streams,
        *,
        shift_ms: int,
        on_stored: OnStored,
        on_given: OnGiven,
    ) -> None:
        self.name = name
        self.loop = loop
        self.network = network
        self.bucket = bucket
        self.streams = streams
        self.clock = VirtualClock(loop, shift_ms)
        self.log = OwnLog(lambda raws: on_stored(name, raws))
        self.store = MemoryStore(flush_write_count=8)
        self.parts: dict[int, MemoryStore] = {}
        """Where its replicas lie."""
        self.life: Life | None = None
        self.life_count = 0
        self.crash_count = 0
        self.is_ready = False
        """It serves, alone or with others."""
        self._on_given = on_given
        self.broker: Broker
        self.own: NodeLoop
        self.switching: Switching | None = None
        self.catalog: ClusterCatalog

    # --- its lives ----------------------------------------------------------------------------

    def start(self) -> None:
        """A process begins."""
        assert self.life is None
        self.life_count += 1
        self.life = Life(self.loop, self.name)
        self.life.spawn(self._live())

    def crash(self) -> None:
        """It ends, here and now."""
        if self.life is None:
            return
        self.crash_count += 1
        self.life.end()
        self.life, self.is_ready, self.switching = None, False, None
        chance = self.loop.chance
        self.log.crash(chance.randint(0, 2))
        self.log.reopen()
        for store in (self.store, *self.parts.values()):
            store.crash(chance.randint(0, store.unflushed_write_count))
            store.reopen()

    async def _live(self) -> None:
        try:
            await self._serve()
        except SandglassError as error:
            raise Violation(f"node {self.name} does not start: {error}") from error

    async def _serve(self) -> None:
        self.own = self._make_loop(
            self.log, self.store, self.clock, slice_body, session_grace_ms=GRACE_MS
        )
        ids = Generator(wall_ms=self.clock.wall_ms, entropy=self.token_bytes)
        self.broker = Broker(self.own, ids, session_grace_ms=GRACE_MS)
        loops = self.broker.loops
        given = loops.on_deliveries

        def give(deliveries: list[Delivery]) -> None:
            self._on_given(self, deliveries)
            given(deliveries)

        loops.on_deliveries = give
        loops.on_stopped = self._stopped
        self.own.on_failure = self._failed
        loops.is_member = lambda: True
        await self.own.start()
        self.is_ready = True
        await self._join(ids)

    async def _join(self, ids: Generator) -> None:
        assert self.life is not None
        loops, placement = self.broker.loops, BucketView(self.bucket, self.network, self.life)
        me = Member(self.name, self.name, "", f"{self.name}:7170", "", "")
        while True:
            members = self.members = Members(placement, self.clock, self, me)
            try:
                await members.join()
                break
            except SandglassError:
                await asyncio.sleep(TURN_S)
        connection = cast(Connection, self.streams)
        catalog = self.catalog = ClusterCatalog(
            placement,
            members,
            connection,
            ids,
            self.clock,
            lambda: self.own.machine.topics,
        )
        replicas: dict[int, Replica] = {}
        self._news = asyncio.Event()
        leaders = Leaders(catalog, members, replicas, self.clock)
        sight = Sight(catalog, members, leaders, replicas, cast(ClusterEngine, None))
        holding = self.holding = Holding(
            catalog,
            leaders,
            replicas,
            loops,
            make=self._make_replica,
            wipe=self._wipe_replica,
            whereabouts=sight.whereabouts,
            on_led=self._wake,
            on_ended=self._news.set,
        )
        catalog.on_changed = loops.changed
        loops.shared, loops.whereabouts = catalog, sight.whereabouts
        self.switching = Switching(
            placement,
            self.name,
            self.own,
            holding,
            left=loops.leave,
            published=catalog.homes.publish,
        )
        placement.follow(self._on_entry)
        members.on_change.append(self._news.set)
        members.on_lost.append(holding.drop_all)
        catalog.homes.start()
        self.switching.start()
        await self._run(leaders, holding)

    async def _run(self, leaders: Leaders, holding: Holding) -> None:
        """As `Cluster` does."""
        whole_s = 0.0
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    await self._news.wait()
            is_news = self._news.is_set() or self.loop.time() >= whole_s
            self._news.clear()
            try:
                await holding.hold()
                if is_news:
                    whole_s = self.loop.time() + WHOLE_S
                    await holding.reconcile_all()
                await leaders.consider()
            except SandglassError:
                self._news.set()
                await asyncio.sleep(TURN_S)

    def _on_entry(self, key: str) -> None:
        if key.startswith(("topic.", "group.", "leader.", "drained.", "switch.")):
            self._news.set()
        if key.startswith(("topic.", "switch.")):
            self._wake()
        if key.startswith("leader."):
            self.broker.loops.moved(int(key.removeprefix("leader.")))

    def _wake(self) -> None:
        if self.switching is not None:
            self.switching.wake()

    # --- its parts ----------------------------------------------------------------------------

    def _make_loop(self, *of: Any, **options: Any) -> NodeLoop:
        return NodeLoop(*of, **options)

    def _make_replica(self, number: int) -> Replica:
        store = self.parts.setdefault(number, MemoryStore(flush_write_count=4))
        replica = SimulatedReplica(
            lambda: self.streams.of.get(number),
            number,
            store,
            self.network,
            clock=self.clock,
            may_serve=self.members.may_serve,
            session_grace_ms=GRACE_MS,
            make_loop=self._make_loop,
            on_leading=self.holding.began,
            on_ended=self.holding.ended,
        )
        return cast(Replica, replica)

    def _wipe_replica(self, number: int) -> None:
        self.parts.pop(number, None)

    def token_bytes(self, count: int) -> bytes:
        """See `Entropy`."""
        return self.loop.chance.randbytes(count)

    def _stopped(self, number: int, error: SandglassError) -> None:
        self.network.on_broken(f"partition {number} of node {self.name} stops: {error}")

    def _failed(self, error: BaseException) -> None:
        if self.life is not None and not self.life.is_over:
            self.network.on_broken(f"node {self.name} stops: {error!r}")
