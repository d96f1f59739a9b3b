"""Room for what clients have not taken: who waits, who is let in, who is refused."""

import asyncio

import pytest

from sandglass.broker.outgoing import HARD, SHARE, Outgoing
from sandglass.errors import BusyError

ROOM = 800
PART = ROOM // SHARE


@pytest.fixture
def outgoing() -> Outgoing:
    return Outgoing(bytes_max=ROOM, wait_ms=20_000)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def filled(outgoing: Outgoing, count: int = SHARE) -> None:
    """So many connections hold their share each."""
    for number in range(count):
        outgoing.flow(f"other-{number}").fit(PART)


async def test_a_connection_has_its_share_and_no_more(outgoing: Outgoing) -> None:
    first, second = outgoing.flow("a"), outgoing.flow("a")
    await first.room(PART)

    waiting = asyncio.create_task(second.room(1))
    await settled()
    assert not waiting.done()
    first.fit(PART - 1)
    await waiting

    assert PART == outgoing.size_bytes


async def test_a_connection_that_holds_nothing_finds_room_among_those_that_hold_all(
    outgoing: Outgoing,
) -> None:
    filled(outgoing)

    await outgoing.flow("a").room(PART)

    assert not outgoing.has_room("a", 1)


async def test_beyond_the_hard_limit_nobody_is_given_any(outgoing: Outgoing) -> None:
    filled(outgoing, HARD * SHARE)
    one = outgoing.flow("other-x")

    waiting = asyncio.create_task(outgoing.flow("a").room(1))
    await settled()

    assert not waiting.done()
    one.fit(1)
    one.close()
    outgoing.add("other-0", -PART)
    await waiting


async def test_the_first_in_line_is_let_in_first(outgoing: Outgoing) -> None:
    held = outgoing.flow("a")
    await held.room(PART)
    order: list[int] = []

    async def read(number: int) -> None:
        flow = outgoing.flow("a")
        await flow.room(PART)
        order.append(number)
        flow.close()

    reading = [asyncio.create_task(read(number)) for number in range(5)]
    await settled()
    held.close()
    await asyncio.gather(*reading)

    assert [0, 1, 2, 3, 4] == order


async def test_who_leaves_the_line_keeps_nobody_waiting(outgoing: Outgoing) -> None:
    held = outgoing.flow("a")
    await held.room(PART)
    leaving = asyncio.create_task(outgoing.flow("a").room(PART))
    staying = asyncio.create_task(outgoing.flow("a").room(PART))
    await settled()

    held.close()  # `leaving` has its turn now,
    leaving.cancel()  # and doesn't take it
    await staying

    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_who_waits_for_too_long_is_refused() -> None:
    outgoing = Outgoing(bytes_max=ROOM, wait_ms=10)
    await outgoing.flow("a").room(PART)

    with pytest.raises(BusyError, match="100 bytes wait for clients") as caught:
        await outgoing.flow("a").room(1)

    assert caught.value.retry_after_ms
    assert PART == outgoing.size_bytes


async def test_without_a_connection_there_is_no_share(outgoing: Outgoing) -> None:
    first, second = outgoing.flow(), outgoing.flow()
    await first.room(ROOM)

    waiting = asyncio.create_task(second.room(PART))
    await settled()
    assert not waiting.done()
    first.fit(ROOM - PART)
    await waiting


async def test_a_reader_asks_anew_with_nothing_in_hand(outgoing: Outgoing) -> None:
    flow = outgoing.flow("a")

    await flow.room(PART)
    await flow.room(PART)

    assert PART == outgoing.size_bytes
