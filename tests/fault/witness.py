"""
Two clients that mind their own business while others misbehave: one produces, one consumes.

    async with Witness(node.address) as witness:
        await attack(...)
        await witness.goes_on()
"""

import asyncio
import time
from types import TracebackType
from typing import Final

from sandglass import AsyncClient

GOES_ON_S_MAX: Final = 60.0
"""Only a node that serves nobody any more takes so long for one message, however busy the
machine."""

PAUSE_S: Final = 0.005


class Witness:
    """Sends numbers, and takes them: each has to come, once, and in order."""

    def __init__(
        self, address: str, topic: str = "witness", *, token: str | None = None
    ) -> None:
        self._client = AsyncClient(address, token=token)
        self._topic = topic
        self._tasks: list[asyncio.Task[None]] = []
        self._due: list[float] = []
        self.sent_count = 0
        self.seen: list[int] = []
        self.lateness_s: list[float] = []
        """Of each by the monotonic clock, from before its produce to its coming."""

    async def __aenter__(self) -> "Witness":
        await self._client.__aenter__()
        await self._client.create_topic(self._topic)
        self._tasks = [
            asyncio.create_task(self._produce()),
            asyncio.create_task(self._consume()),
        ]
        await self.goes_on()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        producing, consuming = self._tasks
        producing.cancel()
        await asyncio.wait([producing])
        try:
            if kind is None:
                await self._until(lambda: len(self.seen) >= self.sent_count, "the last one")
                assert [*range(self.sent_count)] == self.seen
        finally:
            consuming.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._client.__aexit__(None, None, None)

    async def goes_on(self, count: int = 20) -> None:
        """Waits until so many more have been sent and taken from now on."""
        wanted = self.sent_count + count
        await self._until(lambda: len(self.seen) >= wanted, f"message {wanted}")

    async def _until(self, condition, what: str) -> None:
        deadline, count = time.monotonic() + GOES_ON_S_MAX, len(self.seen)
        while not condition():
            if len(self.seen) > count:
                deadline, count = time.monotonic() + GOES_ON_S_MAX, len(self.seen)
            for task in self._tasks:
                assert not task.done() or task.cancelled(), f"the witness: {task.exception()!r}"
            assert time.monotonic() < deadline, f"the witness waits in vain for {what}"
            await asyncio.sleep(PAUSE_S)

    async def _produce(self) -> None:
        while True:
            self._due.append(time.monotonic())
            await self._client.produce(self._topic, str(self.sent_count))
            self.sent_count += 1
            await asyncio.sleep(PAUSE_S)

    async def _consume(self) -> None:
        async for message in self._client.consume(self._topic, group="witness"):
            number = int(message.value)
            self.seen.append(number)
            self.lateness_s.append(time.monotonic() - self._due[number])
            await message.ack()
