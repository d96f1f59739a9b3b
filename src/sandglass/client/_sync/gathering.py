"""
Callers that were answered together are waited for a moment: they may be about to ask again.

Each has to get the interpreter first. Without the wait, the first to come goes in a request by
itself, the others in the next, when that is answered: half as many share a request, and each
costs the node a sync.

Rules
1. Only callers that wait for their answers count, and only if several were answered.
2. The wait ends when as many messages have come as were answered, or after `WAIT_S`.
3. Who did not ask again is not waited for the next times; each `TRY_COUNT` it is tried anew.
"""

import contextlib
from collections.abc import Callable
from threading import Lock
from typing import Final

WAIT_S: Final = 0.002
"""What an answer may hold up the loop: less than most requests take."""

TRY_COUNT: Final = 16


class Gathering:
    """
    `told`, `is_worth_it` and `wait` are for the loop's thread, `came` for any.

    Args:
        waiting_count: how many messages wait to be taken in.
    """

    def __init__(self, waiting_count: Callable[[], int]) -> None:
        self._waiting_count = waiting_count
        self._told_count = 0
        self._wanted_count = 0
        self._skip_count = 0
        self._full = Lock()

    def told(self) -> None:
        """A caller that waits for it has its answer."""
        self._told_count += 1

    def came(self) -> None:
        """A message was laid down."""
        if self._wanted_count and self._waiting_count() >= self._wanted_count:
            self._wanted_count = 0
            with contextlib.suppress(RuntimeError):  # another caller was as quick
                self._full.release()

    def is_worth_it(self) -> bool:
        """Are there callers to wait for? If not, they are forgotten."""
        if self._told_count < 2:
            self._told_count = 0
        elif self._skip_count:
            self._skip_count -= 1
            self._told_count = 0
        return self._told_count > 0

    def wait(self) -> None:
        """Waits for them."""
        told_count, self._told_count = self._told_count, 0
        before = self._waiting_count()
        self._full.acquire(blocking=False)
        self._wanted_count = before + told_count
        is_full = self._full.acquire(timeout=WAIT_S)
        self._wanted_count = 0
        if not is_full and 2 * (self._waiting_count() - before) < told_count:
            self._skip_count = TRY_COUNT - 1
