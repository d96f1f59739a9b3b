"""
The interpreter of a node's process, set up for it: threads, and the collector of cycles.

Python's collector looks through every container there is whenever their number has grown by a
quarter, and the event loop stands still meanwhile: 20 ms for what is imported alone, 100 ms
beside a hundred thousand leases. So what is there before the node starts is never looked at
again, and what comes is looked at less often. The state of a node, for its part, keeps numbers
in tuples, which the collector leaves alone.
"""

import gc
import sys
from typing import Final

SWITCH_S: Final = 0.0005
"""The loop waits so long for the sync thread to let go of the interpreter; 5 ms by default."""

YOUNG_COUNT: Final = 10_000
"""So many new containers are looked through at a time, in a millisecond; 700 by default. Most
of what a turn makes is gone again by then."""


def prepare() -> None:
    """
    Sets up this process to be a node's, once everything is imported and before it serves.

    What exists now is taken to stay for good: garbage that is left in it is collected first.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_COUNT, 10, 10)
