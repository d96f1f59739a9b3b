"""
The synchronous client: the same names as `AsyncClient`, for threads.

It is a face: behind it an `AsyncClient` runs in the thread of `thread.py`, with the one session
that both have. See docs/decisions/0012.
"""

import functools
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from sandglass.client._async.client import AsyncClient
from sandglass.client._async.consumer import AsyncConsumer
from sandglass.client._sync.admin import Admin
from sandglass.client._sync.answer import Promise
from sandglass.client._sync.consumer import Consumer, Desk, batches, messages
from sandglass.client._sync.producer import ThreadProducer
from sandglass.client._sync.thread import LoopThread, shared
from sandglass.client.entry import Tls, Token
from sandglass.client.keyvalue import Entry, Scan, place_of, scan_of
from sandglass.client.message import Message, ProduceSummary, Receipt
from sandglass.client.received import Batch, Received
from sandglass.client.requests import route_of
from sandglass.client.subscribing import CREDIT_BYTES_DEFAULT, CREDIT_COUNT_DEFAULT
from sandglass.errors import PreconditionError, SandglassError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _blocking(
    method: Callable[Concatenate[AsyncClient, Arguments], Coroutine[Any, Any, Result]],
) -> "Callable[Concatenate[Client, Arguments], Result]":
    """The method of the same name, which waits for the end of that of `AsyncClient`."""

    @functools.wraps(method)
    def call(self: "Client", *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        thread = self._open()  # pyright: ignore[reportPrivateUsage] - a method of it
        client = self._client  # pyright: ignore[reportPrivateUsage]
        return thread.call(method(client, *args, **kwargs))

    return call


class Client:
    """
    A client of one Sandglass, at one or more addresses, for any number of threads.

        with Client("127.0.0.1:7170") as client:
            client.produce("emails", "hello", delay=timedelta(minutes=5))

    It connects when it is first used, and again, to the next address, when the connection
    breaks. Leaving the block sends what was noted, waits for the answers, and gives back what
    was handed out and not settled. A client that nobody closed is closed at the end of the
    interpreter, for which it has two seconds.

    It doesn't survive a fork: in the child each call raises, and says so. Make a `Client` in
    the child, and fork before the first call of any client of the process: gRPC, once in use,
    can't be used in a process that is forked off.

    Args: see `AsyncClient`.

    Raises, each call:
        PreconditionError: the client is closed, or its process was another one.
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
        self._client = AsyncClient(
            *addresses, timeout=timeout, tls=tls, token=token, insecure=insecure, name=name
        )
        self._process_id = os.getpid()
        self._thread: LoopThread | None = None
        self._producer: ThreadProducer | None = None
        self._is_closed = False
        self._forget: Callable[[], None] = lambda: None

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except SandglassError:
            if error is None:
                raise

    def close(self) -> None:
        """
        Waits for all answers that are missing, gives back what is held, and disconnects.

        Raises:
            UnavailableError: outcomes went unanswered; their result is unknown.
            SandglassError: an outcome was refused, or a future of `produce_nowait` has failed,
                and nobody has been told so far.
        """
        self._check()
        thread, self._thread = self._thread, None
        self._is_closed = True
        if thread is None:
            return
        try:
            thread.call(self._client.close())
        finally:
            self._forget()
        if self._producer is not None:
            self._producer.raise_unseen()

    flush = _blocking(AsyncClient.flush)

    @property
    def admin(self) -> Admin:
        """What operators do: settings, groups, dead letters, what is pending."""
        return Admin(lambda: self._client.admin, self._open().call)

    # --- topics and groups --------------------------------------------------------------------

    create_topic = _blocking(AsyncClient.create_topic)
    list_topics = _blocking(AsyncClient.list_topics)
    show_topic = _blocking(AsyncClient.show_topic)
    delete_topic = _blocking(AsyncClient.delete_topic)
    list_groups = _blocking(AsyncClient.list_groups)

    # --- producing ----------------------------------------------------------------------------

    def produce(
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

        Calls of several threads share requests. Too much unanswered makes new calls wait.

        Args and Raises: see `AsyncClient.produce`.
        """
        message = Message(value, key, clustering_key, headers or {}, id, delay, due_at)
        route = route_of(topic, partition=partition, channel=channel)
        return self._produce().produce(message, route)

    def produce_nowait(
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
    ) -> Promise[Receipt]:
        """
        As `produce`, without waiting for the answer: that is what the future is for.

        It waits only for room, when too much is unanswered. `close` waits for all answers, and
        raises if a future has failed and nobody has looked at it.

        Raises:
            InvalidError: the message is wrong; `field` names what.
            UnavailableError: there was no room in all that time.
        """
        message = Message(value, key, clustering_key, headers or {}, id, delay, due_at)
        route = route_of(topic, partition=partition, channel=channel)
        return self._produce().produce_nowait(message, route)

    def produce_many(
        self,
        topic: str,
        source: Iterable[bytes | str | Message],
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
            source: values or `Message`s. Plain `bytes` in a list are fastest. Of a slow
                source, messages gather for 50 ms.
            on_progress: called with how many messages are durable so far, in this thread.

        Raises:
            As `produce`.
        """
        route = route_of(topic, partition=partition, channel=channel)
        return self._produce().produce_many(source, route, on_progress)

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
    ) -> Consumer[Received]:
        """
        Messages of a topic for a group, as they become due; each must be settled.

            for message in client.consume("emails", group="mailer"):
                send(message.value)
                message.ack()

        Leases are kept while the iterator is alive, however long the work on a message takes.

        Args and Raises: see `AsyncClient.consume`.
        """
        wanted = self._consumable().consume(
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
            auto_extend=auto_extend,
        )
        return Consumer(self._desk(wanted), messages)

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
    ) -> Consumer[Batch]:
        """As `consume`, a whole delivery at a time: the fast way."""
        wanted = self._consumable().consume_batches(
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
            auto_extend=auto_extend,
        )
        return Consumer(self._desk(wanted), batches)

    # --- KV topics ----------------------------------------------------------------------------

    get = _blocking(AsyncClient.get)
    has = _blocking(AsyncClient.has)
    put = _blocking(AsyncClient.put)
    delete = _blocking(AsyncClient.delete)

    def scan(
        self,
        topic: str,
        *,
        key: bytes | str = b"",
        prefix: bytes | str = b"",
        channel: str = "",
        partition: str = "",
    ) -> Iterator[Entry]:
        """
        Entries of a KV topic in the order of their keys, page by page.

            for entry in client.scan("stock", prefix="apple-"):
                print(entry.key, entry.value)

        Args and Raises: see `AsyncClient.scan`.
        """
        self._open()
        return self._scan(scan_of(place_of(topic, channel, partition), key, prefix))

    def _scan(self, scan: Scan) -> Iterator[Entry]:
        while not scan.is_over:
            thread = self._open()
            yield from thread.call(self._client.open().keyvalue.page(scan))

    # --- private ------------------------------------------------------------------------------

    def _check(self) -> None:
        if os.getpid() != self._process_id:
            raise PreconditionError(
                f"this Client belongs to process {self._process_id}, from which this one was"
                " forked: make a Client in the child, and fork before the first call of any"
                " client of the process"
            )

    def _open(self) -> LoopThread:
        """The thread; begun at the first call."""
        self._check()
        if self._is_closed:
            raise PreconditionError("the client is closed")
        if self._thread is None:
            thread = shared()
            with thread.lock:
                if self._thread is None:
                    client = self._client
                    self._producer = ThreadProducer(thread, client.open(), client.timeout_ms)
                    self._forget = thread.adopt(self, client.close)
                    self._thread = thread
        return self._thread

    def _produce(self) -> ThreadProducer:
        self._open()
        assert self._producer is not None, "it comes with the thread"
        return self._producer

    def _consumable(self) -> AsyncClient:
        self._open()
        return self._client

    def _desk(self, wanted: AsyncConsumer[Any]) -> Desk:
        return Desk(self, self._open(), wanted.subscriptions, self._check)
