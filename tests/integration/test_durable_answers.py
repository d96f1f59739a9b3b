"""
No answer leaves before the `fdatasync` that covers it: file calls of a whole node are traced,
and each answer that a client has is looked for among what had been synced by then.
"""

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from threading import Lock

import pytest

from sandglass import AsyncClient
from sandglass.testing import Broker


@dataclass
class Trace:
    """What was written to each file since its last sync, and what is durable."""

    is_synced: bool = True
    """Whether a sync is passed on; without, nothing ever becomes durable."""
    unsynced: dict[int, bytes] = field(default_factory=dict[int, bytes])
    durable: bytes = b""
    sync_count: int = 0
    _lock: Lock = field(default_factory=Lock)
    """One thread may write while another syncs."""

    def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        with self._lock:
            written = _PWRITEV(fd, buffers, offset)
            raw = b"".join(bytes(buffer) for buffer in buffers)[:written]
            self.unsynced[fd] = self.unsynced.get(fd, b"") + raw
        return written

    def sync(self, fd: int) -> None:
        if not self.is_synced:
            return
        with self._lock:
            covered = self.unsynced.get(fd, b"")
        _FDATASYNC(fd)
        # Only what was written before the call; the rest waits for the next one.
        with self._lock:
            self.unsynced[fd] = self.unsynced.get(fd, b"")[len(covered) :]
            self.durable += covered
            self.sync_count += 1

    def check(self, value: bytes) -> None:
        """A client was answered for this."""
        assert value in self.durable, f"answered, and not synced: {value!r}"


_PWRITEV = os.pwritev
_FDATASYNC = os.fdatasync


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    traced = Trace()
    monkeypatch.setattr(os, "pwritev", traced.write)
    monkeypatch.setattr(os, "fdatasync", traced.sync)
    return traced


@pytest.fixture
async def client(trace: Trace) -> AsyncIterator[AsyncClient]:
    async with Broker() as broker, AsyncClient(broker.address) as connected:
        await connected.create_topic("t")
        yield connected


async def test_every_answered_message_had_been_synced(
    client: AsyncClient, trace: Trace
) -> None:
    for number in range(30):
        value = b"message %d of the trace" % number
        await client.produce("t", value)
        trace.check(value)

    assert trace.sync_count > 1


async def test_an_answered_ack_had_been_synced(client: AsyncClient, trace: Trace) -> None:
    await client.produce("t", b"to be acked")
    async for message in client.consume("t", group="g", drain=True):
        before = (len(trace.durable), trace.sync_count)

        await message.ack(wait=True)

        assert len(trace.durable) > before[0]
        assert trace.sync_count > before[1]


async def test_the_trace_notices_when_the_sync_is_taken_out(
    client: AsyncClient, trace: Trace
) -> None:
    trace.is_synced = False

    await client.produce("t", b"only in the page cache")

    with pytest.raises(AssertionError, match="not synced"):
        trace.check(b"only in the page cache")
