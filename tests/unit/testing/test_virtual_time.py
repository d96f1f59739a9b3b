"""Time is virtual, and a process ends without another word."""

import asyncio
import random
from time import monotonic

import pytest

from sandglass.errors import UnavailableError
from sandglass.testing.virtual_time import START_MS, Life, VirtualClock, VirtualLoop, until

HOUR_S = 3600


@pytest.fixture
def loop() -> VirtualLoop:
    return VirtualLoop(random.Random(1))


def test_an_hour_goes_by_at_once(loop: VirtualLoop) -> None:
    began_s, clock = monotonic(), VirtualClock(loop, shift_ms=5)
    loop.play(asyncio.sleep(HOUR_S))

    assert (HOUR_S * 1000, START_MS + HOUR_S * 1000 + 5) == (
        clock.monotonic_ms(),
        clock.wall_ms(),
    )
    assert monotonic() - began_s < HOUR_S


def test_who_waits_for_nobody_is_told_so(loop: VirtualLoop) -> None:
    with pytest.raises(AssertionError, match="nothing will ever come"):
        loop.play(asyncio.Event().wait())


def test_who_spins_is_told_so(loop: VirtualLoop) -> None:
    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="no time goes by"):
        loop.play(spin())


def test_what_a_thread_is_handed_is_done_a_little_later(loop: VirtualLoop) -> None:
    async def hand_over() -> tuple[int, int]:
        found = await asyncio.gather(*[asyncio.to_thread(lambda: 7) for _ in range(20)])
        return sum(found), loop.now_ms

    total, took_ms = loop.play(hand_over())

    assert total == 140
    assert took_ms > 0


def test_a_process_that_ends_does_nothing_more(loop: VirtualLoop) -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(1)
        done.append("work")

    async def both() -> None:
        one, other = Life(loop, "one"), Life(loop, "other")
        for life in (one, other):
            life.spawn(work())
            life.after(500, lambda life=life: done.append(life.name))
        asked = asyncio.create_task(one.call(work()))
        await asyncio.sleep(0.1)
        one.end()
        with pytest.raises(UnavailableError):
            await asked
        with pytest.raises(UnavailableError):
            await one.call(work())
        assert await until(lambda: len(done) == 2, for_ms=2000)

    loop.play(both())

    assert ["other", "work"] == done
