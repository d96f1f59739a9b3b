"""Snapshots of a replicated log on real engines: made, trimmed behind, begun at."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from sandglass.adapters.engine_snapshots import EngineSnapshots
from sandglass.adapters.jetstream import Stream, StreamState
from sandglass.adapters.placement import JetStreamPlacement
from sandglass.adapters.rocksdb import RocksStore
from sandglass.adapters.shared_store import StorePart
from sandglass.adapters.system import SystemClock, SystemEntropy
from sandglass.cluster import replica
from sandglass.cluster.replica import Replica, State
from sandglass.cluster.snapshots import Snapshots
from sandglass.core import limits
from sandglass.core.keys import MARK_KEY
from sandglass.core.machine import encode_topic
from sandglass.core.message import Batch
from sandglass.core.record import PutTopic
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.core.view import Changes, Row
from sandglass.replication.making import Made
from sandglass.replication.snapshot import Generations, Manifest
from sandglass.telemetry import Counts
from sandglass.wire.convert import slice_body
from tests.visitors import Visitor

DEADLINE_S = 60.0
NUMBER = limits.REPLICATED_NUMBER_MIN
FUTURE_MS = 4_000_000_000_000
"""Of a day in 2096. It is fixed, for what parts are cut follows from the rows' keys."""

TOPIC = Topic("orders", TopicKind.TIMER, (PartitionRef("p", NUMBER),), 3, 0, TopicSettings())


class Host:
    """What a node has: a connection, a database, snapshots; and its replica of one log."""

    def __init__(
        self, stream: Stream, placement: JetStreamPlacement, directory: Path, *, is_new: bool
    ) -> None:
        self.placement = placement
        self.objects = EngineSnapshots(stream.connection, 3)
        self.database = RocksStore(directory, is_new=is_new)
        self.part = StorePart(self.database, NUMBER)
        self.snapshots = Snapshots(
            placement,
            lambda factor: EngineSnapshots(stream.connection, factor),
            lambda number: TOPIC,
            "cluster",
            SystemClock(),
            time.perf_counter_ns,
            snapshot_bytes=limits.SNAPSHOT_BYTES_MIN,
            look_s=0.05,
        )
        self.replica = Replica(
            stream,
            self.part,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            slicer=slice_body,
            stats=Counts(),
            stopwatch_ns=time.perf_counter_ns,
            may_serve=lambda: True,
            snapshots=self.snapshots,
            on_leading=self._on_leading,
            on_ended=lambda _: None,
        )
        self.leads = asyncio.Event()

    async def _on_leading(self, replica: Replica) -> None:
        self.leads.set()

    async def becomes(self, state: State) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.replica.state is not state:
                await asyncio.sleep(0.01)

    async def lead(self, epoch: int) -> None:
        await self.becomes(State.FOLLOWING)
        self.replica.lead(epoch)
        async with asyncio.timeout(DEADLINE_S):
            await self.leads.wait()

    async def put_topic(self) -> None:
        loop = self.replica.loop
        assert loop is not None
        put = PutTopic(TOPIC.name, encode_topic(TOPIC))
        await loop.commit(loop.machine.record([put], loop.moment()))

    async def produce(self, count: int, *, size_bytes: int = 4000, due_ms: int = 0) -> None:
        """Rows of one message; with `due_ms`, each due a second after the one before."""
        loop = self.replica.loop
        assert loop is not None
        committed: list[Awaitable[None]] = []
        for number in range(count):
            moment = loop.moment()
            due = due_ms + 1000 * number if due_ms else 0
            body = number.to_bytes(4, "big") * (size_bytes // 4)
            batch = Batch([1], [due], [body], 1, size_bytes)
            partition = loop.partition(NUMBER)
            record, _ = partition.admit_append("master", batch, moment, loop.view)
            committed.append(loop.commit(record))
        await asyncio.gather(*committed)

    async def make(self) -> Made:
        await self.settled()
        made = await self.snapshots.make(NUMBER, self.snapshots.logs[NUMBER])
        assert made is not None
        return made

    async def settled(self) -> None:
        """What was answered is written."""
        loop = self.replica.loop
        assert loop is not None
        await loop.commit(loop.machine.record([], loop.moment()))

    @property
    def kept(self) -> Generations:
        return self.snapshots.kept(NUMBER)[0]

    async def manifest(self, generation: int) -> Manifest:
        raw = await self.objects.get(NUMBER, self.kept.kept[generation].manifest)
        assert raw is not None
        return Manifest.decode(raw)

    def rows(self) -> list[Row]:
        return [row for row in self.part.range(b"", b"\xff" * 8) if row[0] != MARK_KEY]

    async def has_rows_of(self, other: "Host") -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.rows() != other.rows():
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        await self.snapshots.stop()
        await self.replica.stop()
        await self.placement.close()
        self.database.close()


class Hosts:
    """Made on one engine each."""

    def __init__(self, visitor: Visitor, directory: Path) -> None:
        self._visitor = visitor
        self._directory = directory
        self._hosts: list[Host] = []

    async def begin(self, number: int, *, is_new: bool = True) -> Host:
        connection = await self._visitor.connect(number)
        stream = Stream(connection, NUMBER)
        placement = JetStreamPlacement(connection)
        await stream.create(3)
        await placement.create(3)
        await placement.open()
        host = Host(stream, placement, self._directory / f"view{number}", is_new=is_new)
        host.placement.follow(host.snapshots._on_change)
        self._hosts.append(host)
        host.replica.start()
        return host

    async def end(self, host: Host) -> None:
        self._hosts.remove(host)
        await host.end()

    async def end_all(self) -> None:
        for host in [*self._hosts]:
            await self.end(host)


@pytest.fixture
async def hosts(visitor: Visitor, tmp_path: Path) -> AsyncIterator[Hosts]:
    hosts = Hosts(visitor, tmp_path)
    yield hosts
    await hosts.end_all()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_PART_BYTES_TARGET", 64 * 1024)


async def test_a_replica_that_comes_after_a_trim_begins_at_a_snapshot(hosts: Hosts) -> None:
    leader = await hosts.begin(0)
    await leader.lead(1)
    await leader.put_topic()
    await leader.produce(200)
    await leader.make()
    await leader.produce(20)
    await leader.make()
    await leader.produce(20)
    state = await leader.replica.stream.state()
    assert state.first_sequence == leader.kept.kept[1].sequence > 1
    late = await hosts.begin(1)
    await late.becomes(State.FOLLOWING)

    await late.has_rows_of(leader)
    assert late.snapshots.counts.restored_count == 1
    assert late.part.applied_position == leader.part.applied_position
    # It is as good as any: it leads, and the one that led follows.
    await leader.replica.yield_()
    await leader.becomes(State.FOLLOWING)
    await late.lead(2)
    await late.produce(5)
    await leader.has_rows_of(late)


async def test_a_future_that_is_unchanged_is_not_sent_again(hosts: Hosts) -> None:
    leader = await hosts.begin(0)
    await leader.lead(1)
    await leader.put_topic()
    await leader.produce(500, due_ms=FUTURE_MS)
    first = await leader.make()
    await leader.produce(10, size_bytes=100)
    second = await leader.make()

    assert first.sent_bytes > 2_000_000
    assert second.sent_bytes < first.sent_bytes / 10
    names = await leader.objects.names(NUMBER)
    parts = [*(await leader.manifest(0)).names, *(await leader.manifest(1)).names]
    assert {*parts, *(each.manifest for each in leader.kept.kept)} == names


async def test_a_broken_snapshot_is_noticed_and_healed(hosts: Hosts) -> None:
    leader = await hosts.begin(0)
    await leader.lead(1)
    await leader.put_topic()
    for _ in range(2):
        await leader.produce(40)
        await leader.make()
    newest, older = (await leader.manifest(0)).names, (await leader.manifest(1)).names
    await leader.objects.delete(NUMBER, [min(newest - older)])
    second = await hosts.begin(1)
    await second.becomes(State.FOLLOWING)
    await second.has_rows_of(leader)
    damaged = min(newest & older)
    await leader.objects.put(NUMBER, damaged, b"damaged")
    third = await hosts.begin(2)
    await third.becomes(State.FROZEN)
    assert f"part {damaged} is gone or damaged" in third.replica.trouble
    assert third.rows() == []

    await leader.objects.delete(NUMBER, [damaged])
    await leader.produce(1)
    await leader.make()

    await third.becomes(State.FOLLOWING)
    await third.has_rows_of(leader)


async def test_a_replica_that_was_interrupted_begins_again(hosts: Hosts) -> None:
    leader = await hosts.begin(0)
    await leader.lead(1)
    await leader.put_topic()
    for _ in range(2):
        await leader.produce(40)
        await leader.make()
    late = await hosts.begin(1)
    await late.becomes(State.FOLLOWING)
    rows = late.rows()
    await hosts.end(late)
    # What a process leaves that ended after the first writes.
    again = Host(late.replica.stream, late.placement, late.database._directory, is_new=False)
    again.part.wipe()
    again.part.write(Changes(dict(rows[:3])), 0)
    again.database.close()
    late = await hosts.begin(1, is_new=False)
    await late.becomes(State.FOLLOWING)

    await late.has_rows_of(leader)


async def test_a_stream_that_grows_is_kept_short(hosts: Hosts) -> None:
    leader = await hosts.begin(0)
    await leader.lead(1)
    await leader.put_topic()
    leader.snapshots.start()
    async with asyncio.timeout(DEADLINE_S):
        while leader.snapshots.counts.made_count < 4:
            await leader.produce(3)
        while (await leader.replica.stream.state()).first_sequence == 1:
            await asyncio.sleep(0.02)
        while not leader.snapshots.seen().logs[0].trimmed_count:
            await leader.produce(1)
    seen = leader.snapshots.seen()
    assert (seen.made_count, seen.failed_count) == (leader.snapshots.counts.made_count, 0)
    assert seen.logs[0].topic == "orders"
    assert (seen.logs[0].snapshot_age_ms or 0) < DEADLINE_S * 1000


async def test_a_replica_goes_on_once_its_log_is_again_what_it_was(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is behind may have spoken; or somebody brings its data back."""
    monkeypatch.setattr(replica, "FROZEN_S", 0.01)
    leader = await hosts.begin(0)
    await leader.lead(1)
    await leader.put_topic()
    await leader.produce(3)
    true = Stream.state

    async def shorter(stream: Stream) -> StreamState:
        return replace(await true(stream), last_sequence=1)

    monkeypatch.setattr(Stream, "state", shorter)
    leader.replica.drop()
    await leader.becomes(State.FROZEN)
    assert "the stream ends at 1" in leader.replica.trouble

    monkeypatch.setattr(Stream, "state", true)
    leader.leads.clear()
    await leader.lead(2)
    await leader.produce(1)
    assert leader.replica.trouble == ""
