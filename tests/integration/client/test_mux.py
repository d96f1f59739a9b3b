"""Handlers by topic, in tasks and in threads: bounds, failures, and the end."""

import asyncio
import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from sandglass import (
    AsyncClient,
    AsyncMux,
    AsyncReceived,
    Client,
    InvalidError,
    Mux,
    PreconditionError,
    Received,
    Retry,
)
from sandglass.testing.broker import Broker

MS = timedelta(milliseconds=1)
WAIT_S = 60


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker, AsyncClient(broker.address) as client:
        for name in ("a", "b"):
            await client.create_topic(name, max_deliveries=3)
        yield broker


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(broker.address) as client:
        yield client


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_true():
            await asyncio.sleep(0.005)


async def status(client: AsyncClient, topic: str = "a") -> tuple[int, int, int]:
    """Acked, dead, and still in hand or to come."""
    (group,) = await client.list_groups(topic, "g")
    return group.acked_count, group.dead_count, group.lag_count


@contextlib.asynccontextmanager
async def running(mux: AsyncMux | Mux) -> AsyncIterator["asyncio.Future[None]"]:
    """Stops the mux at the end, and waits for it."""
    work = asyncio.to_thread(mux.run) if isinstance(mux, Mux) else mux.run()
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        mux.stop()
        async with asyncio.timeout(WAIT_S):
            await task


# --- asyncio ----------------------------------------------------------------------------------


async def test_each_topic_has_its_handler(client: AsyncClient) -> None:
    found: list[tuple[str, bytes]] = []
    mux = AsyncMux(client, group="g")

    @mux.on("a")
    async def on_a(message: AsyncReceived) -> None:
        found.append(("a", message.value))

    async def on_b(message: AsyncReceived) -> None:
        found.append(("b", message.value))

    mux.add("b", on_b)
    async with running(mux):
        await client.produce("a", "1")
        await client.produce("b", "2")
        await until(lambda: len(found) == 2)

    assert [("a", b"1"), ("b", b"2")] == sorted(found)
    assert [(1, 0, 0)] * 2 == [await status(client, topic) for topic in "ab"]


async def test_handlers_at_once_are_bounded_by_topic(client: AsyncClient) -> None:
    now, most = Counter[str](), Counter[str]()
    mux = AsyncMux(client, group="g", concurrency=2)

    async def handle(message: AsyncReceived) -> None:
        topic = message.topic
        now[topic] += 1
        most[topic] = max(most[topic], now[topic])
        await asyncio.sleep(0.01)
        now[topic] -= 1
        now["done"] += 1

    mux.add("a", handle)
    mux.add("b", handle, concurrency=5, credit=20)
    for topic in "ab":
        await client.produce_many(topic, [b"x"] * 30)
    async with running(mux):
        await until(lambda: now["done"] == 60)

    assert {"a": 2, "b": 5} == most


async def test_failures_come_again_or_die_as_the_policy_says(client: AsyncClient) -> None:
    attempts = Counter[bytes]()
    mux = AsyncMux(client, group="g", retry=Retry(MS, dead_on=[ValueError]))

    @mux.on("a")
    async def handle(message: AsyncReceived) -> None:
        attempts[message.value] += 1
        if message.value == b"dead":
            raise ValueError("no use")
        if message.value == b"fails" or (message.value == b"twice" and message.attempt < 3):
            raise ConnectionError("away")

    values = [b"good", b"dead", b"twice", b"fails"]
    await client.produce_many("a", values)
    async with running(mux):
        await until(lambda: attempts == {b"good": 1, b"dead": 1, b"twice": 3, b"fails": 3})

    assert (2, 2, 0) == await status(client)
    letters = client.consume("a", group="h", channel="__death_letter", drain=True)
    reasons = {letter.value: letter.dead_letter async for letter in letters}
    assert {b"dead": "ValueError: no use", b"fails": "ConnectionError: away"} == {
        value: letter and letter.reason for value, letter in reasons.items()
    }


async def test_a_handler_may_settle_by_itself(client: AsyncClient) -> None:
    done = asyncio.Event()
    mux = AsyncMux(client, group="g")

    @mux.on("a")
    async def handle(message: AsyncReceived) -> None:
        await message.dead("mine", wait=True)
        done.set()
        raise ValueError("too late to matter")

    await client.produce("a", "x")
    async with running(mux):
        await done.wait()

    assert (0, 1, 0) == await status(client)


async def test_handlers_finish_when_the_mux_stops_and_the_rest_is_given_back(
    client: AsyncClient,
) -> None:
    """Longer than the lease, which is kept meanwhile."""
    begun: list[bytes] = []
    mux = AsyncMux(client, group="g", concurrency=2)

    @mux.on("a", credit=10, ack_timeout=1000 * MS)
    async def handle(message: AsyncReceived) -> None:
        begun.append(message.value)
        await asyncio.sleep(1.5)

    await client.produce_many("a", [str(each) for each in range(10)])
    async with running(mux) as task:
        await until(lambda: len(begun) == 2)
        mux.stop()
        await task

    assert [b"0", b"1"] == begun
    assert (2, 0, 8) == await status(client)
    others = client.consume("a", group="g", drain=True)
    assert [1] * 8 == [message.attempt async for message in others]


async def test_handlers_that_take_too_long_are_cut_off_and_give_back(
    client: AsyncClient,
) -> None:
    begun, cut = asyncio.Event(), asyncio.Event()
    mux = AsyncMux(client, group="g", drain=timedelta(0))

    @mux.on("a")
    async def handle(_: AsyncReceived) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()

    await client.produce("a", "x")
    async with running(mux):
        await begun.wait()

    assert cut.is_set()
    (message,) = [each async for each in client.consume("a", group="g", drain=True)]
    assert 1 == message.attempt


async def test_a_topic_that_isnt_there_yet_is_tried_again(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandglass.client.line.PAUSE_S_MIN", 0.01)
    found = asyncio.Event()
    mux = AsyncMux(client, group="g")

    async def handle(_: AsyncReceived) -> None:
        found.set()

    mux.add("later", handle)
    mux.add("a", handle)
    async with running(mux):
        await client.produce("a", "x")
        await found.wait()  # the other topic has its messages meanwhile
        found.clear()
        await client.create_topic("later")
        await client.produce("later", "x")
        async with asyncio.timeout(WAIT_S):
            await found.wait()


async def test_cancelling_the_mux_finishes_first(client: AsyncClient) -> None:
    begun = asyncio.Event()
    mux = AsyncMux(client, group="g")

    @mux.on("a")
    async def handle(_: AsyncReceived) -> None:
        begun.set()
        await asyncio.sleep(0.05)

    await client.produce("a", "x")
    task = asyncio.create_task(mux.run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (1, 0, 0) == await status(client)


async def test_a_signal_stops_the_mux(client: AsyncClient) -> None:
    mux = AsyncMux(client, group="g")
    task = asyncio.create_task(mux.run(signals=[signal.SIGUSR1]))
    await asyncio.sleep(0)

    os.kill(os.getpid(), signal.SIGUSR1)

    async with asyncio.timeout(WAIT_S):
        await task


async def test_what_cannot_work_is_refused_when_it_is_added(
    broker: Broker, client: AsyncClient
) -> None:
    async def handle(_: AsyncReceived) -> None: ...

    def plain(_: Any) -> None: ...

    mux = AsyncMux(client, group="g")
    for wrong in ({"concurrency": 0}, {"concurrency": 1001}, {"credit": 0}, {"start": "x"}):
        with pytest.raises(InvalidError):
            mux.add("a", handle, **wrong)  # pyright: ignore[reportArgumentType] - that is the test
    with pytest.raises(InvalidError, match="Mux"):
        mux.add("a", plain)  # pyright: ignore[reportArgumentType] - that is the test
    with (
        Client(broker.address) as synchronous,
        pytest.raises(InvalidError, match="AsyncMux"),
    ):
        Mux(synchronous, group="g").add("a", handle)  # pyright: ignore[reportArgumentType] - that is the test
    async with running(mux):
        await asyncio.sleep(0)
        with pytest.raises(PreconditionError, match="running"):
            mux.add("a", handle)
        with pytest.raises(PreconditionError, match="running"):
            await mux.run()


# --- threads ----------------------------------------------------------------------------------


async def test_threads_handle_each_topic_within_its_bounds(
    broker: Broker, client: AsyncClient
) -> None:
    bounds = {"a": 2, "b": 5}
    lock = threading.Lock()
    now, most, done = Counter[str](), Counter[str](), Counter[str]()
    are_all_at_work = {topic: threading.Event() for topic in bounds}

    def handle(message: Received) -> None:
        with lock:
            now[message.topic] += 1
            most[message.topic] = max(most[message.topic], now[message.topic])
            if now[message.topic] == bounds[message.topic]:
                are_all_at_work[message.topic].set()
        assert are_all_at_work[message.topic].wait(WAIT_S)
        threading.Event().wait(0.01)  # and would there be one more?
        with lock:
            now[message.topic] -= 1
            done[message.topic] += 1

    for topic in "ab":
        await client.produce_many(topic, [b"x"] * 30)
    with Client(broker.address) as synchronous:
        mux = Mux(synchronous, group="g", concurrency=bounds["a"])
        mux.on("a")(handle)
        mux.add("b", handle, concurrency=bounds["b"], credit=20)
        async with running(mux):
            await until(lambda: done.total() == 60)

    assert {"a": 30, "b": 30} == done
    assert bounds == most
    assert [(30, 0, 0)] * 2 == [await status(client, topic) for topic in "ab"]


async def test_threads_fail_alone(broker: Broker, client: AsyncClient) -> None:
    attempts = Counter[bytes]()

    def handle(message: Received) -> None:
        attempts[message.value] += 1
        if message.value == b"dead":
            raise ValueError("no use")
        if message.value == b"twice" and message.attempt == 1:
            raise ConnectionError("away")

    await client.produce_many("a", [b"dead", b"twice", b"good"])
    with Client(broker.address) as synchronous:
        mux = Mux(synchronous, group="g", retry=Retry(MS, dead_on=[ValueError]))
        mux.add("a", handle)
        async with running(mux):
            await until(lambda: attempts == {b"dead": 1, b"twice": 2, b"good": 1})

    assert (2, 1, 0) == await status(client)


async def test_threads_finish_when_the_mux_stops_and_the_rest_is_given_back(
    broker: Broker, client: AsyncClient
) -> None:
    begun: list[bytes] = []
    may_end = threading.Event()

    def handle(message: Received) -> None:
        begun.append(message.value)
        assert may_end.wait(WAIT_S)

    await client.produce_many("a", [str(each) for each in range(10)])
    with Client(broker.address) as synchronous:
        mux = Mux(synchronous, group="g", concurrency=2)
        mux.add("a", handle, credit=10, ack_timeout=1000 * MS)
        async with running(mux) as task:
            await until(lambda: len(begun) == 2)
            mux.stop()
            await asyncio.sleep(1.5)  # more than a lease
            may_end.set()
            await task
        assert (2, 0, 8) == await status(client)

    others = client.consume("a", group="g", drain=True)
    assert [1] * 8 == [message.attempt async for message in others]


async def test_messages_of_threads_that_take_too_long_are_given_back(
    broker: Broker, client: AsyncClient
) -> None:
    begun, end = threading.Event(), threading.Event()

    def handle(_: Received) -> None:
        begun.set()
        end.wait(WAIT_S)

    await client.produce("a", "x")
    with Client(broker.address) as synchronous:
        mux = Mux(synchronous, group="g", drain=timedelta(0))
        mux.add("a", handle)
        async with running(mux):
            await until(begun.is_set)
        (message,) = [each async for each in client.consume("a", group="g", drain=True)]
        end.set()

    assert 1 == message.attempt


async def test_a_mux_may_run_again(broker: Broker, client: AsyncClient) -> None:
    found: list[bytes] = []
    with Client(broker.address) as synchronous:
        mux = Mux(synchronous, group="g")
        mux.add("a", lambda message: found.append(message.value))
        for number in (1, 2):
            await client.produce("a", str(number))
            async with running(mux):
                await until(lambda number=number: len(found) == number)

    assert [b"1", b"2"] == found
