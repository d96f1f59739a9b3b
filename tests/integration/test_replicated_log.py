"""Replicated logs on real engines: who leads, what counts, what becomes of doubt."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from sandglass.adapters.jetstream import Follower, JetStreamLog, Stream
from sandglass.adapters.placement import JetStreamPlacement
from sandglass.adapters.system import SystemClock
from sandglass.errors import UnavailableError
from sandglass.replication.reader import Accepted, Freeze, Frozen, Reader
from sandglass.replication.writer import Writer, next_epoch
from sandglass.testing.engines import Engines
from tests.visitors import Visitor

DEADLINE_S = 60.0


class Replica:
    """A reader of the log, and its leader when asked to."""

    def __init__(self, stream: Stream, name: bytes) -> None:
        self.stream = stream
        self.name = name
        self.records: list[bytes] = []
        self.frozen: list[Frozen] = []
        self.log: JetStreamLog | None = None
        self.follower = self._follow(Reader())

    def _follow(self, reader: Reader) -> Follower:
        return Follower(self.stream, reader, self._on_accepted, self.frozen.append)

    async def _on_accepted(self, accepted: Accepted) -> None:
        if self.log is not None:
            self.log.observed(accepted)
        self.records += [record for _, record in accepted.records()]

    async def lead(self) -> JetStreamLog:
        await self.follower.current()
        mark = self.follower.reader.mark
        epoch = next_epoch(catalog_epoch=0, mark=mark)
        writer = Writer(self.name * 16, epoch, mark)
        self.log = JetStreamLog(self.stream, writer, SystemClock())
        await self.log.open_epoch(b"epoch %d" % epoch, self.follower.listen_anew)
        await self.follower.close()
        self.log.start()
        return self.log

    async def end(self) -> None:
        if self.log is not None:
            self.log.close()
        await self.follower.close()


async def replica(engines: Engines | Visitor, number: int, name: bytes) -> Replica:
    made = Replica(Stream(await engines.connect(number), 1), name)
    await made.follower.open()
    return made


async def read_all(engines: Engines | Visitor) -> list[bytes]:
    """What a reader from the beginning accepts."""
    reader = await replica(engines, 2, b"r")
    async with asyncio.timeout(DEADLINE_S):
        await reader.follower.current()
    await reader.end()
    assert not reader.frozen
    return reader.records


async def test_what_is_durable_is_read_by_all(visitor: Visitor) -> None:
    await Stream(await visitor.connect(0), 1).create(3)
    leader = await replica(visitor, 0, b"a")
    log = await leader.lead()
    records = [b"%d" % number for number in range(5000)]
    for first in range(0, 5000, 500):
        log.append(records[first : first + 500])
    assert await log.synced() == 5001
    assert log.mark_at(5001).position == 5001

    assert await read_all(visitor) == [b"epoch 1", *records]
    await leader.end()


async def test_a_deposed_leader_adds_nothing(visitor: Visitor) -> None:
    await Stream(await visitor.connect(0), 1).create(3)
    first, second = await replica(visitor, 0, b"a"), await replica(visitor, 1, b"b")
    old = await first.lead()
    old.append([b"before"])
    await old.synced()
    new = await second.lead()
    old.append([b"never"])
    with pytest.raises(UnavailableError, match="another node leads"):
        async with asyncio.timeout(DEADLINE_S):
            await old.synced()
    new.append([b"after"])
    await new.synced()

    assert await read_all(visitor) == [b"epoch 1", b"before", b"epoch 2", b"after"]
    await first.end()
    await second.end()


async def test_a_killed_engine_costs_nothing_but_time(tmp_path: Path) -> None:
    async with Engines(tmp_path) as engines:
        await _outlives_a_killed_engine(engines)


async def _outlives_a_killed_engine(engines: Engines) -> None:
    await Stream(await engines.connect(0), 1).create(3)
    leader = await replica(engines, 0, b"a")
    log = await leader.lead()
    info = await leader.stream.info()
    at = next(e for e in engines.engines if e.config.name == info["cluster"]["leader"])
    records = [b"%d" % number for number in range(300)]

    async def write() -> None:
        for record in records:
            log.append([record])
            await log.synced()

    writing = asyncio.create_task(write())
    await asyncio.sleep(0)
    os.kill(at.pid, signal.SIGKILL)
    async with asyncio.timeout(2 * DEADLINE_S):
        await writing
    await engines.quorum()

    assert await read_all(engines) == [b"epoch 1", *records]
    await leader.end()


async def test_who_is_to_lead_and_hears_nothing_listens_anew(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reader and catalog read by has gone with an engine; its silence says nothing yet."""
    monkeypatch.setattr("sandglass.adapters.tail.HEARTBEAT_COUNT", 3600.0)
    connection = await visitor.connect(0)
    placement = JetStreamPlacement(connection)
    await placement.create(3)
    await placement.open()
    stream = Stream(connection, 1)
    await stream.create(3)
    leader = await replica(visitor, 0, b"a")
    await leader.follower.current()
    for tail in (leader.follower._tail, placement._tail):
        assert tail is not None
        await connection.call(f"CONSUMER.DELETE.{tail.stream}.{tail._consumer}")

    async with asyncio.timeout(DEADLINE_S):
        log = await leader.lead()
        revision = await placement.set("key", b"value")
        await placement.reached(revision)

    assert log.durable_position == 1
    await leader.end()
    await placement.close()


async def test_a_stream_made_anew_is_not_accepted(visitor: Visitor) -> None:
    stream = Stream(await visitor.connect(0), 1)
    await stream.create(3)
    leader = await replica(visitor, 0, b"a")
    log = await leader.lead()
    log.append([b"x"])
    await log.synced()
    mark = log.mark_at(2)
    await leader.end()
    await stream.delete()
    await stream.create(3)
    again = Replica(stream, b"b")
    again.follower.reader = Reader(mark)
    await again.follower.open()

    assert [frozen.kind for frozen in again.frozen] == [Freeze.ANEW]
    await again.end()


async def test_a_stream_that_holds_another_entry_at_the_mark_is_not_accepted(
    visitor: Visitor,
) -> None:
    stream = Stream(await visitor.connect(0), 1)
    await stream.create(3)
    leader = await replica(visitor, 0, b"a")
    log = await leader.lead()
    log.append([b"x"])
    await log.synced()
    mark = log.mark_at(2)
    await leader.end()
    assert await stream.entry(mark.sequence) is not None
    assert await stream.entry(mark.sequence + 1) is None
    good, odd = Replica(stream, b"b"), Replica(stream, b"c")
    good.follower.reader = Reader(mark)
    odd.follower.reader = Reader(replace(mark, checksum=mark.checksum ^ 1))
    await good.follower.open()
    await odd.follower.open()

    assert not good.frozen
    assert len(odd.frozen) == 1
    await good.end()
    await odd.end()
