"""
How messages end for a group, and what of it must hold: settled once, moved with the attempts
that were made, dead after the last of them.
"""

from sandglass.core import limits
from sandglass.core.dispatch import Moment
from sandglass.core.message import DEAD_LETTER_CHANNEL
from sandglass.core.record import Append, Ending, Move, Record, Settle
from sandglass.testing.seen import GroupHistory, PartitionHistory, Violation


def named(
    partition: PartitionHistory, group: GroupHistory, operation: Settle | Move
) -> list[int]:
    """The messages that an outcome is about."""
    main = [
        number
        for low, high, _ in operation.main
        for number in partition.numbers_in(
            group.channel, max(low, group.start), high, is_all=True
        )
    ]
    return main + [
        number
        for low, high, _ in operation.retry
        for number in partition.numbers_for(group, low, high, is_all=True)
    ]


def settle(
    partition: PartitionHistory, group: GroupHistory, number: int, ending: Ending
) -> None:
    """A message has ended for a group."""
    group.ending.pop(number, None)
    group.held.pop(number, None)
    if number in group.expired:
        return
    check(not group.is_settled(number), "I6", "settled twice", group, number)
    group.moved.discard(number)
    if ending is Ending.ACKED:
        group.acked.add(number)
        return
    check(ending is Ending.DEAD, "I5", f"dropped as {ending.name}", group, number)
    if group.channel == DEAD_LETTER_CHANNEL:
        group.dead.add(number)
        return
    buried = partition.buried.get((group.number, number))
    if buried is None:
        raise Violation(f"I8: no dead letter of {number} for {group.name}")
    before = group.attempts.get(number, 0)
    counted = before if buried.reason == "released" else before + 1
    if buried.attempts != counted:
        raise Violation(f"I8: {buried.attempts} attempts on {number}, but {counted} were made")
    group.dead.add(number)


def move(group: GroupHistory, number: int, move: Move) -> None:
    """A message waits for another attempt."""
    group.ending.pop(number, None)
    group.held.pop(number, None)
    if number in group.expired:
        return
    check(not group.is_settled(number), "I6", "moved when settled", group, number)
    group.moved.add(number)
    group.until_ms[number] = move.until_ms
    if move.ending is Ending.RELEASED:
        group.releases[number] = group.releases.get(number, 0) + 1
    elif move.ending is not Ending.CLOCK:
        group.attempts[number] = group.attempts.get(number, 0) + 1
    check(
        move.attempts == group.attempts.get(number, 0),
        "I8",
        f"moved with {move.attempts} attempts",
        group,
        number,
    )


def cut(partition: PartitionHistory, below: int) -> None:
    """Retention takes all below an offset."""
    for group in partition.groups.values():
        for number in partition.numbers_for(group, 0, below):
            expire(group, number)
    partition.cut = max(partition.cut, below)


def expire(group: GroupHistory, number: int) -> None:
    """A message is gone before its group was done with it."""
    if not group.is_settled(number):
        group.expired.add(number)
        group.moved.discard(number)


def check_ending(
    group: GroupHistory, operation: Settle | Move, record: Record, moment: Moment
) -> None:
    """What fails without a word of its consumer waits for the backoff."""
    if isinstance(operation, Move) and operation.ending in {Ending.TIMED_OUT, Ending.BROKEN}:
        least_ms = moment.steady_ms + group.backoff.delay_ms(operation.attempts, 1)
        if operation.until_ms < least_ms:
            raise Violation(f"I8: a retry of {group.name} comes before its backoff: {record}")


def check_counts(
    group: GroupHistory, operation: Settle | Move, number: int, record: Record
) -> None:
    """By the settings as they are now: the last attempt is the last, and no other is."""
    if operation.ending in {Ending.ACKED, Ending.EXPIRED, Ending.CLOCK}:
        return
    is_dead = operation.ending is Ending.DEAD
    if number in group.expired or (is_dead and group.channel == DEAD_LETTER_CHANNEL):
        return  # a reader of dead letters may give one up at once; nothing says why
    reasons = {
        each.origin.reason
        for each in record.operations
        if isinstance(each, Append) and each.origin is not None
    }
    if reasons & {"dead"}:
        return
    releases = group.releases.get(number, 0) + 1
    is_last = group.attempts.get(number, 0) + 1 >= group.max_deliveries
    if operation.ending is Ending.RELEASED or reasons & {"released"}:
        is_last = releases >= limits.RELEASE_FACTOR * group.max_deliveries
    check(is_last == is_dead, "I8", f"ends as {operation.ending.name}", group, number)


def check(holds: bool, invariant: str, what: str, group: GroupHistory, number: int) -> None:
    """Raises unless it holds."""
    if not holds:
        raise Violation(
            f"{invariant}: message {number} {what}, in group {group.name} of partition"
            f" {group.partition}"
        )
    return None
