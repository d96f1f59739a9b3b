"""
Producing from threads.

Messages are checked and encoded in the caller's thread, and laid down for the loop, which takes
all that lies there at once. Room is taken before, by the caller, who waits for it if need be.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from threading import Lock
from typing import Any, Final

from sandglass.client._async.connection import steady_ms
from sandglass.client._async.parts import Parts
from sandglass.client._async.producer import LINGER_MS
from sandglass.client._sync.answer import Promise, Tally
from sandglass.client._sync.gathering import Gathering
from sandglass.client._sync.thread import LoopThread
from sandglass.client.batching import BATCH_COUNT_MAX, Route
from sandglass.client.events import Produce
from sandglass.client.message import Message, ProduceSummary, Receipt
from sandglass.client.requests import (
    Sink,
    Value,
    check_several,
    encode_one,
    requests_of,
    time_of,
)
from sandglass.client.room import Waiter
from sandglass.errors import InvalidError, PreconditionError

FAILED_COUNT_MAX: Final = 1000
"""Failures of futures that are remembered until the client is closed."""

_Entry = tuple[Route, bytes, int, bool, Sink[Receipt], int]


class ThreadProducer:
    """The producing half of a `Client`."""

    def __init__(self, thread: LoopThread, parts: Parts, timeout_ms: int) -> None:
        self._thread = thread
        self._parts = parts
        self._producer = parts.producer
        self._timeout_ms = timeout_ms
        self._messages: deque[_Entry] = deque()
        self._requests: deque[tuple[Produce, Route, Sink[dict[str, int]]]] = deque()
        self._is_woken = False
        self._failed: deque[Promise[Any]] = deque(maxlen=FAILED_COUNT_MAX)
        self._gathering = Gathering(self._messages.__len__)
        parts.after_turn = self._gather

    # --- for callers, in any thread -----------------------------------------------------------

    def produce(self, message: Message, route: Route) -> Receipt:
        """See `Client.produce`."""
        if self._thread.is_here:
            raise PreconditionError("a callback of a future must not wait for another answer")
        return self.produce_nowait(message, route).result()

    def produce_nowait(self, message: Message, route: Route) -> Promise[Receipt]:
        """See `Client.produce_nowait`."""
        promise: Promise[Receipt] = Promise(
            self._timeout_ms / 1000, self._failed, self._gathering.told
        )
        self._put(message, route, promise)
        return promise

    def produce_many(
        self,
        source: Iterable[Value | Message],
        route: Route,
        on_progress: Callable[[int], object] | None,
    ) -> ProduceSummary:
        """See `Client.produce_many`."""
        tally = Tally()
        told_count = 0
        try:
            for chunk in _chunks(source):
                for produce in requests_of(chunk, route, self._producer.wall_ms()):
                    self._take_room(produce.count, len(produce.batch))
                    self._requests.append((produce, route, tally.part(produce.count)))
                    self._wake()
                    if on_progress is not None and tally.done_count > told_count:
                        told_count = tally.done_count
                        on_progress(told_count)
                    if tally.error is not None:
                        break
                if tally.error is not None:
                    break
        except InvalidError as error:
            tally.error = tally.error or error
        tally.wait_all(self._timeout_ms / 1000, on_progress)
        tally.raise_error()
        if on_progress is not None and tally.done_count:
            on_progress(tally.done_count)
        return ProduceSummary(route[0], tally.done_count, tally.partitions)

    def raise_unseen(self) -> None:
        """
        Raises:
            SandglassError: futures have failed and nobody has looked at them.
        """
        unseen = [each for each in self._failed if not each.is_seen]
        self._failed.clear()
        if unseen:
            error = unseen[0].exception()
            assert error is not None, "a promise that failed has an error"
            error.add_note(f"{len(unseen)} futures failed and nobody looked at them")
            raise error

    # --- private ------------------------------------------------------------------------------

    def _put(self, message: Message, route: Route, sink: Sink[Receipt]) -> None:
        time_ms, is_delay = time_of(message, self._producer.wall_ms())
        part = encode_one(message)
        self._take_room(1, len(part))
        deadline_ms = steady_ms() + self._timeout_ms
        self._messages.append((route, part, time_ms, is_delay, sink, deadline_ms))
        self._gathering.came()
        self._wake()

    def _take_room(self, count: int, size_bytes: int) -> None:
        room = self._producer.room
        if room.take(count, size_bytes):
            return
        if self._thread.is_here:
            raise PreconditionError("a callback of a future must not wait for room")
        lock = Lock()
        lock.acquire()
        waiter = Waiter(count, size_bytes, lock.release)
        if room.stand(waiter):
            return
        is_given = False
        try:
            is_given = lock.acquire(timeout=self._timeout_ms / 1000)
        finally:
            if not is_given:
                # In the loop: giving back may end a wait there.
                self._thread.post(self._producer.leave, waiter)
        if not is_given:
            raise self._producer.no_room()

    def _wake(self) -> None:
        # Set after the entry is there, and taken back before entries are taken.
        if not self._is_woken:
            self._is_woken = True
            self._thread.post(self._take_all)

    def _gather(self) -> None:
        """In the loop, after answers: what comes again at once shares a request."""
        if self._gathering.is_worth_it():
            self._is_woken = True
            self._gathering.wait()
            self._take_all()

    def _take_all(self) -> None:
        """In the loop: takes in what lies there."""
        self._is_woken = False
        parts, producer = self._parts, self._producer
        if not parts.is_closed:
            parts.connection.start()
        closed = PreconditionError("the client is closed")
        while self._messages:
            route, part, time_ms, is_delay, sink, deadline_ms = self._messages.popleft()
            if parts.is_closed:
                producer.gave_back(1, len(part))
                sink.set_exception(closed)
                continue
            producer.add(
                route,
                part,
                time_ms=time_ms,
                is_delay=is_delay,
                sink=sink,
                deadline_ms=deadline_ms,
            )
        while self._requests:
            produce, route, part_sink = self._requests.popleft()
            if parts.is_closed:
                producer.gave_back(produce.count, len(produce.batch))
                part_sink.set_exception(closed)
                continue
            producer.submit(produce, route, part_sink)


def _chunks(source: Iterable[Value | Message]) -> Iterator[list[Value | Message]]:
    """
    Up to a request's count at a time. Of a source that isn't at hand as a whole, what comes
    within `LINGER_MS`.
    """
    check_several(source)
    if isinstance(source, list | tuple):
        rest = iter(source)
        while chunk := list(islice(rest, BATCH_COUNT_MAX)):
            yield chunk
        return
    chunk: list[Value | Message] = []
    first_ms = 0
    for message in source:
        if not chunk:
            first_ms = steady_ms()
        chunk.append(message)
        if len(chunk) >= BATCH_COUNT_MAX or steady_ms() - first_ms >= LINGER_MS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
