"""
Steps of `sandglass.replication.making` and `restoring`, carried out: over a store of objects,
the catalog, the stream, and a replica's part of the database.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from sandglass.adapters.jetstream import Stream
from sandglass.adapters.shared_store import StorePart
from sandglass.cluster.fetching import Fetching, Room, whole
from sandglass.core.keys import MARK_KEY
from sandglass.core.view import Changes
from sandglass.errors import BusyError, ConflictError, UnavailableError
from sandglass.ports import Placement, SnapshotStore
from sandglass.replication import making, restoring
from sandglass.replication.making import Made
from sandglass.replication.restoring import Restored
from sandglass.replication.snapshot import digest_of

SNAPSHOTS: Final = "snapshot."
"""Of entries of the catalog; then the log's number."""

PUT_COUNT_MAX: Final = 4
"""Objects under way at a time."""

REST_FACTOR: Final = 2
"""A rest is so many times as long as what was done before it."""


class Maker:
    """Carries out the steps of one attempt to make a snapshot of a log."""

    def __init__(
        self,
        stream: Stream,
        store: SnapshotStore,
        placement: Placement,
        *,
        is_led: Callable[[], bool],
        stopwatch_ns: Callable[[], int],
    ) -> None:
        self._stream = stream
        self._store = store
        self._placement = placement
        self._is_led = is_led
        self._stopwatch_ns = stopwatch_ns
        self._puts: set[asyncio.Task[None]] = set()
        self._began_ns = 0

    async def run(self, steps: making.Making) -> Made | None:
        """
        To the end.

        Raises:
            SandglassError: it came to nothing.
        """
        sent: Any = None
        try:
            while True:
                if not self._is_led():
                    raise UnavailableError("another node leads it")
                self._began_ns = self._stopwatch_ns()
                try:
                    step = steps.send(sent)
                except StopIteration as end:
                    made: Made | None = end.value
                    return made
                sent = await self._carry_out(step)
        finally:
            for put in self._puts:
                put.cancel()
            await asyncio.gather(*self._puts, return_exceptions=True)

    async def _carry_out(self, step: Any) -> Any:
        match step:
            case making.Rest():
                took_ns = self._stopwatch_ns() - self._began_ns
                await asyncio.sleep(REST_FACTOR * took_ns / 1e9)
            case making.Digest():
                return await asyncio.to_thread(digest_of, step.raw)
            case making.Put():
                await self._settle(PUT_COUNT_MAX - 1)
                put = self._store.put(self._stream.number, step.name, step.raw)
                self._puts.add(asyncio.create_task(_awaited(put)))
            case making.Get():
                await self._settle()
                return await whole(self._store, self._stream.number, step.name)
            case making.ListNames():
                await self._settle()
                return await self._store.names(self._stream.number)
            case making.Enter():
                return await self._enter(step)
            case making.Trim():
                await self._stream.trim(step.sequence)
            case making.Delete():
                await self._store.delete(self._stream.number, step.names)
            case _:
                raise AssertionError(f"no step: {step}")
        return None

    async def _enter(self, step: making.Enter) -> int:
        key = f"{SNAPSHOTS}{self._stream.number}"
        with suppress(ConflictError):
            return await self._placement.set(key, step.value, step.revision)
        return 0

    async def _settle(self, count_max: int = 0) -> None:
        """Waits until no more than so many objects are under way."""
        while len(self._puts) > count_max:
            done, self._puts = await asyncio.wait(
                self._puts, return_when=asyncio.FIRST_COMPLETED
            )
            for put in done:
                put.result()


async def _awaited(act: Coroutine[Any, Any, None]) -> None:
    await act


async def take(
    steps: restoring.Restoring, number: int, part: StorePart, store: SnapshotStore, room: Room
) -> Restored:
    """
    Carries out the steps of a replica that begins at a snapshot; `room` is its node's.

    Raises:
        SandglassError: it couldn't be tried; the replica may be unfinished.
    """
    fetching = Fetching(store, number, room)
    sent: bytes | None = None
    try:
        while True:
            try:
                step = steps.send(sent)
            except StopIteration as end:
                restored: Restored = end.value
                return restored
            sent = await _take(step, part, fetching)
    finally:
        await fetching.close()


async def _take(step: Any, part: StorePart, fetching: Fetching) -> bytes | None:
    """Carries out a step of `restoring`."""
    match step:
        case making.Get():
            return await fetching.get(step.name)
        case restoring.Expect():
            fetching.expect(step.parts)
        case restoring.Wipe():
            await _patiently(part.wipe)
        case restoring.Write():
            await _patiently(lambda: part.write(Changes(dict(step.rows)), 0))
            await asyncio.sleep(0)
        case restoring.Finish():
            last = Changes({MARK_KEY: step.mark.encode()})
            await _patiently(lambda: part.write(last, step.mark.position))
        case _:
            raise AssertionError(f"no step: {step}")
    return None


async def _patiently(write: Callable[[], None]) -> None:
    """A store that is behind is asked again."""
    while True:
        try:
            write()
            return
        except BusyError as error:
            await asyncio.sleep(max(1, error.retry_after_ms) / 1000)
