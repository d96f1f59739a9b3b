"""
Key to partition: which of a topic's partitions a keyed message belongs to.

The key's 64-bit hash is made outside (`wire.convert`); here it is turned into a place in the
topic's list of partitions, by jump consistent hashing: even, without a table, and when the list
grows only the messages that the new partition takes move.

Source: J. Lamping, E. Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014.
"""

from typing import Final

_MULTIPLIER: Final = 2862933555777941757
_HASH_MASK: Final = (1 << 64) - 1
_ONE: Final = float(1 << 31)


def place_of(key_hash: int, partition_count: int) -> int:
    """
    The place, `[0, partition_count)`, of a key in a topic's list of partitions.

    Args:
        key_hash: 64 bits, unsigned.
        partition_count: 1 or more.
    """
    assert 0 <= key_hash <= _HASH_MASK
    assert partition_count >= 1
    place = -1
    jump = 0
    while jump < partition_count:
        place = jump
        key_hash = (key_hash * _MULTIPLIER + 1) & _HASH_MASK
        jump = int((place + 1) * (_ONE / ((key_hash >> 33) + 1)))
    return place
