"""
A produce request, cut into one for each partition: for those that several nodes lead.

Each part names its partition, and is as good as the whole: what is wrong with a message of any
of them is found before the first one is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sandglass.core.topic import Topic, TopicKind
from sandglass.wire import convert
from sandglass.wire.entries import entries_by_partition
from sandglass.wire.v1 import broker_pb2


@dataclass(frozen=True, slots=True)
class RequestPart:
    """
    What of a request goes to one partition; `place` is that partition's in its topic. `places`
    are those of its messages in the request; None when it is all of it.
    """

    place: int
    places: list[int] | None
    request: broker_pb2.ProduceRequest


def split_request(
    request: broker_pb2.ProduceRequest, topic: Topic, spread: Callable[[], int]
) -> list[RequestPart]:
    """
    The parts of a request that names no partition, by the place of their partition.

    Args:
        spread: gives the place of the partition for what has neither key nor id; called once
            at most.

    Raises:
        InvalidError: as `convert.check_batch`; a message for a KV topic without a key.
    """
    content = (request.batch, request.count, request.due_ms, request.delay_ms)
    if topic.kind is TopicKind.TIMER and (
        len(topic.partitions) == 1 or convert.cut_plain(*content) is not None
    ):
        return [_whole(request, topic, spread())]
    checked = convert.check_batch(*content)
    found = _places(checked, topic, spread)
    if len(found) == 1:
        return [_whole(request, topic, found[0][0])]
    return [
        RequestPart(place, places, _some(request, topic, place, convert.pick(checked, places)))
        for place, places in found
    ]


def _places(
    checked: convert.Checked, topic: Topic, spread: Callable[[], int]
) -> list[tuple[int, list[int]]]:
    """For each partition that is reached, by place: places in the request."""
    count = len(topic.partitions)
    if topic.kind is TopicKind.KV:
        entries = entries_by_partition(checked, topic.name, count, None)
        return [(place, places or []) for place, places, _ in entries]
    keys = convert.keys_of(checked)
    if keys is None:
        return [(spread(), [])]
    found: dict[int, list[int]] = {}
    unkeyed = 0 if all(keys) else spread()
    for number, place in enumerate(convert.places_of(keys, count, spread=unkeyed)):
        found.setdefault(place, []).append(number)
    return sorted(found.items())


def _whole(request: broker_pb2.ProduceRequest, topic: Topic, place: int) -> RequestPart:
    named = broker_pb2.ProduceRequest()
    named.CopyFrom(request)
    named.partition = topic.partitions[place].id
    return RequestPart(place, None, named)


def _some(
    request: broker_pb2.ProduceRequest, topic: Topic, place: int, picked: convert.Checked
) -> broker_pb2.ProduceRequest:
    part = broker_pb2.ProduceRequest(
        topic=request.topic,
        partition=topic.partitions[place].id,
        channel=request.channel,
        batch=picked.body,
        count=len(picked.raws),
    )
    times = part.delay_ms if picked.is_delay else part.due_ms
    times.extend(picked.dues)
    return part
