"""What the engine takes by itself: entries published into a stream of three replicas."""

import asyncio
import time
from dataclasses import dataclass, field

from sandglass.adapters.nats import Connection, Stored
from sandglass.errors import SandglassError

REPLICA_COUNT = 3


@dataclass(slots=True)
class RawStream:
    """
    A stream of the engine, without nodes: one publisher with one inbox, entries as large as
    those of the nodes, `in_flight` at a time, each on the disks of a majority when answered.
    """

    connection: Connection
    name: str

    async def create(self) -> None:
        await self.connection.call(
            f"STREAM.CREATE.{self.name}",
            {
                "name": self.name,
                "subjects": [self.name],
                "num_replicas": REPLICA_COUNT,
                "storage": "file",
                "retention": "limits",
                "discard": "new",
                "allow_direct": False,
            },
        )

    async def delete(self) -> None:
        await self.connection.call(f"STREAM.DELETE.{self.name}")

    async def publish(self, entries: list[bytes], *, in_flight: int) -> list[float]:
        """
        Publishes all, and waits for the answers; returns how long each took, in ms.

        Raises:
            SandglassError: one was refused.
        """
        publishing = _Publishing(len(entries))
        for entry in entries:
            while publishing.under_way >= in_flight:
                publishing.changed.clear()
                await publishing.changed.wait()
            await publishing.send(self.connection, self.name, entry)
        while publishing.under_way:
            publishing.changed.clear()
            await publishing.changed.wait()
        if publishing.errors:
            raise publishing.errors[0]
        return publishing.latencies_ms


@dataclass(slots=True)
class _Publishing:
    count: int
    under_way: int = 0
    latencies_ms: list[float] = field(default_factory=list[float])
    errors: list[SandglassError] = field(default_factory=list[SandglassError])
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, connection: Connection, subject: str, entry: bytes) -> None:
        sent_ns = time.monotonic_ns()

        def told(answer: Stored | SandglassError) -> None:
            self.under_way -= 1
            self.latencies_ms.append((time.monotonic_ns() - sent_ns) / 1e6)
            if isinstance(answer, SandglassError):
                self.errors.append(answer)
            self.changed.set()

        self.under_way += 1
        await connection.publish(subject, entry, {}, told)
