"""Consuming, settling and reading by single calls, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from sandglass.broker.node_loop import NodeLoop
from sandglass.core import limits
from sandglass.testing import Broker
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import Wire, values_of, wire

CODE = grpc.StatusCode
WAIT_S = 60


@pytest.fixture
async def node() -> AsyncIterator[Broker]:
    async with Broker() as broker:
        yield broker


@pytest.fixture
async def client(node: Broker) -> AsyncIterator[Wire]:
    async with wire(node) as connected:
        yield connected


async def consume(client: Wire, topic: str = "t", **fields: Any) -> list[pb.Delivery]:
    request = {"topic": topic, "group": "g", "consumer": "c", **fields}
    return list((await client.broker.Consume(pb.ConsumeRequest(**request))).deliveries)


async def settle(client: Wire, *outcomes: pb.Outcome, **fields: Any) -> list[pb.OutcomeReply]:
    place = {"topic": "t", "group": "g", **fields}
    reply = await client.broker.Settle(pb.SettleRequest(**place, outcomes=outcomes))
    return list(reply.outcomes)


async def extend(client: Wire, *extends: pb.Extend, **fields: Any) -> list[pb.ExtendReply]:
    place = {"topic": "t", "group": "g", **fields}
    reply = await client.broker.ExtendLeases(pb.ExtendLeasesRequest(**place, extends=extends))
    return list(reply.extends)


async def fetch(client: Wire, **fields: Any) -> pb.FetchReply:
    topic = await client.admin.ShowTopic(pb_show("t"))
    place = {"topic": "t", "partition": topic.topic.partitions[0], **fields}
    return await client.broker.Fetch(pb.FetchRequest(**place))


def pb_show(name: str) -> Any:
    return admin_pb2.ShowTopicRequest(name=name)


def outcome(delivery: pb.Delivery, kind: int = pb.OUTCOME_ACK, **fields: Any) -> pb.Outcome:
    return pb.Outcome(
        partition_number=delivery.partition_number,
        token=delivery.token,
        kind=kind,  # pyright: ignore[reportArgumentType]
        **fields,
    )


def values(deliveries: list[pb.Delivery]) -> list[bytes]:
    return [value for delivery in deliveries for value in values_of(delivery)]


def fetched(reply: pb.FetchReply) -> list[bytes]:
    return [
        message.value
        for part in reply.fetched
        for message in pb.MessageBatch.FromString(part.batch).messages
    ]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, list[AnyMessage]]:
    """Code, text and details of the status that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    metadata: Any = caught.value.trailing_metadata()
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    return caught.value.code(), caught.value.details() or "", list(status.details)


# --- consume ----------------------------------------------------------------------------------


async def test_a_call_takes_what_is_ready_and_the_next_has_nothing(client: Wire) -> None:
    await client.create("t")
    placed = (await client.produce("t", b"one", b"two")).placed[0]

    (delivery,) = await consume(client)

    assert [b"one", b"two"] == values_of(delivery)
    assert (0, 0, 1, 2) == (
        *(delivery.subscription_id, delivery.partition_number),
        *(delivery.attempt, delivery.count),
    )
    assert list(placed.run_due_ms) == list(delivery.run_due_ms)
    assert [1] == list(delivery.run_first_index)
    assert limits.ACK_TIMEOUT_MS_DEFAULT == delivery.lease_ms
    assert [] == await consume(client)


async def test_no_more_is_taken_than_asked_for_in_messages_or_bytes(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", *(b"%03d" % n + bytes(997) for n in range(100)))

    taken = [
        len(values(await consume(client, count_max=7))),
        len(values(await consume(client, bytes_max=10_500))),
        len(values(await consume(client, bytes_max=1))),
        len(values(await consume(client))),
    ]

    # No message is added once there are so many bytes.
    assert [7, 11, 1, 81] == taken


async def test_all_partitions_are_asked_or_those_that_are_named(client: Wire) -> None:
    partitions = (await client.create("t", partition_count=3)).partitions
    for place in range(3):
        await client.produce("t", b"%d" % place, partition=partitions[place])

    named = await consume(client, partitions=[partitions[1], partitions[1]])
    rest = await consume(client)

    assert [(1, [b"1"])] == [(each.partition_number, values_of(each)) for each in named]
    assert [b"0", b"2"] == sorted(values(rest))


async def test_a_call_that_may_wait_is_answered_by_the_first_message(client: Wire) -> None:
    await client.create("t", partition_count=2)
    waiting = asyncio.create_task(consume(client, wait_ms=30_000))
    await until_there(client)

    await client.produce("t", b"late", delay_ms=[200])

    async with asyncio.timeout(60):
        assert [b"late"] == values(await waiting)


async def until_there(client: Wire) -> None:
    """There is a group: somebody waits."""
    request = admin_pb2.ListGroupsRequest(topic="t")
    async with asyncio.timeout(WAIT_S):
        while not (await client.admin.ListGroups(request)).groups:
            await asyncio.sleep(0.01)


async def test_a_wait_that_is_over_is_answered_with_nothing(client: Wire) -> None:
    await client.create("t")

    assert [] == await consume(client, wait_ms=50)


async def test_a_call_that_may_wait_takes_at_once_what_is_ready(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"here")

    async with asyncio.timeout(60):
        assert [b"here"] == values(await consume(client, wait_ms=60_000))


async def test_a_caller_that_goes_away_while_it_waits_takes_nothing(client: Wire) -> None:
    await client.create("t")
    call = client.broker.Consume(
        pb.ConsumeRequest(topic="t", group="g", consumer="c", wait_ms=60_000)
    )
    await until_there(client)

    call.cancel()
    async with asyncio.timeout(WAIT_S):
        while (await client.group("t")).consumer_count:
            await asyncio.sleep(0.01)
    await client.produce("t", b"mine")

    assert [b"mine"] == values(await consume(client))


async def test_a_node_that_stops_lets_those_who_wait_go(node: Broker, client: Wire) -> None:
    await client.create("t")
    waiting = asyncio.create_task(consume(client, wait_ms=60_000))
    await until_there(client)

    await node.stop()

    assert [] == await waiting


async def test_a_topic_that_is_deleted_ends_the_wait(client: Wire) -> None:
    await client.create("t")
    waiting = asyncio.create_task(consume(client, wait_ms=60_000))
    await until_there(client)

    await client.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name="t"))

    code, text, _ = await refusal(waiting)
    assert (CODE.NOT_FOUND, True) == (code, "was deleted" in text)


async def test_a_group_may_begin_with_what_comes_from_now_on(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"old")

    assert [] == await consume(client, start=pb.START_NOW)

    await client.produce("t", b"new")
    assert [b"new"] == values(await consume(client))


async def test_a_lease_of_a_call_ends_by_its_own_time_and_counts(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"x")

    (first,) = await consume(client, ack_timeout_ms=100)
    (second,) = await consume(client, wait_ms=20_000)

    assert 100 == first.lease_ms
    assert (1, 2) == (first.attempt, second.attempt)
    assert second.token > first.token


# --- outcomes and leases ----------------------------------------------------------------------


async def test_whoever_has_the_token_settles_and_extends(node: Broker, client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"a", b"b", b"c", b"d")
    (delivery,) = await consume(client)

    async with wire(node) as other:
        (kept,) = await extend(
            other, pb.Extend(token=delivery.token, lease_ms=60_000, request_id=5)
        )
        replies = await settle(
            other,
            outcome(delivery, places=[0, 1], request_id=1),
            outcome(delivery, pb.OUTCOME_NACK, places=[1, 1], request_id=2),
            outcome(delivery, pb.OUTCOME_DEAD, places=[2, 1], reason="no", request_id=3),
            outcome(delivery, pb.OUTCOME_RELEASE, request_id=4),
        )

    assert (5, delivery.token, False) == (kept.request_id, kept.token, kept.HasField("error"))
    assert kept.lease_ends_ms > delivery.run_due_ms[0] + 50_000
    assert [1, 2, 3, 4] == [reply.request_id for reply in replies]
    assert not any(reply.HasField("error") for reply in replies)
    again = await consume(client)
    assert {(b"b", 2), (b"d", 1)} == {
        (value, each.attempt) for each in again for value in values_of(each)
    }
    (dead,) = await consume(client, channel="__death_letter", group="undertaker")
    assert ("g", "no", [b"c"]) == (
        *(dead.dead_letter.group, dead.dead_letter.reason),
        values_of(dead),
    )


async def test_a_token_of_a_session_is_as_good_in_a_call(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"a")
    session = await client.session()
    await session.subscribe("t")
    delivery = await session.delivery()

    (reply,) = await settle(client, outcome(delivery))

    assert not reply.HasField("error")
    assert "LEASE_LOST" == (await session.ack(delivery)).error.reason


async def test_a_token_is_nothing_to_a_topic_that_was_made_again(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"old")
    (old,) = await consume(client)
    await client.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name="t"))
    await client.create("t")
    await client.produce("t", b"new")
    (new,) = await consume(client)

    (reply,) = await settle(client, outcome(old))
    (extended,) = await extend(client, pb.Extend(token=old.token, lease_ms=1000))

    assert ("LEASE_LOST", "LEASE_LOST") == (reply.error.reason, extended.error.reason)
    (reply,) = await settle(client, outcome(new))
    assert not reply.HasField("error")


async def test_outcomes_are_refused_one_by_one(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"a", b"b")
    (delivery,) = await consume(client)

    replies = await settle(
        client,
        outcome(delivery, kind=0),
        outcome(delivery, places=[0]),
        outcome(delivery, places=[2, 1]),
        outcome(delivery, pb.OUTCOME_NACK, delay_ms=-1),
        outcome(delivery, pb.OUTCOME_DEAD, reason="x" * 1025),
        pb.Outcome(partition_number=9, token=delivery.token, kind=pb.OUTCOME_ACK),
        pb.Outcome(token=77, kind=pb.OUTCOME_ACK),
        outcome(delivery, places=[0, 1]),
        outcome(delivery, places=[0, 1]),
    )

    assert [
        ("INVALID", "kind"),
        ("INVALID", "places"),
        ("INVALID", "places"),
        ("INVALID", "delay_ms"),
        ("INVALID", "reason"),
        ("INVALID", "partition_number"),
        ("LEASE_LOST", ""),
        ("", ""),
        ("LEASE_LOST", ""),
    ] == [(reply.error.reason, reply.error.field) for reply in replies]
    status = await client.group("t")
    assert (1, 1) == (status.acked_count, status.leased_count)


async def test_leases_are_extended_one_by_one(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"a")
    (delivery,) = await consume(client)

    replies = await extend(
        client,
        pb.Extend(token=77),
        pb.Extend(token=delivery.token, lease_ms=limits.LEASE_MS_MAX + 1),
        pb.Extend(token=delivery.token, partition_number=1),
        pb.Extend(token=delivery.token),
    )

    assert ["LEASE_LOST", "INVALID", "INVALID", ""] == [reply.error.reason for reply in replies]


async def test_a_group_that_is_not_there_holds_no_lease(client: Wire) -> None:
    await client.create("t")

    (reply,) = await settle(client, pb.Outcome(token=1, kind=pb.OUTCOME_ACK), group="never")

    assert "NOT_FOUND" == reply.error.reason


# --- fetch ------------------------------------------------------------------------------------


async def test_a_range_is_read_page_by_page_without_a_group(client: Wire) -> None:
    await client.create("t")
    sent = [b"%03d" % n + bytes(997) for n in range(100)]
    for first in range(0, 100, 25):
        await client.produce("t", *sent[first : first + 25])

    pages = [await fetch(client, count_max=30)]
    while not pages[-1].is_end:
        pages.append(await fetch(client, count_max=30, first=pages[-1].next))

    assert [30, 30, 30, 10] == [len(fetched(page)) for page in pages]
    assert sent == [value for page in pages for value in fetched(page)]
    whole = pages[0].fetched[0]
    assert ([25, 5], [1, 26]) == (list(whole.run_count), list(whole.run_first_index))
    assert [10, 1] == [
        len(fetched(await fetch(client, bytes_max=size))) for size in (10_500, 1)
    ]


async def test_a_reader_goes_on_where_it_was_and_misses_nothing(client: Wire) -> None:
    await client.create("t")
    first = await fetch(client)
    await client.produce("t", b"1")
    second = await fetch(client, first=first.next)
    await client.produce("t", b"2")
    third = await fetch(client, first=second.next)

    assert ([], [b"1"], [b"2"]) == (fetched(first), fetched(second), fetched(third))
    assert first.is_end
    assert [] == fetched(await fetch(client, first=third.next))


async def test_a_range_excludes_its_end(client: Wire) -> None:
    await client.create("t")
    placed = (await client.produce("t", b"1", b"2", b"3")).placed[0]
    offsets = [
        placed.run_due_ms[0].to_bytes(6, "big") + index.to_bytes(8, "big") for index in (1, 3)
    ]

    got = await fetch(client, first=offsets[0], end=offsets[1])

    assert [b"1", b"2"] == fetched(got)
    assert got.is_end
    assert [] == fetched(await fetch(client, first=offsets[0], end=offsets[0]))


async def test_what_is_not_due_is_not_read(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"far", delay_ms=[60_000])

    assert [] == fetched(await fetch(client))


async def test_dead_letters_of_different_deaths_are_told_apart(client: Wire) -> None:
    await client.create("t")
    await client.produce("t", b"a", b"b", b"c")
    (delivery,) = await consume(client)
    for place, reason in enumerate(("x", "x", "y")):
        await settle(
            client, outcome(delivery, pb.OUTCOME_DEAD, places=[place, 1], reason=reason)
        )

    got = await fetch(client, channel="__death_letter")

    assert [("x", 2), ("y", 1)] == [
        (part.dead_letter.reason, part.count) for part in got.fetched
    ]
    assert [14, 14, 14] == [
        len(each) for part in got.fetched for each in part.dead_letter.run_offset
    ]


# --- what is refused --------------------------------------------------------------------------

CONSUME_WRONGS: list[tuple[dict[str, Any], str]] = [
    ({"group": ""}, "group"),
    ({"group": "a/b"}, "group"),
    ({"consumer": ""}, "consumer"),
    ({"channel": "_x"}, "channel"),
    ({"count_max": limits.PULL_COUNT_MAX + 1}, "count_max"),
    ({"bytes_max": limits.PULL_BYTES_MAX + 1}, "bytes_max"),
    ({"wait_ms": -1}, "wait_ms"),
    ({"wait_ms": limits.PULL_WAIT_MS_MAX + 1}, "wait_ms"),
    ({"ack_timeout_ms": limits.ACK_TIMEOUT_MS_MIN - 1}, "ack_timeout_ms"),
    ({"ack_timeout_ms": limits.LEASE_MS_MAX + 1}, "ack_timeout_ms"),
]


@pytest.mark.parametrize(("fields", "field"), CONSUME_WRONGS)
async def test_a_consume_beyond_a_limit_names_the_field(
    client: Wire, fields: dict[str, Any], field: str
) -> None:
    await client.create("t")

    code, text, details = await refusal(consume(client, **fields))

    assert (CODE.INVALID_ARGUMENT, True) == (code, text.startswith(field))
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert details[0].Unpack(info)
    assert details[1].Unpack(bad)
    assert ("INVALID", "sandglass") == (info.reason, info.domain)
    assert field == bad.field_violations[0].field


async def test_numbers_at_their_limits_are_taken(client: Wire) -> None:
    await client.create("t")

    assert [] == await consume(
        client,
        count_max=limits.PULL_COUNT_MAX,
        bytes_max=limits.PULL_BYTES_MAX,
        ack_timeout_ms=limits.LEASE_MS_MAX,
    )
    assert (
        await fetch(client, count_max=limits.PULL_COUNT_MAX, bytes_max=limits.PULL_BYTES_MAX)
    ).is_end
    many = [pb.Outcome(token=1, kind=pb.OUTCOME_ACK)] * limits.PULL_ITEM_COUNT_MAX
    assert limits.PULL_ITEM_COUNT_MAX == len(await settle(client, *many))
    code, text, _ = await refusal(settle(client, *many, many[0]))
    assert (CODE.INVALID_ARGUMENT, True) == (code, "1001" in text)
    code, text, _ = await refusal(extend(client, *[pb.Extend()] * 1001))
    assert (CODE.INVALID_ARGUMENT, True) == (code, "1001" in text)


async def test_unknown_places_are_not_found_by_any_call(client: Wire) -> None:
    await client.create("t")
    named: dict[str, Any] = {"topic": "no", "group": "g"}
    for call in (
        consume(client, topic="no"),
        consume(client, partitions=["no"]),
        client.broker.Settle(pb.SettleRequest(**named)),
        client.broker.ExtendLeases(pb.ExtendLeasesRequest(**named)),
        client.broker.Fetch(pb.FetchRequest(topic="no")),
        client.broker.Fetch(pb.FetchRequest(topic="t", partition="no")),
    ):
        assert CODE.NOT_FOUND is (await refusal(call))[0]


FETCH_WRONGS: list[tuple[dict[str, Any], str]] = [
    ({"first": b"short"}, "first"),
    ({"end": bytes(13)}, "end"),
    ({"channel": "a b"}, "channel"),
    ({"count_max": limits.PULL_COUNT_MAX + 1}, "count_max"),
    ({"bytes_max": limits.PULL_BYTES_MAX + 1}, "bytes_max"),
]


@pytest.mark.parametrize(("fields", "field"), FETCH_WRONGS)
async def test_a_fetch_that_is_wrong_names_the_field(
    client: Wire, fields: dict[str, Any], field: str
) -> None:
    await client.create("t")

    code, text, _ = await refusal(fetch(client, **fields))

    assert (CODE.INVALID_ARGUMENT, True) == (code, text.startswith(field))


async def test_kv_topics_are_not_consumed(client: Wire) -> None:
    await client.create("t", kind=1)

    assert CODE.FAILED_PRECONDITION is (await refusal(consume(client)))[0]
    assert CODE.FAILED_PRECONDITION is (await refusal(fetch(client)))[0]


async def test_a_busy_node_says_when_to_come_again(
    client: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create("t")
    monkeypatch.setattr(NodeLoop, "is_stalled", True)

    code, _, details = await refusal(client.produce("t", b"x"))

    retry = error_details_pb2.RetryInfo()
    assert CODE.RESOURCE_EXHAUSTED is code
    assert details[-1].Unpack(retry)
    assert limits.BUSY_RETRY_MS == retry.retry_delay.ToMilliseconds()
