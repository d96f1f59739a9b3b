"""
The broker's front door: admits, finds the partition, awaits the outcome.

Every surface calls it, and none does more than translate. What is refused is refused here or
before, with an error that names field and limit; what is admitted goes to the node loop. Topics
are in its `catalog`, their groups in `groups`, whoever consumes among its `consumers`, what KV
topics hold is behind `keyvalue`. For operators there are `dead_letters`, `schedule` (what is
pending), and `status`.
"""

import asyncio
from collections.abc import AsyncIterator

from sandglass.broker.catalog import Catalog
from sandglass.broker.clocks import Clocks
from sandglass.broker.consuming import Consumers
from sandglass.broker.dead_letters import DeadLetters
from sandglass.broker.groups import Groups
from sandglass.broker.intake import Told
from sandglass.broker.keyvalue import KeyValue
from sandglass.broker.loops import Loops
from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.outcomes import Outcomes
from sandglass.broker.outgoing import Outgoing
from sandglass.broker.pulling import Pulls
from sandglass.broker.retention import Retention
from sandglass.broker.schedule import Schedule
from sandglass.broker.status import Status
from sandglass.core import limits
from sandglass.core.dispatch import Moment
from sandglass.core.index_order import IndexOrder
from sandglass.core.keyvalue import admit_put
from sandglass.core.message import (
    Batch,
    Entries,
    Placed,
    Slice,
    channel_to_read,
    channel_to_write,
)
from sandglass.core.offset import INDEX_BITS
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.errors import PreconditionError, SandglassError
from sandglass.sandflake import Generator

FETCH_ROW_COUNT = 200
FETCH_BYTES = 256 * 1024
"""What a fetch reads before it lets others have the loop, and holds for a slow reader."""


class Broker:
    """All calls run in the event loop's thread."""

    def __init__(
        self,
        loop: NodeLoop,
        ids: Generator,
        *,
        session_grace_ms: int = limits.SESSION_GRACE_MS_DEFAULT,
        node_name: str = "sandglass",
    ) -> None:
        self.loop = loop
        """Of the node's own log."""
        self.loops = loops = Loops(loop)
        self.node_name = node_name
        self.outgoing = Outgoing()
        self.catalog = Catalog(loops, ids)
        self.keyvalue = KeyValue(loops)
        self.groups = Groups(loops)
        self.outcomes = Outcomes(loops)
        self.consumers = Consumers(
            loops, self.groups, self.outcomes, ids, session_grace_ms=session_grace_ms
        )
        self.dead_letters = DeadLetters(loops)
        self.schedule = Schedule(loops)
        self.retention = Retention(loops)
        self.clocks = Clocks(loops)
        self.pulls = Pulls(self.consumers)
        self.status = Status(loops)
        self.catalog.on_deleted = self.consumers.end_topic
        self.groups.on_deleted = self.consumers.end_group
        loop.housekeeping = self._keep_house

    async def produce(
        self, topic: Topic, partition: PartitionRef, channel: str, batch: Batch | Entries
    ) -> Placed:
        """
        Produces one atom; returns once it is durable. Cancelling doesn't undo it. What goes to
        a KV topic comes as entries.

        Raises:
            InvalidError: a channel that is no name.
            BusyError: too much is waiting to be written; see `retry_after_ms`.
        """
        future: asyncio.Future[Placed] = asyncio.get_running_loop().create_future()
        assert (topic.kind is TopicKind.KV) is isinstance(batch, Entries), "the other kind"

        def told(placed: Placed | None, error: SandglassError | None) -> None:
            if future.done():
                return  # the caller went away meanwhile
            if placed is not None:
                future.set_result(placed)
            else:
                assert error is not None, "there are places or an error"
                future.set_exception(error)

        self.produce_nowait(partition, channel, batch, told)
        return await future

    def produce_nowait(
        self, partition: PartitionRef, channel: str, batch: Batch | Entries, told: Told
    ) -> None:
        """
        As `produce`, but `told` is. Atoms of one partition are appended in the order of these
        calls.

        Raises:
            SandglassError: nothing was appended, and `told` is never called.
        """
        channel = channel_to_write(channel)
        loop = self.loops.of(partition.number)
        loop.check_room(batch.size_bytes)
        target = loop.partition(partition.number)
        if isinstance(batch, Batch):
            loop.produce(partition.number, channel, batch, told)
            return
        record, placed = admit_put(target, channel, batch, loop.moment(), loop.view)

        def done(error: SandglassError | None) -> None:
            told(None if error is not None else placed, error)

        loop.submit(record, done, batch.size_bytes)

    async def fetch(
        self, topic: Topic, partition: PartitionRef, channel: str, low: int, high: int
    ) -> AsyncIterator[list[Slice]]:
        """Messages with offsets in `[low, high]`, up to what is readable now, in order."""
        channel = channel_to_read(channel)
        loop = self.loops.of(partition.number)
        await loop.freshen([partition.number])
        top = high
        while low <= top:
            promised = loop.promised(loop.moment())
            top = min(top, loop.partition(partition.number).readable(promised))
            slices: list[Slice] = []
            size_bytes = 0
            for piece in loop.partition(partition.number).fetch(
                channel, low, top, promised, loop.view
            ):
                slices.append(piece)
                size_bytes += len(piece.body)
                if len(slices) == FETCH_ROW_COUNT or size_bytes >= FETCH_BYTES:
                    break
            if not slices:
                return
            last = slices[-1]
            low = (last.due_ms << INDEX_BITS | last.first_index) + last.count
            yield slices

    async def fetch_by_index(
        self, topic: Topic, partition: PartitionRef, above: int
    ) -> AsyncIterator[list[tuple[str, Slice]]]:
        """
        Messages of all channels with indexes above `above`, due or not, in order of index, up
        to the last one at the time of the call; each slice with its channel.

        Raises:
            OutOfRangeError: an index is no longer kept; what stands before it has been given.
            PreconditionError: a KV topic, which keeps the last entry of each key alone.
        """
        if topic.kind is TopicKind.KV:
            raise PreconditionError(
                f"topic '{topic.name}' is a KV topic: it does not keep what was produced, only"
                " the last entry of each key; scan them",
                field="topic",
            )
        loop = self.loops.of(partition.number)
        found = loop.partition(partition.number)
        order = IndexOrder(found, above + 1, found.last_index + 1)
        while not order.is_over:
            loop.partition(partition.number)  # it may have gone, or been stopped, meanwhile
            slices = order.step(loop.view)
            if slices:
                yield slices
            else:
                await asyncio.sleep(0)

    async def stop(self) -> None:
        """Waits for what is being given back."""
        await self.groups.stop()
        await self.consumers.stop()

    def _keep_house(self, moment: Moment) -> None:
        self.groups.resume()
        self.retention.keep_house(moment)
