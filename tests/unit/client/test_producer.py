"""The producer, with its answers given by hand: repeats, shared refusals, bounds."""

import asyncio
from datetime import timedelta

import pytest

from sandglass.client import room
from sandglass.client._async.connection import Connection, endpoint_of, steady_ms
from sandglass.client._async.producer import Producer
from sandglass.client.entry import Entry
from sandglass.client.events import Event, Expired, Produced
from sandglass.client.message import Message, Receipt
from sandglass.errors import BusyError, InvalidError, UnavailableError
from sandglass.wire.v1 import broker_pb2 as pb

ROUTE = ("t", "", "")


class Desk:
    """A producer whose connection never connects; its requests are taken and answered here."""

    def __init__(self, *, timeout_ms: int = 10_000) -> None:
        timeout = timedelta(milliseconds=timeout_ms)
        endpoint = endpoint_of(("nowhere:1",), Entry(None, None), timeout)
        self.connection = Connection(
            endpoint,
            client_name="test",
            on_event=self.on_event,
            before_frame=lambda: None,
            after_turn=lambda: None,
        )
        self.producer = Producer(self.connection, endpoint, wall_ms=lambda: 1_000)
        self.connection.session.received(
            pb.ServerFrame(welcome=pb.Welcome(session_id="s", heartbeat_ms=1000)), steady_ms()
        )

    def on_event(self, event: Event) -> None:
        if isinstance(event, Produced):
            self.producer.on_produced(event)
        elif isinstance(event, Expired):
            self.producer.on_expired(event)

    def start(self, value: bytes = b"v") -> asyncio.Task[Receipt]:
        message = Message(value)

        async def work() -> Receipt:
            return await (await self.producer.produce_nowait(message, ROUTE))

        return asyncio.create_task(work())

    async def requests(self) -> list[pb.ProduceRequest]:
        """What would be sent now."""
        for _ in range(5):
            await asyncio.sleep(0)
        self.producer.before_frame()
        raw = self.connection.session.next_frame(steady_ms())
        return list(pb.ClientFrame.FromString(raw or b"").produces)

    def answer(self, request: pb.ProduceRequest, *, error: pb.Error | None = None) -> None:
        """All went to partition `p`, due at 5000, from index 1."""
        placed = pb.Placed(
            partition="p", first_index=1, run_due_ms=[5000], run_count=[request.count]
        )
        reply = pb.ProduceReply(request_id=request.request_id, placed=[placed])
        if error is not None:
            reply = pb.ProduceReply(request_id=request.request_id, error=error)
        frame = pb.ServerFrame(produces=[reply])
        for event in self.connection.session.received(frame, steady_ms()):
            self.on_event(event)


async def test_callers_that_share_a_request_get_receipts_of_their_own() -> None:
    desk = Desk()
    tasks = [desk.start() for _ in range(3)]

    (request,) = await desk.requests()
    desk.answer(request)
    receipts = await asyncio.gather(*tasks)

    assert 3 == request.count
    assert [1, 2, 3] == [each.index for each in receipts]
    assert "000000001388" + "0000000000000003" == receipts[2].offset


async def test_receipts_of_several_partitions_find_their_callers() -> None:
    desk = Desk()
    tasks = [desk.start() for _ in range(4)]
    (request,) = await desk.requests()

    places = {"a": [1, 3], "b": [0, 2]}
    frame = pb.ServerFrame(
        produces=[
            pb.ProduceReply(
                request_id=request.request_id,
                placed=[
                    pb.Placed(
                        partition=name,
                        first_index=10,
                        run_due_ms=[5000, 6000],
                        run_count=[1, 1],
                        request_places=places[name],
                    )
                    for name in places
                ],
            )
        ]
    )
    for event in desk.connection.session.received(frame, steady_ms()):
        desk.on_event(event)
    receipts = await asyncio.gather(*tasks)

    assert [("b", 10, 5), ("a", 10, 5), ("b", 11, 6), ("a", 11, 6)] == [
        (each.partition, each.index, each.due_at.second) for each in receipts
    ]


@pytest.mark.parametrize("reason", ["BUSY", "NOT_LEADER", "UNAVAILABLE"])
async def test_a_node_that_has_written_nothing_is_asked_again(reason: str) -> None:
    desk = Desk()
    task = desk.start()
    (request,) = await desk.requests()

    refusal = pb.Error(code=14, reason=reason, message="later", retry_after_ms=1)
    desk.answer(request, error=refusal)
    async with asyncio.timeout(60):
        while not (again := await desk.requests()):
            await asyncio.sleep(0.001)
    desk.answer(again[0])

    assert 1 == (await task).index


async def test_what_may_have_been_written_is_not_sent_again() -> None:
    desk = Desk()
    task = desk.start()
    (request,) = await desk.requests()

    broke = pb.Error(code=14, reason="UNAVAILABLE", message="broke", is_result_unknown=True)
    desk.answer(request, error=broke)

    with pytest.raises(UnavailableError, match="broke"):
        await task
    assert await desk.requests() == []


async def test_a_node_that_stays_busy_for_too_long_is_an_error() -> None:
    desk = Desk(timeout_ms=1000)
    task = desk.start()
    (request,) = await desk.requests()

    busy = pb.Error(code=8, reason="BUSY", message="full", retry_after_ms=2000)
    desk.answer(request, error=busy)

    with pytest.raises(BusyError, match="full"):
        await task


async def test_a_refusal_of_a_shared_request_is_found_out_one_by_one() -> None:
    desk = Desk()
    good, bad = desk.start(b"good"), desk.start(b"bad")
    (shared,) = await desk.requests()
    invalid = pb.Error(code=3, reason="INVALID", message="no", field="messages[0]")

    desk.answer(shared, error=invalid)
    first, second = await desk.requests()
    desk.answer(first)
    desk.answer(second, error=invalid)

    assert 1 == (await good).index
    with pytest.raises(InvalidError):
        await bad


async def test_nobody_answering_is_said_with_addresses_and_time() -> None:
    desk = Desk(timeout_ms=50)
    desk.connection.cause = "connection refused"
    task = desk.start()
    await asyncio.sleep(0)
    desk.producer.before_frame()

    for event in desk.connection.session.tick(steady_ms() + 51):
        desk.on_event(event)

    expected = "no Sandglass node answered at nowhere:1 within 0.05 s: connection refused"
    with pytest.raises(UnavailableError, match=expected) as caught:
        await task
    assert not caught.value.is_result_unknown


async def test_a_request_that_was_sent_and_not_answered_has_an_unknown_result() -> None:
    desk = Desk(timeout_ms=50)
    task = desk.start()
    await desk.requests()

    for event in desk.connection.session.tick(steady_ms() + 51):
        desk.on_event(event)

    with pytest.raises(UnavailableError) as caught:
        await task
    assert caught.value.is_result_unknown


async def test_too_much_unanswered_makes_callers_wait_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "UNANSWERED_COUNT_MAX", 2)
    desk = Desk()
    tasks = [desk.start(str(each).encode()) for each in range(5)]
    sent: list[list[bytes]] = []

    async with asyncio.timeout(60):
        while len(tasks) > sum(map(len, sent)):
            for request in await desk.requests():
                batch = pb.MessageBatch.FromString(request.batch)
                sent.append([each.value for each in batch.messages])
                desk.answer(request)
    await asyncio.gather(*tasks)

    assert [b"0", b"1"] == sent[0]
    assert [b"0", b"1", b"2", b"3", b"4"] == [value for values in sent for value in values]
    assert all(len(values) <= 2 for values in sent)


async def test_who_waits_for_room_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "UNANSWERED_COUNT_MAX", 1)
    desk = Desk(timeout_ms=50)
    first = desk.start()
    await desk.requests()

    with pytest.raises(UnavailableError, match="for room"):
        await desk.start()
    first.cancel()


async def test_a_caller_that_is_cancelled_takes_nobody_along() -> None:
    desk = Desk()
    stays, goes = desk.start(), desk.start()
    (request,) = await desk.requests()

    goes.cancel()
    desk.answer(request)

    assert 1 == (await stays).index
    with pytest.raises(asyncio.CancelledError):
        await goes


async def test_many_messages_are_cut_by_count_bytes_and_kind_of_time() -> None:
    desk = Desk()
    source: list[bytes | Message] = [b"x"] * 1001
    source += [bytes(300_000)] * 3
    source += [Message(delay=timedelta(seconds=1)), b"now"]
    progress: list[int] = []
    work = desk.producer.produce_many(source, ROUTE, progress.append)
    task = asyncio.create_task(work)
    requests: list[pb.ProduceRequest] = []

    async with asyncio.timeout(60):
        while not task.done():
            for request in await desk.requests():
                requests.append(request)
                desk.answer(request)
    summary = await task

    assert (1006, {"p": 1006}) == (summary.count, summary.partitions)
    assert [1000, 2, 1, 3] == [request.count for request in requests]
    assert [[], [], [], [0, 1000, 0]] == [list(request.delay_ms) for request in requests]
    assert 1006 == progress[-1]


async def test_many_messages_stop_at_the_first_error_which_says_how_many_were_taken() -> None:
    desk = Desk()
    work = desk.producer.produce_many([b"x"] * 3000, ROUTE, None)
    task = asyncio.create_task(work)
    answered = 0

    async with asyncio.timeout(60):
        while not task.done():
            for request in await desk.requests():
                error = pb.Error(code=5, reason="NOT_FOUND", message="gone")
                desk.answer(request, error=error if answered == 1 else None)
                answered += 1

    failure = task.exception()
    assert failure is not None
    (note,) = failure.__notes__
    assert note.startswith(("1000 messages", "2000 messages"))


@pytest.mark.parametrize("source", ["text", b"bytes"])
async def test_one_message_where_several_are_asked_for_is_refused(source: str | bytes) -> None:
    desk = Desk()

    with pytest.raises(InvalidError, match="give several"):
        await desk.producer.produce_many(
            source,  # pyright: ignore[reportArgumentType] - that is the test
            ROUTE,
            None,
        )
