"""The session, item by item: what holds, what is refused, and what a broken one leaves."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from sandglass.core import limits
from sandglass.core.offset import OFFSET_BYTES
from sandglass.core.record import Move, Record
from sandglass.telemetry import Counts
from sandglass.testing import Broker
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, Wire, batch, values_of, wire


@pytest.fixture
async def client() -> AsyncIterator[Wire]:
    """Of a node that waits for broken sessions for longer than any machine is busy."""
    async with Broker(session_grace_ms=60_000) as broker, wire(broker) as connected:
        yield connected


@pytest.fixture
async def hasty() -> AsyncIterator[Wire]:
    """Of a node that hardly waits for broken sessions."""
    async with Broker(session_grace_ms=300) as broker, wire(broker) as connected:
        yield connected


async def test_a_message_is_delivered_once_and_settled(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"one", b"two")
    session = await client.session()

    await session.subscribe("t")
    delivery = await session.delivery()
    reply = await session.ack(delivery)

    assert values_of(delivery) == [b"one", b"two"]
    assert not reply.HasField("error")
    status = await client.group("t")
    assert (status.acked_count, status.lag_count) == (2, 0)


async def test_a_scheduled_message_comes_at_its_time_and_not_before(client: Wire) -> None:
    await client.create("t")
    session = await client.session()
    await session.subscribe("t")

    later = pb.ProduceRequest(
        request_id=1, topic="t", batch=batch(b"later"), count=1, delay_ms=[300]
    )
    now = pb.ProduceRequest(request_id=2, topic="t", batch=batch(b"now"), count=1)
    await session.send(produces=[later, now])
    reply = await session.take(pb.ProduceReply, lambda reply: reply.request_id == 1)
    values: list[bytes] = []
    dues_ms: list[int] = []
    while len(values) < 2:  # both at once, if it takes the node so long
        delivery = await session.delivery()
        values += values_of(delivery)
        dues_ms += delivery.run_due_ms
    came_ms = time.time_ns() // 1_000_000

    assert values == [b"now", b"later"]
    assert dues_ms[-1] == reply.placed[0].run_due_ms[0]
    assert dues_ms[-1] <= came_ms


async def test_a_message_for_now_overtakes_one_that_was_scheduled_before_it(
    client: Wire,
) -> None:
    """The leased row, then a row for next year, then one for now, which sorts between them."""
    await client.create("t")
    session = await client.session()
    await session.subscribe("t")
    await client.produce("t", b"a")
    first = await session.delivery()
    await client.produce("t", b"next year", delay_ms=[365 * 86_400_000])

    await client.produce("t", b"b")
    second = await session.delivery()

    assert (values_of(first), values_of(second)) == ([b"a"], [b"b"])


async def test_a_second_ack_is_refused_as_lease_lost(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    first, second = await session.ack(delivery), await session.ack(delivery)

    assert not first.HasField("error")
    assert second.error.reason == "LEASE_LOST"


async def test_an_old_token_is_refused_once_the_message_was_given_out_again(
    client: Wire,
) -> None:
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t")
    old = await session.delivery()
    await session.outcome(old, pb.OUTCOME_NACK)
    new = await session.delivery()

    reply = await session.ack(old)

    assert reply.error.reason == "LEASE_LOST"
    assert new.attempt == 2
    assert not (await session.ack(new)).HasField("error")


async def test_places_settle_some_and_leave_the_rest(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"0", b"1", b"2", b"3")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    await session.outcome(delivery, pb.OUTCOME_ACK, places=[0, 1, 2, 2])
    await session.outcome(delivery, pb.OUTCOME_NACK)
    again = await session.delivery()

    assert values_of(again) == [b"1"]
    assert again.attempt == 2


@pytest.mark.parametrize(
    ("places", "field"),
    [([4, 1], "places"), ([0, 5], "places"), ([0], "places"), ([0, 0], "places")],
)
async def test_places_outside_the_delivery_are_refused(
    client: Wire, places: list[int], field: str
) -> None:
    await client.create("t")
    await client.produce("t", b"0", b"1", b"2", b"3")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    reply = await session.outcome(delivery, pb.OUTCOME_ACK, places=places)

    assert (reply.error.reason, reply.error.field) == ("INVALID", field)
    assert not (await session.ack(delivery)).HasField("error")


async def test_outcomes_one_by_one_share_a_record_and_have_an_answer_each(
    client: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[Record] = []
    applied = Counts.applied

    def note(counts: Counts, record: Record) -> None:
        if any(isinstance(each, Move) for each in record.operations):
            moved.append(record)
        applied(counts, record)

    monkeypatch.setattr(Counts, "applied", note)
    await client.create("t")
    await client.produce("t", *[b"x"] * 100)
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    await session.send(
        outcomes=[
            pb.Outcome(
                request_id=place + 1,
                subscription_id=1,
                token=delivery.token,
                kind=pb.OUTCOME_NACK,
                places=[place, 1],
                delay_ms=3_600_000,
            )
            for place in range(100)
        ]
    )
    replies = [await session.take(pb.OutcomeReply) for _ in range(100)]

    assert [reply.request_id for reply in replies] == [*range(1, 101)]
    assert not any(reply.HasField("error") for reply in replies)
    assert 1 == len(moved)
    assert (await client.group("t")).retry_count == 100


async def test_a_wrong_outcome_among_others_is_refused_alone(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"0", b"1", b"2")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    await session.send(
        outcomes=[
            pb.Outcome(
                request_id=number + 1,
                subscription_id=1,
                token=delivery.token,
                kind=pb.OUTCOME_ACK,
                places=places,
            )
            for number, places in enumerate([[0, 1], [0, 1], [2, 2], [2, 1]])
        ]
    )
    replies = [await session.take(pb.OutcomeReply) for _ in range(4)]

    errors = {reply.request_id: reply.error.reason for reply in replies}
    assert errors == {1: "", 2: "LEASE_LOST", 3: "INVALID", 4: ""}
    assert (await client.group("t")).acked_count == 2


async def test_a_nack_with_a_delay_waits_for_it(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"long", b"short")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    await session.outcome(delivery, pb.OUTCOME_NACK, places=[0, 1], delay_ms=3_600_000)
    status = await client.group("t")
    await session.outcome(delivery, pb.OUTCOME_NACK, places=[1, 1], delay_ms=200)
    again = await session.delivery()

    assert status.retry_count == 1
    assert (values_of(again), again.attempt) == ([b"short"], 2)


async def test_a_release_counts_no_attempt(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t")

    await session.outcome(await session.delivery(), pb.OUTCOME_RELEASE)

    assert (await session.delivery()).attempt == 1


async def test_after_max_deliveries_a_message_is_a_dead_letter_with_its_history(
    client: Wire,
) -> None:
    await client.create("t", settings={"max_deliveries": 2})
    placed = (await client.produce("t", b"fine", b"bad")).placed[0]
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()
    await session.outcome(delivery, pb.OUTCOME_ACK, places=[0, 1])
    await session.outcome(delivery, pb.OUTCOME_NACK)

    await session.outcome(await session.delivery(), pb.OUTCOME_NACK, reason="no such user")
    await session.subscribe("t", group="ops", channel="__death_letter", subscription_id=2)
    dead = await session.delivery()

    assert values_of(dead) == [b"bad"]
    assert (dead.dead_letter.group, dead.dead_letter.attempts) == ("g", 2)
    assert dead.dead_letter.reason == "no such user"
    original = dead.dead_letter.run_offset[0]
    assert len(original) == OFFSET_BYTES
    assert int.from_bytes(original[6:], "big") == placed.first_index + 1


async def test_a_lease_ends_after_ack_timeout(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t", ack_timeout_ms=150)
    delivery = await session.delivery()

    again = await session.delivery()
    late = await session.ack(delivery)

    assert again.attempt > delivery.attempt
    assert late.error.reason == "LEASE_LOST"


async def test_extend_says_anew_when_a_lease_ends(client: Wire) -> None:
    """Longer than `ack_timeout` at first, and then so short that it ends."""
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t", ack_timeout_ms=60_000)
    delivery = await session.delivery()

    ends_ms: list[int] = []
    for lease_ms in (3_600_000, 400):
        extend = pb.Extend(
            request_id=5,
            subscription_id=1,
            token=delivery.token,
            lease_ms=lease_ms,
            begun_count=1,
        )
        await session.send(extends=[extend])
        kept = await session.take(pb.ExtendReply)
        assert not kept.HasField("error")
        ends_ms.append(kept.lease_ends_ms)
    again = await session.delivery()

    assert ends_ms[0] - ends_ms[1] > 3_000_000
    assert again.attempt == 2


async def test_a_consumer_that_vanishes_gives_back_after_its_grace(hasty: Wire) -> None:
    client = hasty
    await client.create("t")
    await client.produce("t", b"begun", b"not begun")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()
    extend = pb.Extend(request_id=1, subscription_id=1, token=delivery.token, begun_count=1)
    await session.send(extends=[extend])
    await session.take(pb.ExtendReply)

    session.cut()
    other = await client.session()
    await other.subscribe("t")
    attempts = {}
    while len(attempts) < 2:
        again = await other.delivery()
        attempts |= dict.fromkeys(values_of(again), again.attempt)

    assert attempts == {b"begun": 2, b"not begun": 1}


async def test_a_consumer_that_comes_back_in_time_goes_on_with_its_leases(
    client: Wire,
) -> None:
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    session.cut()
    back = RawSession(client.channel)
    welcome = await back.hello(session.welcome.session_id)
    reply = await back.ack(delivery)
    await client.produce("t", b"y")
    following = await back.delivery()

    assert welcome.is_resumed
    assert [lease.token for lease in welcome.open_leases] == [delivery.token]
    assert not reply.HasField("error")
    assert values_of(following) == [b"y"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_leases_that_one_frame_cannot_list_follow_in_others(
    client: Wire, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(limits, "OPEN_LEASE_COUNT_MAX", 2)
    await client.create("t")
    session = await client.session()
    await session.subscribe("t")
    tokens: list[int] = []
    for _ in range(count):
        await client.produce("t", b"x")
        tokens.append((await session.delivery()).token)

    session.cut()
    back = RawSession(client.channel)
    welcome = await back.hello(session.welcome.session_id)
    await client.produce("t", b"y")
    following = await back.delivery()

    listed = [[lease.token for lease in welcome.open_leases]]
    listed += [[lease.token for lease in frame.open_leases] for frame in back.frames[1:]]
    assert count == welcome.open_lease_count
    assert tokens == sorted(token for part in listed for token in part)
    assert all(len(part) <= 2 for part in listed)
    assert -(-count // 2) == sum(map(bool, listed))
    assert values_of(following) == [b"y"]
    before = back.frames[: max(0, -(-count // 2) - 1)]
    assert not any(frame.deliveries for frame in before)


async def test_a_session_that_comes_back_too_late_is_a_new_one(hasty: Wire) -> None:
    client = hasty
    await client.create("t")
    session = await client.session()
    session.cut()
    welcome = session.welcome
    for _ in range(100):
        again = await client.session(session.welcome.session_id)
        welcome = again.welcome
        await again.send(is_goodbye=True)
        if not welcome.is_resumed:
            break
        await again.ended()

    assert not welcome.is_resumed
    assert welcome.session_id == session.welcome.session_id
    assert not welcome.open_leases


async def test_goodbye_gives_everything_back_at_once_uncounted(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t")
    await session.delivery()

    await session.send(is_goodbye=True)
    other = await client.session()
    await other.subscribe("t")

    assert (await other.delivery()).attempt == 1


async def test_credit_bounds_what_is_handed_out(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", *(b"%d" % number for number in range(10)))
    session = await client.session()
    await session.subscribe("t", credit_count=3)

    first = await session.delivery()
    status = await client.group("t")
    await session.send(credits=[pb.Credit(subscription_id=1, count=2, bytes=1000)])
    second = await session.delivery()

    assert (first.count, second.count) == (3, 2)
    assert status.leased_count == 3
    assert values_of(second) == [b"3", b"4"]


async def test_a_message_larger_than_the_credit_in_bytes_goes_alone(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"x" * 5000, b"y" * 5000)
    session = await client.session()

    await session.subscribe("t", credit_bytes=100)

    assert (await session.delivery()).count == 1


async def test_two_consumers_share_and_a_group_of_its_own_sees_all(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", *(b"%d" % number for number in range(10)))
    session = await client.session()
    for number in (1, 2):
        await session.subscribe(
            "t", subscription_id=number, consumer=f"c{number}", credit_count=5
        )
    await session.subscribe("t", subscription_id=3, group="other")

    counts = {1: 0, 2: 0, 3: 0}
    while counts != {1: 5, 2: 5, 3: 10}:
        delivery = await session.delivery()
        counts[delivery.subscription_id] += delivery.count


async def test_channels_do_not_leak_into_each_other(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"m")
    await client.produce("t", b"c", channel="chan1")
    session = await client.session()

    await session.subscribe("t", channel="chan1", is_drain=True)
    delivery = await session.delivery()
    await session.take(pb.SubscriptionEnded)

    assert values_of(delivery) == [b"c"]
    assert not session.has(pb.Delivery)


async def test_a_drain_ends_when_what_was_ready_is_handed_out(client: Wire) -> None:
    await client.create("t", partition_count=3)
    for number in range(30):
        await client.produce("t", b"%d" % number)
    await client.produce("t", b"later", delay_ms=[60_000])
    session = await client.session()

    await session.subscribe("t", is_drain=True)
    await session.take(pb.SubscriptionEnded)
    count = 0
    while session.has(pb.Delivery):
        count += (await session.delivery()).count

    assert count == 30


async def test_a_group_from_now_on_does_not_see_what_was_before(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"before")
    session = await client.session()
    await session.subscribe("t", start=pb.START_NOW)
    await session.take(pb.Subscribed)

    await client.produce("t", b"after")

    assert values_of(await session.delivery()) == [b"after"]


async def test_deleting_a_topic_ends_its_consumers_and_takes_its_messages(
    client: Wire,
) -> None:
    await client.create("t")
    await client.produce("t", b"x")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    await client.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name="t"))
    ended = await session.take(pb.SubscriptionEnded)
    late = await session.ack(delivery)
    await client.create("t")
    await session.subscribe("t", subscription_id=2, is_drain=True)
    await session.take(pb.SubscriptionEnded, lambda item: item.subscription_id == 2)

    assert ended.error.reason == "NOT_FOUND"
    assert late.error.reason == "NOT_FOUND"
    assert not session.has(pb.Delivery)


async def test_many_produces_of_one_session_are_answered_each_by_itself(client: Wire) -> None:
    await client.create("t")
    session = await client.session()
    good = pb.ProduceRequest(request_id=1, topic="t", batch=batch(b"x"), count=1)
    lying = pb.ProduceRequest(request_id=2, topic="t", batch=batch(b"x"), count=2)
    nowhere = pb.ProduceRequest(request_id=3, topic="nowhere", batch=batch(b"x"), count=1)

    await session.send(produces=[good, lying, nowhere])
    replies = {}
    while len(replies) < 3:
        reply = await session.take(pb.ProduceReply)
        replies[reply.request_id] = reply

    assert replies[1].placed[0].first_index == 1
    assert (replies[2].error.reason, replies[2].error.field) == ("INVALID", "count")
    assert replies[3].error.reason == "NOT_FOUND"


async def test_keys_choose_the_partition_also_through_a_session(client: Wire) -> None:
    topic = await client.create("t", partition_count=3)
    messages = [pb.Message(key=b"same", value=b"%d" % number) for number in range(4)]
    raw = pb.MessageBatch(messages=messages).SerializeToString()
    session = await client.session()

    await session.send(
        produces=[pb.ProduceRequest(request_id=9, topic="t", batch=raw, count=4)]
    )
    reply = await session.take(pb.ProduceReply)

    assert [placed.partition for placed in reply.placed] == [topic.partitions[0]]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"group": "a/b"}, "group"),
        ({"consumer": ""}, "consumer"),
        ({"channel": "_mine"}, "channel"),
        ({"credit_count": limits.CREDIT_COUNT_MAX + 1}, "credit_count"),
        ({"ack_timeout_ms": 1}, "ack_timeout_ms"),
        ({"group": "g" * 201}, "group"),
    ],
)
async def test_a_wrong_subscription_is_refused_by_field(
    client: Wire, fields: dict[str, Any], field: str
) -> None:
    await client.create("t")
    session = await client.session()

    await session.subscribe("t", **fields)
    reply = await session.take(pb.Subscribed)
    await session.subscribe("t")

    assert (reply.error.reason, reply.error.field) == ("INVALID", field)
    assert not (await session.take(pb.Subscribed)).HasField("error")


async def test_too_much_credit_ends_the_subscription_with_a_reason(client: Wire) -> None:
    await client.create("t")
    session = await client.session()
    await session.subscribe("t")
    await session.take(pb.Subscribed)

    await session.send(credits=[pb.Credit(subscription_id=1, count=limits.CREDIT_COUNT_MAX)])
    ended = await session.take(pb.SubscriptionEnded)

    assert ended.error.field == "credit_count"


async def test_a_session_begins_with_a_hello(client: Wire) -> None:
    call = client.broker.Session()
    await call.write(pb.ClientFrame(produces=[pb.ProduceRequest(topic="t")]))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "hello" in (caught.value.details() or "")


async def test_garbage_instead_of_a_frame_ends_that_session_alone(client: Wire) -> None:
    await client.create("t")
    other = await client.session()
    channel: Any = client.channel
    call = channel.stream_stream("/sandglass.v1.Broker/Session")()
    await call.write(b"\xff\xff\xff")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    await other.subscribe("t")

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not (await other.take(pb.Subscribed)).HasField("error")


async def test_a_client_that_cancels_in_the_middle_of_a_produce_changes_nothing(
    client: Wire,
) -> None:
    """All of it is there or none: what was taken is readable, and the next is answered."""
    await client.create("t")
    calls = [
        asyncio.ensure_future(client.produce("t", *([b"x" * 1000] * 100))) for _ in range(20)
    ]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)

    placed = (await client.produce("t", b"last")).placed[0]

    assert placed.first_index % 100 == 1


async def test_a_stopping_broker_tells_its_sessions() -> None:
    async with Broker() as broker, wire(broker) as client:
        await client.create("t")
        session = await client.session()
        await session.subscribe("t")
        await session.take(pb.Subscribed)

        await broker.stop()
        await session.ended()

        assert session.frames[-1].is_draining
        await broker.start()


async def test_what_was_acked_stays_acked_after_a_restart_and_the_rest_comes_again() -> None:
    async with Broker() as broker:
        async with wire(broker) as client:
            await client.create("t")
            await client.produce("t", b"a", b"b", b"c")
            session = await client.session()
            await session.subscribe("t")
            delivery = await session.delivery()
            await session.outcome(delivery, pb.OUTCOME_ACK, places=[1, 1])
        await broker.stop()
        await broker.start()
        async with wire(broker) as client:
            session = await client.session()
            await session.subscribe("t", is_drain=True)
            await session.take(pb.SubscriptionEnded)
            values: list[bytes] = []
            while session.has(pb.Delivery):
                values += values_of(await session.delivery())

    assert sorted(values) == [b"a", b"c"]
