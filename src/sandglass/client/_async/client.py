"""The asyncio client: one door to topics, producing and consuming."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal

from sandglass.client import forking
from sandglass.client._async.admin import AsyncAdmin
from sandglass.client._async.connection import (
    ADDRESS_DEFAULT,
    address_of,
    endpoint_of,
    host_of,
)
from sandglass.client._async.consumer import (
    AsyncConsumer,
    Subscriptions,
    batches,
    messages,
)
from sandglass.client._async.parts import Parts
from sandglass.client.entry import Tls, Token, entry_of
from sandglass.client.keyvalue import Entry, place_of, scan_of
from sandglass.client.message import Message, ProduceSummary, Receipt
from sandglass.client.operating import BackoffLike
from sandglass.client.received import AsyncBatch, AsyncReceived
from sandglass.client.requests import route_of
from sandglass.client.subscribing import (
    CREDIT_BYTES_DEFAULT,
    CREDIT_COUNT_DEFAULT,
    subscribe_request,
)
from sandglass.client.topics import (
    GroupStatus,
    Topic,
    TopicStatus,
    create_request,
    group_of,
    status_of,
    topic_of,
)
from sandglass.errors import PreconditionError, SandglassError
from sandglass.wire.v1 import admin_pb2


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class AsyncClient:
    """
    A client of one Sandglass, at one or more addresses.

        async with AsyncClient("127.0.0.1:7170") as client:
            await client.produce("emails", "hello", delay=timedelta(minutes=5))

    It connects when it is first used, and again, to the next address, when the connection
    breaks. Leaving the block sends what was noted, waits for the answers, and gives back what
    was handed out and not settled. One event loop; not for several threads.

    Args:
        addresses: `host:port`; without a port 7170. By default 127.0.0.1:7170.
        timeout: how long a call may take before it raises `UnavailableError`, and waits for a
            node that was never there. By default 10 s, and such a node isn't waited for.
        tls: True for the authorities that the system trusts, the path of a file of others,
            `TlsOptions`, or channel credentials of gRPC. None is no TLS.
        token: shown with every call: itself, the path of its file, or what gives it when
            called, at once. A path is read and a function called anew for each connection.
        insecure: show the token to other machines although nothing is encrypted.
        name: shown to operators.

    Raises:
        InvalidError: an address, the timeout, a file or the token is no such thing.
        NotFoundError: a file isn't there, or can't be read.
        PreconditionError: the token would go to another machine unencrypted.
    """

    def __init__(
        self,
        *addresses: str,
        timeout: timedelta | None = None,
        tls: Tls = None,
        token: Token = None,
        insecure: bool = False,
        name: str | None = None,
    ) -> None:
        checked = tuple(map(address_of, addresses or (ADDRESS_DEFAULT,)))
        entry = entry_of(tls, token, hosts=map(host_of, checked), insecure=insecure)
        self._endpoint = endpoint_of(checked, entry, timeout)
        self._name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._parts: Parts | None = None
        self._is_closed = False

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.close()
        except SandglassError:
            if error is None:
                raise

    async def close(self) -> None:
        """
        Waits for all answers that are missing, gives back what is held, and disconnects.

        Raises:
            UnavailableError: outcomes went unanswered; their result is unknown.
            SandglassError: an outcome was refused, and nobody has been told so far.
        """
        self._is_closed = True
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.close()

    async def flush(self) -> None:
        """
        Waits until all outcomes noted so far are answered.

        Raises:
            UnavailableError: they aren't in time; the results are unknown.
        """
        await self.open().consuming.flush()

    @property
    def admin(self) -> AsyncAdmin:
        """What operators do: settings, groups, dead letters, what is pending."""
        return AsyncAdmin(self.open().unary)

    # --- topics and groups --------------------------------------------------------------------

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        replication_factor: int | None = 1,
        kind: Literal["timer", "kv"] = "timer",
        retention: timedelta | None = None,
        ack_timeout: timedelta | None = None,
        max_deliveries: int | None = None,
        backoff: BackoffLike | None = None,
    ) -> Topic:
        """
        Makes a topic.

        Args:
            partitions: 1 to 1,024.
            replication_factor: how many nodes hold each partition, 1 to 5; None for 1 on a node
                alone, and for as many as there are members, up to 3, in a cluster.
            retention: how long after their due time messages are kept; 7 days by default.
            ack_timeout: how long a message may be in hand without a word; 10 s by default.
            max_deliveries: attempts before a message becomes a dead letter; 5 by default.
            backoff: how long a message waits after a failed attempt; not at all by default.

        Raises:
            ConflictError: there is one of this name.
            InvalidError: a value outside its range.
        """
        request = create_request(
            name,
            partitions=partitions,
            replication_factor=replication_factor,
            kind=kind,
            retention=retention,
            ack_timeout=ack_timeout,
            max_deliveries=max_deliveries,
            backoff=backoff,
        )
        parse = admin_pb2.CreateTopicReply.FromString
        reply = await self.open().unary.call("CreateTopic", request, parse)
        return topic_of(reply.topic)

    async def list_topics(self) -> list[Topic]:
        """All topics, by name."""
        request = admin_pb2.ListTopicsRequest()
        parse = admin_pb2.ListTopicsReply.FromString
        topics: list[Topic] = []
        while True:
            reply = await self.open().unary.call("ListTopics", request, parse, is_read=True)
            topics += map(topic_of, reply.topics)
            if not reply.next_page_token:
                return topics
            request = admin_pb2.ListTopicsRequest(page_token=reply.next_page_token)

    async def show_topic(self, name: str) -> TopicStatus:
        """
        A topic and how far its partitions are.

        Raises:
            NotFoundError: there is none of this name.
        """
        request = admin_pb2.ShowTopicRequest(name=name)
        parse = admin_pb2.ShowTopicReply.FromString
        pages: list[admin_pb2.ShowTopicReply] = []
        while not pages or request.page_token:
            page = await self.open().unary.call("ShowTopic", request, parse, is_read=True)
            pages.append(page)
            request.page_token = page.next_page_token
        return status_of(pages)

    async def delete_topic(self, name: str) -> None:
        """
        Deletes a topic with all its messages and groups.

        Raises:
            NotFoundError: there is none of this name.
        """
        request = admin_pb2.DeleteTopicRequest(name=name)
        parse = admin_pb2.DeleteTopicReply.FromString
        await self.open().unary.call("DeleteTopic", request, parse)

    async def list_groups(self, topic: str, group: str = "") -> list[GroupStatus]:
        """
        The groups of a topic, per partition and channel; one of them if it is named.

        Raises:
            NotFoundError: there is no such topic.
        """
        request = admin_pb2.ListGroupsRequest(topic=topic, group=group)
        parse = admin_pb2.ListGroupsReply.FromString
        groups: list[GroupStatus] = []
        while True:
            page = await self.open().unary.call("ListGroups", request, parse, is_read=True)
            groups += map(group_of, page.groups)
            if not page.next_page_token:
                return groups
            request.page_token = page.next_page_token

    # --- producing ----------------------------------------------------------------------------

    async def produce(
        self,
        topic: str,
        value: bytes | str,
        *,
        key: bytes | str = b"",
        clustering_key: bytes | str = b"",
        headers: Mapping[str, bytes | str] | None = None,
        id: str = "",  # noqa: A002 - the field's name
        channel: str = "",
        partition: str = "",
        delay: timedelta | None = None,
        due_at: datetime | None = None,
    ) -> Receipt:
        """
        Produces a message, and returns when it is durable. See `Message` for its parts.

        Calls that run side by side share requests. Too much unanswered makes new calls wait.

        Args:
            channel: a name within the partition; empty is `master`.
            partition: its id; empty is by key, else by id, else spread.

        Raises:
            InvalidError: the message is wrong; `field` names what.
            NotFoundError: no such topic or partition.
            BusyError: the broker had no room in all that time.
            UnavailableError: nobody answered in time. If `is_result_unknown`, the message may
                have been taken; producing it again may double it.
        """
        message = Message(value, key, clustering_key, headers or {}, id, delay, due_at)
        route = route_of(topic, partition=partition, channel=channel)
        parts = self.open()
        parts.connection.start()
        return await (await parts.producer.produce_nowait(message, route))

    async def produce_nowait(
        self,
        topic: str,
        value: bytes | str,
        *,
        key: bytes | str = b"",
        clustering_key: bytes | str = b"",
        headers: Mapping[str, bytes | str] | None = None,
        id: str = "",  # noqa: A002 - the field's name
        channel: str = "",
        partition: str = "",
        delay: timedelta | None = None,
        due_at: datetime | None = None,
    ) -> asyncio.Future[Receipt]:
        """
        As `produce`, without waiting for the answer: that is what the future is for.

        It waits only for room, when too much is unanswered. Closing the client waits for all
        answers; an error of a future that nobody looks at is lost, but for a line in the log.

        Raises:
            InvalidError: the message is wrong; `field` names what.
            UnavailableError: there was no room in all that time.
        """
        message = Message(value, key, clustering_key, headers or {}, id, delay, due_at)
        route = route_of(topic, partition=partition, channel=channel)
        parts = self.open()
        parts.connection.start()
        return await parts.producer.produce_nowait(message, route)

    async def produce_many(
        self,
        topic: str,
        source: Iterable[bytes | str | Message] | AsyncIterable[bytes | str | Message],
        *,
        channel: str = "",
        partition: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> ProduceSummary:
        """
        Produces many messages, in large requests of which several are on their way at a time.

        A request is durable all or nothing; the whole call isn't. It stops at the first
        error, and a note on that says how many messages were taken. When the broker was busy
        and a request had to be repeated, its messages come after those of later ones.

        Args:
            source: values or `Message`s. Plain `bytes` are fastest. Of a slow asynchronous
                source, messages gather for 50 ms.
            on_progress: called with how many messages are durable so far.

        Raises:
            As `produce`.
        """
        parts = self.open()
        parts.connection.start()
        route = route_of(topic, partition=partition, channel=channel)
        return await parts.producer.produce_many(source, route, on_progress)

    # --- consuming ----------------------------------------------------------------------------

    def consume(
        self,
        topic: str,
        *,
        group: str,
        consumer: str | None = None,
        channel: str = "",
        partitions: Iterable[str] | None = None,
        credit: int = CREDIT_COUNT_DEFAULT,
        credit_bytes: int = CREDIT_BYTES_DEFAULT,
        drain: bool = False,
        ack_timeout: timedelta | None = None,
        start: Literal["beginning", "now"] = "beginning",
        auto_extend: bool = True,
    ) -> AsyncConsumer[AsyncReceived]:
        """
        Messages of a topic for a group, as they become due; each must be settled.

            async for message in client.consume("emails", group="mailer"):
                await send(message.value)
                await message.ack()

        Args:
            group: consumers of one group share the messages; each group sees all of them.
            consumer: this one's name; by default one that nobody else has.
            channel: empty is `master`; `__death_letter` holds the dead letters.
            partitions: ids; by default all of the topic.
            credit: how many messages may be here and not settled, 1 to 500,000.
            credit_bytes: as above, in bytes, up to 128 MiB.
            drain: end when what was ready at the start has been handed out.
            ack_timeout: how long a lease lasts; by default the topic's.
            start: where a group begins that doesn't exist yet.
            auto_extend: keep the leases of messages that aren't settled yet for as long as the
                iterator is alive.

        Raises (when iterating):
            NotFoundError: no such topic or partition.
            InvalidError: a name or number out of its bounds.
            UnavailableError: nobody answered at the start. Later the iterator waits for the
                broker to come back, except for a drain.
        """
        request = subscribe_request(
            topic,
            group=group,
            consumer=consumer,
            channel=channel,
            partitions=partitions,
            credit=credit,
            credit_bytes=credit_bytes,
            drain=drain,
            ack_timeout=ack_timeout,
            start=start,
        )
        consuming = self.open().consuming
        subscriptions = Subscriptions(consuming, request, is_extending=auto_extend)
        return AsyncConsumer(subscriptions, messages)

    def consume_batches(
        self,
        topic: str,
        *,
        group: str,
        consumer: str | None = None,
        channel: str = "",
        partitions: Iterable[str] | None = None,
        credit: int = CREDIT_COUNT_DEFAULT,
        credit_bytes: int = CREDIT_BYTES_DEFAULT,
        drain: bool = False,
        ack_timeout: timedelta | None = None,
        start: Literal["beginning", "now"] = "beginning",
        auto_extend: bool = True,
    ) -> AsyncConsumer[AsyncBatch]:
        """As `consume`, a whole delivery at a time: the fast way."""
        request = subscribe_request(
            topic,
            group=group,
            consumer=consumer,
            channel=channel,
            partitions=partitions,
            credit=credit,
            credit_bytes=credit_bytes,
            drain=drain,
            ack_timeout=ack_timeout,
            start=start,
        )
        consuming = self.open().consuming
        subscriptions = Subscriptions(consuming, request, is_extending=auto_extend)
        return AsyncConsumer(subscriptions, batches)

    # --- KV topics ----------------------------------------------------------------------------

    async def get(
        self,
        topic: str,
        key: bytes | str,
        *,
        clustering_key: bytes | str = b"",
        channel: str = "",
        partition: str = "",
    ) -> Entry | None:
        """
        The entry under a key of a KV topic, exactly; None if there is none.

        It shows every put and delete that was answered before this call.

        Args:
            channel: a name within the partition; empty is `master`.
            partition: its id; empty is by key, as for `put`.

        Raises:
            NotFoundError: no such topic or partition.
            PreconditionError: it is no KV topic.
            InvalidError: the key is empty or too long.
            UnavailableError: nobody answered in time.
        """
        place = place_of(topic, channel, partition)
        return await self.open().keyvalue.get(place, key, clustering_key)

    async def has(
        self,
        topic: str,
        key: bytes | str,
        *,
        clustering_key: bytes | str = b"",
        channel: str = "",
        partition: str = "",
    ) -> bool:
        """
        Is there an entry under a key of a KV topic? As `get`, without the value.

        Raises:
            As `get`.
        """
        place = place_of(topic, channel, partition)
        return await self.open().keyvalue.has(place, key, clustering_key)

    async def put(
        self,
        topic: str,
        key: bytes | str,
        value: bytes | str,
        *,
        clustering_key: bytes | str = b"",
        headers: Mapping[str, bytes | str] | None = None,
        id: str = "",  # noqa: A002 - the field's name
        channel: str = "",
        partition: str = "",
    ) -> Receipt:
        """
        Puts a message under its key in a KV topic, in place of the one that was there, and
        returns when it is durable. The receipt's `index` is the revision.

        For many, produce to the topic: `produce` and `produce_many` put, too, and share
        requests.

        Raises:
            As `get`; and
            BusyError: the broker has no room; see `retry_after_ms`.
            UnavailableError: nobody answered in time. If `is_result_unknown`, it may have been
                put, or may be yet.
        """
        place = place_of(topic, channel, partition)
        parts = self.open()
        return await parts.keyvalue.put(
            place, key, clustering_key, value, headers=headers, id=id
        )

    async def delete(
        self,
        topic: str,
        key: bytes | str,
        *,
        clustering_key: bytes | str = b"",
        channel: str = "",
        partition: str = "",
    ) -> bool:
        """
        Deletes the entry under a key of a KV topic, durably.

        Returns:
            Whether there was one.

        Raises:
            As `put`.
        """
        place = place_of(topic, channel, partition)
        return await self.open().keyvalue.delete(place, key, clustering_key)

    def scan(
        self,
        topic: str,
        *,
        key: bytes | str = b"",
        prefix: bytes | str = b"",
        channel: str = "",
        partition: str = "",
    ) -> AsyncIterator[Entry]:
        """
        Entries of a KV topic, in the order of their keys and clustering keys within each
        partition, one partition after the other.

            async for entry in client.scan("stock", prefix="apple-"):
                print(entry.key, entry.value)

        They come in pages of up to 1,000 entries and 1 MiB. A page shows one moment, the next
        one a later moment.

        Args:
            key: only the entries of this key, which differ in their clustering keys.
            prefix: only keys that begin with this. Not with `key`.

        Raises, the iteration too:
            As `get`.
        """
        scan = scan_of(place_of(topic, channel, partition), key, prefix)
        return self.open().keyvalue.entries(scan)

    # --- for the synchronous face -------------------------------------------------------------

    @property
    def timeout_ms(self) -> int:
        """How long a call may take."""
        return self._endpoint.timeout_ms

    def open(self) -> Parts:
        """
        What the client is made of. Nothing is connected yet.

        Raises:
            PreconditionError: it is closed, or gRPC can't be used in this process.
        """
        forking.check_process()
        if self._is_closed:
            raise PreconditionError("the client is closed")
        if self._parts is None:
            self._parts = Parts(self._endpoint, self._name, wall_ms=_wall_ms)
        return self._parts
