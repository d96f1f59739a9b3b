"""
The interpreter of a node's process, set up for it: threads, memory, the collector of cycles.

Python's collector looks through every container there is whenever their number has grown by a
quarter, and the event loop stands still meanwhile: 20 ms for what is imported alone, 100 ms
beside a hundred thousand leases. So what is there before the node starts is never looked at
again, and what comes is looked at less often. The state of a node, for its part, keeps numbers
in tuples, which the collector leaves alone.

The C library, for its part, keeps what was freed, so that what takes its place need not be made
page by page: with every memtable that was given back and taken anew a follower of a replicated
log spent a seventh of its CPU on that. What it keeps is given back when the process has nothing
to do: beside three million pending messages that was 38 MB.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Final

SWITCH_S: Final = 0.0005
"""The loop waits so long for the sync thread to let go of the interpreter; 5 ms by default."""

YOUNG_COUNT: Final = 10_000
"""So many new containers are looked through at a time, in a millisecond; 700 by default. Most
of what a turn makes is gone again by then."""

MAPPED_BYTES: Final = 32 * 1024 * 1024
"""Blocks from here on are mapped by themselves, and go at once when they are freed; the most
that the library takes."""

KEPT_BYTES: Final = 64 * 1024 * 1024
"""What a heap may keep unused at its end: some memtables."""

LOOK_S: Final = 1.0
REST_PART: Final = 0.1
"""A process that has used no more than this part of one CPU since the last look is at rest."""

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
        Thread(target=Resting(give_back).run, name="sandglass-rest", daemon=True).start()


def give_back() -> None:
    """Gives memory that the C library keeps back to the system; takes milliseconds."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Resting:
    """
    Calls `on_rest` when the process has come to rest, once each time. `run` wants a thread of
    its own.
    """

    def __init__(
        self, on_rest: Callable[[], object], cpu_s: Callable[[], float] = time.process_time
    ) -> None:
        self._on_rest = on_rest
        self._cpu_s = cpu_s
        self._last_s = cpu_s()
        self._has_worked = False

    def run(self) -> None:
        """Looks for as long as the process lives."""
        never = Event()
        while not never.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """To be called every `LOOK_S`."""
        now_s = self._cpu_s()
        is_at_rest = now_s - self._last_s <= REST_PART * LOOK_S
        if is_at_rest and self._has_worked:
            self._on_rest()
        self._has_worked = not is_at_rest
        self._last_s = self._cpu_s()
