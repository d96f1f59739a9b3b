"""
Handlers by topic, in threads.

Each topic has its workers: threads that take a message from the subscription they share, call
the handler, and settle. So a message changes threads once, with the delivery that brings it. A
handler's failure is that message's alone. Whoever stops the mux ends the taking at once;
handlers then have their time to finish, in which their leases are kept.
"""

import inspect
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from queue import SimpleQueue
from types import FrameType
from typing import TypeVar, Unpack

from sandglass.client._async.connection import steady_ms
from sandglass.client._sync.client import Client
from sandglass.client._sync.consumer import Consumer
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
from sandglass.client.received import Received
from sandglass.client.retry import Retry
from sandglass.errors import InvalidError, PreconditionError, SandglassError

Handler = Callable[[Received], object]
SomeHandler = TypeVar("SomeHandler", bound=Handler)


class Mux:
    """
    Calls a handler for each message of some topics.

        mux = Mux(client, group="shop")


        @mux.on("emails", retry=Retry(timedelta(seconds=5), dead_on=[ValueError]))
        def send(message: Received) -> None: ...


        mux.run(signals=[signal.SIGTERM])

    A handler that returns acknowledges its message; one that raises has it come again, or die,
    as `retry` says; one that settles the message itself is left alone. Topics that can't be
    consumed, since they aren't there yet for instance, are tried again.

    Args:
        client: stays the caller's, who closes it.
        group, concurrency, retry: for topics that say nothing else; see `LineSettings`.
        drain: how long handlers may go on when the mux stops. Then their messages are given
            back, uncounted; nothing can end the handlers' threads, which go with the process.

    Raises:
        InvalidError: concurrency or drain is out of its bounds.
    """

    def __init__(
        self,
        client: Client,
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
        self._drain_ms = span_ms(drain, field="drain", low=0, high=DRAIN_MS_MAX)
        self._topics: list[_Topic] = []
        # Unlike an event, it may be put to by a signal's handler at any moment.
        self._stops: SimpleQueue[None] = SimpleQueue()
        self._is_running = False

    def add(self, topic: str, handler: Handler, **settings: Unpack[LineSettings]) -> None:
        """
        Has `handler` called for messages of a topic; before `run`.

        Raises:
            InvalidError: the handler is a coroutine function, or a setting is wrong.
            PreconditionError: the mux is running.
        """
        if self._is_running:
            raise PreconditionError("the mux is running; add handlers before")
        if inspect.iscoroutinefunction(handler):
            raise InvalidError(
                "handler is a coroutine function; for those there is AsyncMux", field="handler"
            )
        line = line_of(
            topic,
            settings,
            group=self._group,
            concurrency=self._concurrency,
            retry=self._retry,
        )
        self._client.consume(topic, **line.consume)  # raises what is wrong
        self._topics.append(_Topic(self._client, line, handler))

    def on(
        self, topic: str, **settings: Unpack[LineSettings]
    ) -> Callable[[SomeHandler], SomeHandler]:
        """As `add`, as a decorator; the function stays as it is."""

        def decorate(handler: SomeHandler) -> SomeHandler:
            self.add(topic, handler, **settings)
            return handler

        return decorate

    def run(self, *, signals: Iterable[signal.Signals] = ()) -> None:
        """
        Handles messages until `stop` is called, one of `signals` comes, or Ctrl-C is pressed;
        then lets handlers finish, and waits for the answers to their outcomes.

        Args:
            signals: only in the main thread.

        Raises:
            PreconditionError: it is running already.
            UnavailableError: outcomes went unanswered; their result is unknown.
        """
        if self._is_running:
            raise PreconditionError("the mux is running already")
        self._is_running = True
        try:
            with self._watching(signals):
                for topic in self._topics:
                    topic.start()
                try:
                    self._stops.get()
                finally:
                    self._finish()
        finally:
            self._is_running = False

    def stop(self) -> None:
        """Ends `run`, which then finishes what is in hand. Any thread may call this."""
        self._stops.put(None)

    @contextmanager
    def _watching(self, signals: Iterable[signal.Signals]) -> Generator[None, None, None]:
        def on_signal(_: int, __: FrameType | None) -> None:
            self.stop()

        earlier = {each: signal.signal(each, on_signal) for each in signals}
        try:
            yield
        finally:
            for each, handler in earlier.items():
                signal.signal(each, handler)

    def _finish(self) -> None:
        for topic in self._topics:
            topic.stop()
        deadline_ms = steady_ms() + self._drain_ms
        late_count = sum(topic.finish(deadline_ms) for topic in self._topics)
        if late_count:
            log.warning("%d handlers were not done after %d ms", late_count, self._drain_ms)
        while not self._stops.empty():
            self._stops.get()
        self._client.flush()


class _Topic:
    """
    A topic at work.

    Invariant: one worker at a time takes from `_messages`; `_held` is what handlers have.
    """

    def __init__(self, client: Client, line: Line, handler: Handler) -> None:
        self._client = client
        self._line = line
        self._handler = handler
        self._taking = threading.Lock()
        self._stopping = threading.Event()
        self._workers: list[threading.Thread] = []
        self._held: dict[threading.Thread, Received] = {}
        self._consumer: Consumer[Received] | None = None
        self._messages: Generator[Received, None, None] | None = None
        self._failure_count = 0

    def start(self) -> None:
        """Begins to work."""
        self._stopping = threading.Event()
        self._consumer = self._consume()
        name = f"sandglass-mux-{self._line.topic}"
        self._workers = [
            threading.Thread(target=self._work, args=(self._stopping,), name=name, daemon=True)
            for _ in range(self._line.concurrency)
        ]
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """No more messages; what is in hand stays."""
        self._stopping.set()
        if self._consumer is not None:
            self._consumer.stop()

    def finish(self, deadline_ms: int) -> int:
        """Waits for the handlers; those that are late lose their messages. Returns how many."""
        for worker in self._workers:
            worker.join(max(0, deadline_ms - steady_ms()) / 1000)
        late = [worker for worker in self._workers if worker.is_alive()]
        for worker in late:
            message = self._held.get(worker)
            if message is not None:
                settle_unfinished(message)
        self._workers = []
        return len(late)

    def _consume(self) -> Consumer[Received]:
        return self._client.consume(self._line.topic, **self._line.consume)

    def _work(self, stopping: threading.Event) -> None:
        thread = threading.current_thread()
        while (message := self._take(stopping)) is not None:
            self._held[thread] = message
            try:
                self._handler(message)
            except Exception as error:  # noqa: BLE001 - the user's code; settling logs it
                settle_failed(message, error, self._line.retry)
            else:
                settle_done(message)
            finally:
                del self._held[thread]

    def _take(self, stopping: threading.Event) -> Received | None:
        """The next message; None when the mux stops."""
        with self._taking:
            while not stopping.is_set():
                assert self._consumer is not None, "it is there from the start on"
                self._messages = self._messages or iter(self._consumer)
                try:
                    message = next(self._messages)
                except StopIteration:
                    self._messages = None
                except SandglassError as error:
                    self._messages = None
                    self._pause(error, stopping)
                else:
                    self._failure_count = 0
                    return message
            self._messages = None
        return None

    def _pause(self, error: SandglassError, stopping: threading.Event) -> None:
        self._failure_count += 1
        wait_s = pause_s(self._failure_count)
        log.warning(
            "topic %s can't be consumed; trying again in %g s: %s",
            self._line.topic,
            wait_s,
            error,
        )
        stopping.wait(wait_s)
