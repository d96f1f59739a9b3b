"""The client and connections that break, nodes that are away, several addresses."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from sandglass import (
    AsyncClient,
    AsyncReceived,
    LeaseLostError,
    NotFoundError,
    UnavailableError,
)
from sandglass.testing.broker import Broker
from sandglass.testing.ports import free_ports
from tests.integration.client.proxy import Proxy


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    """It waits for broken sessions for longer than any machine is busy."""
    async with Broker(session_grace_ms=60_000) as broker:
        yield broker


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    async with Proxy(broker.address) as proxy:
        yield proxy


@pytest.fixture
def closed_address() -> Iterator[str]:
    """Where nobody listens, nor will: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


async def failures_of(client: AsyncClient) -> list[UnavailableError]:
    """Of every kind of call, of which none was sent."""
    found = await asyncio.gather(
        client.list_topics(),
        client.create_topic("t"),
        client.put("t", "k", "x"),
        client.produce("t", "x"),
        client.produce_many("t", ["x"]),
        anext(aiter(client.consume("t", group="g"))),
        anext(aiter(client.consume("t", group="g", drain=True))),
        return_exceptions=True,
    )
    errors = [each for each in found if isinstance(each, UnavailableError)]
    assert len(errors) == len(found)
    assert not any(each.is_result_unknown for each in errors)
    return errors


async def test_who_waits_for_nobody_hears_address_time_and_cause(closed_address: str) -> None:
    expected = f"no Sandglass node answered at {closed_address} within 3 s: connection refused"

    async with AsyncClient(closed_address, timeout=timedelta(seconds=3)) as client:
        errors = await failures_of(client)

    assert {expected} == {error.message for error in errors}


async def test_who_does_not_wait_hears_at_once_that_nobody_is_there(
    closed_address: str,
) -> None:
    """Each time: by what is said, nothing ran out."""
    addresses = f"{closed_address}, {closed_address}"
    expected = f"no Sandglass node answered at {addresses}: connection refused"

    async with AsyncClient(closed_address, closed_address) as client:
        errors = [*await failures_of(client), *await failures_of(client)]

    assert {expected} == {error.message for error in errors}


async def test_a_node_that_is_still_to_come_is_waited_for_by_who_says_so(
    broker: Broker,
) -> None:
    (port,) = free_ports(1)
    await broker.stop()
    async with AsyncClient(f"127.0.0.1:{port}", timeout=timedelta(seconds=60)) as client:
        made = asyncio.create_task(client.create_topic("t"))
        produced = asyncio.create_task(client.produce("u", "x"))
        async with asyncio.timeout(60):
            while "connection refused" not in client.open().waits_for:
                await asyncio.sleep(0.01)
            await broker.start(port=port)
            await made
            with pytest.raises(NotFoundError):
                await produced


async def test_a_node_that_was_there_is_waited_for(broker: Broker) -> None:
    (port,) = free_ports(1)
    await broker.stop()
    await broker.start(port=port)
    async with AsyncClient(broker.address) as client:
        await client.create_topic("t")
        await broker.stop()
        waiting = asyncio.create_task(client.produce("t", "x"))
        async with asyncio.timeout(60):
            while "connection refused" not in client.open().waits_for:
                await asyncio.sleep(0.01)
            await broker.start(port=port)
            await waiting


async def test_an_address_that_takes_connections_and_says_nothing_is_passed_over(
    broker: Broker,
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        first = f"127.0.0.1:{deaf.getsockname()[1]}"
        async with AsyncClient(first, broker.address, timeout=timedelta(seconds=6)) as client:
            await client.create_topic("t")
        async with AsyncClient(first, broker.address, timeout=timedelta(seconds=6)) as client:
            await client.produce("t", "x")


async def test_the_next_address_is_tried(broker: Broker, closed_address: str) -> None:
    async with AsyncClient(closed_address, broker.address) as client:
        await client.create_topic("t")
        await client.produce("t", "x")

        message = await anext(aiter(client.consume("t", group="g")))
        await message.ack()

    assert b"x" == message.value


async def test_a_session_that_comes_back_in_time_keeps_its_leases(
    broker: Broker, proxy: Proxy
) -> None:
    async with AsyncClient(broker.address) as direct, AsyncClient(proxy.address) as client:
        await direct.create_topic("t")
        await direct.produce_many("t", [str(each).encode() for each in range(300)])
        seen: list[AsyncReceived] = []

        async with asyncio.timeout(60):
            async for message in client.consume("t", group="g", credit=100):
                seen.append(message)
                if len(seen) in {10, 150}:
                    proxy.cut()
                await message.ack(wait=len(seen) == 11)
                if len(seen) == 300:
                    break
            await client.close()

        assert [str(each).encode() for each in range(300)] == [each.value for each in seen]
        assert {1} == {each.attempt for each in seen}
        assert proxy.count >= 2
        (status,) = await direct.list_groups("t", "g")
        assert (300, 0) == (status.acked_count, status.lag_count)


async def test_a_session_that_stays_away_loses_its_leases_and_goes_on() -> None:
    async with (
        Broker(session_grace_ms=100) as broker,
        Proxy(broker.address) as proxy,
        AsyncClient(broker.address) as direct,
        AsyncClient(proxy.address) as client,
    ):
        await direct.create_topic("t")
        await direct.produce("t", "x")
        messages = aiter(client.consume("t", group="g"))
        first = await anext(messages)
        # The answer to this tells that the node knows the message is begun on.
        await first.extend(timedelta(minutes=1))

        proxy.is_refusing = True
        proxy.cut()
        async with asyncio.timeout(60):
            while (await direct.list_groups("t", "g"))[0].leased_count:
                await asyncio.sleep(0.01)
            proxy.is_refusing = False
            again = await anext(messages)

        with pytest.raises(LeaseLostError):
            await first.ack()
        await again.ack(wait=True)
        assert (b"x", 2) == (again.value, again.attempt)


async def test_a_consumer_outlives_a_restart_of_its_node(broker: Broker) -> None:
    (port,) = free_ports(1)
    await broker.stop()
    await broker.start(port=port)
    async with AsyncClient(broker.address) as client:
        await client.create_topic("t")
        await client.produce("t", "before")
        messages = aiter(client.consume("t", group="g"))
        first = await anext(messages)
        await first.ack(wait=True)

        await broker.stop()
        await broker.start(port=port)
        async with asyncio.timeout(60):
            await client.produce("t", "after")
            second = await anext(messages)
            await second.ack(wait=True)

        assert [b"before", b"after"] == [first.value, second.value]


async def test_a_produce_that_was_on_its_way_has_an_unknown_result(
    broker: Broker, proxy: Proxy
) -> None:
    async with AsyncClient(proxy.address) as client:
        await client.create_topic("t")
        await client.produce("t", "connects")
        errors: list[BaseException] = []

        for each in range(50):
            task = asyncio.create_task(client.produce("t", str(each)))
            for _ in range(each % 5):
                await asyncio.sleep(0)
            proxy.cut()
            errors += [
                error
                for error in await asyncio.gather(task, return_exceptions=True)
                if isinstance(error, BaseException)
            ]
            if errors:
                break

        (error,) = errors
        assert isinstance(error, UnavailableError)
        assert error.is_result_unknown
        await client.produce("t", "goes on")


async def test_closing_says_when_outcomes_went_unanswered(broker: Broker, proxy: Proxy) -> None:
    async with AsyncClient(broker.address) as direct:
        await direct.create_topic("t")
        await direct.produce("t", "x")
    client = AsyncClient(proxy.address, timeout=timedelta(seconds=2))
    messages = aiter(client.consume("t", group="g"))
    message = await anext(messages)

    proxy.is_refusing = True
    proxy.cut()
    await message.ack()

    with pytest.raises(UnavailableError) as caught:
        await client.close()
    assert caught.value.is_result_unknown
