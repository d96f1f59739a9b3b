"""
Who writes a replicated log: the leader's side, from its fence to its deposition.

The engine takes publishes in order of arrival, answers late or never, and may refuse one and
store the next. So:

1. A leader first publishes its fence, in an epoch above all that log and catalog know, and
   leads once it has read the fence back and applied everything before it. Then it knows exactly
   what every reader has accepted, and the fence's sequence fixes those of all that follows.
2. Each entry is published with the sequence that it has to get, and the engine refuses it if
   another stands last. That alone is no fence: another's entry may take the place of one that
   is under way, and those behind it match again.
3. An entry counts as committed only when all before it are, and its sequence is the predicted
   one. Then the stream holds the fence and all entries up to it without anything between, and
   every reader accepts them.
4. The first error, silence or surprise puts the writer into *doubt*: what is behind it is not
   acknowledged. Either all that is unanswered is sent once more as it was (`retry`), which the
   engine's memory of message ids makes safe for a while; or the log is read from `mark` on to
   its end, and then what isn't there is sent once more, behind that end (`resolve`).
5. A fence of another writer, in this or a higher epoch, deposes it, for good. What was not
   accepted before that fence never will be.

        fence read back         error, silence, surprise
    FENCING --------> LEADING <--------------------------> DOUBT
       |                 |         retry, or resolve         |
       '-----------------'--------> DEPOSED <----------------'
                         another's fence read

What to do with answers is the host's business: it keeps who waits by position, asks
`committed_position` after each call, and `outcome` when the writer has ended.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from sandglass.core import limits
from sandglass.replication.entry import (
    WRITER_BYTES,
    Entry,
    EntryKind,
    chain_after,
    checksum_of,
    encode,
    message_id,
    size_of,
)
from sandglass.replication.reader import Accepted, Mark, Reader


class Phase(Enum):
    """Where a writer stands; see the picture at the head of this file."""

    FENCING = "fencing"
    LEADING = "leading"
    DOUBT = "doubt"
    DEPOSED = "deposed"


class Outcome(Enum):
    """What is known of a position, should the writer end now."""

    COMMITTED = "committed"
    UNKNOWN = "unknown"
    NEVER = "never"
    """It isn't in the log, and never will be."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An entry to publish."""

    n: int
    raw: bytes
    message_id: str
    """For `Nats-Msg-Id`."""

    sequence: int
    """The one that it has to get; 0 for a fence, which takes any."""

    last_position: int
    """Of its last record; 0 for a fence, which takes the next wherever it lands."""

    @property
    def expected_last_sequence(self) -> int | None:
        """For `Nats-Expected-Last-Sequence`; None: publish it without."""
        return self.sequence - 1 if self.sequence else None


@dataclass(slots=True)
class _Flight:
    """An entry that was given out, and isn't committed."""

    entry: Entry
    outgoing: Outgoing
    chain: int
    """After it."""
    attempt: int = 0
    is_stored: bool = False
    """Answered with the predicted sequence."""
    is_misplaced: bool = False
    """Answered with another one."""


def next_epoch(*, catalog_epoch: int, mark: Mark) -> int:
    """The epoch to lead in: above the catalog's, and above every fence that was read."""
    return max(catalog_epoch, mark.epoch) + 1


@dataclass(slots=True)
class Writer:
    """
    Writes one epoch of a log. One that has ended is never used again.

    Args:
        writer: 16 bytes, drawn anew for this writer.
        epoch: from `next_epoch`, and owned: the catalog gave it to nobody else.
        mark: of a reader that has read to the stream's end.

    Invariant: `mark.position <= packed_position <= last_position`; the flights are those
    between the first two, in order.
    """

    writer: bytes
    epoch: int
    mark: Mark
    """Up to here everything is committed: at first by what was read, then by answers, too."""

    phase: Phase = Phase.FENCING
    doubt: str = ""
    """The error that led to the last doubt."""
    last_position: int = field(init=False)
    """The highest given out by `append`."""
    packed_position: int = field(init=False)
    """The highest that stands in an entry."""
    flight_bytes: int = 0
    _tail_sequence: int = 0
    """The stream's end when it was last read, if that lies behind `mark`."""
    _fence: Outgoing | None = None
    _waiting: deque[Sequence[bytes]] = field(default_factory=deque[Sequence[bytes]])
    _flights: deque[_Flight] = field(default_factory=deque[_Flight])

    def __post_init__(self) -> None:
        assert len(self.writer) == WRITER_BYTES
        assert self.epoch > self.mark.epoch, "an epoch that the log has seen"
        self.last_position = self.packed_position = self.mark.position

    @property
    def committed_position(self) -> int:
        """The highest position that every reader accepts, for certain."""
        return self.mark.position

    @property
    def is_idle(self) -> bool:
        """Nothing waits, and nothing is under way."""
        return not self._waiting and not self._flights

    @property
    def oldest(self) -> Outgoing | None:
        """Of what is under way the first that isn't committed."""
        return self._flights[0].outgoing if self._flights else None

    # --- the fence ----------------------------------------------------------------------------

    def fence(self, record: bytes) -> Outgoing:
        """
        The entry that opens the epoch; `record` says so to the machine. Asked again, it is the
        same, to be sent once more: only reading it back says that it counts.
        """
        assert self.phase is Phase.FENCING
        if self._fence is None:
            mark = self.mark
            entry = Entry(
                EntryKind.FENCE,
                self.writer,
                self.epoch,
                n=0,
                known=0,
                position=mark.position + 1,
                chain=mark.chain,
                records=(record,),
            )
            identity = message_id(entry, attempt=0)
            self._fence = Outgoing(0, encode(entry), identity, sequence=0, last_position=0)
        return self._fence

    def observe(self, accepted: Accepted) -> None:
        """
        A reader of the log has accepted this, and all before it was observed and, if it is not
        this writer's own, applied.

        To be told everything from `mark` on: while fencing, while in doubt, and whenever the
        log is read anyway.
        """
        if self.phase is Phase.DEPOSED or accepted.mark.sequence <= self.mark.sequence:
            return
        assert accepted.position == self.mark.position + 1, "something was left out"
        mark = accepted.mark
        is_own = mark.epoch == self.epoch and mark.writer == self.writer
        if is_own and self.phase is Phase.FENCING:
            self.phase = Phase.LEADING
            self.last_position = self.packed_position = mark.position
        elif is_own:
            self._land(mark)
        elif mark.epoch >= self.epoch:
            self._depose()
            return
        self.mark = mark

    def _depose(self) -> None:
        self.phase = Phase.DEPOSED
        self._flights.clear()
        self._waiting.clear()
        self.flight_bytes = 0

    # --- the way out --------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> int:
        """
        Takes records that stay together, in one entry; returns the last one's position.

        At most `ENTRY_BYTES_MAX` together, which what comes in at the door never exceeds.
        """
        assert self.phase in {Phase.LEADING, Phase.DOUBT}, "it doesn't lead"
        if records:
            size_bytes = size_of(records)
            assert size_bytes <= limits.ENTRY_BYTES_MAX, f"an entry of {size_bytes} bytes"
            self._waiting.append(records)
            self.last_position += len(records)
        return self.last_position

    def pack(self) -> list[Outgoing]:
        """
        Entries to publish, in this order, of what waits and as far as there is room under way.

        An entry takes as much as fits into `ENTRY_BYTES_TARGET`, or what has to stay together.
        Nothing while in doubt.
        """
        outgoing: list[Outgoing] = []
        while self._waiting and self.phase is Phase.LEADING and self._has_room():
            flight = self._pack_one()
            self._flights.append(flight)
            self.flight_bytes += len(flight.outgoing.raw)
            outgoing.append(flight.outgoing)
        return outgoing

    @property
    def room_bytes(self) -> int:
        """
        How many bytes of records would be sent at once, if they were appended now; 0 while in
        doubt, and while others wait for room.
        """
        if self.phase is not Phase.LEADING or self._waiting or not self._has_room():
            return 0
        left_count = limits.ENTRY_FLIGHT_COUNT_MAX - len(self._flights)
        left_bytes = limits.ENTRY_FLIGHT_BYTES_MAX - self.flight_bytes
        return min(left_count * limits.ENTRY_BYTES_TARGET, left_bytes)

    def _has_room(self) -> bool:
        return (
            len(self._flights) < limits.ENTRY_FLIGHT_COUNT_MAX
            and self.flight_bytes < limits.ENTRY_FLIGHT_BYTES_MAX
        )

    def _pack_one(self) -> _Flight:
        records: list[bytes] = []
        size_bytes = 0
        while self._waiting:
            next_bytes = size_of(self._waiting[0])
            if records and size_bytes + next_bytes > limits.ENTRY_BYTES_TARGET:
                break
            records += self._waiting.popleft()
            size_bytes += next_bytes
        sequence, n, chain = self._end()
        entry = Entry(
            EntryKind.RECORDS,
            self.writer,
            self.epoch,
            n + 1,
            known=self.mark.n,
            position=self.packed_position + 1,
            chain=chain,
            records=tuple(records),
        )
        self.packed_position = entry.last_position
        raw = encode(entry)
        identity = message_id(entry, attempt=0)
        outgoing = Outgoing(entry.n, raw, identity, sequence + 1, entry.last_position)
        return _Flight(entry, outgoing, chain_after(chain, raw))

    def _end(self) -> tuple[int, int, int]:
        """Sequence, n and chain of the last entry given out."""
        if not self._flights:
            return max(self.mark.sequence, self._tail_sequence), self.mark.n, self.mark.chain
        last = self._flights[-1]
        return last.outgoing.sequence, last.entry.n, last.chain

    # --- the way back -------------------------------------------------------------------------

    def acknowledged(self, outgoing: Outgoing, sequence: int) -> None:
        """
        The engine has stored this at `sequence`, now or before (then it says: duplicate).

        Another sequence than the predicted one is a surprise: on to doubt. An answer to what
        was sent before the last `resolve` counts for nothing.
        """
        flight = self._flight_of(outgoing)
        if flight is None:
            return
        if sequence != outgoing.sequence:
            flight.is_misplaced = True
            self._doubt(
                f"n = {outgoing.n} was stored at {sequence}, expected {outgoing.sequence}"
            )
            return
        flight.is_stored = True
        while self._flights and self._flights[0].is_stored:
            self._land(self._mark_after(self._flights[0]))

    def failed(self, outgoing: Outgoing, reason: str) -> None:
        """The engine refused this, or didn't answer in time: on to doubt."""
        if self._flight_of(outgoing) is not None:
            self._doubt(f"n = {outgoing.n}: {reason}")

    def retry(self, *, age_ms: int) -> list[Outgoing] | None:
        """
        In doubt: what to send once more as it was, without a look at the log; leads again.

        For silence, not for a refusal. What is there already is answered as it was before; or
        it is refused, by an engine that looks at the expected sequence first: doubt again.

        Args:
            age_ms: since the first of what is under way was first sent.

        Returns:
            None if the engine may have forgotten the message ids, or a sequence surprised:
            only `resolve` helps.
        """
        assert self.phase is Phase.DOUBT
        is_remembered = age_ms <= limits.DUPLICATE_WINDOW_MS // 2
        if not is_remembered or any(flight.is_misplaced for flight in self._flights):
            return None
        self.phase = Phase.LEADING
        return [flight.outgoing for flight in self._flights if not flight.is_stored]

    def resolve(self, reader: Reader) -> list[Outgoing]:
        """
        In doubt, and still not deposed by what was read: what isn't in the log, to be sent once
        more behind its end. Leads again.

        Args:
            reader: it began at or before `mark` and has read up to the stream's end, as the
                stream's leader told it after the doubt began. All that it accepted was
                observed, and it isn't frozen.
        """
        assert self.phase is Phase.DOUBT
        assert reader.frozen is None
        assert reader.mark.sequence == self.mark.sequence, "not all was observed"
        self.phase = Phase.LEADING
        self._tail_sequence = reader.sequence
        for sequence, flight in enumerate(self._flights, reader.sequence + 1):
            if flight.is_misplaced or flight.entry.n in reader.early:
                flight.attempt += 1
            flight.is_stored = flight.is_misplaced = False
            flight.outgoing = replace(
                flight.outgoing,
                message_id=message_id(flight.entry, attempt=flight.attempt),
                sequence=sequence,
            )
        return [flight.outgoing for flight in self._flights]

    def outcome(self, position: int) -> Outcome:
        """What is known of a position that `append` gave out, should the writer end now."""
        if position <= self.mark.position:
            return Outcome.COMMITTED
        if self.phase is Phase.DEPOSED or position > self.packed_position:
            return Outcome.NEVER
        return Outcome.UNKNOWN

    def _flight_of(self, outgoing: Outgoing) -> _Flight | None:
        """The flight that this was sent for, if it still waits for an answer to just that."""
        at = outgoing.n - self.mark.n - 1
        if not 0 <= at < len(self._flights):
            return None
        flight = self._flights[at]
        sent = flight.outgoing
        is_same = sent.sequence == outgoing.sequence and sent.message_id == outgoing.message_id
        return flight if is_same else None

    def _doubt(self, reason: str) -> None:
        self.phase, self.doubt = Phase.DOUBT, reason

    def _land(self, mark: Mark) -> None:
        """The first flight is committed, and the log stands at `mark` with it."""
        assert self._flights, "what was never sent"
        flight = self._flights.popleft()
        assert flight.entry.n == mark.n, "out of order"
        assert flight.chain == mark.chain, "what was accepted is not what was sent"
        self.flight_bytes -= len(flight.outgoing.raw)
        self.mark = mark

    def _mark_after(self, flight: _Flight) -> Mark:
        return Mark(
            flight.outgoing.sequence,
            self.epoch,
            flight.entry.n,
            flight.chain,
            flight.entry.last_position,
            self.writer,
            self.mark.stream,
            checksum_of(flight.outgoing.raw),
        )
