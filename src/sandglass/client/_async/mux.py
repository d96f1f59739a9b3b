"""
Handlers by topic, on asyncio.

Each topic has its workers: tasks that take a message, call the handler, and settle. A handler's
failure is that message's alone. Whoever stops the mux ends the taking at once; handlers then
have their time to finish, in which their leases are kept.
"""

import asyncio
import inspect
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Final, TypeVar, Unpack

from sandglass.client._async.client import AsyncClient
from sandglass.client._async.consumer import AsyncConsumer
from sandglass.client.line import (
    CONCURRENCY_DEFAULT,
    DRAIN_DEFAULT,
    DRAIN_MS_MAX,
    Line,
    LineSettings,
    line_of,
    log,
    pause_s,
    settle_done,
    settle_failed,
    settle_unfinished,
)
from sandglass.client.message import span_ms
from sandglass.client.received import AsyncReceived
from sandglass.client.retry import Retry
from sandglass.errors import InvalidError, PreconditionError, SandglassError

AsyncHandler = Callable[[AsyncReceived], Awaitable[object]]
SomeHandler = TypeVar("SomeHandler", bound=AsyncHandler)

_CANCEL_S_MAX: Final = 5.0
"""How long handlers may take over being cancelled."""


class AsyncMux:
    """
    Calls a handler for each message of some topics.

        mux = AsyncMux(client, group="shop")


        @mux.on("emails", retry=Retry(timedelta(seconds=5), dead_on=[ValueError]))
        async def send(message: AsyncReceived) -> None: ...


        await mux.run(signals=[signal.SIGTERM])

    A handler that returns acknowledges its message; one that raises has it come again, or die,
    as `retry` says; one that settles the message itself is left alone. Topics that can't be
    consumed, since they aren't there yet for instance, are tried again.

    Args:
        client: stays the caller's, who closes it.
        group, concurrency, retry: for topics that say nothing else; see `LineSettings`.
        drain: how long handlers may go on when the mux stops. Then they are cancelled, and
            their messages given back, uncounted.

    Raises:
        InvalidError: concurrency or drain is out of its bounds.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        group: str,
        concurrency: int = CONCURRENCY_DEFAULT,
        retry: Retry | None = None,
        drain: timedelta = DRAIN_DEFAULT,
    ) -> None:
        self._client = client
        self._group = group
        self._concurrency = concurrency
        self._retry = retry or Retry()
        self._drain_s = span_ms(drain, field="drain", low=0, high=DRAIN_MS_MAX) / 1000
        self._topics: list[_Topic] = []
        self._stopping = asyncio.Event()
        self._is_running = False

    def add(self, topic: str, handler: AsyncHandler, **settings: Unpack[LineSettings]) -> None:
        """
        Has `handler` called for messages of a topic; before `run`.

        Raises:
            InvalidError: the handler is no coroutine function, or a setting is wrong.
            PreconditionError: the mux is running.
        """
        if self._is_running:
            raise PreconditionError("the mux is running; add handlers before")
        if not inspect.iscoroutinefunction(handler) and not inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004 - an object with an async __call__
        ):
            raise InvalidError(
                "handler is no coroutine function; for others there is Mux", field="handler"
            )
        line = line_of(
            topic,
            settings,
            group=self._group,
            concurrency=self._concurrency,
            retry=self._retry,
        )
        self._client.consume(topic, **line.consume)  # raises what is wrong
        self._topics.append(_Topic(self._client, line, handler, self._stopping))

    def on(
        self, topic: str, **settings: Unpack[LineSettings]
    ) -> Callable[[SomeHandler], SomeHandler]:
        """As `add`, as a decorator; the function stays as it is."""

        def decorate(handler: SomeHandler) -> SomeHandler:
            self.add(topic, handler, **settings)
            return handler

        return decorate

    async def run(self, *, signals: Iterable[signal.Signals] = ()) -> None:
        """
        Handles messages until `stop` is called, one of `signals` comes, or it is cancelled;
        then lets handlers finish, and waits for the answers to their outcomes.

        Raises:
            PreconditionError: it is running already.
            UnavailableError: outcomes went unanswered; their result is unknown.
        """
        if self._is_running:
            raise PreconditionError("the mux is running already")
        self._is_running = True
        self._stopping.clear()
        loop = asyncio.get_running_loop()
        watched = list(signals)
        for each in watched:
            loop.add_signal_handler(each, self.stop)
        workers = [worker for topic in self._topics for worker in topic.start()]
        try:
            await self._stopping.wait()
        finally:
            try:
                await self._finish(workers)
            finally:
                for each in watched:
                    loop.remove_signal_handler(each)
                self._is_running = False

    def stop(self) -> None:
        """Ends `run`, which then finishes what is in hand."""
        self._stopping.set()

    async def _finish(self, workers: "list[asyncio.Task[None]]") -> None:
        self._stopping.set()
        for topic in self._topics:
            topic.stop()
        if workers:
            _, late = await asyncio.wait(workers, timeout=self._drain_s)
            for worker in late:
                worker.cancel()
            if late:
                log.warning("%d handlers were cut off after %g s", len(late), self._drain_s)
                await asyncio.wait(late, timeout=_CANCEL_S_MAX)
        await self._client.flush()


class _Topic:
    """A topic at work. Invariant: one worker at a time takes from `_messages`."""

    def __init__(
        self, client: AsyncClient, line: Line, handler: AsyncHandler, stopping: asyncio.Event
    ) -> None:
        self._client = client
        self._line = line
        self._handler = handler
        self._stopping = stopping
        self._taking = asyncio.Lock()
        self._consumer: AsyncConsumer[AsyncReceived] | None = None
        self._messages: AsyncGenerator[AsyncReceived, None] | None = None
        self._failure_count = 0

    def start(self) -> "list[asyncio.Task[None]]":
        """Starts the workers of this topic, one for each handler that may run at once."""
        return [
            asyncio.create_task(self._work(), name=f"sandglass-mux-{self._line.topic}")
            for _ in range(self._line.concurrency)
        ]

    def stop(self) -> None:
        """No more messages; what is in hand stays."""
        if self._consumer is not None:
            self._consumer.stop()

    async def _work(self) -> None:
        while (message := await self._take()) is not None:
            try:
                await self._handler(message)
            except asyncio.CancelledError:
                settle_unfinished(message)
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Otherwise the handler was cancelled by something of its own.
            except Exception as error:  # noqa: BLE001 - the user's code; settling logs it
                settle_failed(message, error, self._line.retry)
            else:
                settle_done(message)

    async def _take(self) -> AsyncReceived | None:
        """The next message; None when the mux stops."""
        async with self._taking:
            while not self._stopping.is_set():
                if self._messages is None:
                    self._consumer = self._client.consume(
                        self._line.topic, **self._line.consume
                    )
                    self._messages = aiter(self._consumer)
                try:
                    message = await anext(self._messages)
                except StopAsyncIteration:
                    self._messages = None
                except SandglassError as error:
                    self._messages = None
                    await self._pause(error)
                else:
                    self._failure_count = 0
                    return message
        return None

    async def _pause(self, error: SandglassError) -> None:
        self._failure_count += 1
        wait_s = pause_s(self._failure_count)
        log.warning(
            "topic %s can't be consumed; trying again in %g s: %s",
            self._line.topic,
            wait_s,
            error,
        )
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            return
