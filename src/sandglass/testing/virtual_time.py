"""
An event loop in virtual time: nobody really waits, and the same seed gives the same history.

    loop = VirtualLoop(random.Random(7))
    loop.play(history())

Coroutines run as they are, with all that they use of asyncio; whenever nothing is ready, time
stands at the next thing that is to come. What is handed to a thread is done a little later, in
this one. A `Life` is a process: its tasks end together, at any moment, without another word.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, Final, TypeVar

from sandglass.errors import UnavailableError

START_MS: Final = 1_700_000_000_000
PASSES_A_MOMENT_MAX: Final = 50_000
"""Passes of the loop in which no time goes by: after so many something spins."""

THREAD_MS: Final = (0, 1, 1, 2, 5, 15)
"""How long a thread takes for what it is handed."""

_RESOLUTION_S: Final = 1e-6

T = TypeVar("T")


class Life:
    """A process, from its beginning to its end: what it does is done by tasks of it."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.loop = loop
        self.name = name
        self.is_over = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._context = copy_context()
        self._context.run(_life.set, self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begins something in it."""
        assert not self.is_over, f"{self.name} is dead"
        return self._context.copy().run(self.loop.create_task, work)

    def after(self, delay_ms: float, act: Callable[[], None]) -> None:
        """Calls `act` then, if it is alive."""

        def acted() -> None:
            if not self.is_over:
                act()

        self.loop.call_later(delay_ms / 1000, acted, context=self._context.copy())

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """
        Somebody outside asks it to do something, and waits.

        Raises:
            UnavailableError: it has ended meanwhile.
        """
        if self.is_over:
            work.close()
            raise UnavailableError(f"{self.name} is not there")
        task = self.spawn(work)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.cancelled():
            raise UnavailableError(f"{self.name} has ended", is_result_unknown=True)
        return task.result()

    def end(self) -> None:
        """Here and now: nothing more comes of it."""
        self.is_over = True
        for task in [*self.tasks]:
            task.cancel()


_life: ContextVar[Life | None] = ContextVar("_life", default=None)


def life() -> Life | None:
    """The process in which this runs; None outside of all."""
    return _life.get()


class VirtualLoop(asyncio.BaseEventLoop):
    """See the head of this file."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.pass_count = 0
        self._now_s = 0.0
        self._still_count = 0
        self._selector = self
        self._clock_resolution = _RESOLUTION_S
        self.set_task_factory(_make_task)

    @property
    def now_ms(self) -> int:
        """Since it was made."""
        return int(self._now_s * 1000 + _RESOLUTION_S)

    def play(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end, and all that it began."""
        asyncio.set_event_loop(self)
        try:
            return self.run_until_complete(work)
        finally:
            try:
                self._end_all()
            finally:
                asyncio.set_event_loop(None)
                self.close()

    def _end_all(self) -> None:
        self._still_count = 0
        while tasks := asyncio.all_tasks(self):
            for task in tasks:
                task.cancel()
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())

    # --- what asyncio asks --------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def select(self, timeout: float | None) -> list[Any]:
        """Nothing comes from outside: time passes."""
        self.pass_count += 1
        if timeout is None:
            raise AssertionError("everybody waits, and nothing will ever come")
        self._still_count = 0 if timeout > 0 else self._still_count + 1
        if self._still_count > PASSES_A_MOMENT_MAX:
            raise AssertionError("something spins, and no time goes by")
        self._now_s += timeout
        return []

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> Any:
        """A thread does this: in a moment, if the process is there still."""
        future: asyncio.Future[T] = self.create_future()
        owner = life()

        def done() -> None:
            if future.done() or (owner is not None and owner.is_over):
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - it is the caller's
                future.set_exception(error)

        self.call_later(self.chance.choice(THREAD_MS) / 1000, done)
        return future

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else is there whom it would wake."""


class VirtualClock:
    """A machine's clocks, as the `Clock` port; `shift_ms` is what its wall clock is off by."""

    def __init__(self, loop: VirtualLoop, shift_ms: int = 0) -> None:
        self._loop = loop
        self.shift_ms = shift_ms

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return START_MS + self._loop.now_ms + self.shift_ms

    def monotonic_ms(self) -> int:
        """Virtual milliseconds."""
        return self._loop.now_ms


def _make_task(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    owner = life()
    if owner is not None:
        owner.tasks[task] = None
        task.add_done_callback(lambda _: owner.tasks.pop(task, None))
        if owner.is_over:
            task.cancel()
    return task


async def until(check: Callable[[], object], *, step_ms: int = 20, for_ms: int) -> bool:
    """Waits until something is so; false if it isn't by then."""
    for _ in range(0, for_ms, step_ms):
        if check():
            return True
        await asyncio.sleep(step_ms / 1000)
    return bool(check())
