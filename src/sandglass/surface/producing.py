"""
Producing by calls, to partitions led wherever: what the leaders of several take goes to each of
them in a request of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sandglass.broker.broker import Broker
from sandglass.core.message import Placed
from sandglass.core.topic import PartitionRef
from sandglass.errors import NotLeaderError
from sandglass.surface import produce
from sandglass.surface.leaders import ALONE, Leaders, call_of
from sandglass.surface.produce import Atom
from sandglass.wire import convert
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import broker_pb2, keyvalue_pb2, raw_pb2

_BROKER: Final = broker_pb2.DESCRIPTOR.services_by_name["Broker"]
_KEY_VALUE: Final = keyvalue_pb2.DESCRIPTOR.services_by_name["KeyValue"]
_COMPATIBLE: Final = compat.DESCRIPTOR.services_by_name["BrokerService"]

PRODUCE: Final = call_of(_BROKER, "Produce", broker_pb2.ProduceReply.FromString, is_change=True)
PUT: Final = call_of(_KEY_VALUE, "Put", keyvalue_pb2.PutReply.FromString, is_change=True)
PRODUCE_COMPATIBLE: Final = call_of(
    _COMPATIBLE, "Produce", compat.ProduceResponse.FromString, is_change=True
)


class Producing:
    """The calls that produce, each a request to a reply. Cancelling one doesn't undo it."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._leaders = leaders

    async def produce(self, request: broker_pb2.ProduceRequest) -> broker_pb2.ProduceReply:
        """
        A v1 request.

        Raises:
            SandglassError: as `surface.produce.produce`.
        """
        if self._leaders.is_alone:
            return await self._produce(request)
        atoms = produce.atoms_of(self._broker, request)
        if self._leaders.are_here(atom.partition for atom in atoms):
            try:
                placed = await produce.append(self._broker, atoms)
            except NotLeaderError as error:
                if error.is_result_unknown:
                    raise
            else:
                return _reply_of(request, placed)
        refs = _refs_of(atoms, request.count)
        batch = raw_pb2.RawBatch.FromString(request.batch)

        def make(places: list[int]) -> broker_pb2.ProduceRequest:
            part = broker_pb2.ProduceRequest(
                topic=request.topic,
                partition=_only(refs, places) or request.partition,
                channel=request.channel,
                batch=request.batch,
                count=len(places),
                due_ms=_column(request.due_ms, places),
                delay_ms=_column(request.delay_ms, places),
            )
            if len(places) < request.count:
                raws = [batch.messages[place] for place in places]
                part.batch = raw_pb2.RawBatch(messages=raws).SerializeToString()
            return part

        found = await self._leaders.ask_items(PRODUCE, refs, make, self._produce)
        return broker_pb2.ProduceReply(
            request_id=request.request_id,
            placed=_placed((places, reply.placed) for places, reply in found),
        )

    async def put(self, request: bytes) -> keyvalue_pb2.PutReply:
        """
        A serialized `PutRequest`.

        Raises:
            SandglassError: as `surface.produce.put`.
        """
        if self._leaders.is_alone:
            return await produce.put(self._broker, request)
        atoms = produce.atoms_of_put(self._broker, request)
        whole = raw_pb2.RawPut.FromString(request)
        refs = _refs_of(atoms, len(whole.messages))

        def make(places: list[int]) -> raw_pb2.RawPut:
            return raw_pb2.RawPut(
                topic=whole.topic,
                partition=_only(refs, places) or whole.partition,
                channel=whole.channel,
                messages=[whole.messages[place] for place in places],
            )

        found = await self._leaders.ask_items(PUT, refs, make, self._put)
        placed = _placed((places, reply.placed) for places, reply in found)
        return keyvalue_pb2.PutReply(placed=placed)

    async def produce_compatible(self, request: bytes) -> compat.ProduceResponse:
        """
        A serialized compatible request.

        Raises:
            SandglassError: as `surface.produce.produce_compatible`.
        """
        if self._leaders.is_alone:
            return await self._produce_compatible(request)
        cut, atoms = produce.atoms_of_compatible(self._broker, request)
        whole = raw_pb2.RawCompatibleProduce.FromString(request)
        refs = _refs_of(atoms, cut.count)

        def make(places: list[int]) -> raw_pb2.RawCompatibleProduce:
            return raw_pb2.RawCompatibleProduce(
                topic=whole.topic,
                partition=_only(refs, places) or whole.partition,
                messages=[whole.messages[place] for place in places],
            )

        async def here(part: raw_pb2.RawCompatibleProduce) -> compat.ProduceResponse:
            return await self._produce_compatible(part.SerializeToString())

        offsets = [b""] * cut.count
        for places, reply in await self._leaders.ask_items(
            PRODUCE_COMPATIBLE, refs, make, here
        ):
            for place, each in zip(places, reply.offsets, strict=True):
                offsets[place] = each
        return compat.ProduceResponse(offsets=offsets)

    async def _produce(self, request: broker_pb2.ProduceRequest) -> broker_pb2.ProduceReply:
        return _reply_of(request, await produce.produce(self._broker, request))

    async def _put(self, request: raw_pb2.RawPut) -> keyvalue_pb2.PutReply:
        return await produce.put(self._broker, request.SerializeToString())

    async def _produce_compatible(self, request: bytes) -> compat.ProduceResponse:
        offsets = await produce.produce_compatible(self._broker, request)
        return compat.ProduceResponse(offsets=offsets)


def _reply_of(
    request: broker_pb2.ProduceRequest, placed: Iterable[Placed]
) -> broker_pb2.ProduceReply:
    return broker_pb2.ProduceReply(
        request_id=request.request_id, placed=map(convert.placed_to_wire, placed)
    )


def _refs_of(atoms: Sequence[Atom], count: int) -> list[PartitionRef]:
    """The partition of each message of a request."""
    refs = [atoms[0].partition] * count
    for atom in atoms:
        for place in atom.places or ():
            refs[place] = atom.partition
    return refs


def _only(refs: Sequence[PartitionRef], places: Sequence[int]) -> str:
    """The id of the partition that all these messages go to; empty if there are several."""
    found = {refs[place].id for place in places}
    return found.pop() if len(found) == 1 else ""


def _column(times: Sequence[int], places: Sequence[int]) -> Sequence[int]:
    return times if len(times) <= 1 else [times[place] for place in places]


def _placed(
    found: Iterable[tuple[list[int], Iterable[broker_pb2.Placed]]],
) -> list[broker_pb2.Placed]:
    """Where everything went, with places in the whole request."""
    placed: list[broker_pb2.Placed] = []
    for places, some in found:
        for each in some:
            inner = each.request_places or range(len(places))
            each.request_places[:] = [places[place] for place in inner]
            placed.append(each)
    if len(placed) == 1:
        placed[0].ClearField("request_places")
    return placed
