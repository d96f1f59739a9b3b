"""
What clients saw, and whether it can be: the guarantees, checked from the outside.

    history = History()
    history.sent(7, partition, due_ms=0)
    history.answered(7, offset)
    history.delivered("g", "consumer-1", partition, 7, offset, wall_ms=...)
    ...
    history.check_complete("g")

Messages are numbers; how a number becomes bytes and back is `value_of` and `number_of`. The
history is told what clients know and no more: an answer that never came leaves a produce or an
outcome unknown, and either is right then. `Impossible` is raised at the first thing that must
not be, with the invariant's number.

Checked: I1 nothing answered is lost; I2 nothing is delivered that was refused, or that nobody
sent, or with other bytes; I3 nothing is early; I5 what isn't settled comes again; I6 what was
acked doesn't; I9 one consumer's first deliveries are in order, offsets are unique and stay, and
nothing appears behind a reader, restarts included.
"""

from dataclasses import dataclass, field
from typing import Final

from sandglass.core.offset import INDEX_BITS

_NUMBER_BYTES: Final = 8
_FILLING_BYTES_MAX: Final = 200


class Impossible(Exception):
    """A guarantee doesn't hold in what clients saw."""


def value_of(number: int) -> bytes:
    """A message's value: its number, then filling that depends on it."""
    filling = bytes((number * 7 % 256,)) * (number * 31 % _FILLING_BYTES_MAX)
    return number.to_bytes(_NUMBER_BYTES, "big") + filling


def number_of(value: bytes) -> int:
    """
    The message whose value this is.

    Raises:
        Impossible: it is no message's value.
    """
    number = int.from_bytes(value[:_NUMBER_BYTES], "big")
    if value != value_of(number):
        raise Impossible(f"I2: no message has the value {value[:40]!r}")
    return number


def offset_of(due_ms: int, index: int) -> int:
    """An offset as an int."""
    return due_ms << INDEX_BITS | index


@dataclass(slots=True)
class _Message:
    partition: str
    due_ms: int
    """As asked for, Unix time; 0 for at once."""
    passed: int
    """The highest offset of the partition that a reader had been given when it was sent."""
    epoch: int
    """How often the node had been restarted when it was sent."""
    offset: int | None = None
    """Known from the answer, or the first delivery."""
    is_answered: bool = False
    is_refused: bool = False


@dataclass(slots=True)
class _GroupHistory:
    delivered: dict[int, int] = field(default_factory=dict[int, int])
    """How often each message was."""
    acking: set[int] = field(default_factory=set[int])
    """An ack was sent."""
    acked: set[int] = field(default_factory=set[int])
    """And answered."""
    highest: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """First deliveries to one consumer from one partition since the last restart."""


class History:
    """All that was produced to one topic, and what its groups saw of it."""

    def __init__(self) -> None:
        self._messages: dict[int, _Message] = {}
        self._at: dict[tuple[str, int], int] = {}
        self._passed: dict[str, int] = {}
        self._groups: dict[str, _GroupHistory] = {}
        self._epoch = 0

    # --- what clients saw ---------------------------------------------------------------------

    def sent(self, number: int, partition: str, *, due_ms: int = 0) -> None:
        """A produce leaves a client."""
        assert number not in self._messages, f"message {number} is sent twice"
        self._messages[number] = _Message(
            partition, due_ms, self._passed.get(partition, -1), self._epoch
        )

    def answered(self, number: int, offset: int) -> None:
        """It is said to be durable."""
        message = self._messages[number]
        if message.due_ms and offset >> INDEX_BITS < message.due_ms:
            raise Impossible(f"I3: message {number} is placed before it is due")
        self._place(number, offset)
        message.is_answered = True

    def refused(self, number: int) -> None:
        """It is said that nothing was taken."""
        if self._messages[number].offset is not None:
            raise Impossible(f"I2: message {number} was refused, and was delivered")
        self._messages[number].is_refused = True

    def delivered(
        self,
        group: str,
        consumer: str,
        partition: str,
        number: int,
        offset: int,
        *,
        wall_ms: int,
    ) -> None:
        """A consumer has got it; `wall_ms` is no earlier than when it got there."""
        message = self._messages.get(number)
        if message is None or message.is_refused:
            raise Impossible(f"I2: message {number} was delivered, and nobody produced it")
        if wall_ms < message.due_ms:
            early_ms = message.due_ms - wall_ms
            raise Impossible(f"I3: message {number} was delivered {early_ms} ms early")
        if partition != message.partition:
            raise Impossible(f"I2: message {number} was delivered from another partition")
        self._place(number, offset)
        seen = self._groups.setdefault(group, _GroupHistory())
        if number in seen.acked:
            raise Impossible(f"I6: message {number} was acked, and came again to {group}")
        if number not in seen.delivered and message.epoch == self._epoch:
            # What was there before a restart may have been handed out, and given back, unseen.
            if seen.highest.get((consumer, partition), -1) >= offset:
                raise Impossible(f"I9: message {number} came out of order to {consumer}")
            seen.highest[consumer, partition] = offset
        seen.delivered[number] = seen.delivered.get(number, 0) + 1
        self._passed[partition] = max(self._passed.get(partition, -1), offset)

    def acking(self, group: str, numbers: list[int]) -> None:
        """An ack leaves a client."""
        self._groups[group].acking.update(numbers)

    def acked(self, group: str, numbers: list[int]) -> None:
        """It is said to be durable."""
        self._groups[group].acked.update(numbers)

    def restarted(self) -> None:
        """
        The node has died, or was stopped, and is there again; or a consumer has left, and what
        it had not shown yet was given back.
        """
        for seen in self._groups.values():
            seen.highest.clear()
        self._epoch += 1

    # --- what must be in the end --------------------------------------------------------------

    def check_complete(self, group: str) -> None:
        """
        A group that has read all there is, and acked it.

        Raises:
            Impossible: an answered message never came, or its ack is missing.
        """
        seen = self._groups.setdefault(group, _GroupHistory())
        answered = {n for n, message in self._messages.items() if message.is_answered}
        if lost := answered - seen.delivered.keys():
            raise Impossible(f"I1: {len(lost)} messages never came to {group}: {_some(lost)}")
        if stuck := answered - seen.acking - seen.acked:
            raise Impossible(f"I5: {len(stuck)} messages stopped coming: {_some(stuck)}")

    def count(self) -> tuple[int, int]:
        """Messages sent, and messages answered."""
        return len(self._messages), sum(m.is_answered for m in self._messages.values())

    def acked_count(self, group: str) -> int:
        """Messages whose ack was answered."""
        return len(self._groups[group].acked) if group in self._groups else 0

    def acking_by(self, group: str) -> set[int]:
        """Messages whose ack has left a client."""
        return self._groups[group].acking if group in self._groups else set()

    def unanswered(self, group: str) -> set[int]:
        """Delivered messages of which nobody knows whether they are acked."""
        seen = self._groups[group]
        return seen.acking - seen.acked

    def _place(self, number: int, offset: int) -> None:
        message = self._messages[number]
        if message.offset is not None and message.offset != offset:
            raise Impossible(f"I9: message {number} was at {message.offset:x}, now {offset:x}")
        other = self._at.setdefault((message.partition, offset), number)
        if other != number:
            raise Impossible(f"I9: messages {other} and {number} are both at {offset:x}")
        if offset <= message.passed:
            raise Impossible(
                f"I9: message {number} appears at {offset:x}, and a reader had passed"
                f" {message.passed:x} before it was sent"
            )
        message.offset = offset


def _some(numbers: set[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)[:10]))
    return shown if len(numbers) <= 10 else f"{shown}, ..."
