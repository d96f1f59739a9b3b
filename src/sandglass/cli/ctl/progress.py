"""What moves on a terminal while a command takes longer than a second. Nothing elsewhere."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

SHOWN_AFTER_S: Final = 1.0
LOOKED_EVERY_S: Final = 0.2


class Progress:
    """
    A line on stderr: what is going on, what it waits for, how many are done, for how long.

    Args:
        label: what is going on.
        waits_for: what it waits for, if it does; asked now and then.
        is_quiet: never show anything, because our own output goes to the same terminal.
    """

    def __init__(
        self, label: str, *, waits_for: Callable[[], str] = str, is_quiet: bool = False
    ) -> None:
        self.total: int | None = None
        self._label = label
        self._waits_for = waits_for
        self._done_count = 0
        self._is_shown = sys.stderr.isatty() and not is_quiet
        self._display: Any = None
        self._task: Any = None

    def update(self, done_count: int) -> None:
        """So many are done by now."""
        self._done_count = done_count
        if self._display is not None:
            self._display.update(self._task, completed=done_count)

    async def show_in_time(self) -> None:
        """Appears when there has been a second to look at it."""
        if not self._is_shown:
            return
        await asyncio.sleep(SHOWN_AFTER_S)
        # Only who waits pays for loading it.
        from rich import progress
        from rich.console import Console

        self._display = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._display.add_task(
            self._text(), total=self.total, completed=self._done_count
        )
        self._display.start()
        while True:
            await asyncio.sleep(LOOKED_EVERY_S)
            self._display.update(self._task, description=self._text(), total=self.total)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _text(self) -> str:
        waits_for = self._waits_for()
        return f"{self._label}; waiting for {waits_for}" if waits_for else self._label
