"""The departure board: live in a terminal, a line for each flight anywhere else."""

from collections import deque
from datetime import datetime
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.flights import Flight
from demo.tally import Departure, Tally

ROWS_MAX = 20
FRAME_LINES = 9
"""Of the terminal's height, what is left around the rows."""

COLUMNS_MIN = 74
LINES_MIN = FRAME_LINES + 4
"""A smaller terminal is given plain lines: a table would be folded into something else."""

ON_TIME_MIN = 15
"""Up to here the Bureau of Transportation Statistics calls a flight on time."""


class PlainBoard:
    """One line a flight, for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __enter__(self) -> "PlainBoard":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def departed(self, departure: Departure) -> None:
        """A flight has left."""
        cells = _cells(departure.flight, departure)
        self._line(*cells)

    def cancelled(self, flight: Flight) -> None:
        """A flight should have left, and never did."""
        self._line(*_cells(flight, None))

    def refresh(self, shown: datetime, tally: Tally) -> None:
        """Nothing to draw."""

    def _line(
        self, time: str, plan: str, flight: str, way: str, status: str, gate: str, late: str
    ) -> None:
        line = f"{time}  {plan}  {flight:<8}{way:<12}{status:<10}  {gate:<7}{late:>9}"
        self.console.out(line.rstrip(), highlight=False)


class LiveBoard:
    """The latest flights on top, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._rows: deque[tuple[Flight, Departure | None]] = deque(maxlen=ROWS_MAX)
        self._cancelled_count = 0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "LiveBoard":
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def departed(self, departure: Departure) -> None:
        """A flight has left."""
        self._rows.appendleft((departure.flight, departure))

    def cancelled(self, flight: Flight) -> None:
        """A flight should have left, and never did."""
        self._rows.appendleft((flight, None))
        self._cancelled_count += 1

    def refresh(self, shown: datetime, tally: Tally) -> None:
        """Draws the board as it is now."""
        self._live.update(self._drawn(shown, tally), refresh=True)

    def _drawn(self, shown: datetime, tally: Tally) -> Group:
        table = Table(expand=False, header_style="bold", border_style="dim")
        table.add_column("left", width=5)
        table.add_column("plan", style="dim", width=5)
        table.add_column("flight", style="bold", width=8)
        table.add_column("way", width=10)
        table.add_column("status", width=10)
        table.add_column("gate", width=6)
        table.add_column("late by", justify="right", width=8)
        room = max(3, min(ROWS_MAX, self.console.size.height - FRAME_LINES))
        for flight, departure in list(self._rows)[:room]:
            time, plan, name, way, status, gate, late = _cells(flight, departure)
            table.add_row(time, plan, name, way, Text(status, style=_style(flight)), gate, late)
        for _ in range(room - len(self._rows)):
            table.add_row()
        head = Text.assemble(
            ("New York, departures  ", "bold yellow"), (f"{shown:%d %B %Y  %H:%M}", "bold")
        )
        foot = Text(
            f"{len(tally.late_ms)} of {len(tally.due)} left,"
            f" {self._cancelled_count} cancelled, {tally.early_count} early,"
            f" p99 {tally.lateness_ms(0.99):.1f} ms late"
        )
        bar = ProgressBar(total=len(tally.due), completed=len(tally.late_ms), width=72)
        below = Table.grid()
        below.add_row(bar)
        below.add_row(foot)
        return Group(head, table, below)


def board_for(console: Console) -> PlainBoard | LiveBoard:
    """A live board if somebody watches who has room for it, lines if not."""
    is_watched = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
    has_room = console.size.width >= COLUMNS_MIN and console.size.height >= LINES_MIN
    return LiveBoard(console) if is_watched and has_room else PlainBoard(console)


def _cells(
    flight: Flight, departure: Departure | None
) -> tuple[str, str, str, str, str, str, str]:
    way = f"{flight.origin} > {flight.destination}"
    plan = f"{flight.scheduled:%H:%M}"
    if departure is None or flight.departed is None:
        return "--:--", plan, flight.name, way, "cancelled", "", ""
    time = f"{flight.departed:%H:%M}"
    late = f"{departure.late_ms:.1f} ms"
    return time, plan, flight.name, way, _status(flight), departure.gate, late


def _status(flight: Flight) -> str:
    return "on time" if flight.delay_min == 0 else f"{flight.delay_min:+d} min"


def _style(flight: Flight) -> str:
    if flight.departed is None:
        return "bold red"
    return "green" if flight.delay_min < ON_TIME_MIN else "yellow"
