"""What the leader of a replicated log does while nobody reads its fence back."""

import asyncio
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from sandglass.adapters import jetstream
from sandglass.adapters.jetstream import JetStreamLog, Stream
from sandglass.adapters.nats import Connection, Stored
from sandglass.adapters.system import SystemClock
from sandglass.errors import CorruptError, UnavailableError
from sandglass.replication.entry import Entry, EntryKind, encode
from sandglass.replication.reader import Reader
from sandglass.replication.writer import Phase, Writer

DEADLINE_S = 60.0


@dataclass
class Engine:
    """A stream in a list, asked as the real one is; the same message id is stored once."""

    raws: list[bytes] = field(default_factory=list[bytes])
    first_sequence: int = 1
    created: str = "on Monday"
    leader: str = "a"
    """As whoever answers knows it."""
    is_silent: bool = False
    is_losing: bool = False
    """It loses its last entry, once it is sent something."""
    ids: dict[str, int] = field(default_factory=dict[str, int])
    sent_count: int = 0

    async def call(self, subject: str, request: Any = None) -> dict[str, Any]:
        if self.is_silent:
            raise UnavailableError("no quorum")
        if "MSG.GET" in subject:
            data = b64encode(self.raws[request["seq"] - 1]).decode()
            return {"message": {"data": data}}
        state = {"first_seq": self.first_sequence, "last_seq": len(self.raws)}
        state |= {"bytes": 0, "messages": len(self.raws)}
        about = {"config": {"num_replicas": 3}, "cluster": {"leader": self.leader}}
        return {"created": self.created, "state": state, **about}

    async def store(self, subject: str, data: bytes, headers: dict[str, str]) -> Stored:
        del subject
        self.sent_count += 1
        if self.is_losing and self.sent_count == 1:
            self.raws.pop()
        identity = headers["Nats-Msg-Id"]
        if identity in self.ids:
            return Stored(self.ids[identity], is_duplicate=True)
        self.raws.append(data)
        self.ids[identity] = len(self.raws)
        return Stored(len(self.raws), is_duplicate=False)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jetstream, "FENCE_S", 0.01)


def fence(letter: bytes, epoch: int) -> bytes:
    return encode(
        Entry(
            EntryKind.FENCE,
            letter * 16,
            epoch,
            n=0,
            known=0,
            position=epoch,
            chain=0,
            records=(b"epoch",),
        )
    )


def candidate(engine: Engine) -> JetStreamLog:
    """It has read the first entry, and all is well."""
    engine.raws.append(fence(b"a", 1))
    reader = Reader()
    reader.check_stream(first_sequence=1, last_sequence=1, stream=engine.created)
    assert reader.take(1, engine.raws[0]) is not None
    writer = Writer(b"b" * 16, 2, reader.mark)
    return JetStreamLog(Stream(cast(Connection, engine), 1), writer, SystemClock())


async def test_a_fence_that_took_the_place_of_a_lost_entry_is_not_sent_for_ever() -> None:
    engine = Engine()
    log = candidate(engine)
    engine.is_losing = True

    with pytest.raises(CorruptError, match="sequence 1 holds another entry"):
        async with asyncio.timeout(DEADLINE_S):
            await log.open_epoch(b"epoch")
    assert (engine.sent_count, log.writer.phase) == (1, Phase.FENCING)


async def test_no_fence_is_published_to_a_stream_that_is_not_what_was_read() -> None:
    engine = Engine()
    log = candidate(engine)
    engine.raws[0] = fence(b"c", 1)

    with pytest.raises(CorruptError, match="another entry"):
        async with asyncio.timeout(DEADLINE_S):
            await log.open_epoch(b"epoch")
    assert engine.sent_count == 0


async def test_a_fence_that_is_stored_and_not_read_back_tells_that_its_reader_is_deaf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jetstream, "HEARD_S", 0.01)
    monkeypatch.setattr(jetstream, "FENCE_S", 3600)
    engine = Engine()
    log = candidate(engine)
    reader = Reader(log.writer.mark)

    async def listen_anew() -> None:
        accepted = reader.take(2, engine.raws[1])
        assert accepted is not None
        log.observed(accepted)

    async with asyncio.timeout(DEADLINE_S):
        await log.open_epoch(b"epoch", listen_anew)

    assert (engine.sent_count, log.writer.phase) == (1, Phase.LEADING)


async def test_who_reads_its_fence_back_leads_only_if_what_stood_before_it_still_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine lost the entry before; the fence took its place, and the repeat the next."""
    monkeypatch.setattr(jetstream, "HEARD_S", 0.01)
    engine = Engine()
    log = candidate(engine)
    reader = Reader(log.writer.mark)

    async def listen_anew() -> None:
        engine.raws[0] = engine.raws[1]
        accepted = reader.take(2, engine.raws[1])
        assert accepted is not None
        log.observed(accepted)

    with pytest.raises(CorruptError, match="sequence 1 holds another entry"):
        async with asyncio.timeout(DEADLINE_S):
            await log.open_epoch(b"epoch", listen_anew)


@pytest.mark.parametrize("trouble", ["late", "silent", "trimmed"])
async def test_a_fence_is_sent_again_as_long_as_nothing_is_known_to_be_lost(
    trouble: str,
) -> None:
    """The reader may be late, the engine may say nothing, and a snapshot may be the cure."""
    engine = Engine()
    log = candidate(engine)
    engine.is_silent = trouble == "silent"
    if trouble == "trimmed":
        engine.raws.append(b"another's")
        engine.raws.append(b"another's")
        engine.first_sequence = 3
    opening = asyncio.create_task(log.open_epoch(b"epoch"))
    async with asyncio.timeout(DEADLINE_S):
        while engine.sent_count < 3:
            await asyncio.sleep(0.001)

    assert not opening.done()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)


async def test_who_knows_of_no_leader_is_not_believed_that_the_stream_is_shorter() -> None:
    """Between two leaders, an engine that is behind answers by its own copy."""
    engine = Engine(raws=[fence(b"a", 1)])
    stream = Stream(cast(Connection, engine), 1)
    reader = Reader()
    reader.take(1, engine.raws[0])
    last = engine.raws.pop()
    engine.leader = ""

    with pytest.raises(UnavailableError):
        await stream.check(reader)
    assert reader.frozen is None

    engine.raws.append(last)
    engine.leader = "b"
    assert (await stream.check(reader)).last_sequence == 1
    assert reader.frozen is None
