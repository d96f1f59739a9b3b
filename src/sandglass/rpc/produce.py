"""
Producing, for every surface: a request checked, cut, routed, and appended.

The partition is the one named; else the one that each message's key points at, else its id;
what has neither goes to one partition for the whole request, another the next time. What
reaches several partitions is one atom in each: all or nothing there, not all together.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sandglass.core import limits
from sandglass.core.message import CHANNEL_DEFAULT, Batch, Placed
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import SandglassError
from sandglass.wire import convert
from sandglass.wire.compatible import cut_compatible
from sandglass.wire.v1 import broker_pb2

if TYPE_CHECKING:
    from sandglass.broker.broker import Broker


@dataclass(frozen=True, slots=True)
class _Atom:
    """`places` are its messages' in the request; None when it is all of it."""

    partition: PartitionRef
    channel: str
    places: list[int] | None
    batch: Batch


async def produce(broker: "Broker", request: broker_pb2.ProduceRequest) -> list[Placed]:
    """
    Carries out a v1 request; answers when every atom is durable.

    Up to the first append nothing is awaited: requests that are begun in order are appended in
    order, as far as each reaches one partition.

    Raises:
        InvalidError, NotFoundError: nothing was appended.
        SandglassError: as the broker says. If some partitions have taken their part and others
            have not, `is_result_unknown` is set.
    """
    topic = broker.topic(request.topic)
    channel = _channel(request.channel)
    checked = convert.check_batch(
        request.batch, request.count, request.due_ms, request.delay_ms
    )
    atoms = _routed(broker, topic, request.partition, channel, checked)
    return await _append(broker, topic, atoms)


async def produce_reply(
    broker: "Broker", request: broker_pb2.ProduceRequest
) -> broker_pb2.ProduceReply:
    """As `produce`, as a reply of the protocol."""
    placed = await produce(broker, request)
    return broker_pb2.ProduceReply(
        request_id=request.request_id,
        placed=[convert.placed_to_wire(each) for each in placed],
    )


async def produce_compatible(broker: "Broker", request: bytes) -> list[bytes]:
    """
    Carries out a serialized compatible request.

    Returns:
        The offsets of its messages, in the order of the request.

    Raises:
        As `produce`.
    """
    cut = cut_compatible(request)
    topic = broker.topic(cut.topic)
    atoms: list[_Atom] = []
    for part in cut.parts:
        channel = _channel(part.channel)
        atoms += (
            replace(atom, places=_within(part.places, atom.places))
            for atom in _routed(broker, topic, cut.partition, channel, part.checked)
        )
    offsets = [b""] * cut.count
    for placed in await _append(broker, topic, atoms):
        places = placed.request_places or range(cut.count)
        for place, each in zip(places, convert.offsets_of(placed), strict=True):
            offsets[place] = each
    return offsets


def _channel(name: str) -> str:
    if name in {"", CHANNEL_DEFAULT}:
        return CHANNEL_DEFAULT
    return limits.check_name(name, field="channel")


def _routed(
    broker: "Broker", topic: Topic, partition: str, channel: str, checked: convert.Checked
) -> list[_Atom]:
    if partition:
        named = broker.partition(topic, partition)
        return [_Atom(named, channel, None, convert.cut(checked))]
    partitions = topic.partitions
    keys = convert.keys_of(checked) if len(partitions) > 1 else None
    if keys is None:
        return [_Atom(broker.spread(topic), channel, None, convert.cut(checked))]
    spread = 0 if all(keys) else partitions.index(broker.spread(topic))
    split = convert.split_by_partition(
        checked, convert.places_of(keys, len(partitions), spread=spread)
    )
    return [_Atom(partitions[place], channel, places, batch) for place, places, batch in split]


def _within(outer: Sequence[int] | None, inner: list[int] | None) -> list[int] | None:
    """Places in a part of a request as places in the request."""
    if outer is None:
        return inner
    return list(outer) if inner is None else [outer[place] for place in inner]


async def _append(broker: "Broker", topic: Topic, atoms: list[_Atom]) -> list[Placed]:
    if len(atoms) == 1:
        return [await _append_one(broker, topic, atoms[0])]

    async def attempt(atom: _Atom) -> Placed | SandglassError:
        try:
            return await _append_one(broker, topic, atom)
        except SandglassError as error:
            return error

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(attempt(atom)) for atom in atoms]
    results = [task.result() for task in running]
    placed = [result for result in results if isinstance(result, Placed)]
    errors = [result for result in results if isinstance(result, SandglassError)]
    if errors:
        raise _joined(errors, taken_count=len(placed))
    return placed


async def _append_one(broker: "Broker", topic: Topic, atom: _Atom) -> Placed:
    placed = await broker.produce(topic, atom.partition, atom.channel, atom.batch)
    return replace(placed, request_places=atom.places)


def _joined(errors: list[SandglassError], *, taken_count: int) -> SandglassError:
    """One error for a request of several atoms: the first, with what became of the others."""
    first = errors[0]
    total = len(errors) + taken_count
    return type(first)(
        f"{first.message} ({taken_count} of the request's {total} atoms were appended)",
        field=first.field,
        retry_after_ms=first.retry_after_ms,
        is_result_unknown=taken_count > 0 or any(each.is_result_unknown for each in errors),
    )
