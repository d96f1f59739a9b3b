"""
Giving back what a session held when it ended: it may be a hundred thousand leases.

They are ended a slice at a time, the next when the one before is applied: in between, others
have the loop, and nothing is listed beforehand but tokens.
"""

import asyncio
from collections import deque
from collections.abc import Collection

from sandglass.broker.loops import Loops
from sandglass.core import limits, outcome
from sandglass.core.group import Group


async def give_back(
    loops: Loops, groups: Collection[Group], keys: Collection[int], *, is_goodbye: bool
) -> None:
    """
    Ends the leases that consumers of these keys have in these groups. After a goodbye nothing
    counts; otherwise what had been begun counts an attempt.

    None of them may be given anything any more.
    """
    for group in groups:
        tokens = [*group.leases]
        for first in range(0, len(tokens), limits.TURN_ENDING_COUNT_MAX):
            some = tokens[first : first + limits.TURN_ENDING_COUNT_MAX]
            held = _held_of(group, some, keys, is_goodbye=is_goodbye)
            while held:
                loop = loops.working(group.partition)
                if loop is None:
                    break
                partition = loop.partition(group.partition)
                if not partition.leads(group):
                    break  # with the leader before, here or elsewhere, its leases have ended
                records = outcome.admit_break(partition, group, held, loop.moment(), loop.view)
                waits = [loop.commit(record) for record in records]
                await asyncio.gather(*waits, return_exceptions=True)
            await asyncio.sleep(0)


def _held_of(
    group: Group, tokens: list[int], keys: Collection[int], *, is_goodbye: bool
) -> deque[int]:
    held: deque[int] = deque()
    for token in tokens:
        lease = group.leases.get(token)
        if lease is not None and lease.consumer in keys:
            if is_goodbye:
                lease.begun = 0
            held.append(token)
    return held
