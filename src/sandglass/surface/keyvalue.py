"""
Reading and deleting on KV topics, for both protocols. Putting is producing: `surface.produce`.

The partition is the one named, or each key's own: the keys of one call may lie in several.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from sandglass.broker.broker import Broker
from sandglass.broker.keyvalue import FIRST_KEY, PAGE_BYTES_MAX
from sandglass.core import limits
from sandglass.core.message import Entry, EntryKey, Removed, channel_to_read
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import InvalidError, NotFoundError, SandglassError
from sandglass.surface import produce
from sandglass.surface.leaders import ALONE, Call, Leaders, call_of
from sandglass.surface.pacing import in_pieces
from sandglass.surface.producing import Producing
from sandglass.wire.compat import sandglass_pb2 as compat_pb
from sandglass.wire.compatible import compatible_entry
from sandglass.wire.entries import check_key, entry_to_wire, partitions_of
from sandglass.wire.v1 import keyvalue_pb2 as pb
from sandglass.wire.v1 import raw_pb2

HAS_SLICE_COUNT: Final = 20
"""Keys that a has looks for before it lets others have the loop: each may be a large value."""

Request = pb.GetRequest | pb.HasRequest | pb.DeleteRequest
Keyed = TypeVar("Keyed", pb.GetRequest, pb.HasRequest, pb.DeleteRequest)
Reply = TypeVar("Reply")

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["KeyValue"]
GET: Final = call_of(_SERVICE, "Get", raw_pb2.RawEntries.FromString)
HAS: Final = call_of(_SERVICE, "Has", pb.HasReply.FromString)
DELETE: Final = call_of(_SERVICE, "Delete", pb.DeleteReply.FromString, is_change=True)
SCAN: Final = call_of(_SERVICE, "Scan", raw_pb2.RawScan.FromString)

_INTERNAL: Final = compat_pb.DESCRIPTOR.services_by_name["InternalService"]
GET_BY_KEY: Final = call_of(_INTERNAL, "GetByKey", compat_pb.Message.FromString)
HAS_KEY: Final = call_of(_INTERNAL, "HasKey", compat_pb.HasResponse.FromString)


class KeyValue:
    """The calls of the v1 service, each a request to a reply."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._leaders = leaders
        self._producing = Producing(broker, leaders)

    async def get(self, request: pb.GetRequest) -> raw_pb2.RawEntries:
        """What stands under the first keys, as much as fits; for each leader at one moment."""
        replies = await self._by_key(GET, request, self._get)
        if len(replies) == 1:
            return replies[0][1]
        found = {
            place: entry
            for places, reply in replies
            for place, entry in zip(places, reply.entries, strict=False)
        }
        entries: list[raw_pb2.RawEntry] = []
        size_bytes = 0
        for place in range(len(request.keys)):
            entry = found.get(place)
            size_bytes += 0 if entry is None else len(entry.message)
            if entry is None or (entries and size_bytes > PAGE_BYTES_MAX):
                break
            entries.append(entry)
        return raw_pb2.RawEntries(entries=entries)

    async def _get(self, request: pb.GetRequest) -> raw_pb2.RawEntries:
        keys = _keys(request.keys, count_max=limits.READ_KEY_COUNT_MAX)
        refs = _partitions(self._broker, request, keys, "Get")
        entries: list[Entry | None] = []
        size_bytes = 0
        for key, ref in zip(keys, refs, strict=True):
            entry = self._broker.keyvalue.find(ref, request.channel, key)
            size_bytes += len(entry.message) if entry is not None else 0
            if entries and size_bytes > PAGE_BYTES_MAX:
                break
            entries.append(entry)
        return raw_pb2.RawEntries(entries=map(entry_to_wire, entries))

    async def has(self, request: pb.HasRequest) -> pb.HasReply:
        """Whether there are entries; for each key at a moment of the call."""
        exists = [False] * len(request.keys)
        for places, reply in await self._by_key(HAS, request, self._has):
            for place, each in zip(places, reply.exists, strict=True):
                exists[place] = each
        return pb.HasReply(exists=exists)

    async def _has(self, request: pb.HasRequest) -> pb.HasReply:
        keys = _keys(request.keys, count_max=limits.READ_KEY_COUNT_MAX)
        refs = _partitions(self._broker, request, keys, "Has")
        exists: list[bool] = []
        for key, ref in zip(keys, refs, strict=True):
            exists.append(self._broker.keyvalue.holds(ref, request.channel, key))
            if len(exists) % HAS_SLICE_COUNT == 0:
                await asyncio.sleep(0)
        return pb.HasReply(exists=exists)

    async def put(self, request: bytes) -> pb.PutReply:
        """Takes the request's bytes: its messages are stored as they came."""
        return await self._producing.put(request)

    async def delete(self, request: pb.DeleteRequest) -> pb.DeleteReply:
        """
        Raises:
            SandglassError: as the broker says. If keys of some partitions were deleted and of
                others not, `is_result_unknown` is set.
        """
        existed, revisions = [False] * len(request.keys), [0] * len(request.keys)
        for places, reply in await self._by_key(DELETE, request, self._delete):
            for number, place in enumerate(places):
                existed[place] = reply.existed[number]
                revisions[place] = reply.revisions[number]
        return pb.DeleteReply(existed=existed, revisions=revisions)

    async def _delete(self, request: pb.DeleteRequest) -> pb.DeleteReply:
        keys = _keys(request.keys, count_max=limits.DELETE_KEY_COUNT_MAX)
        refs = _partitions(self._broker, request, keys, "Delete")
        places: dict[PartitionRef, list[int]] = {}
        for place, ref in enumerate(refs):
            places.setdefault(ref, []).append(place)
        answers = await asyncio.gather(
            *(
                self._broker.keyvalue.delete(
                    ref, request.channel, [keys[place] for place in some]
                )
                for ref, some in places.items()
            ),
            return_exceptions=True,
        )
        existed = [False] * len(keys)
        revisions = [0] * len(keys)
        for some, removed in zip(places.values(), _whole(answers), strict=True):
            for number, place in enumerate(some):
                existed[place] = removed.existed[number]
                revisions[place] = removed.first_revision + number
        return pb.DeleteReply(existed=existed, revisions=revisions)

    async def scan(self, request: pb.ScanRequest) -> raw_pb2.RawScan:
        """A page of entries in the order of their keys."""
        return await self._leaders.ask(SCAN, request, self._scan)

    async def _by_key(
        self,
        call: Call[Reply],
        request: Keyed,
        here: Callable[[Keyed], Awaitable[Reply]],
    ) -> list[tuple[list[int], Reply]]:
        """What is answered where the keys lie, with the places of those keys."""
        everything = [*range(len(request.keys))]
        if self._leaders.is_alone:
            return [(everything, await here(request))]
        keys = _keys(request.keys, count_max=limits.READ_KEY_COUNT_MAX)
        refs = _partitions(self._broker, request, keys, call.path.rpartition("/")[2])

        def make(places: list[int]) -> Keyed:
            return type(request)(
                topic=request.topic,
                partition=request.partition,
                channel=request.channel,
                keys=[request.keys[place] for place in places],
            )

        return await self._leaders.ask_items(call, refs, make, here)

    async def _scan(self, request: pb.ScanRequest) -> raw_pb2.RawScan:
        topic = self._broker.catalog.topic(request.topic)
        produce.check_kind(topic, "Scan")
        count_max = limits.check_range(
            request.count_max, field="count_max", low=0, high=limits.SCAN_ENTRY_COUNT_MAX
        )
        first = (request.first.key, request.first.clustering_key)
        end = None
        if request.HasField("end"):
            end = (request.end.key, request.end.clustering_key)
        if request.key:
            # The keys from (key, "") to just below the next possible key.
            first = max(first, (request.key, b""))
            after = (request.key + b"\0", b"")
            end = after if end is None else min(end, after)
        ref = self._scanned(topic, request)
        entries, after_page = self._broker.keyvalue.page(
            ref,
            request.channel,
            max(first, FIRST_KEY),
            end,
            count_max=count_max or limits.SCAN_ENTRY_COUNT_MAX,
        )
        reply = raw_pb2.RawScan(entries=map(entry_to_wire, entries))
        if after_page is not None:
            reply.next.key, reply.next.clustering_key = after_page
        return reply

    def _scanned(self, topic: Topic, request: pb.ScanRequest) -> PartitionRef:
        for field, key in (("key", request.key), ("first", request.first.key)):
            _check_length(field, key)
        _check_length("first.clustering_key", request.first.clustering_key)
        _check_length("end", request.end.key)
        _check_length("end.clustering_key", request.end.clustering_key)
        if request.partition:
            return self._broker.catalog.partition(topic, request.partition)
        if len(topic.partitions) > 1 and not request.key:
            raise InvalidError(
                f"ErrNoPartitionSet: keys lie in {len(topic.partitions)} partitions of topic"
                f" '{topic.name}': name one of them, or the key",
                field="partition",
            )
        return _by_key(topic, [(request.key, b"")])[0]


class CompatibleKeyValue:
    """The calls of InternalService that read by key."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._leaders = leaders

    async def get_by_key(self, request: compat_pb.GetRequest) -> compat_pb.Message:
        """
        Raises:
            NotFoundError: nothing stands under the key.
        """
        return await self._leaders.ask(GET_BY_KEY, request, self._get_by_key)

    async def _get_by_key(self, request: compat_pb.GetRequest) -> compat_pb.Message:
        entry, channel = self._find(request, "GetByKey")
        if entry is None:
            raise NotFoundError(
                f"ErrKeyNotFound: topic '{request.topic}' holds nothing under this key",
                field="key",
            )
        return compat_pb.Message.FromString(compatible_entry(entry, channel))

    async def has_key(self, request: compat_pb.GetRequest) -> compat_pb.HasResponse:
        """Does exactly this key hold something?"""
        return await self._leaders.ask(HAS_KEY, request, self._has_key)

    async def _has_key(self, request: compat_pb.GetRequest) -> compat_pb.HasResponse:
        entry, _ = self._find(request, "HasKey")
        return compat_pb.HasResponse(exists=entry is not None)

    def _find(self, request: compat_pb.GetRequest, call: str) -> tuple[Entry | None, str]:
        topic = self._broker.catalog.topic(request.topic)
        produce.check_kind(topic, call)
        channel = channel_to_read(request.channel)
        key = check_key(request.key, request.clusteringKey, name="clusteringKey")
        ref = (
            self._broker.catalog.partition(topic, request.partition)
            if request.partition
            else _by_key(topic, [key])[0]
        )
        return self._broker.keyvalue.find(ref, channel, key), channel


async def compatible_entries(
    broker: Broker,
    connection: str,
    partition: PartitionRef,
    channel: str,
    low: int,
    high: int,
) -> AsyncGenerator[bytes, None]:
    """Compatible messages, in the order of their keys, with offsets in `[low, high]`."""
    pages = broker.keyvalue.entries(partition, channel)
    async with aclosing(in_pieces(broker.outgoing, connection, pages, _size_of)) as found:
        async for page in found:
            for entry in page:
                if low <= entry.offset <= high:
                    yield compatible_entry(entry, channel)


def _size_of(page: list[Entry]) -> int:
    return sum(len(entry.message) for entry in page)


def _keys(wire: Sequence[pb.Key], *, count_max: int) -> list[EntryKey]:
    limits.check_range(len(wire), field="count of keys", low=1, high=count_max)
    return [
        check_key(
            each.key, each.clustering_key, name="clustering_key", prefix=f"keys[{place}]."
        )
        for place, each in enumerate(wire)
    ]


def _partitions(
    broker: Broker, request: Request, keys: list[EntryKey], call: str
) -> list[PartitionRef]:
    """The partition of each key."""
    topic = broker.catalog.topic(request.topic)
    produce.check_kind(topic, call)
    if request.partition:
        return [broker.catalog.partition(topic, request.partition)] * len(keys)
    return _by_key(topic, keys)


def _by_key(topic: Topic, keys: list[EntryKey]) -> list[PartitionRef]:
    places = partitions_of(keys, len(topic.partitions))
    return [topic.partitions[place] for place in places]


def _check_length(field: str, key: bytes) -> None:
    if len(key) > limits.KEY_BYTES_MAX:
        raise InvalidError(
            f"{field} is {len(key)} bytes; the limit is {limits.KEY_BYTES_MAX}", field=field
        )


def _whole(answers: Iterable[Removed | BaseException]) -> list[Removed]:
    """What all partitions answered; or the first error, which says if others succeeded."""
    taken: list[Removed] = []
    errors: list[BaseException] = []
    for each in answers:
        if isinstance(each, BaseException):
            errors.append(each)
        else:
            taken.append(each)
    if errors and taken and isinstance(errors[0], SandglassError):
        errors[0].is_result_unknown = True
    if errors:
        raise errors[0]
    return taken
