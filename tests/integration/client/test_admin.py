"""What operators do, through the client against a node in this process."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sandglass import (
    AsyncClient,
    Backoff,
    Client,
    ConflictError,
    InvalidError,
    NotFoundError,
    Taken,
)
from sandglass.testing.broker import Broker

S = timedelta(seconds=1)


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    async with Broker() as broker, AsyncClient(broker.address) as client:
        await client.create_topic("t", partitions=2)
        yield client


async def bury(client: AsyncClient, *values: bytes, group: str = "g") -> None:
    """Values that a group gives up."""
    await client.produce_many("t", values)
    async with asyncio.timeout(60):
        async for message in client.consume("t", group=group, drain=True):
            await message.dead("bad", wait=True)


async def drain(client: AsyncClient, group: str = "g") -> list[tuple[bytes, int]]:
    found: list[tuple[bytes, int]] = []
    async with asyncio.timeout(60):
        async for message in client.consume("t", group=group, drain=True):
            found.append((message.value, message.attempt))
            await message.ack()
    return sorted(found)


async def test_settings_of_a_topic_are_changed_one_by_one(client: AsyncClient) -> None:
    backoff = Backoff((S, 2 * S), factor=3, cap=60 * S, jitter=0.25)

    await client.admin.set_topic("t", backoff=backoff)
    topic = await client.admin.set_topic("t", max_deliveries=2, ack_timeout=S)

    assert (backoff, 2, S, timedelta(days=7)) == (
        topic.backoff,
        topic.max_deliveries,
        topic.ack_timeout,
        topic.retention,
    )
    assert topic == (await client.show_topic("t")).topic
    with pytest.raises(NotFoundError):
        await client.admin.set_topic("none", max_deliveries=2)


@pytest.mark.parametrize(
    ("backoff", "field"),
    [
        (Backoff(factor=11), "backoff.factor"),
        (Backoff(jitter=1.5), "backoff.jitter"),
        (Backoff(()), "backoff.delays"),
        ([-S], "backoff"),
    ],
)
async def test_a_wrong_backoff_is_refused_before_it_is_sent(
    client: AsyncClient, backoff: Backoff, field: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        await client.admin.set_topic("t", backoff=backoff)

    assert caught.value.field.startswith(field)


async def test_a_group_has_settings_of_its_own_and_takes_the_others_from_its_topic(
    client: AsyncClient,
) -> None:
    made = await client.admin.create_group("t", "g", max_deliveries=7, backoff=[S, 5 * S])
    changed = await client.admin.set_group("t", "g", ack_timeout=3 * S, unset=["backoff"])

    assert ({"max_deliveries", "backoff"}, 7) == (made.own, made.max_deliveries)
    assert (S, 5 * S) == made.backoff.delays
    assert ({"max_deliveries", "ack_timeout"}, 3 * S) == (changed.own, changed.ack_timeout)
    assert Backoff() == changed.backoff
    assert [changed] == await client.admin.groups("t")
    assert changed == await client.admin.group("t", "g")
    with pytest.raises(ConflictError):
        await client.admin.create_group("t", "g")
    with pytest.raises(NotFoundError):
        await client.admin.group("t", "other")


async def test_a_nack_without_a_delay_goes_by_the_backoff_and_one_with_it_does_not(
    client: AsyncClient,
) -> None:
    await client.admin.create_group("t", "g", backoff=timedelta(hours=1))
    await client.produce_many("t", [b"at once", b"later"])

    async for message in client.consume("t", group="g", drain=True):
        delay = timedelta(0) if message.value == b"at once" else None
        if message.attempt == 1:
            await message.nack(delay=delay, wait=True)
        else:
            await message.release(wait=True)
            break

    assert [(b"at once", 2)] == await drain(client)
    counts = [(part.acked_count, part.retry_count) for part in await client.list_groups("t")]
    assert (1, 1) == (sum(acked for acked, _ in counts), sum(retry for _, retry in counts))


async def test_a_group_starts_where_it_was_told_to(client: AsyncClient) -> None:
    await client.produce("t", b"old")
    await client.admin.create_group("t", "now", start="now")
    await client.admin.create_group("t", "past", start=datetime(2020, 1, 1, tzinfo=UTC))
    await client.produce("t", b"new")

    assert [(b"new", 1)] == await drain(client, "now")
    assert [(b"new", 1), (b"old", 1)] == await drain(client, "past")
    assert (await client.admin.group("t", "past")).start == datetime(2020, 1, 1, tzinfo=UTC)


async def test_a_seek_brings_everything_again(client: AsyncClient) -> None:
    receipt = await client.produce("t", b"a")
    await drain(client)

    await client.admin.seek_group("t", "g")
    again = await drain(client)
    await client.admin.seek_group("t", "g", "now")
    nothing = await drain(client)
    await client.admin.seek_group("t", "g", partition=receipt.partition, at=receipt.offset)

    assert ([(b"a", 1)], []) == (again, nothing)
    assert [(b"a", 1)] == await drain(client)


async def test_a_consumer_of_a_group_that_is_deleted_ends_with_an_error(
    client: AsyncClient,
) -> None:
    await client.produce("t", b"a")

    async def consume() -> None:
        async for _ in client.consume("t", group="g"):
            await client.admin.delete_group("t", "g")

    async with asyncio.timeout(60):
        with pytest.raises(NotFoundError, match="group 'g' of topic 't' was deleted"):
            await consume()
    assert [] == await client.admin.groups("t")
    with pytest.raises(NotFoundError):
        await client.admin.delete_group("t", "g")


async def test_dead_letters_are_listed_counted_redriven_and_purged(client: AsyncClient) -> None:
    await bury(client, b"1", b"2", b"3")

    page = await client.admin.list_dead_letters("t", page_size=2, with_messages=True)
    count = await client.admin.count_dead_letters("t")
    letters = [each async for each in client.admin.dead_letters("t", newest_first=True)]

    assert 2 == len(page.letters)
    assert page.next_page_token
    first = page.letters[0]
    assert first.letter.message is not None
    assert ("g", "master", "bad", 1) == (
        first.group,
        first.channel,
        first.reason,
        first.attempts,
    )
    assert (3, {("g", "master"): 3}) == (count.count, count.groups)
    assert 3 == len(letters)
    assert letters[0].letter.message is None

    at = (first.letter.partition, first.letter.offset)
    assert Taken(1, 0) == await client.admin.purge_dead_letters("t", places=[at])
    steps: list[int] = []
    taken = await client.admin.redrive_dead_letters("t", group="g", on_progress=steps.append)
    assert (Taken(2, 0), [2]) == (taken, steps)
    assert [1, 1] == [attempt for _, attempt in await drain(client)]
    assert 0 == (await client.admin.count_dead_letters("t")).count


async def test_a_redrive_takes_its_limit_in_steps(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandglass.client._async.admin.STEP_COUNT", 2)
    await bury(client, *(b"%d" % n for n in range(7)))

    first = await client.admin.redrive_dead_letters("t", limit=3)
    rest = await client.admin.redrive_dead_letters("t")

    assert (Taken(3, 0), Taken(4, 0)) == (first, rest)


async def test_what_is_pending_is_counted_and_listed(client: AsyncClient) -> None:
    due_at = datetime(2090, 1, 1, tzinfo=UTC)
    await client.produce("t", b"now")
    for hours in range(3):
        await client.produce("t", b"%d" % hours, due_at=due_at + timedelta(hours=hours))

    pending = await client.admin.count_pending("t")
    some = await client.admin.count_pending("t", due_to=due_at + timedelta(hours=1))
    page = await client.admin.list_pending("t", page_size=2, with_messages=True)
    rest = await client.admin.list_pending("t", page_token=page.next_page_token)

    assert (3, False, due_at) == (pending.count, pending.is_lower_bound, pending.next_due_at)
    assert 1 == some.count
    values = [each.message.value for each in page.messages if each.message is not None]
    assert [b"0", b"1"] == values
    assert [due_at + timedelta(hours=2)] == [each.due_at for each in rest.messages]


async def test_the_synchronous_client_does_the_same() -> None:
    def work(address: str) -> tuple[int, list[str], int]:
        with Client(address) as client:
            client.create_topic("t", backoff=S)
            client.admin.create_group("t", "g", max_deliveries=1)
            client.produce("t", b"a")
            for message in client.consume("t", group="g", drain=True):
                message.nack(reason="bad", wait=True)
            reasons = [letter.reason for letter in client.admin.dead_letters("t")]
            taken = client.admin.redrive_dead_letters("t")
            return client.admin.group("t", "g").max_deliveries, reasons, taken.count

    async with Broker() as broker, asyncio.timeout(60):
        assert (1, ["bad"], 1) == await asyncio.to_thread(work, broker.address)
