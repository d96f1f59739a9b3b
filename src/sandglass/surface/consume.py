"""
Consuming over sandglass.v1: what a session and the unary calls have in common, and those calls.

Errors of a whole call are its status; those of one outcome, or one lease, stand in the answer,
in the item's place.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import groupby
from typing import Final, TypeVar, cast

from sandglass.broker.broker import Broker
from sandglass.broker.inbox import resolve
from sandglass.core import limits, offset
from sandglass.core.dispatch import Delivery, charged_bytes
from sandglass.core.group import Group
from sandglass.core.lease import Places
from sandglass.core.message import Slice, channel_to_read
from sandglass.core.record import Ending
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.errors import InvalidError, PreconditionError, SandglassError
from sandglass.surface.leaders import ALONE, Leaders, call_of
from sandglass.surface.places import partition_at, partitions_of
from sandglass.surface.pulling import Pulling
from sandglass.wire import convert, status
from sandglass.wire.v1 import broker_pb2 as pb

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Broker"]

_ENDINGS: Final = {
    pb.OUTCOME_ACK: Ending.ACKED,
    pb.OUTCOME_NACK: Ending.NACKED,
    pb.OUTCOME_RELEASE: Ending.RELEASED,
    pb.OUTCOME_DEAD: Ending.DEAD,
}

RUN_BYTES: Final = 27
"""What a run takes in the columns of a delivery, at most."""

SETTLE: Final = call_of(SERVICE, "Settle", pb.SettleReply.FromString, is_change=True)
EXTEND: Final = call_of(SERVICE, "ExtendLeases", pb.ExtendLeasesReply.FromString)
FETCH: Final = call_of(SERVICE, "Fetch", pb.FetchReply.FromString)

Item = TypeVar("Item", pb.Outcome, pb.Extend)


class Consuming:
    """The unary calls, each a request to a reply."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._leaders = leaders

    async def consume(self, request: pb.ConsumeRequest) -> pb.ConsumeReply:
        """See the contract."""
        if request.is_let_go:
            return await self._consume(request)
        topic = self._broker.catalog.topic(request.topic)
        refs = partitions_of(self._broker, topic, request.partitions)
        if self._leaders.are_here(refs):
            return await self._consume(request)
        pulling = Pulling(
            self._leaders,
            request,
            here=self._consume,
            settle=self.settle,
            new_id=lambda: str(self._broker.consumers.ids.next()),
        )
        return await self._leaders.again(lambda: pulling.take(refs))

    async def _consume(self, request: pb.ConsumeRequest) -> pb.ConsumeReply:
        if request.is_let_go:
            self._broker.pulls.let_go_of(request.pull_id)
            return pb.ConsumeReply()
        topic = self._broker.catalog.topic(request.topic)
        deliveries = await self._broker.pulls.take(
            topic,
            partitions_of(self._broker, topic, request.partitions),
            channel=request.channel,
            group=request.group,
            consumer=request.consumer,
            count_max=request.count_max or limits.PULL_COUNT_DEFAULT,
            bytes_max=request.bytes_max or limits.PULL_BYTES_MAX,
            wait_ms=request.wait_ms,
            ack_timeout_ms=request.ack_timeout_ms,
            is_from_now=request.start == pb.START_NOW,
            pull_id=request.pull_id,
        )
        places = {ref.number: place for place, ref in enumerate(topic.partitions)}
        return pb.ConsumeReply(
            deliveries=[
                delivery_to_wire(each, subscription_id=0, place=places[each.partition])
                for each in deliveries
            ]
        )

    async def settle(self, request: pb.SettleRequest) -> pb.SettleReply:
        """Answered when all outcomes that are taken are durable."""
        topic = self._topic(request, request.outcomes)
        if self._leaders.is_alone:
            return await self._settle(request)

        def make(places: list[int]) -> pb.SettleRequest:
            return pb.SettleRequest(
                topic=request.topic,
                channel=request.channel,
                group=request.group,
                outcomes=[request.outcomes[place] for place in places],
            )

        replies = [pb.OutcomeReply(request_id=item.request_id) for item in request.outcomes]
        refs = _refs_of(topic, request.outcomes)
        for places, found in await self._leaders.try_items(SETTLE, refs, make, self._settle):
            if isinstance(found, SandglassError):
                for place in places:
                    replies[place].error.CopyFrom(status.to_wire(found))
            else:
                for place, reply in zip(places, found.outcomes, strict=True):
                    replies[place].CopyFrom(reply)
        return pb.SettleReply(outcomes=replies)

    async def _settle(self, request: pb.SettleRequest) -> pb.SettleReply:
        topic = self._topic(request, request.outcomes)
        replies = [
            self._settle_one(topic, request.channel, request.group, item)
            for item in request.outcomes
        ]
        return pb.SettleReply(outcomes=await asyncio.gather(*replies))

    async def extend_leases(self, request: pb.ExtendLeasesRequest) -> pb.ExtendLeasesReply:
        """Each lease by itself."""
        topic = self._topic(request, request.extends)
        if self._leaders.is_alone:
            return await self._extend(request)

        def make(places: list[int]) -> pb.ExtendLeasesRequest:
            return pb.ExtendLeasesRequest(
                topic=request.topic,
                channel=request.channel,
                group=request.group,
                extends=[request.extends[place] for place in places],
            )

        replies = [
            pb.ExtendReply(request_id=item.request_id, token=item.token)
            for item in request.extends
        ]
        refs = _refs_of(topic, request.extends)
        for places, found in await self._leaders.try_items(EXTEND, refs, make, self._extend):
            if isinstance(found, SandglassError):
                for place in places:
                    replies[place].error.CopyFrom(status.to_wire(found))
            else:
                for place, reply in zip(places, found.extends, strict=True):
                    replies[place].CopyFrom(reply)
        return pb.ExtendLeasesReply(extends=replies)

    async def _extend(self, request: pb.ExtendLeasesRequest) -> pb.ExtendLeasesReply:
        topic = self._topic(request, request.extends)
        reply = pb.ExtendLeasesReply()
        for item in request.extends:
            answer = reply.extends.add(request_id=item.request_id, token=item.token)
            try:
                answer.lease_ends_ms = self._broker.outcomes.extend_lease(
                    self._group(topic, request.channel, request.group, item),
                    item.token,
                    lease_ms=item.lease_ms,
                    begun_count=item.begun_count,
                )
            except SandglassError as error:
                answer.error.CopyFrom(status.to_wire(error))
        return reply

    async def fetch(self, request: pb.FetchRequest) -> pb.FetchReply:
        """A page of a range."""
        return await self._leaders.ask(FETCH, request, self._fetch)

    async def _fetch(self, request: pb.FetchRequest) -> pb.FetchReply:
        topic = self._broker.catalog.topic(request.topic)
        if topic.kind is TopicKind.KV:
            raise PreconditionError(
                f"topic '{topic.name}' is a KV topic: get its keys, or scan them", field="topic"
            )
        partition = self._broker.catalog.partition(topic, request.partition)
        channel = channel_to_read(request.channel)
        low = _offset(request.first, "first") if request.first else offset.NIL
        end = _offset(request.end, "end") if request.end else offset.MAX
        check = limits.check_range
        count_max = request.count_max or limits.PULL_COUNT_DEFAULT
        check(count_max, field="count_max", low=1, high=limits.PULL_COUNT_MAX)
        bytes_max = request.bytes_max or limits.PULL_BYTES_MAX
        check(bytes_max, field="bytes_max", low=1, high=limits.PULL_BYTES_MAX)
        found = self._broker.fetch(topic, partition, channel, low, end - 1)
        slices, is_end = await _page(
            cast("AsyncGenerator[list[Slice], None]", found), count_max, bytes_max
        )
        after = _end_of(slices[-1]) if slices else low
        return pb.FetchReply(
            fetched=[_fetched(part) for part in _by_death(slices)],
            next=offset.to_bytes(after),
            is_end=is_end,
        )

    def _topic(
        self, request: pb.SettleRequest | pb.ExtendLeasesRequest, items: Sequence[Item]
    ) -> Topic:
        topic = self._broker.catalog.topic(request.topic)
        channel_to_read(request.channel)
        limits.check_name(request.group, field="group")
        limits.check_range(
            len(items), field="count of items", low=0, high=limits.PULL_ITEM_COUNT_MAX
        )
        return topic

    def _group(
        self, topic: Topic, channel: str, group: str, item: pb.Outcome | pb.Extend
    ) -> Group:
        ref = partition_at(topic, item.partition_number)
        return self._broker.pulls.group(ref, channel, group)

    async def _settle_one(
        self, topic: Topic, channel: str, group: str, item: pb.Outcome
    ) -> pb.OutcomeReply:
        reply = pb.OutcomeReply(request_id=item.request_id)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._broker.outcomes.settle_lease(
                self._group(topic, channel, group, item),
                item.token,
                places_of(item),
                ending_of(item),
                lambda error: resolve(future, error),
                delay_ms=item.delay_ms if item.HasField("delay_ms") else None,
                reason=item.reason,
            )
            await future
        except SandglassError as error:
            reply.error.CopyFrom(status.to_wire(error))
        return reply


# --- outcomes ---------------------------------------------------------------------------------


def ending_of(item: pb.Outcome) -> Ending:
    """
    What an outcome's kind means.

    Raises:
        InvalidError: nothing.
    """
    ending = _ENDINGS.get(item.kind)
    if ending is None:
        raise InvalidError(f"kind {item.kind} is no outcome", field="kind")
    return ending


def places_of(item: pb.Outcome | pb.Claim) -> Places:
    """
    The places that an outcome or a claim is for; none for all that are open.

    Raises:
        InvalidError: half a pair, or more pairs than a delivery has messages.
    """
    if len(item.places) % 2:
        raise InvalidError("places are pairs of first and count", field="places")
    limits.check_range(
        len(item.places) // 2,
        field="count of places",
        low=0,
        high=limits.DELIVERY_MESSAGE_COUNT_MAX,
    )
    return list(zip(item.places[::2], item.places[1::2], strict=True))


def _refs_of(topic: Topic, items: Sequence[Item]) -> list[PartitionRef | None]:
    """The partition of each item; None where there is none, which is answered here."""
    count = len(topic.partitions)
    places = [item.partition_number for item in items]
    return [topic.partitions[place] if place < count else None for place in places]


# --- messages ---------------------------------------------------------------------------------


def delivery_to_wire(delivery: Delivery, *, subscription_id: int, place: int) -> pb.Delivery:
    """A delivery as the protocol has it; `place` is that of its partition in the topic."""
    lease = delivery.lease
    wire = pb.Delivery(
        subscription_id=subscription_id,
        partition_number=place,
        token=lease.token,
        attempt=delivery.attempt,
        count=lease.count,
        lease_ms=lease.lease_ms,
    )
    if lease.releases:
        wire.releases = lease.releases
    if delivery.group.generation > 1:
        wire.generation = delivery.group.generation
    _fill(wire, delivery.slices)
    return wire


def bytes_at_most(delivery: pb.Delivery) -> int:
    """What a delivery takes in a frame, without putting it together as `ByteSize` would."""
    run_count = len(delivery.run_count)
    size_bytes = len(delivery.batch) + 100 + RUN_BYTES * run_count
    if delivery.HasField("dead_letter"):
        letter = delivery.dead_letter
        size_bytes += 4 * (len(letter.group) + len(letter.reason)) + 16 * run_count + 32
    return size_bytes


def _fill(wire: pb.Delivery | pb.Fetched, slices: list[Slice]) -> None:
    """Batch and columns; slices of dead letters are of one group, reason and count."""
    if len(slices) == 1:
        part = slices[0]
        wire.batch = convert.slice_body(part.body, part.row_count, part.first, part.count)
        wire.run_due_ms.append(part.due_ms)
        wire.run_first_index.append(part.first_index)
        wire.run_count.append(part.count)
        wire.run_produced_ms.append(part.produced_ms)
    else:
        wire.batch = b"".join(
            [
                part.body
                if part.count == part.row_count
                else convert.slice_body(part.body, part.row_count, part.first, part.count)
                for part in slices
            ]
        )
        wire.run_due_ms.extend([part.due_ms for part in slices])
        wire.run_first_index.extend([part.first_index for part in slices])
        wire.run_count.extend([part.count for part in slices])
        wire.run_produced_ms.extend([part.produced_ms for part in slices])
    origin = slices[0].origin
    if origin is not None:
        wire.dead_letter.group = origin.group
        wire.dead_letter.attempts = origin.attempts
        wire.dead_letter.reason = origin.reason
        wire.dead_letter.run_offset.extend(
            offset.to_bytes(part.origin.offset + part.first)
            for part in slices
            if part.origin is not None
        )


def _fetched(slices: list[Slice]) -> pb.Fetched:
    wire = pb.Fetched(count=sum(part.count for part in slices))
    _fill(wire, slices)
    return wire


def _by_death(slices: list[Slice]) -> list[list[Slice]]:
    """Dead letters apart that differ in more than their offset."""

    def death(part: Slice) -> tuple[str, int, str] | None:
        origin = part.origin
        return None if origin is None else (origin.group, origin.attempts, origin.reason)

    return [list(some) for _, some in groupby(slices, death)]


async def _page(
    found: AsyncGenerator[list[Slice], None], count_max: int, bytes_max: int
) -> tuple[list[Slice], bool]:
    """Up to these sums, or one message; and whether that is all."""
    page: list[Slice] = []
    count = size_bytes = 0
    async with aclosing(found) as batches:
        async for slices in batches:
            for part in slices:
                each_bytes = charged_bytes(part) // part.count
                room = min(count_max - count, (bytes_max - size_bytes) // each_bytes)
                taken = min(part.count, room if page else max(1, room))
                if taken > 0:
                    page.append(part._replace(count=taken))
                    count += taken
                    size_bytes += taken * each_bytes
                if taken < part.count:
                    return page, False
    return page, True


def _end_of(part: Slice) -> int:
    """Just above its last message."""
    return offset.make(part.due_ms, part.first_index) + part.count


def _offset(raw: bytes, field: str) -> int:
    if len(raw) != offset.OFFSET_BYTES:
        raise InvalidError(
            f"{field}: length of offset should be {offset.OFFSET_BYTES} but got {len(raw)}",
            field=field,
        )
    return offset.from_bytes(raw)
