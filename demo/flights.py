"""
The flights of a day, and the day squeezed into seconds.

The file holds scheduled departures in New York's local time and the delay in minutes, which may
be negative; it is empty for flights that never left.
"""

import csv
import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

DAY = Path(__file__).parent.parent / "examples" / "nyc_departures_2013-07-11.csv"

NEW_YORK = timezone(timedelta(hours=-4), "EDT")
"""On that day: summer time."""

ONE_MS = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Flight:
    """One scheduled departure. `departed` is None if the flight never left."""

    number: int
    """Its line in the file, from 1: what makes it unique."""
    name: str
    origin: str
    destination: str
    scheduled: datetime
    departed: datetime | None

    @property
    def delay_min(self) -> int:
        """Minutes between plan and departure; 0 if it never left."""
        return (self.departed - self.scheduled) // timedelta(minutes=1) if self.departed else 0

    @property
    def value(self) -> bytes:
        """The message that stands for it."""
        fields = {
            "number": self.number,
            "flight": self.name,
            "from": self.origin,
            "to": self.destination,
            "scheduled": self.scheduled.isoformat(timespec="minutes"),
        }
        return json.dumps(fields).encode()


@dataclass(frozen=True, slots=True)
class Squeeze:
    """
    The day `[first, last]` played in seconds, from `begins` on.

    `speed` is how many seconds of the day pass in one of ours.
    """

    first: datetime
    begins: datetime
    speed: float

    @classmethod
    def of(cls, flights: list[Flight], *, begins: datetime, seconds: float) -> "Squeeze":
        """The flights' whole day within `seconds`; `begins` is taken at a whole millisecond."""
        moments = [flight.departed or flight.scheduled for flight in flights]
        first, last = min(moments), max(moments)
        begins -= begins - begins.replace(microsecond=begins.microsecond // 1000 * 1000)
        return cls(first, begins, (last - first).total_seconds() / seconds)

    def due(self, moment: datetime) -> datetime:
        """When this moment of the day is played, to the millisecond."""
        after = (moment - self.first) / self.speed
        return self.begins + after // ONE_MS * ONE_MS

    def shown(self, now: datetime) -> datetime:
        """The moment of the day that is being played."""
        return self.first + (now - self.begins) * self.speed


def read_flights(path: Path = DAY) -> list[Flight]:
    """All flights of the file, in the order of the timetable."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_flight(number, row) for number, row in enumerate(csv.DictReader(file), 1)]


def _flight(number: int, row: dict[str, str]) -> Flight:
    scheduled = datetime.fromisoformat(row["scheduled_departure_local"]).replace(
        tzinfo=NEW_YORK
    )
    delay = row["departure_delay_min"]
    return Flight(
        number=number,
        name=f"{row['carrier']} {row['flight']}",
        origin=row["origin"],
        destination=row["destination"],
        scheduled=scheduled,
        departed=scheduled + timedelta(minutes=int(delay)) if delay else None,
    )
