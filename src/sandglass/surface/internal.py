"""
The compatible InternalService over the broker: how far a group is, how a message stands with
it, and a partition in the order of its production.

The marks of the first Sandglass were messages of an internal topic. Here they are what the
broker knows of a group, told in the same form:

| mark | of a group | of a message |
| --- | --- | --- |
| Commited (40) | last of the prefix in which all is settled | settled, as all before it |
| Acknowledged (30) | greatest offset acked | settled: acked or dead |
| NotAcknowledged (20) | not kept | it failed or was given back, and waits |
| Consumed (10) | last offset handed out | handed out, no outcome yet |
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from sandglass.broker.broker import Broker
from sandglass.core import limits, offset
from sandglass.core.message import CHANNEL_DEFAULT, Slice, channel_to_read
from sandglass.core.standing import Standing
from sandglass.errors import InvalidError, NotFoundError
from sandglass.surface.compat import mark, offset_of, place_of
from sandglass.surface.leaders import ALONE, Leaders, call_of
from sandglass.surface.pacing import in_pieces
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.compatible import compatible_messages

INDEX_BYTES: Final = 8

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["InternalService"]
END_OF_LOG: Final = call_of(_SERVICE, "EndOfLog", pb.EndOfLogReply.FromString)
LAST_OFFSET: Final = call_of(_SERVICE, "LastOffset", pb.LastOffsetReply.FromString)
MARK: Final = call_of(_SERVICE, "Mark", pb.MarkResponse.FromString, is_change=True)
GET_MARK: Final = call_of(_SERVICE, "GetMarkStateMessage", pb.Message.FromString)
FETCH_SYNC: Final = call_of(_SERVICE, "FetchFromSync", bytes)

_MARKS: Final = {
    Standing.HANDED_OUT: pb.Consumed,
    Standing.WAITING: pb.NotAcknowledged,
    Standing.SETTLED: pb.Acknowledged,
    Standing.COMMITTED: pb.Commited,
}


class InternalService:
    """The calls of the service."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._leaders = leaders

    async def end_of_log(self, request: pb.EndOfLogRequest) -> pb.EndOfLogReply:
        """The index of the last message produced; 0 for none."""
        return await self._leaders.ask(END_OF_LOG, request, self._end_of_log)

    async def _end_of_log(self, request: pb.EndOfLogRequest) -> pb.EndOfLogReply:
        _, partition = place_of(self._broker, request.topic, request.partition)
        return pb.EndOfLogReply(index=self._broker.status.last_index(partition))

    async def last_offset(self, request: pb.LastOffsetRequest) -> pb.LastOffsetReply:
        """How far a group is; 14 zero bytes for not at all."""
        return await self._leaders.ask(LAST_OFFSET, request, self._last_offset)

    async def _last_offset(self, request: pb.LastOffsetRequest) -> pb.LastOffsetReply:
        _, partition = place_of(self._broker, request.topic, request.partition)
        channel = channel_to_read(request.channel)
        group = limits.check_name(request.consumerGroup, field="consumerGroup")
        found = self._broker.status.offsets(partition, channel, group)
        match request.kind:
            case pb.Commited:
                last = found.settled
            case pb.Acknowledged:
                last = found.acked
            case pb.Consumed:
                last = found.consumed
            case _:
                raise InvalidError(
                    f"kind {request.kind} has no last offset; give Consumed (10), Acknowledged"
                    " (30) or Commited (40)",
                    field="kind",
                )
        return pb.LastOffsetReply(offset=offset.to_bytes(last))

    async def mark(self, request: pb.MarkRequest) -> pb.MarkResponse:
        """An outcome by offsets, of the kind that the state says."""
        return await self._leaders.ask(MARK, request, self._mark)

    async def _mark(self, request: pb.MarkRequest) -> pb.MarkResponse:
        return await mark(self._broker, request, request.state.kind)

    async def get_mark_state_message(self, request: pb.GetMarkRequest) -> pb.Message:
        """
        How a message stands with a group, as the mark that the first Sandglass kept: its key
        names the group, its clustering key offset and kind, its value is a `MarkState`.
        """
        return await self._leaders.ask(GET_MARK, request, self._get_mark_state_message)

    async def _get_mark_state_message(self, request: pb.GetMarkRequest) -> pb.Message:
        topic, partition = place_of(self._broker, request.topic, request.partition)
        channel = channel_to_read(request.channel)
        group = limits.check_name(request.consumerGroup, field="consumerGroup")
        place = offset_of(request.offset, field="offset", unset=offset.NIL)
        found = self._broker.status.standing(partition, channel, group, place)
        if found is None:
            raise NotFoundError(
                f"group {group!r} has no mark at {offset.to_text(place)} in channel {channel!r}"
                f" of partition {partition.id}",
                field="offset",
            )
        standing, count = found
        raw, kind = offset.to_bytes(place), _MARKS[standing]
        return pb.Message(
            channel=CHANNEL_DEFAULT,
            offset=raw,
            key=f"offsets/{topic.name}/{partition.id}/{channel}/{group}".encode(),
            clusteringKey=b"%b/%c" % (raw, kind),
            value=pb.MarkState(kind=kind, deliveryCount=count).SerializeToString(),
        )

    def fetch_from_sync(
        self, request: pb.FetchFromSyncRequest, connection: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """What was produced after an index, in all channels, due or not, in order of index."""
        topic, partition = place_of(self._broker, request.topic, request.partition)

        def here(asked: pb.FetchFromSyncRequest) -> AsyncGenerator[bytes, None]:
            above = _index_of(getattr(asked, "from"))
            found = self._broker.fetch_by_index(topic, partition, above)
            return _messages(in_pieces(self._broker.outgoing, connection, found, _size_of))

        return self._leaders.stream(FETCH_SYNC, partition, request, here, _go_on)


def _go_on(
    request: pb.FetchFromSyncRequest, last: bytes
) -> tuple[pb.FetchFromSyncRequest, Callable[[bytes], bool]]:
    """Behind the index of the last message."""
    further = pb.FetchFromSyncRequest()
    further.CopyFrom(request)
    index = pb.Message.FromString(last).index
    setattr(further, "from", index.to_bytes(INDEX_BYTES, "big"))
    return further, lambda _: True


def _index_of(key: bytes) -> int:
    """The index that a key of the log ends with; 0 for no key."""
    if key and len(key) < INDEX_BYTES:
        raise InvalidError(
            f"from is {len(key)} bytes; it must be empty, or end with an index of"
            f" {INDEX_BYTES} bytes",
            field="from",
        )
    return int.from_bytes(key[-INDEX_BYTES:], "big")


def _size_of(slices: list[tuple[str, Slice]]) -> int:
    return sum(len(piece.body) for _, piece in slices)


async def _messages(
    found: AsyncGenerator[list[tuple[str, Slice]], None],
) -> AsyncGenerator[bytes, None]:
    async with aclosing(found) as batches:
        async for slices in batches:
            for channel, piece in slices:
                for message in compatible_messages(piece, channel):
                    yield message
