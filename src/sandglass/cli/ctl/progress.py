"""What moves on a terminal while a command takes longer than a second. Nothing elsewhere."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Final

SHOWN_AFTER_S: Final = 1.0
LOOKED_EVERY_S: Final = 0.2

TIME_COLUMNS: Final = 12
BAR_COLUMNS: Final = 20
COUNT_COLUMNS: Final = 16
"""What a spinner with the time, a bar, and a count take of the line."""


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
        from rich.table import Column

        console = Console(stderr=True)
        known: list[Any] = []
        if self.total:
            known = [progress.BarColumn(BAR_COLUMNS), progress.MofNCompleteColumn()]
        # A narrow terminal cuts the text, and nothing else.
        room = console.width - TIME_COLUMNS - (BAR_COLUMNS + COUNT_COLUMNS) * bool(known)
        text = Column(no_wrap=True, overflow="ellipsis", max_width=max(1, room))
        self._display = progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}", markup=False, table_column=text),
            *known,
            progress.TimeElapsedColumn(),
            console=console,
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
        if waits_for:
            return f"waiting for {waits_for}"
        is_counted = self.total is None and self._done_count
        return f"{self._label}, {self._done_count} so far" if is_counted else self._label
