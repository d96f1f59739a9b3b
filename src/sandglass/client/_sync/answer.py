"""What callers of the synchronous client wait on, and the loop answers."""

import logging
from collections import deque
from collections.abc import Callable
from threading import Condition, Lock
from typing import Any, Final, Generic, TypeVar, cast

from sandglass.errors import SandglassError, UnavailableError

SLACK_S: Final = 5.0
"""The loop ends each wait in time. A caller who isn't told so long after is told by itself."""

Result = TypeVar("Result")

_log = logging.getLogger("sandglass.client")


class Promise(Generic[Result]):
    """
    An answer to come, for any number of threads.

    `on_awaited` is called, where it is answered, if a thread waits for it by then.

    As `concurrent.futures.Future`, less what it can't do (nobody can cancel what is on its
    way) and what costs: several microseconds each, at some ten thousand a second.
    """

    __slots__ = (
        "_callbacks",
        "_error",
        "_failed",
        "_is_awaited",
        "_is_done",
        "_lock",
        "_on_awaited",
        "_result",
        "_wait_s",
        "is_seen",
    )

    def __init__(
        self, wait_s: float, failed: "deque[Promise[Any]]", on_awaited: Callable[[], object]
    ) -> None:
        self._wait_s = wait_s
        self._failed = failed
        self._on_awaited = on_awaited
        self._is_awaited = False
        self._lock = Lock()
        self._lock.acquire()
        self._callbacks: deque[Callable[[Promise[Result]], object]] | None = None
        self._result: Result | None = None
        self._error: BaseException | None = None
        self._is_done = False
        self.is_seen = False

    def done(self) -> bool:
        """Whether the answer is there."""
        return self._is_done

    def result(self, timeout: float | None = None) -> Result:
        """
        The answer. It comes within the client's timeout, one way or the other.

        Args:
            timeout: seconds to wait for it; then TimeoutError.

        Raises:
            SandglassError: it failed.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return cast("Result", self._result)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Why it failed; None if it went well. `timeout` as for `result`."""
        if not self._is_done:
            wait_s = self._wait_s + SLACK_S if timeout is None else timeout
            self._is_awaited = True
            if not self._lock.acquire(timeout=wait_s):
                if timeout is None:
                    raise UnavailableError("nobody answered in time", is_result_unknown=True)
                raise TimeoutError
            self._lock.release()
        self.is_seen = True
        return self._error

    def add_done_callback(self, callback: "Callable[[Promise[Result]], object]") -> None:
        """
        Has `callback` called with this when the answer is there: in the client's thread, or at
        once if it is there already. It must be short, and must not wait for the client.
        """
        self._callbacks = self._callbacks or deque()
        self._callbacks.append(callback)
        if self._is_done:
            self._call_back()

    def set_result(self, result: Result, /) -> None:
        """For the client: it went well."""
        self._result = result
        self._end()

    def set_exception(self, exception: BaseException, /) -> None:
        """For the client: it failed."""
        self._error = exception
        self._failed.append(self)
        self._end()

    def _end(self) -> None:
        self._is_done = True
        self._lock.release()
        if self._is_awaited:
            self._on_awaited()
        if self._callbacks:
            self._call_back()

    def _call_back(self) -> None:
        # Each is taken once, by whichever thread comes first.
        while self._callbacks:
            try:
                callback = self._callbacks.popleft()
            except IndexError:
                return
            try:
                callback(self)
            except Exception:  # noqa: BLE001 - a user's code, called at the top of a thread
                _log.exception("a callback of a produce failed")


class Tally:
    """
    The requests of one `produce_many`. The loop counts answers, the caller looks.

    Invariant: `answered` <= `sent`; once `error` is there, it stays.
    """

    def __init__(self) -> None:
        self.done_count = 0
        self.partitions: dict[str, int] = {}
        self.error: BaseException | None = None
        self._sent = 0
        self._answered = 0
        self._changed = Condition(Lock())

    def part(self, count: int) -> "Part":
        """The sink of one more request, of `count` messages."""
        self._sent += 1
        return Part(self, count)

    def answered(self, count: int, counts: dict[str, int], error: BaseException | None) -> None:
        """A request was answered."""
        with self._changed:
            self._answered += 1
            if error is None:
                self.done_count += count
            else:
                self.error = self.error or error
            for name, part_count in counts.items():
                self.partitions[name] = self.partitions.get(name, 0) + part_count
            self._changed.notify_all()

    def wait_all(self, timeout_s: float, on_progress: Callable[[int], object] | None) -> None:
        """Until every request is answered, telling of progress in between."""
        while True:
            with self._changed:
                if self._answered == self._sent:
                    return
                if not self._changed.wait(timeout_s + SLACK_S):
                    raise UnavailableError("nobody answered in time", is_result_unknown=True)
                is_last = self._answered == self._sent
            if on_progress is not None and not is_last:
                on_progress(self.done_count)

    def raise_error(self) -> None:
        """
        Raises:
            SandglassError: a request failed; a note says how many messages were taken.
        """
        if self.error is not None:
            if isinstance(self.error, SandglassError):
                note = f"{self.done_count} messages of this call were produced before"
                self.error.add_note(note)
            raise self.error


class Part:
    """The sink of a request of a `Tally`."""

    __slots__ = ("_count", "_tally")

    def __init__(self, tally: Tally, count: int) -> None:
        self._tally = tally
        self._count = count

    def done(self) -> bool:
        """Nobody answers it twice."""
        return False

    def set_result(self, result: dict[str, int], /) -> None:
        """It went well."""
        self._tally.answered(self._count, result, None)

    def set_exception(self, exception: BaseException, /) -> None:
        """It failed."""
        self._tally.answered(self._count, {}, exception)
