"""Clock and Entropy of the machine."""

import os
import time


class SystemClock:
    """The `Clock` port over the operating system's clocks."""

    __slots__ = ()

    def wall_ms(self) -> int:
        """Unix time in milliseconds; it may be stepped."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Milliseconds since some moment; it never steps."""
        return time.monotonic_ns() // 1_000_000


class SystemEntropy:
    """The `Entropy` port over the operating system's generator."""

    __slots__ = ()

    def token_bytes(self, count: int) -> bytes:
        """`count` random bytes that nobody can guess."""
        return os.urandom(count)


def stopwatch_ns() -> int:
    """Nanoseconds since some moment, for measuring what the node itself does."""
    return time.perf_counter_ns()
