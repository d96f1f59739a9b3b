"""
The interpreter of a node's process, set up for it: threads, memory, the collector of cycles.

Python's collector looks through every container there is whenever their number has grown by a
quarter, and the event loop stands still meanwhile: 20 ms for what is imported alone, 100 ms
beside a hundred thousand leases. So what is there before the node starts is never looked at
again, and what comes is looked at less often. The state of a node, for its part, keeps numbers
in tuples, which the collector leaves alone.

The C library, for its part, keeps what RocksDB gives back: once a large block was freed, such
blocks are taken from its heaps, where small ones then hold them. Beside three million pending
messages 38 MB were kept that way, and 21 MB with large blocks mapped one by one.
"""

import ctypes
import gc
import sys
from contextlib import suppress
from typing import Final

SWITCH_S: Final = 0.0005
"""The loop waits so long for the sync thread to let go of the interpreter; 5 ms by default."""

YOUNG_COUNT: Final = 10_000
"""So many new containers are looked through at a time, in a millisecond; 700 by default. Most
of what a turn makes is gone again by then."""

MAPPED_BYTES: Final = 1_000_000
"""Blocks from here on are mapped by themselves: a memtable is made of such. What a frame or a
batch takes is below, and stays quick to get."""

KEPT_BYTES: Final = 4 * 1024 * 1024
"""What a heap may keep unused at its end; 128 KiB would go and come back with every batch."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def prepare() -> None:
    """
    Sets up this process to be a node's, once everything is imported and before it serves.

    What exists now is taken to stay for good: garbage that is left in it is collected first.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_COUNT, 10, 10)
    with suppress(OSError, AttributeError):  # a C library that has no such call
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
