"""
What readers are shown at a quiet point, held against the history: how far a group is, how each
message stands with it, and a partition in order of production.

At a quiet point nothing is on its way to the log: what the core says is what was recorded.
"""

from typing import Final

from sandglass.core.group import Group
from sandglass.core.index_order import IndexOrder
from sandglass.core.offset import INDEX_MAX
from sandglass.core.partition import Partition
from sandglass.core.standing import Standing, standing_of
from sandglass.core.view import View
from sandglass.errors import OutOfRangeError
from sandglass.testing.checkers import History
from sandglass.testing.seen import GroupHistory, Violation, numbers_of, take_messages

STANDING_STRIDE: Final = 3


def check_standings(
    history: History,
    known: GroupHistory,
    partition: Partition,
    group: Group,
    view: View,
    *,
    chance: int,
) -> None:
    """
    Looks at a part of the messages, since all of them would take most of a history's time;
    `chance` says which.

    Raises:
        Violation: a message stands otherwise than its history says.
    """
    acked = max((history.sent[number].offset for number in known.acked), default=0)
    if group.acked != acked:
        raise Violation(f"{known.name}: the greatest ack is {acked:x}, not {group.acked:x}")
    committed = group.committed(partition.closed, view)
    channel = history.partitions[known.partition].channel(known.channel)
    for offset, number in channel.numbers.items():
        if (number + chance) % STANDING_STRIDE:
            continue
        found = standing_of(partition, group, offset, view)
        if offset < partition.cut or offset < known.start:
            expected = {None}
        elif known.is_settled(number):
            expected = {
                (Standing.COMMITTED if offset < committed else Standing.SETTLED, 0),
            }
        else:
            expected = _unsettled(known, number)
        if found not in expected:
            raise Violation(f"{known.name}: {number} stands at {found}, not {expected}")


def _unsettled(known: GroupHistory, number: int) -> set[tuple[Standing, int] | None]:
    attempts = known.attempts.get(number, 0)
    if number in known.held:
        return {(Standing.HANDED_OUT, attempts + 1)}
    if number in known.moved:
        was_handed_out = attempts or known.releases.get(number)
        return {(Standing.WAITING, attempts) if was_handed_out else None}
    # An earlier leader may have handed it out, and may have recorded one beyond it.
    return {None, (Standing.HANDED_OUT, 1)}


def check_index_order(
    history: History, partition: Partition, view: View, *, chance: int
) -> None:
    """
    Reads from somewhere on; `chance` says from where, and how many rows it may keep.

    Raises:
        Violation: something is missing, or out of order.
    """
    last = partition.last_index
    above = chance % (last + 1)
    held = {
        offset & INDEX_MAX: numbers_of(history.sent[number].body, 1)[0]
        for channel in history.partitions[partition.number].channels.values()
        for offset, number in channel.numbers.items()
        if offset >= partition.cut
    }
    gap = next((index for index in range(above + 1, last + 1) if index not in held), None)
    expected = [held[index] for index in range(above + 1, last + 1 if gap is None else gap)]
    reading = IndexOrder(partition, above + 1, last + 1, ahead_row_count_max=2 + chance % 7)
    shown: list[int] = []
    next_held = 0
    try:
        while not reading.is_over:
            for _, part in reading.step(view):
                raw = take_messages(part.body, part.row_count, part.first, part.count)
                shown += numbers_of(raw, part.count)
    except OutOfRangeError as error:
        next_held = int(error.message.rpartition(" ")[2])
    expected_held = 0
    if gap is not None:
        expected_held = min((index for index in held if index > gap), default=last + 1)
    if (shown, next_held) != (expected, expected_held):
        raise Violation(
            f"from index {above} on, partition {partition.number} shows {shown} and then"
            f" {next_held}, not {expected} and {expected_held}"
        )
