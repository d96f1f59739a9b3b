"""The synchronous client against a node in this process: from threads, and back to them."""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import TypeVar

import pytest

from sandglass import (
    AsyncClient,
    Client,
    ConflictError,
    InvalidError,
    LeaseLostError,
    Message,
    NotFoundError,
    PreconditionError,
    Promise,
    Receipt,
    Received,
    UnavailableError,
)
from sandglass.client._sync import gathering
from sandglass.client.batching import OpenBatch
from sandglass.client.events import Produce
from sandglass.testing.broker import Broker

MS = timedelta(milliseconds=1)
WAIT_S = 60

Result = TypeVar("Result")


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


async def run(broker: Broker, work: Callable[[Client], Result]) -> Result:
    """Does some work with a client, in a thread of its own; there is a topic `t`."""

    def begin() -> Result:
        with Client(broker.address) as client:
            with contextlib.suppress(ConflictError):
                client.create_topic("t")
            return work(client)

    return await asyncio.to_thread(begin)


def drain(client: Client, *, group: str = "g") -> list[bytes]:
    """The values of all that is ready, acknowledged."""
    values: list[bytes] = []
    for message in client.consume("t", group=group, drain=True):
        values.append(message.value)
        message.ack()
    return values


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Calls `work` with 0, 1, ..., in a thread each, and waits for all."""
    errors: list[BaseException] = []

    def begin(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert [] == errors


# --- the face ---------------------------------------------------------------------------------


def public(kind: type) -> dict[str, inspect.Signature]:
    """What users may call, but for what only the faces need."""
    names = [name for name in vars(kind) if not name.startswith("_")]
    functions = {name: getattr(kind, name) for name in names}
    return {
        name: inspect.signature(function)
        for name, function in functions.items()
        if callable(function) and name != "open"
    }


def test_both_clients_have_the_same_names_and_take_the_same_arguments() -> None:
    """What a new method of one of them is missing from shows here."""
    asynchronous, synchronous = public(AsyncClient), public(Client)

    assert asynchronous.keys() == synchronous.keys()
    assert inspect.signature(AsyncClient).parameters == inspect.signature(Client).parameters
    for name, signature in asynchronous.items():
        if name != "produce_many":  # an asynchronous source is for one of them only
            assert signature.parameters == synchronous[name].parameters, name
        assert list(signature.parameters) == list(synchronous[name].parameters), name
        assert getattr(Client, name).__doc__, name


async def test_topics_and_groups_are_those_of_the_asyncio_client(broker: Broker) -> None:
    def work(client: Client) -> None:
        made = client.create_topic("wide", partitions=3, retention=timedelta(hours=1))
        assert made == client.show_topic("wide").topic
        assert ["t", "wide"] == [topic.name for topic in client.list_topics()]
        client.delete_topic("wide")
        with pytest.raises(NotFoundError):
            client.show_topic("wide")
        assert [] == client.list_groups("t")

    await run(broker, work)


# --- producing --------------------------------------------------------------------------------


async def test_a_message_comes_back_as_it_was_produced(broker: Broker) -> None:
    def work(client: Client) -> None:
        receipt = client.produce("t", "x", key="k", headers={"a": b"1"}, id="id-1")
        message = next(iter(client.consume("t", group="g")))
        assert isinstance(message, Received)
        assert (b"x", b"k", "id-1") == (message.value, message.key, message.id)
        assert {"a": b"1"} == message.headers
        assert (receipt.offset, receipt.index) == (message.offset, message.index)
        message.ack(wait=True)
        (status,) = client.list_groups("t", "g")
        assert 1 == status.acked_count

    await run(broker, work)


async def test_threads_share_a_client_and_each_gets_receipts_of_its_own(broker: Broker) -> None:
    def work(client: Client) -> None:
        receipts: dict[bytes, Receipt] = {}

        def call(number: int) -> None:
            for each in range(50):
                value = b"%d-%d" % (number, each)
                receipts[value] = client.produce("t", value)

        in_threads(16, call)
        by_index = sorted(receipts, key=lambda value: receipts[value].index)
        assert list(range(1, 801)) == [receipts[value].index for value in by_index]
        assert by_index == drain(client)

    await run(broker, work)


async def test_promises_are_kept_in_the_order_of_the_calls(broker: Broker) -> None:
    def work(client: Client) -> None:
        called: list[int] = []
        promises = [client.produce_nowait("t", str(each)) for each in range(500)]
        promises[0].add_done_callback(lambda promise: called.append(promise.result().index))
        receipts = [promise.result() for promise in promises]
        promises[1].add_done_callback(lambda promise: called.append(promise.result().index))
        assert list(range(1, 501)) == [receipt.index for receipt in receipts]
        assert all(promise.done() and promise.exception() is None for promise in promises)
        assert [2] == called[-1:]
        assert [1, 2] == sorted(called)

    await run(broker, work)


async def test_a_callback_that_would_wait_for_itself_is_refused(broker: Broker) -> None:
    def work(client: Client) -> None:
        refused: list[str] = []
        is_over = threading.Event()

        def callback(_: Promise[Receipt]) -> None:
            for call in (lambda: client.produce("t", "y"), client.list_topics):
                with pytest.raises(PreconditionError) as caught:
                    call()
                refused.append(caught.value.message)
            is_over.set()

        with contextlib.suppress(InvalidError):
            client.produce_nowait("t", "x").add_done_callback(callback)
        # The callback runs here if the answer was there already: then nothing is refused.
        client.produce("t", "z")
        assert is_over.wait(WAIT_S) or not refused

    await run(broker, work)


async def test_closing_tells_of_promises_that_nobody_looked_at(broker: Broker) -> None:
    def work(_: Client) -> None:
        client = Client(broker.address)
        client.produce_nowait("nobody", "x")
        seen = client.produce_nowait("nobody", "y")
        with pytest.raises(NotFoundError):
            seen.result()
        with pytest.raises(NotFoundError) as caught:
            client.close()
        assert ["1 futures failed and nobody looked at them"] == caught.value.__notes__

    await run(broker, work)


async def test_many_messages_of_any_source_arrive_in_order(broker: Broker) -> None:
    def work(client: Client) -> None:
        progress: list[int] = []
        values = [b"%d" % each for each in range(2500)]
        summary = client.produce_many("t", values, on_progress=progress.append)
        assert 2500 == summary.count == sum(summary.partitions.values()) == progress[-1]
        assert sorted(progress) == progress
        client.produce_many("t", (Message(value) for value in values[:10]))
        assert [*values, *values[:10]] == drain(client)
        assert 0 == client.produce_many("t", []).count

    await run(broker, work)


async def test_the_first_error_ends_many_and_says_how_many_were_taken(broker: Broker) -> None:
    def work(client: Client) -> None:
        with pytest.raises(NotFoundError) as caught:
            client.produce_many("nobody", [b"x"] * 3000)
        assert ["0 messages of this call were produced before"] == caught.value.__notes__
        large = bytes(1024 * 1024 + 1)
        with pytest.raises(InvalidError, match="value is 1048577 bytes") as invalid:
            client.produce_many("t", [*[b"x"] * 2000, large])
        assert ["2000 messages of this call were produced before"] == invalid.value.__notes__
        with pytest.raises(InvalidError, match="give several"):
            client.produce_many("t", b"one")  # pyright: ignore[reportArgumentType] - that is the test

    await run(broker, work)


async def test_bad_input_is_refused_in_the_calling_thread(broker: Broker) -> None:
    def work(client: Client) -> None:
        for wrong in ({"delay": MS, "due_at": 5}, {"key": bytes(1025)}, {"channel": 5}):
            with pytest.raises(InvalidError):
                client.produce("t", "x", **wrong)  # pyright: ignore[reportArgumentType] - that is the test
        with pytest.raises(InvalidError):
            client.consume("t", group="g", credit=0)
        with pytest.raises(InvalidError):
            Client("no address/")

    await run(broker, work)


async def test_nobody_there_is_said_in_time() -> None:
    def work() -> None:
        with Client("127.0.0.1:1", timeout=300 * MS) as client:
            for call in (
                lambda: client.produce("t", "x"),
                lambda: client.produce_many("t", [b"x"]),
                lambda: next(iter(client.consume("t", group="g"))),
                client.list_topics,
            ):
                with pytest.raises(UnavailableError, match=r"127.0.0.1:1 within 0.3 s"):
                    call()

    await asyncio.to_thread(work)


# --- consuming --------------------------------------------------------------------------------


async def test_threads_consume_each_for_itself_and_share_a_group(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce_many("t", [str(each) for each in range(2000)])
        found: list[bytes] = []

        def consume(_: int) -> None:
            for message in client.consume("t", group="g", credit=20, drain=True):
                found.append(message.value)
                message.ack()

        in_threads(4, consume)
        assert 2000 == len(found) == len(set(found))

    await run(broker, work)


async def test_outcomes_do_what_they_say(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce_many("t", [b"ack", b"nack", b"release", b"dead"])
        for message in client.consume("t", group="g"):
            getattr(message, message.value.decode())()
            if message.value == b"dead":
                break
        again = {}
        for message in client.consume("t", group="g"):
            again[message.value] = message.attempt
            message.ack(wait=True)
            with pytest.raises(ConflictError):
                message.nack()
            if len(again) == 2:
                break
        assert {b"nack": 2, b"release": 1} == again
        letters = client.consume("t", group="h", channel="__death_letter", drain=True)
        assert [b"dead"] == [letter.value for letter in letters]

    await run(broker, work)


async def test_a_lease_that_ran_out_is_said(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce("t", "x")
        # A drain: it is over with the first delivery, and the second goes to the other.
        wanted = client.consume(
            "t", group="g", ack_timeout=100 * MS, auto_extend=False, drain=True
        )
        iterator = iter(wanted)
        held = next(iterator)
        with Client(broker.address) as other:
            again = next(iter(other.consume("t", group="g")))
            assert (1, 2) == (held.attempt, again.attempt)
            with pytest.raises(LeaseLostError):
                held.ack(wait=True)
            again.ack(wait=True)

    await run(broker, work)


async def test_a_lease_is_kept_while_a_handler_blocks_its_thread(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce("t", "x")
        for message in client.consume("t", group="g", ack_timeout=1500 * MS, drain=True):
            threading.Event().wait(2)  # more than a lease
            ends_at = message.extend(timedelta(minutes=1))
            assert ends_at > message.due_at
            message.ack(wait=True)

    await run(broker, work)


async def test_whole_deliveries_are_settled_at_once(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce_many("t", [b"x"] * 700)
        count = 0
        for batch in client.consume_batches("t", group="g", drain=True):
            assert [b"x"] * len(batch) == batch.values == [each.value for each in batch]
            count += len(batch)
            batch.ack()
        (status,) = client.list_groups("t", "g")
        assert 700 == count == status.acked_count

    await run(broker, work)


async def test_leaving_a_loop_gives_back_what_was_not_handed_out(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce_many("t", [b"1", b"2", b"3"])
        with client.consume("t", group="g") as messages:
            for message in messages:
                message.ack()
                break
        (status,) = client.list_groups("t", "g")
        assert 1 == status.acked_count
        assert [b"2", b"3"] == drain(client)

    await run(broker, work)


async def test_a_waiting_consumer_is_stopped_from_another_thread(broker: Broker) -> None:
    def work(client: Client) -> None:
        consumer = client.consume("t", group="g")
        found: list[bytes] = []
        is_there = threading.Event()

        def consume() -> None:
            for message in consumer:
                found.append(message.value)
                message.ack()
                is_there.set()

        thread = threading.Thread(target=consume)
        thread.start()
        client.produce("t", "x")
        assert is_there.wait(WAIT_S)
        consumer.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert ([b"x"], []) == (found, list(consumer))

    await run(broker, work)


async def test_named_partitions_are_consumed_and_no_others(broker: Broker) -> None:
    def work(client: Client) -> None:
        first, second = client.create_topic("wide", partitions=2).partitions
        for name in (first, second):
            client.produce_many("wide", [name] * 5, partition=name)
        wanted = client.consume("wide", group="g", partitions=[second], drain=True)
        assert [second.encode()] * 5 == [message.value for message in wanted]

    await run(broker, work)


# --- closing ----------------------------------------------------------------------------------


async def test_closing_waits_for_what_is_on_its_way(broker: Broker) -> None:
    def work(client: Client) -> None:
        with Client(broker.address) as other:
            promises = [other.produce_nowait("t", "x") for _ in range(100)]
        assert all(promise.done() for promise in promises)
        assert 100 == len(drain(client))

    await run(broker, work)


async def test_a_closed_client_says_so_and_may_be_closed_again(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce("t", "x")
        client.close()
        client.close()
        for call in (
            lambda: client.produce("t", "x"),
            lambda: client.produce_many("t", [b"x"]),
            lambda: client.consume("t", group="g"),
            client.list_topics,
        ):
            with pytest.raises(PreconditionError, match="the client is closed"):
                call()
        Client(broker.address).close()

    await run(broker, work)


async def test_closing_ends_those_who_wait_in_other_threads(broker: Broker) -> None:
    def work(client: Client) -> None:
        errors: list[UnavailableError] = []

        def consume() -> None:
            try:
                list(client.consume("t", group="g"))
            except UnavailableError as error:
                errors.append(error)

        thread = threading.Thread(target=consume)
        thread.start()
        while not client.list_groups("t", "g"):
            threading.Event().wait(0.01)
        client.close()
        thread.join(WAIT_S)
        assert not thread.is_alive()
        assert ["the client is closed"] == [error.message for error in errors]

    await run(broker, work)


async def test_a_client_that_is_forgotten_gives_back_what_it_held(broker: Broker) -> None:
    def work(client: Client) -> None:
        client.produce_many("t", [b"x"] * 3)
        other = Client(broker.address)
        iterator = iter(other.consume("t", group="g"))
        next(iterator)
        del other, iterator
        assert [b"x"] * 3 == drain_all(client, 3)

    await run(broker, work)


def drain_all(client: Client, count: int) -> list[bytes]:
    """The values of the next messages, acknowledged."""
    values: list[bytes] = []
    for message in client.consume("t", group="g"):
        values.append(message.value)
        message.ack()
        if len(values) == count:
            break
    return values


async def test_callers_that_are_answered_together_share_their_next_request(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the first to come goes alone, and the others with the next, each time."""
    monkeypatch.setattr(gathering, "WAIT_S", 2)
    caller_count, rounds = 8, 20
    counts: list[int] = []
    to_produce = OpenBatch.to_produce

    def spy(batch: OpenBatch) -> Produce:
        counts.append(len(batch.parts))
        return to_produce(batch)

    monkeypatch.setattr(OpenBatch, "to_produce", spy)

    def work(client: Client) -> None:
        def call() -> None:
            for _ in range(rounds):
                client.produce("t", b"x")

        callers = [threading.Thread(target=call) for _ in range(caller_count)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    await run(broker, work)

    assert caller_count * rounds == sum(counts)
    assert counts.count(caller_count) >= rounds - 5
