"""
Dead letters, as a history sees them: each is made once, of a message that dies in the same
record; it goes, or comes back to its group, with those bytes.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sandglass.core.message import DEAD_LETTER_CHANNEL, REDRIVE_CHANNEL
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Append, Purge, Record, Redrive
from sandglass.testing.endings import expire
from sandglass.testing.seen import GroupHistory, Origin, PartitionHistory, Sent, Violation

if TYPE_CHECKING:
    from sandglass.testing.checkers import History

COPY_FIRST: Final = 1 << 40
"""Dead letters are numbered from here on; messages that were sent, from 1 on."""


def land_dead_letters(
    history: "History",
    partition: PartitionHistory,
    group: GroupHistory,
    numbers: list[int],
    record: Record,
) -> None:
    """
    Each message that dies has its dead letter in the same record, in their order; one that
    is a dead letter already stays where it is.
    """
    if group.channel == DEAD_LETTER_CHANNEL:
        numbers = []
    dying = iter(numbers)
    for append in record.operations:
        if not isinstance(append, Append):
            continue
        for told, body, offset in _copies_of(append):
            number = next(dying, None)
            while number in group.expired and _first_place(history, number) != told.offset:
                number = next(dying, None)  # it was gone when the others died
            if number is None or body != history.sent[number].body:
                raise Violation(f"I8: dead letter of {number} with other bytes")
            if (told.offset, told.group) != (_first_place(history, number), group.name):
                raise Violation(f"I8: dead letter of {number} says it is {told}")
            if (group.number, number) in partition.buried:
                raise Violation(f"I8: a second dead letter of {number} for {group.name}")
            partition.buried[group.number, number] = told
            _copy(history, partition, DEAD_LETTER_CHANNEL, number, told, offset)


def _copy(
    history: "History",
    partition: PartitionHistory,
    channel: str,
    number: int,
    told: Origin,
    offset: int,
) -> int:
    copy = COPY_FIRST + len(history.copies)
    history.copies.append(number)
    body = history.sent[number].body
    history.sent[copy] = Sent(
        copy, partition.number, channel, 0, 0, 0, body, told, offset, is_shown=True
    )
    history.appear(partition, channel, offset, copy)
    return copy


def _first_place(history: "History", number: int) -> int:
    """Where a message stood when it was produced; a dead letter's own death aside."""
    message = history.sent[number]
    origin = message.origin if message.channel == REDRIVE_CHANNEL else None
    return message.offset if origin is None else origin.offset


def land_purge(
    history: "History", partition: PartitionHistory, purge: Purge, record: Record
) -> None:
    """Dead letters go; those that are redriven come back in the same record."""
    channel = partition.channel(DEAD_LETTER_CHANNEL)
    offsets = [offset for low, high, _ in purge.ranges for offset in range(low, high)]
    letters = iter([channel.numbers[offset] for offset in offsets])
    for operation in record.operations:
        if isinstance(operation, Redrive):
            _land_redrive(history, partition, operation, letters)
    partition.purged_count += len(list(letters))
    for offset in offsets:
        number = channel.numbers[offset]
        partition.going.discard(number)
        for group in partition.groups.values():
            is_reader = group.channel == DEAD_LETTER_CHANNEL
            if is_reader and max(group.start, partition.cut) <= offset:
                expire(group, number)
        channel.remove(offset)


def _land_redrive(
    history: "History", partition: PartitionHistory, redrive: Redrive, letters: Iterator[int]
) -> None:
    group = partition.groups[redrive.group]
    for told, body, offset in _copies_of(redrive.append):
        letter = next(letters)
        if (told, body) != (history.sent[letter].origin, history.sent[letter].body):
            raise Violation(f"I8: {told} comes back, not dead letter {letter}")
        if told.group != group.name:
            raise Violation(f"I8: {told} comes back to {group.name}")
        copy = _copy(history, partition, REDRIVE_CHANNEL, letter, told, offset)
        group.redriven[offset] = copy
        group.moved.add(copy)
        group.until_ms[copy] = redrive.until_ms
        partition.redriven_count += 1


def _copies_of(append: Append) -> Iterator[tuple[Origin, bytes, int]]:
    """Of each message of an append with an origin: what it says, its bytes, its offset."""
    origin, raw = append.origin, append.bodies[0]
    assert origin is not None, "another message among the dead letters"
    width = len(raw) // append.counts[0]
    for place in range(append.counts[0]):
        told = Origin(origin.offset + place, origin.group, origin.attempts, origin.reason)
        body = raw[place * width : (place + 1) * width]
        yield told, body, append.dues[0] << INDEX_BITS | append.first_index + place
