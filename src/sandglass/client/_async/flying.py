"""The requests of one call that produces many messages: those on their way, and what came of
others."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

CountFuture = asyncio.Future[dict[str, int]]
"""How many messages went to which partition."""


@dataclass(slots=True)
class Flying:
    """`on_progress` is told how many messages are durable."""

    on_progress: Callable[[int], object] | None
    done_count: int = 0
    partitions: dict[str, int] = field(default_factory=dict[str, int])
    """How many went to each."""
    _counts: dict[CountFuture, int] = field(default_factory=dict[CountFuture, int])
    """How many messages each request has that is on its way."""

    def add(self, future: CountFuture, count: int) -> None:
        """One more is on its way."""
        self._counts[future] = count

    async def settle(self, *, until_empty: bool) -> None:
        """
        Takes what is answered; or waits until all are.

        Raises:
            The first error of a request.
        """
        while self._counts:
            self._take([each for each in self._counts if each.done()])
            if not until_empty or not self._counts:
                return
            await asyncio.wait(self._counts, return_when=asyncio.FIRST_COMPLETED)

    def _take(self, done: list[CountFuture]) -> None:
        error: BaseException | None = None
        for each in done:
            count = self._counts.pop(each)
            if each.exception() is not None:
                error = error or each.exception()
                continue
            self.done_count += count
            for name, part_count in each.result().items():
                self.partitions[name] = self.partitions.get(name, 0) + part_count
        if done and self.on_progress is not None:
            self.on_progress(self.done_count)
        if error is not None:
            raise error

    async def count_rest(self) -> None:
        """One has failed: waits for the others, each of which has a deadline of its own."""
        await asyncio.gather(*self._counts, return_exceptions=True)
        self.done_count += sum(
            count for each, count in self._counts.items() if each.exception() is None
        )

    def cancel(self) -> None:
        """Nobody waits for them any more."""
        for each in self._counts:
            each.cancel()
