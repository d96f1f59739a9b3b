"""The asyncio client against a node in this process: topics, producing, consuming."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from sandglass import (
    AsyncClient,
    AsyncReceived,
    ConflictError,
    InvalidError,
    LeaseLostError,
    Message,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from sandglass.core import limits
from sandglass.testing.broker import Broker

MS = timedelta(milliseconds=1)


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


@pytest.fixture
async def client(broker: Broker) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(broker.address) as client:
        await client.create_topic("t")
        yield client


async def take(client: AsyncClient, count: int, *, group: str = "g") -> list[AsyncReceived]:
    """The next messages, acknowledged."""
    found: list[AsyncReceived] = []
    async with asyncio.timeout(60):
        async for message in client.consume("t", group=group):
            found.append(message)
            await message.ack()
            if len(found) == count:
                break
    return found


async def drain(client: AsyncClient, *, group: str = "g", channel: str = "") -> list[bytes]:
    """The values of all that is ready, acknowledged."""
    values: list[bytes] = []
    async with asyncio.timeout(60):
        async for message in client.consume("t", group=group, channel=channel, drain=True):
            values.append(message.value)
            await message.ack()
    return values


# --- topics ---------------------------------------------------------------------------------


async def test_topics_are_made_shown_listed_and_deleted(broker: Broker) -> None:
    async with AsyncClient(broker.address) as client:
        made = await client.create_topic(
            "b", partitions=3, retention=timedelta(hours=1), ack_timeout=300 * MS
        )
        await client.create_topic("a", max_deliveries=2)

        topics = await client.list_topics()
        shown = await client.show_topic("b")
        await client.delete_topic("b")

        assert ["a", "b"] == [topic.name for topic in topics]
        assert made == topics[1] == shown.topic
        assert 3 == len(shown.partitions) == len(made.partitions)
        assert (timedelta(hours=1), 300 * MS) == (made.retention, made.ack_timeout)
        assert 2 == topics[0].max_deliveries
        assert ["a"] == [topic.name for topic in await client.list_topics()]


async def test_topics_of_many_pages_are_listed_whole(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient(broker.address) as client, httpx.AsyncClient() as http:
        for name in "cab":
            await client.create_topic(name)
        monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 1)

        topics = await client.list_topics()
        answer = await http.get(f"http://{broker.http_address}/topics")

    assert ["a", "b", "c"] == [topic.name for topic in topics]
    assert ["a", "b", "c"] == [topic["name"] for topic in answer.json()["topics"]]


async def test_errors_of_calls_are_errors_of_sandglass(client: AsyncClient) -> None:
    with pytest.raises(ConflictError):
        await client.create_topic("t")
    with pytest.raises(NotFoundError):
        await client.show_topic("nobody")
    with pytest.raises(InvalidError):
        await client.create_topic("no name")
    with pytest.raises(InvalidError, match="partitions is 1025"):
        await client.create_topic("x", partitions=1025)
    with pytest.raises(InvalidError, match="retention"):
        await client.create_topic("x", retention=timedelta(0))


# --- producing ------------------------------------------------------------------------------


async def test_a_message_comes_back_as_it_was_produced(client: AsyncClient) -> None:
    receipt = await client.produce(
        "t", "grüße", key="k", clustering_key=b"c", headers={"a": b"1", "b": "2"}, id="id-1"
    )

    (message,) = await take(client, 1)

    assert "grüße".encode() == message.value
    assert (b"k", b"c", "id-1") == (message.key, message.clustering_key, message.id)
    assert {"a": b"1", "b": b"2"} == message.headers
    assert (receipt.offset, receipt.index, receipt.due_at) == (
        message.offset,
        message.index,
        message.due_at,
    )
    assert ("t", receipt.partition, "master", 1, None) == (
        message.topic,
        message.partition,
        message.channel,
        message.attempt,
        message.dead_letter,
    )
    assert message.produced_at <= message.due_at


async def test_callers_side_by_side_get_receipts_of_their_own(client: AsyncClient) -> None:
    receipts = await asyncio.gather(
        *(client.produce("t", str(each), key=str(each % 7)) for each in range(500))
    )

    values = await drain(client)

    assert set(range(1, 501)) == {receipt.index for receipt in receipts}
    by_index = sorted(range(500), key=lambda each: receipts[each].index)
    assert [str(each).encode() for each in by_index] == values


async def test_keys_spread_over_partitions_and_receipts_say_where(broker: Broker) -> None:
    async with AsyncClient(broker.address) as client:
        await client.create_topic("t", partitions=4)

        receipts = await asyncio.gather(
            *(client.produce("t", str(each), key=f"key-{each}") for each in range(40))
        )
        found: dict[bytes, tuple[str, int]] = {}
        async for message in client.consume("t", group="g", drain=True):
            found[message.value] = (message.partition, message.index)
            await message.ack()

        expected = {
            str(each).encode(): (receipt.partition, receipt.index)
            for each, receipt in enumerate(receipts)
        }
        assert 1 < len({receipt.partition for receipt in receipts})
        assert expected == found


async def test_delays_and_due_times_are_kept(client: AsyncClient) -> None:
    due_at = datetime(2999, 1, 1, tzinfo=UTC)

    later = await client.produce("t", "delay", delay=timedelta(hours=1))
    dated = await client.produce("t", "due", due_at=due_at)
    soon = await client.produce("t", "now", due_at=datetime(1980, 1, 1, tzinfo=UTC))

    assert due_at == dated.due_at
    assert timedelta(minutes=59) < later.due_at - soon.due_at < timedelta(minutes=61)
    assert [b"now"] == await drain(client)


async def test_a_delayed_message_comes_when_it_is_due(client: AsyncClient) -> None:
    second = Message("second", delay=300 * MS)
    await client.produce_many("t", [second, Message("first")])

    messages = await take(client, 2)

    assert [b"first", b"second"] == [message.value for message in messages]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("due_at", datetime(2030, 1, 1)),  # noqa: DTZ001 - that is the test
        ("delay", timedelta(seconds=-1)),
        ("delay", 5),
        ("delay", timedelta.max),
        ("key", 7),
        ("due_at", datetime.max.replace(tzinfo=UTC)),
        ("headers", [("a", "b")]),
    ],
)
async def test_wrong_arguments_are_refused_here(
    client: AsyncClient, field: str, wrong: object
) -> None:
    with pytest.raises(InvalidError) as caught:
        await client.produce("t", "x", **{field: wrong})  # pyright: ignore[reportArgumentType]

    assert field in caught.value.field


@pytest.mark.parametrize("wrong", [5, None, "one", b"one", Message("one")])
async def test_many_messages_must_be_several(client: AsyncClient, wrong: object) -> None:
    with pytest.raises(InvalidError, match=r"messages is .* give several"):
        await client.produce_many("t", wrong)  # pyright: ignore[reportArgumentType]


async def test_both_delay_and_due_time_are_refused(client: AsyncClient) -> None:
    with pytest.raises(InvalidError, match="give one"):
        await client.produce("t", "x", delay=MS, due_at=datetime(2030, 1, 1, tzinfo=UTC))


async def test_produce_to_what_is_not_there_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(NotFoundError):
        await client.produce("nobody", "x")
    with pytest.raises(NotFoundError):
        await client.produce("t", "x", partition="0" * 26)
    with pytest.raises(NotFoundError):
        await client.produce_many("nobody", ["x"])


async def test_many_messages_of_every_kind_arrive_in_order(client: AsyncClient) -> None:
    progress: list[int] = []
    source = [str(each).encode() for each in range(2500)]
    summary = await client.produce_many("t", source, on_progress=progress.append)

    async def more() -> AsyncIterator[str | Message]:
        for each in range(1500):
            yield f"a{each}"
        yield Message("last", key="k", headers={"h": "v"})
        yield Message("never", due_at=datetime(2999, 1, 1, tzinfo=UTC))

    second = await client.produce_many("t", more())
    nothing = await client.produce_many("t", [])

    assert (2500, 1502, 0) == (summary.count, second.count, nothing.count)
    assert 2500 == sum(summary.partitions.values()) == progress[-1]
    expected = source + [f"a{each}".encode() for each in range(1500)] + [b"last"]
    assert expected == await drain(client)


async def test_large_messages_go_through(client: AsyncClient) -> None:
    sizes = [1024 * 1024, 600_000, 10, 600_000, 1024 * 1024]

    await client.produce_many("t", [bytes(size) for size in sizes])

    assert sizes == [len(value) for value in await drain(client)]


# --- consuming ------------------------------------------------------------------------------


async def test_a_drain_hands_out_what_was_ready_and_ends(client: AsyncClient) -> None:
    await client.produce_many("t", [b"x"] * 3210)

    assert 3210 == len(await drain(client))
    assert [] == await drain(client)
    (status,) = await client.list_groups("t", "g")
    assert (3210, 0, 0) == (status.acked_count, status.leased_count, status.lag_count)


async def test_every_group_sees_every_message_and_channels_are_apart(
    client: AsyncClient,
) -> None:
    await client.produce("t", "a")
    await client.produce("t", "b", channel="other")

    assert [b"a"] == await drain(client, group="one")
    assert [b"a"] == await drain(client, group="two")
    assert [b"b"] == await drain(client, group="one", channel="other")


async def test_batches_hold_the_messages_of_a_delivery(client: AsyncClient) -> None:
    values = [str(each).encode() for each in range(2345)]
    await client.produce_many("t", values)
    found: list[bytes] = []
    indexes: list[int] = []

    async for batch in client.consume_batches("t", group="g", drain=True):
        found += batch.values
        indexes += [message.index for message in batch]
        assert len(batch) == len(batch.messages)
        await batch.ack()

    assert values == found
    assert list(range(1, 2346)) == indexes
    (status,) = await client.list_groups("t", "g")
    assert (2345, 0) == (status.acked_count, status.lag_count)


async def test_a_nacked_message_comes_again_with_its_attempt_counted(
    client: AsyncClient,
) -> None:
    await client.produce("t", "x")
    attempts: list[int] = []

    async with asyncio.timeout(60):
        async for message in client.consume("t", group="g"):
            attempts.append(message.attempt)
            if message.attempt < 3:
                await message.nack(delay=message.attempt * MS, reason="not yet")
            else:
                await message.ack(wait=True)
                break

    assert [1, 2, 3] == attempts


async def test_a_released_message_comes_again_uncounted(client: AsyncClient) -> None:
    await client.produce("t", "x")
    attempts: list[int] = []

    async with asyncio.timeout(60):
        async for message in client.consume("t", group="g"):
            attempts.append(message.attempt)
            await (message.release() if len(attempts) < 3 else message.ack())
            if len(attempts) == 3:
                break

    assert [1, 1, 1] == attempts


async def test_a_dead_letter_says_what_it_was(client: AsyncClient) -> None:
    receipts = [await client.produce("t", value) for value in ("a", "b", "c")]
    async for message in client.consume("t", group="g", drain=True):
        await message.dead("cannot be")

    letters: list[AsyncReceived] = []
    async for message in client.consume(
        "t", group="undertaker", channel="__death_letter", drain=True
    ):
        letters.append(message)
        await message.ack()

    assert [b"a", b"b", b"c"] == [letter.value for letter in letters]
    origins = [letter.dead_letter for letter in letters]
    assert [receipt.offset for receipt in receipts] == [each.offset for each in origins if each]
    assert [("g", "cannot be")] * 3 == [(each.group, each.reason) for each in origins if each]


async def test_a_lease_is_kept_while_its_message_is_in_hand(client: AsyncClient) -> None:
    """A message scheduled for after a lease tells that the time has passed."""
    await client.produce("t", "held")
    await client.produce("t", "clock", delay=1500 * MS)

    seen: list[bytes] = []
    async with asyncio.timeout(60):
        async for message in client.consume("t", group="g", ack_timeout=1000 * MS):
            seen.append(message.value)
            if message.value == b"held":
                held = message
                continue
            await held.ack(wait=True)
            await message.ack(wait=True)
            break

    assert [b"held", b"clock"] == seen


async def test_a_lease_that_is_not_kept_runs_out(client: AsyncClient) -> None:
    """A drain is over with the first delivery, so that the second has a lease that is kept."""
    await client.produce("t", "x")
    messages = aiter(
        client.consume("t", group="g", ack_timeout=100 * MS, auto_extend=False, drain=True)
    )

    async with asyncio.timeout(60):
        first = await anext(messages)
        second = await anext(aiter(client.consume("t", group="g")))
        with pytest.raises(LeaseLostError):
            await first.ack(wait=True)
        await second.ack(wait=True)

    assert (1, 2) == (first.attempt, second.attempt)


async def test_extending_by_hand_says_when_the_lease_ends(client: AsyncClient) -> None:
    await client.produce("t", "x")

    async for message in client.consume("t", group="g", drain=True):
        ends_at = await message.extend(timedelta(hours=1))
        await message.ack()

        left = ends_at - message.due_at
        assert timedelta(minutes=59) < left < timedelta(minutes=61)


async def test_what_is_settled_cannot_be_extended(client: AsyncClient) -> None:
    await client.produce_many("t", ["x", "y"])

    async for batch in client.consume_batches("t", group="g", drain=True):
        first, second = batch.messages
        await first.ack()
        with pytest.raises(ConflictError, match="acknowledged already"):
            await first.extend(timedelta(hours=1))
        await second.extend(timedelta(hours=1))
        await batch.extend(timedelta(hours=1))
        await batch.nack(delay=timedelta(hours=1))
        with pytest.raises(ConflictError, match="all 2 messages"):
            await batch.extend(timedelta(hours=1))


async def test_leaving_by_break_gives_back_what_was_not_begun(client: AsyncClient) -> None:
    await client.produce_many("t", [str(each).encode() for each in range(20)])

    async for message in client.consume("t", group="g"):
        await message.ack()
        if message.value == b"4":
            break

    rest = [message.value for message in await take(client, 15)]
    assert [str(each).encode() for each in range(5, 20)] == rest


async def test_a_message_in_hand_can_be_settled_after_leaving(client: AsyncClient) -> None:
    await client.produce_many("t", [b"1", b"2"])

    messages = aiter(client.consume("t", group="g"))
    message = await anext(messages)
    await messages.aclose()
    await message.ack(wait=True)

    (rest,) = await take(client, 1)
    assert b"2" == rest.value


async def test_leaving_in_full_flow_leaves_nothing_leased(
    broker: Broker, client: AsyncClient
) -> None:
    """What is on its way when the consumer leaves is given back, not left to its lease."""
    await client.produce_many("t", [b"x"] * 5000)
    count = 0

    async for message in client.consume("t", group="g"):
        await message.ack()
        count += 1
        if count == 3000:
            break

    assert 2000 == len(await take(client, 2000))
    await client.close()
    async with AsyncClient(broker.address) as other:
        (status,) = await other.list_groups("t", "g")
    assert (5000, 0) == (status.acked_count, status.leased_count)


async def test_leaving_by_an_error_gives_back_what_was_not_begun(client: AsyncClient) -> None:
    await client.produce_many("t", [b"1", b"2", b"3"])

    async def work() -> None:
        async for message in client.consume("t", group="g"):
            await message.ack()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work()

    messages = await take(client, 2)
    assert [(b"2", 1), (b"3", 1)] == [(each.value, each.attempt) for each in messages]


async def test_a_cancelled_consumer_gives_back_what_was_not_begun(client: AsyncClient) -> None:
    await client.produce_many("t", [b"1", b"2", b"3"])
    begun = asyncio.Event()

    async def work() -> None:
        async for message in client.consume("t", group="g"):
            await message.ack()
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [b"2", b"3"] == [each.value for each in await take(client, 2)]


async def test_consumers_of_a_group_share_and_none_is_handed_out_twice(
    broker: Broker, client: AsyncClient
) -> None:
    await client.produce_many("t", [str(each).encode() for each in range(2000)])
    found: list[bytes] = []

    async def work(client: AsyncClient) -> None:
        async for message in client.consume("t", group="g", credit=50, drain=True):
            found.append(message.value)
            await message.ack()

    async with AsyncClient(broker.address) as other, asyncio.timeout(60):
        await asyncio.gather(work(client), work(other))

    assert 2000 == len(found) == len(set(found))


async def test_credit_bounds_what_is_in_hand(client: AsyncClient) -> None:
    await client.produce_many("t", [b"x"] * 50)
    held: list[AsyncReceived] = []
    most = 0

    async with asyncio.timeout(60):
        async for message in client.consume("t", group="g", credit=5, drain=True):
            held.append(message)
            (status,) = await client.list_groups("t", "g")
            most = max(most, status.leased_count)
            if len(held) == 5:
                for each in held:
                    await each.ack()
                held.clear()

    assert 5 == most


async def test_closing_gives_back_what_is_in_hand(broker: Broker, client: AsyncClient) -> None:
    await client.produce("t", "x")
    async with AsyncClient(broker.address) as other:
        messages = aiter(other.consume("t", group="g"))
        held = await anext(messages)
        del messages

    (message,) = await take(client, 1)

    assert (1, 1) == (held.attempt, message.attempt)


async def test_closing_waits_for_what_was_acknowledged(
    broker: Broker, client: AsyncClient
) -> None:
    await client.produce_many("t", [b"x"] * 700)
    async with AsyncClient(broker.address) as other:
        count = itertools.count(1)
        async for message in other.consume("t", group="g"):
            await message.ack()
            if next(count) == 700:
                break

    (status,) = await client.list_groups("t", "g")

    assert (700, 0) == (status.acked_count, status.leased_count)


async def test_a_stopped_consumer_ends_and_what_is_in_hand_stays_leased(
    broker: Broker, client: AsyncClient
) -> None:
    await client.produce_many("t", [b"1", b"2", b"3"])
    consumer = client.consume("t", group="g", ack_timeout=1000 * MS)
    messages = aiter(consumer)
    held = await anext(messages)

    consumer.stop()
    rest = [message.value async for message in messages]
    others = [each.value for each in await take(client, 2)]
    await asyncio.sleep(1.5)  # more than a lease
    await held.ack(wait=True)

    assert ([], [b"2", b"3"]) == (rest, others)
    assert [] == [message async for message in consumer]
    (status,) = await client.list_groups("t", "g")
    assert 3 == status.acked_count


async def test_an_idle_consumer_is_stopped(client: AsyncClient) -> None:
    consumer = client.consume("t", group="g")
    task = asyncio.create_task(_values(consumer))
    async with asyncio.timeout(60):
        while not await client.list_groups("t", "g"):
            await asyncio.sleep(0.01)

        consumer.stop()

        assert [] == await task


async def _values(messages: AsyncIterable[AsyncReceived]) -> list[bytes]:
    return [message.value async for message in messages]


async def test_outcomes_may_come_from_another_thread(client: AsyncClient) -> None:
    await client.produce_many("t", [b"x"] * 100)

    async with asyncio.timeout(60):
        async for message in client.consume("t", group="g", drain=True):
            await asyncio.to_thread(message.ack)

    (status,) = await client.list_groups("t", "g")
    assert 100 == status.acked_count


async def test_futures_of_messages_resolve_when_they_are_durable(client: AsyncClient) -> None:
    futures = [await client.produce_nowait("t", str(each)) for each in range(100)]

    receipts = await asyncio.gather(*futures)

    assert list(range(1, 101)) == [receipt.index for receipt in receipts]
    assert [str(each).encode() for each in range(100)] == await drain(client)


async def test_closing_waits_for_futures(broker: Broker, client: AsyncClient) -> None:
    async with AsyncClient(broker.address) as other:
        future = await other.produce_nowait("t", "x")

    assert future.done()
    assert 1 == future.result().index


async def test_named_partitions_are_consumed_and_no_others(client: AsyncClient) -> None:
    topic = await client.create_topic("wide", partitions=3)
    first, second, third = topic.partitions
    for name in topic.partitions:
        await client.produce_many("wide", [name.encode()] * 10, partition=name)

    async def consumed(partitions: list[str] | None, group: str) -> Counter[bytes]:
        found = Counter[bytes]()
        messages = client.consume("wide", group=group, partitions=partitions, drain=True)
        async for message in messages:
            assert message.value == message.partition.encode()
            found[message.value] += 1
            await message.ack()
        return found

    assert {first.encode(): 10, third.encode(): 10} == await consumed([first, third], "g")
    assert {second.encode(): 10} == await consumed([second], "g")
    assert 30 == (await consumed(None, "other")).total()
    with pytest.raises(NotFoundError):
        await consumed(["nobody"], "g")


async def test_closing_ends_other_iterators(broker: Broker, client: AsyncClient) -> None:
    other = AsyncClient(broker.address)
    started = asyncio.Event()

    async def work() -> None:
        async for message in other.consume("t", group="g"):
            await message.ack()
            started.set()

    await client.produce("t", "x")
    task = asyncio.create_task(work())
    await started.wait()
    await other.close()

    with pytest.raises(UnavailableError, match="closed"):
        await task
    with pytest.raises(PreconditionError, match="closed"):
        await other.produce("t", "x")


async def test_wrong_subscriptions_are_refused(client: AsyncClient) -> None:
    with pytest.raises(InvalidError, match="credit is 0"):
        client.consume("t", group="g", credit=0)
    with pytest.raises(InvalidError, match="partitions is empty"):
        client.consume("t", group="g", partitions=[])
    with pytest.raises(InvalidError, match="start"):
        client.consume("t", group="g", start="then")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidError, match="ack_timeout"):
        client.consume("t", group="g", ack_timeout=timedelta(0))
    with pytest.raises(NotFoundError):
        await anext(aiter(client.consume("nobody", group="g")))
    with pytest.raises(InvalidError):
        await anext(aiter(client.consume("t", group="no name")))


async def test_a_group_may_begin_now(client: AsyncClient) -> None:
    await client.produce("t", "before")
    messages = aiter(client.consume("t", group="g", start="now"))
    first = asyncio.ensure_future(anext(messages))
    async with asyncio.timeout(60):
        while not await client.list_groups("t", "g"):
            await asyncio.sleep(0.01)
        await client.produce("t", "after")
        message = await first

    assert b"after" == message.value
    await message.ack()
