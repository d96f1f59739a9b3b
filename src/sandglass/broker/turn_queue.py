"""
What has come in and has no answer yet, on its way through the turns of a node's loop.

A request waits in the intake until a turn admits it. Its record waits in the inbox of the log's
writer until the log has it, is synced, and lands: it is applied, written, and answered. What
comes as a record begins at the second step. Until the answer its bytes count towards what may
be in flight.
"""

from dataclasses import dataclass, field
from functools import partial

from sandglass.broker.inbox import Done, Waiting
from sandglass.broker.intake import Intake, Run, Told
from sandglass.broker.log_writer import LogWriter
from sandglass.core.message import Batch, Placed
from sandglass.core.record import Record
from sandglass.errors import SandglassError

GATHER_BYTES_MAX = 16 * 1024
"""More is worth a turn of its own, which is synced while the one before is applied."""


@dataclass(slots=True)
class TurnQueue:
    """Requests and records of one log, with whoever waits for them."""

    writer: LogWriter
    intake: Intake = field(default_factory=Intake)
    landing: list[Waiting] = field(default_factory=list[Waiting])
    """Durable, and not yet in the view: if it fails, they are told so."""
    size_bytes: int = 0
    """In the intake or admitted, and not yet applied."""
    told_count: int = 0
    """Requests of the intake that the last landing has answered."""

    def __bool__(self) -> bool:
        """Something waits for the log."""
        return bool(self.writer.inbox or self.intake.request_count)

    def room_bytes(self) -> int:
        """How much of it the log may be given just now; 0 for nothing."""
        return self.writer.room_bytes(self.intake.size_bytes)

    def has_room(self) -> bool:
        """The log may be given something just now; if not, what changes that brings a turn."""
        return not self.writer.again_ms and self.room_bytes() > 0

    def lacks_requests(self) -> bool:
        """
        Some requests wait, and fewer than were answered last: those who got an answer may be
        about to ask again. Nothing else waits with them.
        """
        intake = self.intake
        return (
            0 < intake.request_count < self.told_count
            and intake.size_bytes < GATHER_BYTES_MAX
            and not self.writer.inbox
        )

    def put(self, number: int, channel: str, batch: Batch, told: Told) -> None:
        """A request to produce, which the next turn admits."""
        self.size_bytes += batch.size_bytes
        self.intake.put(number, channel, batch, told)

    def take_runs(self) -> list[Run]:
        """Takes the requests that wait, to be admitted."""
        runs = self.intake.take()
        self.size_bytes -= sum([run.size_bytes for run in runs])
        return runs

    def add_run(self, run: Run, record: Record, placed: Placed) -> None:
        """What was made of requests."""
        done = partial(self._tell_run, run, placed)
        self.add(record, done, run.size_bytes, answer_count=run.request_count)

    def add(
        self,
        record: Record,
        done: Done | None,
        size_bytes: int,
        *,
        may_use_reserve: bool = False,
        answer_count: int = 1,
    ) -> None:
        """An admitted record; see `NodeLoop.submit`."""
        self.size_bytes += size_bytes
        is_append = size_bytes > 0 and not may_use_reserve
        self.writer.inbox.add(Waiting(record, done, size_bytes, is_append, answer_count))

    def take_synced(self) -> None:
        """
        What has become durable is to land.

        Raises:
            SandglassError: the outcome of the write is unknown.
        """
        self.landing = self.writer.take_synced()

    def take_landed(self) -> list[Waiting]:
        """Takes what has landed, to be answered."""
        landed, self.landing = self.landing, []
        self.told_count = 0
        return landed

    def tell(self, waiting: Waiting, error: SandglassError | None) -> None:
        """A record is applied, or won't be."""
        self.size_bytes -= waiting.size_bytes
        if waiting.done is not None:
            waiting.done(error)

    def _tell_run(self, run: Run, placed: Placed, error: SandglassError | None) -> None:
        self.told_count += run.request_count
        if error is None:
            run.tell(placed)
        else:
            run.refuse(error)

    def refuse_all(self, error: SandglassError) -> None:
        """Nothing that waits will be applied any more."""
        inbox = self.writer.inbox.take(len(self.writer.inbox.waiting))
        refused = [*self.landing, *self.writer.syncing, *inbox]
        self.landing, self.writer.syncing = [], []
        for waiting in refused:
            self.tell(waiting, error)
        for run in self.take_runs():
            run.refuse(error)
