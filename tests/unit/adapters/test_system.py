"""The clocks and the chance of the machine."""

import gc
import platform
import subprocess
import sys
import time

import pytest

from sandglass.adapters import interpreter
from sandglass.adapters.system import SystemClock, SystemEntropy
from sandglass.ports import Clock, Entropy


def test_wall_clock_is_unix_time_in_milliseconds() -> None:
    clock: Clock = SystemClock()

    before = time.time_ns()
    wall_ms = clock.wall_ms()
    after = time.time_ns()

    assert before // 1_000_000 <= wall_ms <= after // 1_000_000


def test_monotonic_clock_is_in_milliseconds_and_never_steps_back() -> None:
    clock: Clock = SystemClock()

    before = time.monotonic_ns()
    readings = [clock.monotonic_ms() for _ in range(1000)]
    after = time.monotonic_ns()

    assert readings == sorted(readings)
    assert before // 1_000_000 <= readings[0] <= readings[-1] <= after // 1_000_000


@pytest.mark.parametrize("count", [0, 1, 16, 1000])
def test_entropy_gives_so_many_bytes(count: int) -> None:
    entropy: Entropy = SystemEntropy()

    assert len(entropy.token_bytes(count)) == count


def test_entropy_does_not_repeat_itself() -> None:
    entropy: Entropy = SystemEntropy()

    assert len({entropy.token_bytes(16) for _ in range(1000)}) == 1000


def test_what_is_there_before_a_node_starts_is_not_looked_through_again() -> None:
    """Each look through all that is imported would stop the loop for 20 ms."""
    before = gc.get_threshold(), sys.getswitchinterval(), gc.get_freeze_count()
    try:
        interpreter.prepare()

        assert gc.get_freeze_count() > before[2]
        assert len(gc.get_objects(generation=2)) < 100
        assert gc.get_threshold()[0] == interpreter.YOUNG_COUNT
        assert sys.getswitchinterval() == pytest.approx(interpreter.SWITCH_S)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before[0])
        sys.setswitchinterval(before[1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is the library that keeps")
def test_large_blocks_are_given_back_though_small_ones_came_after_them() -> None:
    """As memtables are made and freed; in a process of its own, whose memory is looked at."""
    program = """if True:
        from sandglass.adapters import interpreter

        def memory_kib():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4

        interpreter.prepare()
        warm = bytearray(20_000_000)
        del warm
        before = memory_kib()
        blocks = [bytearray(b"x") * 1_500_000 for _ in range(40)]
        last = blocks.pop()
        del blocks
        print(memory_kib() - before)
    """
    kept_kib = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    ).stdout

    assert int(kept_kib) < 10_000
