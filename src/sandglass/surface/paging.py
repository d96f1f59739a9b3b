"""
Pages of topics, of groups with their parts, and of partitions with their channels.

A page token names the last entry of its page, and the next page begins behind that: so entries
may come and go between pages, and none that stays is left out or comes twice.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from operator import itemgetter

from google.protobuf.message import Message

from sandglass.broker.status import PartPlace, Status
from sandglass.core import limits
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import InvalidError
from sandglass.surface.admin_values import part_to_wire, partition_to_wire, topic_to_wire
from sandglass.wire.v1 import admin_pb2

_PARTITION_BYTES = 80
"""What a partition takes beside its channels; an id has 26 characters."""

_NAME_BYTES = 3
"""What a name takes beside its characters."""

_DIGIT_COUNT = len(str(limits.PARTITION_COUNT_MAX))


@dataclass(slots=True)
class Room:
    """What a page has room for yet; its first entry fits, however large it is."""

    count: int
    size_bytes: int
    is_empty: bool = True

    @classmethod
    def of(cls, page_size: int) -> "Room":
        """
        That of a page of so many entries; 0 is for as many as there may be.

        Raises:
            InvalidError: more than that.
        """
        most = limits.PAGE_COUNT_MAX
        count = limits.check_range(page_size or most, field="page_size", low=1, high=most)
        return cls(count, limits.PAGE_BYTES_MAX)

    def takes(self, entry: Message) -> bool:
        """Whether one more fits; if so, it is taken."""
        size_bytes = entry.ByteSize()
        if not self.is_empty and (not self.count or size_bytes > self.size_bytes):
            return False
        self.count -= 1
        self.size_bytes -= size_bytes
        self.is_empty = False
        return True


def topics_page(
    topics: Sequence[Topic], request: admin_pb2.ListTopicsRequest
) -> admin_pb2.ListTopicsReply:
    """
    A page of topics, which come by name; one at least, if there is one.

    Raises:
        InvalidError: not a token of ours; a size that is too large.
    """
    page, room = admin_pb2.ListTopicsReply(), Room.of(request.page_size)
    (last,) = _read(request.page_token, 1)
    for place in range(bisect_right(topics, last, key=lambda topic: topic.name), len(topics)):
        wire = topic_to_wire(topics[place])
        if not room.takes(wire):
            page.next_page_token = _token(topics[place - 1].name)
            break
        page.topics.append(wire)
    return page


async def groups_page(
    topic: Topic,
    known: Iterable[admin_pb2.Group],
    parts_of: Callable[
        [admin_pb2.ListGroupsRequest], Awaitable[Sequence[admin_pb2.ListGroupsReply]]
    ],
    request: admin_pb2.ListGroupsRequest,
) -> admin_pb2.ListGroupsReply:
    """
    A page of the groups of a topic, which come by name, and then of their parts, of which
    `parts_of` gets a page from each node that has some.

    Raises:
        InvalidError: as `topics_page`.
    """
    page, room = admin_pb2.ListGroupsReply(), Room.of(request.page_size)
    name, partition, channel = _read(request.page_token, 3)
    last = PartPlace(_number(partition), channel, name) if partition else None
    token = request.page_token
    for group in known:
        if last is not None or group.name <= name or request.group not in ("", group.name):
            continue
        if not room.takes(group):
            page.next_page_token = token
            return page
        page.known.append(group)
        token = _token(group.name, "", "")
    wanted = admin_pb2.ListGroupsRequest(
        topic=request.topic,
        group=request.group,
        page_size=max(1, room.count),
        page_token=b"" if last is None else request.page_token,
        partitions=request.partitions,
    )
    pages = [_placed(topic, each) for each in await parts_of(wanted)]
    # Behind the last part of a page that goes on, nobody knows what it would have shown.
    bound = min((some[-1][0] for some, goes_on in pages if goes_on), default=None)
    for place, part in sorted((each for some, _ in pages for each in some), key=itemgetter(0)):
        if bound is not None and place > bound:
            break
        if not room.takes(part):
            page.next_page_token = token
            return page
        page.groups.append(part)
        token = _part_token(place)
    if bound is not None:
        page.next_page_token = token
    return page


def _placed(
    topic: Topic, page: admin_pb2.ListGroupsReply
) -> tuple[list[tuple[PartPlace, admin_pb2.GroupStatus]], bool]:
    """The parts of a page with their places, and whether it goes on."""
    order = {ref.id: place for place, ref in enumerate(topic.partitions)}
    parts = [
        (PartPlace(order.get(part.partition, 0), part.channel, part.group), part)
        for part in page.groups
    ]
    return parts, bool(page.next_page_token)


async def parts_page(
    topic: Topic,
    status: Status,
    request: admin_pb2.ListGroupsRequest,
    refs: Sequence[PartitionRef],
) -> admin_pb2.ListGroupsReply:
    """
    A page of the parts that groups of a topic have in some partitions, and nothing else.

    Raises:
        InvalidError: as `topics_page`.
    """
    page, room = admin_pb2.ListGroupsReply(), Room.of(request.page_size)
    name, partition, channel = _read(request.page_token, 3)
    last = PartPlace(_number(partition), channel, name) if partition else None
    parts = status.parts(topic, request.group, after=last, refs=refs)
    async with aclosing(parts) as found:
        async for place, part in found:
            wire = part_to_wire(part)
            if not room.takes(wire):
                assert last is not None, "the first one fits"
                page.next_page_token = _part_token(last)
                break
            page.groups.append(wire)
            last = place
    return page


async def partitions_page(
    topic: Topic,
    status: Status,
    request: admin_pb2.ShowTopicRequest,
    refs: Sequence[PartitionRef],
) -> admin_pb2.ShowTopicReply:
    """
    A page of some partitions of a topic, with their channels: as many as fit, and the others on
    the next page.

    Raises:
        InvalidError: as `topics_page`.
    """
    page = admin_pb2.ShowTopicReply(topic=topic_to_wire(topic))
    room = Room.of(request.page_size)
    partition, channel = _read(request.page_token, 2)
    for place in range(_number(partition or "0"), len(topic.partitions)):
        if topic.partitions[place] not in refs:
            continue
        seen = status.partition(topic.partitions[place])
        if seen is None:
            break  # the topic was deleted meanwhile
        wire = partition_to_wire(seen)
        names = seen.channels[bisect_right(seen.channels, channel) :]
        fitting = _fitting(names, room.size_bytes)
        if names and not fitting and room.is_empty:
            fitting = 1
        del wire.channels[:]
        wire.channels.extend(names[:fitting])
        if (names and not fitting) or not room.takes(wire):
            page.next_page_token = _token(str(place), channel)
            break
        page.partitions.append(wire)
        if fitting < len(names):
            page.next_page_token = _token(str(place), names[fitting - 1])
            break
        channel = ""
        await asyncio.sleep(0)
    return page


def joined_partitions(
    topic: Topic,
    request: admin_pb2.ShowTopicRequest,
    replies: Sequence[admin_pb2.ShowTopicReply],
) -> admin_pb2.ShowTopicReply:
    """A page made of those of several nodes, each of which leads other partitions."""
    page = admin_pb2.ShowTopicReply(topic=topic_to_wire(topic))
    room = Room.of(request.page_size)
    order = {ref.id: place for place, ref in enumerate(topic.partitions)}
    tokens = [each.next_page_token for each in replies if each.next_page_token]
    ends = [(_number(_read(token, 2)[0]), token) for token in tokens]
    bound = min(ends, default=None)
    found = ((order.get(e.id, 0), e) for reply in replies for e in reply.partitions)
    for place, partition in sorted(found, key=itemgetter(0)):
        if bound is not None and place > bound[0]:
            break
        if not room.takes(partition):
            page.next_page_token = _token(str(place), "")
            return page
        page.partitions.append(partition)
    if bound is not None:
        page.next_page_token = bound[1]
    return page


def _part_token(place: PartPlace) -> bytes:
    return _token(place.group, str(place.partition), place.channel)


def _fitting(names: Sequence[str], size_bytes: int) -> int:
    """How many of these names a page has room for."""
    left = size_bytes - _PARTITION_BYTES
    for number, name in enumerate(names):
        left -= len(name) + _NAME_BYTES
        if left < 0:
            return number
    return len(names)


def _token(*texts: str) -> bytes:
    return "\0".join(texts).encode()


def _read(token: bytes, count: int) -> list[str]:
    """What a token was made of; empty texts for the first page."""
    try:
        texts = token.decode().split("\0")
    except UnicodeDecodeError:
        texts = []
    if token and len(texts) != count:
        raise _unknown()
    return texts if token else [""] * count


def _number(text: str) -> int:
    """A partition's place in its topic's list."""
    if not text.isascii() or not text.isdigit() or len(text) > _DIGIT_COUNT:
        raise _unknown()
    return int(text)


def _unknown() -> InvalidError:
    return InvalidError("page_token is not one that an answer gave", field="page_token")
