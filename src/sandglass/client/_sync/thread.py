"""
The event loop behind every `Client` of a process, in a thread of its own.

Rules
1. One loop serves all: gRPC's asyncio stack has one queue of events a process, and what comes
   for a loop that is closed falls to another one, which reports it as an error. This loop is
   closed by the end of the process alone.
2. What crosses the border of threads goes in batches: the loop is woken once, and takes all
   that lies there by then.
3. A process that was forked off has none of its parent's threads, and gRPC, once in use,
   doesn't survive the fork. Whoever calls there is told so; nothing of the parent is touched.
4. When the interpreter ends, clients that nobody closed are closed, within `EXIT_S_MAX`.
"""

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from sandglass.errors import PreconditionError, SandglassError

EXIT_S_MAX: Final = 2.0
"""How long clients that nobody closed may hold up the end of the interpreter."""

Result = TypeVar("Result")

_log = logging.getLogger("sandglass.client")


Closer = Callable[[], Coroutine[Any, Any, None]]


class LoopThread:
    """A running loop. `lock` is for whoever begins something that there is to be once."""

    def __init__(self) -> None:
        self.process_id = os.getpid()
        self.is_over = False
        self.lock = threading.Lock()
        self._closers: list[Closer] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="sandglass", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def adopt(self, owner: object, closer: Closer) -> Callable[[], None]:
        """
        Closes what is behind `owner` when that is forgotten, or when the interpreter ends.
        Call the result when the owner has closed it.
        """
        self._closers.append(closer)
        finalizer = weakref.finalize(owner, self.post, self._abandoned, closer)
        finalizer.atexit = False

        def forget() -> None:
            finalizer.detach()
            self._closers.remove(closer)

        return forget

    @property
    def is_here(self) -> bool:
        """Whether this is its thread: waiting here would be waiting for oneself."""
        return threading.get_ident() == self._thread.ident

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """
        Has the loop do some work, and waits for its end: the work has a deadline of its own, or
        waits for as long as its caller wants. Who is interrupted cancels it.

        Raises:
            PreconditionError: in the loop's own thread, or at the end of the process.
        """
        if self.is_here or self.is_over:
            work.close()
            raise PreconditionError(
                "this call would wait for itself: a callback of a future must not wait"
                if self.is_here
                else "the interpreter is ending"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def post(self, callback: Callable[..., object], *arguments: Any) -> None:
        """Has the loop call something soon; in another process, or at the end, nothing."""
        if os.getpid() == self.process_id:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(callback, *arguments)

    def _abandoned(self, closer: Closer) -> None:
        self._closers.remove(closer)
        task = self._loop.create_task(_logged(closer()))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _end(self) -> None:
        """At the end of the interpreter."""
        if os.getpid() != self.process_id:
            return
        future = asyncio.run_coroutine_threadsafe(self._close_all(), self._loop)
        with contextlib.suppress(TimeoutError):
            future.result(EXIT_S_MAX + 1)
        self.is_over = True
        self.post(self._loop.stop)
        self._thread.join(1)

    async def _close_all(self) -> None:
        closing = {
            *self._leaving,
            *(asyncio.ensure_future(_logged(each())) for each in self._closers),
        }
        if closing:
            _, late = await asyncio.wait(closing, timeout=EXIT_S_MAX)
            if late:
                _log.warning("a Client that was not closed: its answers did not come in time")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _logged(closing: Coroutine[Any, Any, None]) -> None:
    try:
        await closing
    except SandglassError as error:
        _log.warning("a Client that was not closed: %s", error)


class _Shared:
    """The loop of this process, once there is one."""

    def __init__(self) -> None:
        self.thread: LoopThread | None = None
        self.lock = threading.Lock()

    def renew(self) -> None:
        """In a process that was forked off: its parent's loop is not there."""
        self.thread = None
        self.lock = threading.Lock()


_shared: Final = _Shared()
os.register_at_fork(after_in_child=_shared.renew)


def shared() -> LoopThread:
    """The loop of all clients of this process; begun if it isn't there."""
    with _shared.lock:
        if _shared.thread is None:
            _shared.thread = LoopThread()
        return _shared.thread
