"""What operators do, over the client: topics' and groups' settings, dead letters, pending."""

from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, Literal

from sandglass.client._async.unary import Unary
from sandglass.client.message import moment_ms
from sandglass.client.operating import (
    BackoffLike,
    ClusterStatus,
    DeadLetterCount,
    DeadLetterPage,
    Group,
    NodeClock,
    Pending,
    PendingPage,
    StoredDeadLetter,
    Taken,
    check_partitions,
    check_replication,
    clock_of,
    cluster_of,
    count_of,
    known_of,
    letter_of,
    pending_of,
    put_retention,
    put_settings,
    stored_of,
)
from sandglass.client.requests import checked_text
from sandglass.client.topics import Topic, topic_of
from sandglass.core import limits, offset
from sandglass.errors import InvalidError, NotFoundError
from sandglass.wire.v1 import admin_pb2

GroupStart = datetime | Literal["beginning", "now"]

STEP_COUNT: Final = 5000
"""Dead letters that one call takes: it ends well within its timeout."""

_SETTINGS: Final = {
    "ack_timeout": "ack_timeout_ms",
    "max_deliveries": "max_deliveries",
    "backoff": "backoff",
}


class AsyncAdmin:
    """`AsyncClient.admin`. Every call raises `NotFoundError` where there is no such topic."""

    def __init__(self, unary: Unary) -> None:
        self._unary = unary

    # --- settings and groups ------------------------------------------------------------------

    async def set_topic(
        self,
        name: str,
        *,
        retention: timedelta | None = None,
        ack_timeout: timedelta | None = None,
        max_deliveries: int | None = None,
        backoff: BackoffLike | None = None,
        partitions: int | None = None,
        replication_factor: int | None = None,
        node: str | None = None,
    ) -> Topic:
        """
        Changes the settings of a topic that are given.

        Args:
            partitions: so many of them from here on. Some keys go to new ones then.
            replication_factor: so many nodes hold each of them from here on.
            node: where a topic with one replica is to live.

        Raises:
            InvalidError: a value outside its range.
            PreconditionError: fewer partitions; or more, of a KV topic; more replicas than
                there are nodes; a node that gets no topics.
            UnavailableError: a topic that moves to other logs is on its way, and goes on. The
                same call waits for it.
        """
        partition_count = 0 if partitions is None else check_partitions(partitions)
        settings = admin_pb2.TopicSettings()
        put_retention(settings, retention)
        put_settings(settings, ack_timeout, max_deliveries, backoff)
        request = admin_pb2.SetTopicRequest(
            name=name,
            settings=settings,
            partition_count=partition_count,
            replication_factor=check_replication(replication_factor),
            node="" if node is None else checked_text(node, "node"),
        )
        parse = admin_pb2.SetTopicReply.FromString
        return topic_of((await self._unary.call("SetTopic", request, parse)).topic)

    async def groups(self, topic: str) -> list[Group]:
        """The groups of a topic, by name, also those that have read nowhere so far."""
        request = admin_pb2.ListGroupsRequest(topic=topic)
        parse = admin_pb2.ListGroupsReply.FromString
        groups: list[Group] = []
        while True:
            page = await self._unary.call("ListGroups", request, parse, is_read=True)
            groups += map(known_of, page.known)
            if page.groups or not page.next_page_token:
                return groups  # their parts come after all of them
            request.page_token = page.next_page_token

    async def group(self, topic: str, group: str) -> Group:
        """
        A group of a topic.

        Raises:
            NotFoundError: there is none.
        """
        request = admin_pb2.ListGroupsRequest(topic=topic, group=group, page_size=1)
        parse = admin_pb2.ListGroupsReply.FromString
        reply = await self._unary.call("ListGroups", request, parse, is_read=True)
        if not reply.known:
            raise NotFoundError(f"group '{group}' of topic '{topic}' not found", field="group")
        return known_of(reply.known[0])

    async def create_group(
        self,
        topic: str,
        group: str,
        *,
        start: GroupStart = "beginning",
        ack_timeout: timedelta | None = None,
        max_deliveries: int | None = None,
        backoff: BackoffLike | None = None,
    ) -> Group:
        """
        Makes a group, with a start that holds for all partitions.

        Args:
            start: `beginning`, `now`, or a moment: then what is due from that time on.
            ack_timeout: and the others: settings of its own, instead of its topic's.

        Raises:
            ConflictError: there is one of this name.
            InvalidError: a value outside its range.
        """
        settings = admin_pb2.GroupSettings()
        put_settings(settings, ack_timeout, max_deliveries, backoff)
        request = admin_pb2.CreateGroupRequest(
            topic=topic, group=group, start=_start(start), settings=settings
        )
        parse = admin_pb2.CreateGroupReply.FromString
        return known_of((await self._unary.call("CreateGroup", request, parse)).group)

    async def set_group(
        self,
        topic: str,
        group: str,
        *,
        ack_timeout: timedelta | None = None,
        max_deliveries: int | None = None,
        backoff: BackoffLike | None = None,
        unset: Iterable[Literal["ack_timeout", "max_deliveries", "backoff"]] = (),
    ) -> Group:
        """
        Changes what is given; the settings named in `unset` are the topic's again.

        Raises:
            NotFoundError: there is no such group.
            InvalidError: a value outside its range.
        """
        settings = admin_pb2.GroupSettings()
        put_settings(settings, ack_timeout, max_deliveries, backoff)
        names = [_wire_name(name) for name in unset]
        request = admin_pb2.SetGroupRequest(
            topic=topic, group=group, settings=settings, unset=names
        )
        parse = admin_pb2.SetGroupReply.FromString
        return known_of((await self._unary.call("SetGroup", request, parse)).group)

    async def seek_group(
        self,
        topic: str,
        group: str,
        to: GroupStart = "beginning",
        *,
        partition: str = "",
        at: str = "",
    ) -> Group:
        """
        Moves a group: what it held can't be settled any more, attempts start anew.

        Args:
            to: for all partitions, as `start` in `create_group`.
            partition: with `at` (an offset, 28 hex digits): moves it in this one only.

        Raises:
            NotFoundError: there is no such group or partition.
        """
        request = admin_pb2.SeekGroupRequest(topic=topic, group=group, start=_start(to))
        if partition or at:
            request.partition = partition
            request.offset = offset.to_bytes(offset.from_text(at))
        parse = admin_pb2.SeekGroupReply.FromString
        return known_of((await self._unary.call("SeekGroup", request, parse)).group)

    async def delete_group(self, topic: str, group: str) -> None:
        """
        Deletes a group with its state; its consumers end with `NotFoundError`.

        Raises:
            NotFoundError: there is no such group.
        """
        request = admin_pb2.DeleteGroupRequest(topic=topic, group=group)
        parse = admin_pb2.DeleteGroupReply.FromString
        await self._unary.call("DeleteGroup", request, parse)

    # --- dead letters -------------------------------------------------------------------------

    async def list_dead_letters(
        self,
        topic: str,
        *,
        group: str = "",
        channel: str = "",
        reason: str = "",
        newest_first: bool = False,
        page_size: int = limits.PAGE_COUNT_DEFAULT,
        page_token: bytes = b"",
        with_messages: bool = False,
    ) -> DeadLetterPage:
        """
        A page of dead letters, in order of their death; empty filters are any.

        Raises:
            InvalidError: more than a page may hold, 1,000.
        """
        request = admin_pb2.ListDeadLettersRequest(
            topic=topic,
            filter=admin_pb2.DeadLetterFilter(group=group, channel=channel, reason=reason),
            is_newest_first=newest_first,
            page_size=limits.check_range(
                page_size, field="page_size", low=1, high=limits.PAGE_COUNT_MAX
            ),
            page_token=page_token,
            with_messages=with_messages,
        )
        parse = admin_pb2.ListDeadLettersReply.FromString
        reply = await self._unary.call("ListDeadLetters", request, parse, is_read=True)
        return DeadLetterPage(tuple(map(letter_of, reply.letters)), reply.next_page_token)

    async def dead_letters(
        self,
        topic: str,
        *,
        group: str = "",
        channel: str = "",
        reason: str = "",
        newest_first: bool = False,
        with_messages: bool = False,
    ) -> AsyncIterator[StoredDeadLetter]:
        """All dead letters of a filter, page by page."""
        token = b""
        while True:
            page = await self.list_dead_letters(
                topic,
                group=group,
                channel=channel,
                reason=reason,
                newest_first=newest_first,
                page_token=token,
                with_messages=with_messages,
            )
            for letter in page.letters:
                yield letter
            token = page.next_page_token
            if not token:
                return

    async def count_dead_letters(
        self, topic: str, *, group: str = "", channel: str = "", reason: str = ""
    ) -> DeadLetterCount:
        """How many there are: exact. It reads them all."""
        request = admin_pb2.CountDeadLettersRequest(
            topic=topic,
            filter=admin_pb2.DeadLetterFilter(group=group, channel=channel, reason=reason),
        )
        parse = admin_pb2.CountDeadLettersReply.FromString
        return count_of(
            await self._unary.call("CountDeadLetters", request, parse, is_read=True)
        )

    async def redrive_dead_letters(
        self,
        topic: str,
        *,
        group: str = "",
        channel: str = "",
        reason: str = "",
        places: Iterable[tuple[str, str]] = (),
        limit: int | None = None,
        before: datetime | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Taken:
        """
        Gives dead letters back to the groups that gave them up, with attempts anew.

        It works in steps; when one fails, what was done so far stays done, and a repeat goes
        on. What dies after it began is left alone.

        Args:
            places: (partition, offset as text) of single ones, instead of a filter's.
            limit: no more than so many.
            before: only what died before.
            on_progress: called with how many are back so far.

        Raises:
            NotFoundError: no dead letter stands at one of the places.
        """
        return await self._take(
            "RedriveDeadLetters",
            _take_request(topic, group, channel, reason, places, before),
            limit,
            on_progress,
        )

    async def purge_dead_letters(
        self,
        topic: str,
        *,
        group: str = "",
        channel: str = "",
        reason: str = "",
        places: Iterable[tuple[str, str]] = (),
        limit: int | None = None,
        before: datetime | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Taken:
        """Throws dead letters away, for good; as `redrive_dead_letters`."""
        return await self._take(
            "PurgeDeadLetters",
            _take_request(topic, group, channel, reason, places, before),
            limit,
            on_progress,
        )

    async def _take(
        self,
        method: str,
        request: admin_pb2.TakeDeadLettersRequest,
        limit: int | None,
        on_progress: Callable[[int], object] | None,
    ) -> Taken:
        parse = admin_pb2.TakeDeadLettersReply.FromString
        if request.places:
            reply = await self._unary.call(method, request, parse)
            return Taken(reply.count, reply.skipped_count)
        if limit is not None:
            limits.check_range(limit, field="limit", low=1, high=1 << 53)
        count = skipped_count = 0
        while True:
            request.limit = min(STEP_COUNT, (limit or 1 << 62) - count)
            reply = await self._unary.call(method, request, parse)
            count += reply.count
            # What was skipped is still there, and is met again by each step.
            skipped_count = max(skipped_count, reply.skipped_count)
            request.before_ms = request.before_ms or reply.before_ms
            if on_progress is not None:
                on_progress(count)
            if reply.count < request.limit or count == limit:
                return Taken(count, skipped_count)

    # --- the node -----------------------------------------------------------------------------

    async def show_cluster(self) -> ClusterStatus:
        """The cluster of the node that answers, as that knows it."""
        parse = admin_pb2.ShowClusterReply.FromString
        request = admin_pb2.ShowClusterRequest()
        return cluster_of(await self._unary.call("ShowCluster", request, parse, is_read=True))

    async def drain_node(self, node: str) -> None:
        """
        Lets a node of the cluster lead nothing, and get no new replicas; others take over what
        it leads, once this returns. It holds through restarts, until `undrain_node`.

        Raises:
            NotFoundError: the cluster has no such node.
            PreconditionError: there is no cluster, or nobody would be left.
        """
        request = admin_pb2.DrainNodeRequest(node=node)
        await self._unary.call("DrainNode", request, admin_pb2.DrainNodeReply.FromString)

    async def undrain_node(self, node: str) -> None:
        """
        Lets a node that was drained take part again.

        Raises:
            NotFoundError, PreconditionError: as `drain_node` does.
        """
        request = admin_pb2.DrainNodeRequest(node=node, is_undone=True)
        await self._unary.call("DrainNode", request, admin_pb2.DrainNodeReply.FromString)

    async def remove_node(self, node: str, *, abandon: bool = False) -> str:
        """
        Removes a node from the cluster for good: others lead and hold what it did. It goes as
        far as it can just now, and says what it waits for; call it again until it says nothing.

        Args:
            abandon: topics that live on that node alone are given up.

        Raises:
            NotFoundError: the cluster has no such node.
            PreconditionError: topics live on it alone; no other node could hold a replica; it
                is the node that answers; or there is no cluster.
        """
        request = admin_pb2.RemoveNodeRequest(node=node, is_abandoning=abandon)
        parse = admin_pb2.RemoveNodeReply.FromString
        return (await self._unary.call("RemoveNode", request, parse)).waits_for

    async def show_clock(self) -> NodeClock:
        """The clock of the node that answers, and whether it believes its machine's."""
        parse = admin_pb2.ShowClockReply.FromString
        request = admin_pb2.ShowClockRequest()
        reply = await self._unary.call("ShowClock", request, parse, is_read=True)
        return clock_of(reply.clock)

    async def accept_clock(self) -> timedelta:
        """
        Tells the node that answers to believe a forward step of its machine's clock at once:
        what is due by it is handed out, and there is no way back. Returns the step; 0 if there
        was nothing to accept.
        """
        parse = admin_pb2.AcceptClockReply.FromString
        reply = await self._unary.call("AcceptClock", admin_pb2.AcceptClockRequest(), parse)
        return timedelta(milliseconds=reply.accepted_ms)

    # --- what is pending ----------------------------------------------------------------------
    async def count_pending(
        self,
        topic: str,
        *,
        channel: str = "",
        due_from: datetime | None = None,
        due_to: datetime | None = None,
    ) -> Pending:
        """Messages that are not due yet, in `[due_from, due_to)`; `channel` empty is master."""
        request = admin_pb2.CountPendingRequest(
            topic=topic,
            channel=channel,
            from_ms=_bound(due_from, "due_from"),
            to_ms=_bound(due_to, "due_to"),
        )
        parse = admin_pb2.CountPendingReply.FromString
        return pending_of(await self._unary.call("CountPending", request, parse, is_read=True))

    async def list_pending(
        self,
        topic: str,
        *,
        channel: str = "",
        due_from: datetime | None = None,
        due_to: datetime | None = None,
        page_size: int = limits.PAGE_COUNT_DEFAULT,
        page_token: bytes = b"",
        with_messages: bool = False,
    ) -> PendingPage:
        """
        A page of the messages that come due next, in order.

        Raises:
            InvalidError: more than a page may hold, 1,000.
        """
        request = admin_pb2.ListPendingRequest(
            topic=topic,
            channel=channel,
            from_ms=_bound(due_from, "due_from"),
            to_ms=_bound(due_to, "due_to"),
            page_size=limits.check_range(
                page_size, field="page_size", low=1, high=limits.PAGE_COUNT_MAX
            ),
            page_token=page_token,
            with_messages=with_messages,
        )
        parse = admin_pb2.ListPendingReply.FromString
        reply = await self._unary.call("ListPending", request, parse, is_read=True)
        return PendingPage(tuple(map(stored_of, reply.messages)), reply.next_page_token)


def _start(start: GroupStart) -> admin_pb2.GroupStart:
    if isinstance(start, datetime):
        return admin_pb2.GroupStart(at_ms=moment_ms(start, field="start"))
    if start not in {"beginning", "now"}:
        raise InvalidError(
            f"start is {start!r}; it must be beginning, now or a datetime", field="start"
        )
    return admin_pb2.GroupStart(now=True) if start == "now" else admin_pb2.GroupStart()


def _wire_name(name: str) -> str:
    if name not in _SETTINGS:
        raise InvalidError(
            f"unset has {name!r}; it may have {', '.join(_SETTINGS)}", field="unset"
        )
    return _SETTINGS[name]


def _bound(moment: datetime | None, field: str) -> int:
    return 0 if moment is None else moment_ms(moment, field=field)


def _take_request(
    topic: str,
    group: str,
    channel: str,
    reason: str,
    places: Iterable[tuple[str, str]],
    before: datetime | None,
) -> admin_pb2.TakeDeadLettersRequest:
    return admin_pb2.TakeDeadLettersRequest(
        topic=topic,
        filter=admin_pb2.DeadLetterFilter(group=group, channel=channel, reason=reason),
        places=[
            admin_pb2.DeadLetterPlace(
                partition=partition, offset=offset.to_bytes(offset.from_text(at))
            )
            for partition, at in places
        ],
        before_ms=_bound(before, "before"),
    )
