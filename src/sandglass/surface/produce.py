"""
Producing, for every surface: a request checked, cut, routed, and appended.

The partition is the one named; else the one that each message's key points at, else its id;
what has neither goes to one partition for the whole request, another the next time. What
reaches several partitions is one atom in each: all or nothing there, not all together.

Producing to a KV topic is putting: there each message needs a key, and has no time.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sandglass.broker.broker import Broker
from sandglass.broker.intake import Told
from sandglass.core.message import Batch, Entries, Placed, channel_to_write
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.errors import PreconditionError, SandglassError
from sandglass.wire import convert
from sandglass.wire.compatible import CompatibleProduce, cut_compatible
from sandglass.wire.entries import cut_put, entries_by_partition
from sandglass.wire.v1 import broker_pb2, keyvalue_pb2


@dataclass(frozen=True, slots=True)
class Atom:
    """
    What goes to one partition. `places` are its messages' in the request; None when it is all
    of it.
    """

    partition: PartitionRef
    channel: str
    places: list[int] | None
    batch: Batch | Entries


Answered = Callable[[list[Placed], SandglassError | None], None]
"""Told once: where the messages went, or why they did not."""


async def produce(broker: Broker, request: broker_pb2.ProduceRequest) -> list[Placed]:
    """
    Carries out a v1 request; returns when every atom is durable. Cancelling doesn't undo it.

    Raises:
        InvalidError, NotFoundError: nothing was appended.
        SandglassError: as the broker says. If some partitions have taken their part and others
            have not, `is_result_unknown` is set.
    """
    return await append(broker, atoms_of(broker, request))


def produce_nowait(
    broker: Broker, request: broker_pb2.ProduceRequest, answered: Answered
) -> None:
    """
    As `produce`, but `answered` is told. Requests are appended in the order of these calls.

    Raises:
        SandglassError: nothing was appended, and `answered` is never called.
    """
    _append_nowait(broker, atoms_of(broker, request), answered)


async def produce_compatible(broker: Broker, request: bytes) -> list[bytes]:
    """
    Carries out a serialized compatible request.

    Returns:
        The offsets of its messages, in the order of the request.

    Raises:
        As `produce`.
    """
    cut, atoms = atoms_of_compatible(broker, request)
    all_placed = await append(broker, atoms)
    if len(all_placed) == 1:
        return list(convert.offsets_of(all_placed[0]))
    offsets = [b""] * cut.count
    for placed in all_placed:
        places = placed.request_places or range(cut.count)
        for place, each in zip(places, convert.offsets_of(placed), strict=True):
            offsets[place] = each
    return offsets


def atoms_of_compatible(broker: Broker, request: bytes) -> tuple[CompatibleProduce, list[Atom]]:
    """A serialized compatible request, checked, and what of it goes where."""
    cut = cut_compatible(request)
    topic = broker.catalog.topic(cut.topic)
    atoms: list[Atom] = []
    for part in cut.parts:
        channel = channel_to_write(part.channel)
        routed = _routed(broker, topic, cut.partition, channel, part.checked)
        if part.places is not None:
            routed = [
                replace(atom, places=_within(part.places, atom.places)) for atom in routed
            ]
        atoms += routed
    return cut, atoms


async def put(broker: Broker, request: bytes) -> keyvalue_pb2.PutReply:
    """
    Carries out a serialized `PutRequest`.

    Raises:
        PreconditionError: the topic is none for keys.
        SandglassError: as `produce`.
    """
    placed = await append(broker, atoms_of_put(broker, request))
    return keyvalue_pb2.PutReply(placed=map(convert.placed_to_wire, placed))


def atoms_of_put(broker: Broker, request: bytes) -> list[Atom]:
    """What of a serialized `PutRequest` goes where."""
    alias, checked = cut_put(request)
    topic = broker.catalog.topic(alias.topic)
    check_kind(topic, "Put")
    channel = channel_to_write(alias.channel)
    return _entries(broker, topic, alias.partition, channel, checked)


def check_kind(topic: Topic, call: str) -> None:
    """
    Raises:
        PreconditionError: it is no KV topic; `call` names what needs one.
    """
    if topic.kind is not TopicKind.KV:
        raise PreconditionError(
            f"{call} should be used only with a KV topic; '{topic.name}' is a timer topic",
            field="topic",
        )


def atoms_of(broker: Broker, request: broker_pb2.ProduceRequest) -> list[Atom]:
    """What of a request goes where."""
    topic = broker.catalog.topic(request.topic)
    channel = channel_to_write(request.channel)
    content = (request.batch, request.count, request.due_ms, request.delay_ms)
    plain = convert.cut_plain(*content) if topic.kind is TopicKind.TIMER else None
    if plain is not None:
        return [Atom(_named_or_next(broker, topic, request.partition), channel, None, plain)]
    checked = convert.check_batch(*content)
    return _routed(broker, topic, request.partition, channel, checked)


def _named_or_next(broker: Broker, topic: Topic, partition: str) -> PartitionRef:
    return (
        broker.catalog.partition(topic, partition)
        if partition
        else broker.catalog.spread(topic)
    )


def _routed(
    broker: Broker, topic: Topic, partition: str, channel: str, checked: convert.Checked
) -> list[Atom]:
    if topic.kind is TopicKind.KV:
        return _entries(broker, topic, partition, channel, checked)
    partitions = topic.partitions
    keys = None if partition or len(partitions) == 1 else convert.keys_of(checked)
    if keys is None:
        target = _named_or_next(broker, topic, partition)
        return [Atom(target, channel, None, convert.cut(checked))]
    spread = 0 if all(keys) else partitions.index(broker.catalog.spread(topic))
    split = convert.split_by_partition(
        checked, convert.places_of(keys, len(partitions), spread=spread)
    )
    return [Atom(partitions[place], channel, places, batch) for place, places, batch in split]


def _entries(
    broker: Broker, topic: Topic, partition: str, channel: str, checked: convert.Checked
) -> list[Atom]:
    partitions = topic.partitions
    named = None
    if partition:
        named = partitions.index(broker.catalog.partition(topic, partition))
    cut = entries_by_partition(checked, topic.name, len(partitions), named)
    return [Atom(partitions[place], channel, places, batch) for place, places, batch in cut]


def _within(outer: Sequence[int], inner: list[int] | None) -> list[int]:
    """Places in a part of a request as places in the request."""
    return list(outer) if inner is None else [outer[place] for place in inner]


async def append(broker: Broker, atoms: list[Atom]) -> list[Placed]:
    """Appends what was made of one request; see `produce`."""
    future: asyncio.Future[list[Placed]] = asyncio.get_running_loop().create_future()

    def answered(placed: list[Placed], error: SandglassError | None) -> None:
        if future.done():
            return  # the caller went away meanwhile
        if error is None:
            future.set_result(placed)
        else:
            future.set_exception(error)

    _append_nowait(broker, atoms, answered)
    return await future


def _append_nowait(broker: Broker, atoms: list[Atom], answered: Answered) -> None:
    if len(atoms) == 1:
        _append_one(broker, atoms[0], answered)
        return
    gathering = _Gathering(len(atoms), answered)
    for place, atom in enumerate(atoms):
        try:
            broker.produce_nowait(
                atom.partition, atom.channel, atom.batch, gathering.part(atom.places)
            )
        except SandglassError as error:
            if place == 0:
                raise
            # The others were admitted already: they are waited for, and told of.
            gathering.refuse(error)
            break
    gathering.close()


def _append_one(broker: Broker, atom: Atom, answered: Answered) -> None:
    def told(placed: Placed | None, error: SandglassError | None) -> None:
        answered([] if placed is None else [placed], error)

    broker.produce_nowait(atom.partition, atom.channel, atom.batch, told)


class _Gathering:
    """
    The answers to one request's atoms, until all have come.

    Invariant: `answered` is called once, after `close` and an answer to each `part`.
    """

    def __init__(self, total_count: int, answered: Answered) -> None:
        self._total_count = total_count
        self._answered = answered
        self._placed: list[Placed | None] = []
        self._waiting_count = 0
        self._errors: list[SandglassError] = []
        self._is_closed = False

    def part(self, places: list[int] | None) -> Told:
        """Who is told of the next atom; `places` are its messages' in the request."""
        number = len(self._placed)
        self._placed.append(None)
        self._waiting_count += 1

        def told(placed: Placed | None, error: SandglassError | None) -> None:
            self._waiting_count -= 1
            if placed is not None:
                self._placed[number] = replace(placed, request_places=places)
            else:
                assert error is not None, "there are places or an error"
                self._errors.append(error)
            self._check()

        return told

    def refuse(self, error: SandglassError) -> None:
        """The last part was not taken; there is none after it."""
        self._waiting_count -= 1
        self._errors.append(error)

    def close(self) -> None:
        """There are no more parts."""
        self._is_closed = True
        self._check()

    def _check(self) -> None:
        if not self._is_closed or self._waiting_count:
            return
        if not self._errors:
            self._answered([each for each in self._placed if each is not None], None)
        else:
            self._answered([], self._joined())

    def _joined(self) -> SandglassError:
        """One error for several atoms: the first, with what became of the others."""
        first = self._errors[0]
        taken = sum(each is not None for each in self._placed)
        return type(first)(
            f"{first.message} ({taken} of the request's {self._total_count} atoms were"
            " appended)",
            field=first.field,
            retry_after_ms=first.retry_after_ms,
            is_result_unknown=taken > 0 or any(each.is_result_unknown for each in self._errors),
        )
