"""
One reply made of those of several nodes, each of which answers for the partitions that it
leads.

Sums are added. Pages are those that one node would give that led all: in the order of offsets,
as far as all that were asked have looked, with a token that any node goes on from. Those of
groups and partitions are joined in `surface.paging`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message

from sandglass.broker.dead_letters import GROUP_COUNT_MAX
from sandglass.broker.listing import Page, Place
from sandglass.core import limits, offset
from sandglass.core.topic import Topic
from sandglass.surface.admin_values import place_of, token_of
from sandglass.wire.v1 import admin_pb2 as pb

Listed = TypeVar("Listed", bound=Message)

_OTHERS: Final = ("", "")


def counted_pending(replies: Sequence[pb.CountPendingReply]) -> pb.CountPendingReply:
    """What is pending in all."""
    return pb.CountPendingReply(
        count=sum(each.count for each in replies),
        is_lower_bound=any(each.is_lower_bound for each in replies),
        next_due_ms=min((each.next_due_ms for each in replies if each.next_due_ms), default=0),
    )


def counted_dead(replies: Sequence[pb.CountDeadLettersReply]) -> pb.CountDeadLettersReply:
    """All dead letters, and by group: the most first, those of the smallest together."""
    counts = Counter[tuple[str, str]]()
    for reply in replies:
        for each in reply.groups:
            counts[each.group, each.channel] += each.count
    others = counts.pop(_OTHERS, 0)
    groups = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    others += sum(count for _, count in groups[GROUP_COUNT_MAX:])
    groups = groups[:GROUP_COUNT_MAX] + ([(_OTHERS, others)] if others else [])
    return pb.CountDeadLettersReply(
        count=sum(each.count for each in replies),
        size_bytes=sum(each.size_bytes for each in replies),
        groups=[
            pb.DeadLetterGroupCount(group=group, channel=channel, count=count)
            for (group, channel), count in groups
        ],
    )


def taken(replies: Sequence[pb.TakeDeadLettersReply]) -> pb.TakeDeadLettersReply:
    """What was redriven or purged in all."""
    return pb.TakeDeadLettersReply(
        count=sum(each.count for each in replies),
        skipped_count=sum(each.skipped_count for each in replies),
        before_ms=max((each.before_ms for each in replies), default=0),
    )


def listed_pending(
    topic: Topic, request: pb.ListPendingRequest, replies: Sequence[pb.ListPendingReply]
) -> pb.ListPendingReply:
    """A page of what comes next."""
    messages, token = _page(
        topic,
        [([*reply.messages], reply.next_page_token) for reply in replies],
        lambda each: each,
        count=request.page_size or limits.PAGE_COUNT_DEFAULT,
        is_newest_first=False,
    )
    return pb.ListPendingReply(messages=messages, next_page_token=token)


def listed_dead(
    topic: Topic, request: pb.ListDeadLettersRequest, replies: Sequence[pb.ListDeadLettersReply]
) -> pb.ListDeadLettersReply:
    """A page of dead letters."""
    letters, token = _page(
        topic,
        [([*reply.letters], reply.next_page_token) for reply in replies],
        lambda each: each.letter,
        count=request.page_size or limits.PAGE_COUNT_DEFAULT,
        is_newest_first=request.is_newest_first,
    )
    return pb.ListDeadLettersReply(letters=letters, next_page_token=token)


def _page(
    topic: Topic,
    pages: Sequence[tuple[list[Listed], bytes]],
    stored: Callable[[Listed], pb.StoredMessage],
    *,
    count: int,
    is_newest_first: bool,
) -> tuple[list[Listed], bytes]:
    """
    The first of all pages, and what leads to the rest. Behind a page's own token nobody knows
    what it would have shown: so the page of all ends there, at the latest.
    """
    if len(pages) == 1:
        return pages[0]
    sign = -1 if is_newest_first else 1
    order = _places_in(topic)

    def place(each: Listed) -> Place:
        message = stored(each)
        return Place(offset.from_bytes(message.offset), order.get(message.partition, 0))

    def key(at: Place) -> tuple[int, int]:
        return sign * at.offset, sign * at.partition

    ends = [end for _, token in pages if (end := place_of(token)) is not None]
    bound = min(ends, key=key, default=None)
    found = sorted((each for page, _ in pages for each in page), key=lambda e: key(place(e)))
    shown: list[Listed] = []
    size_bytes = 0
    for each in found:
        at = place(each)
        size_bytes += stored(each).size_bytes
        if bound is not None and key(at) > key(bound):
            break
        if shown and (len(shown) == count or size_bytes > limits.PAGE_BYTES_MAX):
            return shown, token_of(Page(next_place=place(shown[-1])))
        shown.append(each)
    return shown, token_of(Page(next_place=bound))


def _places_in(topic: Topic) -> dict[str, int]:
    return {ref.id: place for place, ref in enumerate(topic.partitions)}
