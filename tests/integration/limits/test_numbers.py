"""Names, and every number that a client may ask for: at its limits, and one beyond."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest

from sandglass import AsyncClient, InvalidError, PreconditionError
from sandglass.core import limits
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.limits.asking import (
    NAMES,
    Ask,
    Neighbour,
    assert_named,
    config,
    consume,
    consume_compatibly,
    get,
    make_group,
    make_topic,
    make_topic_by_client,
    make_topic_compatibly,
    post,
    produce,
    subscribe,
)
from tests.integration.limits.surfaces import Place, Refused, code_name, refusal_of
from tests.integration.raw import Wire

NAMED: list[tuple[str, str, Ask]] = [
    ("calls", "topic", lambda at, name: make_topic(at, name=name)),
    ("calls", "group", lambda at, name: make_group(at, group=name)),
    ("calls", "group", lambda at, name: consume(at, group=name)),
    ("calls", "consumer", lambda at, name: consume(at, consumer=name)),
    ("calls", "channel", lambda at, name: consume(at, channel=name)),
    ("calls", "channel", lambda at, name: produce(at, channel=name)),
    ("session", "group", lambda at, name: subscribe(at, group=name)),
    ("session", "consumer", lambda at, name: subscribe(at, consumer=name)),
    ("session", "channel", lambda at, name: subscribe(at, channel=name)),
    ("compatible", "topic", lambda at, name: make_topic_compatibly(at, name=name)),
    (
        "compatible",
        "consumerGroupName",
        lambda at, name: consume_compatibly(at, consumerGroupName=name),
    ),
    ("compatible", "consumerName", lambda at, name: consume_compatibly(at, consumerName=name)),
    ("compatible", "channel", lambda at, name: consume_compatibly(at, channel=name)),
    ("http", "topic", lambda at, name: post(at, "", **config(name=name))),
    ("http", "group", lambda at, name: post(at, "/t/consume", group=name, consumer="c")),
    ("http", "consumer", lambda at, name: post(at, "/t/consume", group="g", consumer=name)),
    (
        "http",
        "channel",
        lambda at, name: post(at, "/t/consume", group="g", consumer="c", channel=name),
    ),
    ("async_client", "topic", lambda at, name: make_topic_by_client(at, name=name)),
]


@pytest.mark.parametrize(
    ("surface", "field", "ask"), NAMED, ids=[f"{row[0]}-{row[1]}" for row in NAMED]
)
async def test_a_name_of_the_largest_length_is_taken_and_a_longer_one_is_refused(
    place: Place, neighbour: Neighbour, surface: str, field: str, ask: Ask
) -> None:
    fresh = next(NAMES)

    await ask(place, fresh.ljust(limits.NAME_LENGTH_MAX, "x"))
    refused = await refusal_of(ask(place, fresh.ljust(limits.NAME_LENGTH_MAX + 1, "x")))

    assert_named(refused, field, limits.NAME_LENGTH_MAX)
    await neighbour.is_served()


# --- numbers ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """What is asked for with a number, of which `least` and `most` are taken."""

    surface: str
    field: str
    most: int
    ask: Ask
    least: int | None = None


def settings(**fields: Any) -> dict[str, Any]:
    return {"settings": admin_pb2.TopicSettings(**fields)}


def backoff(**fields: Any) -> dict[str, Any]:
    return settings(backoff=admin_pb2.Backoff(**fields))


def own(**fields: Any) -> dict[str, Any]:
    return {"settings": admin_pb2.GroupSettings(**fields)}


async def list_page(place: Place, call: str, **fields: Any) -> None:
    request = getattr(admin_pb2, f"{call}Request")
    if call != "ListTopics":
        fields["name" if call == "ShowTopic" else "topic"] = place.topic
    await getattr(place.wire.admin, call)(request(**fields))


async def take_letters(place: Place, call: str, **fields: Any) -> None:
    request = admin_pb2.TakeDeadLettersRequest(topic=place.topic, **fields)
    await getattr(place.wire.admin, call)(request)


async def consume_ready(place: Place, **fields: Any) -> None:
    """There is something, so that nobody waits."""
    await produce(place)
    await consume(place, **fields)


async def consume_ready_by_http(place: Place, **fields: Any) -> None:
    """As above."""
    await produce(place)
    await post(place, "/t/consume", group="g", consumer="c", **fields)


async def make_group_by_client(place: Place, **fields: Any) -> None:
    async with AsyncClient(place.address) as client:
        try:
            await client.admin.create_group(place.topic, next(NAMES), **fields)
        except InvalidError as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from error


async def fetch(place: Place, **fields: Any) -> None:
    request = pb.FetchRequest(topic=place.topic, partition=place.partition, **fields)
    await place.wire.broker.Fetch(request)


async def produce_compatibly(place: Place, **fields: Any) -> None:
    stub: Any = BrokerServiceStub(place.wire.channel)
    message = compat.Message(value=b"x", **fields)
    await stub.Produce(compat.ProduceMessageRequest(topic=place.topic, messages=[message]))


async def produce_on_session(place: Place, **fields: Any) -> None:
    session = await place.wire.session()
    batch = pb.MessageBatch(messages=[pb.Message(value=b"x")]).SerializeToString()
    request = {"request_id": 1, "topic": place.topic, "batch": batch, "count": 1, **fields}
    await session.send(produces=[pb.ProduceRequest(**request)])
    error = (await session.take(pb.ProduceReply)).error
    if error.code:
        raise Refused(code_name(error.code), error.message)


MS = timedelta(milliseconds=1)
NUMBERS = [
    # Topics and groups.
    Number(
        "calls",
        "partition_count",
        limits.PARTITION_COUNT_MAX,
        lambda at, n: make_topic(at, partition_count=n),
    ),
    Number(
        "calls",
        "retention_ms",
        limits.RETENTION_MS_MAX,
        lambda at, n: make_topic(at, **settings(retention_ms=n)),
        limits.RETENTION_MS_MIN,
    ),
    Number(
        "calls",
        "ack_timeout_ms",
        limits.LEASE_MS_MAX,
        lambda at, n: make_topic(at, **settings(ack_timeout_ms=n)),
        limits.ACK_TIMEOUT_MS_MIN,
    ),
    Number(
        "calls",
        "max_deliveries",
        limits.MAX_DELIVERIES_MAX,
        lambda at, n: make_topic(at, **settings(max_deliveries=n)),
    ),
    Number(
        "calls",
        "delays_ms",
        limits.BACKOFF_DELAY_COUNT_MAX,
        lambda at, n: make_topic(at, **backoff(delays_ms=[1] * n)),
    ),
    Number(
        "calls",
        "delays_ms",
        limits.NACK_DELAY_MS_MAX,
        lambda at, n: make_topic(at, **backoff(delays_ms=[n])),
        0,
    ),
    Number(
        "calls",
        "factor",
        limits.BACKOFF_FACTOR_MAX,
        lambda at, n: make_topic(at, **backoff(delays_ms=[1], factor=n)),
    ),
    Number(
        "calls",
        "cap_ms",
        limits.NACK_DELAY_MS_MAX,
        lambda at, n: make_topic(at, **backoff(delays_ms=[1], cap_ms=n)),
        0,
    ),
    Number(
        "calls",
        "ack_timeout_ms",
        limits.LEASE_MS_MAX,
        lambda at, n: make_group(at, **own(ack_timeout_ms=n)),
        limits.ACK_TIMEOUT_MS_MIN,
    ),
    Number(
        "calls",
        "max_deliveries",
        limits.MAX_DELIVERIES_MAX,
        lambda at, n: make_group(at, **own(max_deliveries=n)),
        1,
    ),
    Number(
        "calls",
        "delays_ms",
        limits.BACKOFF_DELAY_COUNT_MAX,
        lambda at, n: make_group(at, **own(backoff=admin_pb2.Backoff(delays_ms=[1] * n))),
    ),
    Number(
        "calls",
        "start_ms",
        limits.DUE_MS_MAX,
        lambda at, n: make_group(at, start=admin_pb2.GroupStart(at_ms=n)),
        0,
    ),
    Number(
        "compatible",
        "partition",
        limits.PARTITION_COUNT_MAX,
        lambda at, n: make_topic_compatibly(at, numPartitions=n),
        1,
    ),
    Number(
        "http",
        "partition",
        limits.PARTITION_COUNT_MAX,
        lambda at, n: post(at, "", **config(numPartitions=n)),
        1,
    ),
    Number(
        "async_client",
        "partitions",
        limits.PARTITION_COUNT_MAX,
        lambda at, n: make_topic_by_client(at, partitions=n),
        1,
    ),
    Number(
        "async_client",
        "max_deliveries",
        limits.MAX_DELIVERIES_MAX,
        lambda at, n: make_topic_by_client(at, max_deliveries=n),
        1,
    ),
    *(
        Number("async_client", field, most, ask, least)
        for field, most, least, ask in (
            (
                "max_deliveries",
                limits.MAX_DELIVERIES_MAX,
                1,
                lambda at, n: make_group_by_client(at, max_deliveries=n),
            ),
            (
                "ack_timeout",
                limits.LEASE_MS_MAX,
                limits.ACK_TIMEOUT_MS_MIN,
                lambda at, n: make_group_by_client(at, ack_timeout=n * MS),
            ),
            (
                "backoff.delays",
                limits.BACKOFF_DELAY_COUNT_MAX,
                None,
                lambda at, n: make_group_by_client(at, backoff=[MS] * n),
            ),
            (
                "retention",
                limits.RETENTION_MS_MAX,
                limits.RETENTION_MS_MIN,
                lambda at, n: make_topic_by_client(at, retention=n * MS),
            ),
        )
    ),
    # Due times.
    Number("calls", "due_ms", limits.DUE_MS_MAX, lambda at, n: produce(at, due_ms=[n]), 0),
    Number("calls", "delay_ms", limits.DUE_MS_MAX, lambda at, n: produce(at, delay_ms=[n]), 0),
    Number(
        "session",
        "due_ms",
        limits.DUE_MS_MAX,
        lambda at, n: produce_on_session(at, due_ms=[n]),
        0,
    ),
    Number(
        "session",
        "delay_ms",
        limits.DUE_MS_MAX,
        lambda at, n: produce_on_session(at, delay_ms=[n]),
        0,
    ),
    Number(
        "compatible",
        "offset",
        limits.DUE_MS_MAX,
        lambda at, n: produce_compatibly(at, offset=n.to_bytes(6, "big") + b"\1" * 8),
    ),
    # Consuming and reading.
    Number("calls", "count_max", limits.PULL_COUNT_MAX, lambda at, n: consume(at, count_max=n)),
    Number("calls", "bytes_max", limits.PULL_BYTES_MAX, lambda at, n: consume(at, bytes_max=n)),
    Number(
        "calls",
        "count of partitions",
        limits.PARTITION_COUNT_MAX,
        lambda at, n: consume(at, partitions=[at.partition] * n),
    ),
    Number("calls", "count_max", limits.PULL_COUNT_MAX, lambda at, n: fetch(at, count_max=n)),
    Number("calls", "bytes_max", limits.PULL_BYTES_MAX, lambda at, n: fetch(at, bytes_max=n)),
    Number(
        "session",
        "count of partitions",
        limits.PARTITION_COUNT_MAX,
        lambda at, n: subscribe(at, partitions=[at.partition] * n),
    ),
    Number(
        "session",
        "credit_count",
        limits.CREDIT_COUNT_MAX,
        lambda at, n: subscribe(at, credit_count=n),
    ),
    Number(
        "session",
        "credit_bytes",
        limits.CREDIT_BYTES_MAX,
        lambda at, n: subscribe(at, credit_bytes=n),
    ),
    Number(
        "session",
        "ack_timeout_ms",
        limits.LEASE_MS_MAX,
        lambda at, n: subscribe(at, ack_timeout_ms=n),
        limits.ACK_TIMEOUT_MS_MIN,
    ),
    Number(
        "http",
        "count_max",
        limits.PULL_COUNT_MAX,
        lambda at, n: post(at, "/t/consume", group="g", consumer="c", countMax=n),
    ),
    Number(
        "calls", "wait_ms", limits.PULL_WAIT_MS_MAX, lambda at, n: consume_ready(at, wait_ms=n)
    ),
    Number(
        "http",
        "wait_ms",
        limits.PULL_WAIT_MS_MAX,
        lambda at, n: consume_ready_by_http(at, waitMs=n),
    ),
    # Pages.
    *(
        Number(
            "calls",
            "page_size",
            limits.PAGE_COUNT_MAX,
            lambda at, n, call=call: list_page(at, call, page_size=n),
        )
        for call in ("ListTopics", "ShowTopic", "ListGroups", "ListDeadLetters", "ListPending")
    ),
    *(
        Number(
            "http",
            "page_size",
            limits.PAGE_COUNT_MAX,
            lambda at, n, path=path: get(at, f"/t/{path}?pageSize={n}"),
        )
        for path in ("dead", "pending", "groups")
    ),
    Number(
        "calls",
        "before_ms",
        limits.DUE_MS_MAX,
        lambda at, n: take_letters(at, "PurgeDeadLetters", before_ms=n),
        0,
    ),
]


@pytest.mark.parametrize(
    "number", NUMBERS, ids=[f"{each.surface}-{each.field}" for each in NUMBERS]
)
async def test_a_number_at_a_limit_is_taken_and_one_beyond_it_is_refused(
    place: Place, neighbour: Neighbour, number: Number
) -> None:
    for taken in {number.most, number.most if number.least is None else number.least}:
        await number.ask(place, taken)

    refused = await refusal_of(number.ask(place, number.most + 1))
    assert_named(refused, number.field, number.most + 1, number.most)
    if number.least:
        refused = await refusal_of(number.ask(place, number.least - 1))
        assert_named(refused, number.field, number.least)
    await neighbour.is_served()


# --- topics -----------------------------------------------------------------------------------


async def test_more_replicas_than_a_topic_may_have_are_refused_whoever_is_there(
    place: Place, neighbour: Neighbour
) -> None:
    """At the limit it is the members that are missing."""
    most = limits.REPLICATION_FACTOR_MAX
    asks: list[Ask] = [
        lambda at, n: make_topic(at, replication_factor=n),
        lambda at, n: make_topic_compatibly(at, replicationFactor=n),
        lambda at, n: post(at, "", **config(replicationFactor=n)),
        lambda at, n: make_topic_by_client(at, replication_factor=n),
    ]
    for ask in asks:
        with pytest.raises((Refused, grpc.aio.AioRpcError, PreconditionError)) as missing:
            await ask(place, most)
        assert f"{most - 1} missing" in str(missing.value)
        refused = await refusal_of(ask(place, most + 1))
        assert_named(refused, "replication_factor", most + 1, most)
        await neighbour.is_served()


async def test_as_many_topics_as_the_limit_and_no_more(
    client: Wire, place: Place, neighbour: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = await client.admin.ListTopics(admin_pb2.ListTopicsRequest())
    assert not listed.next_page_token
    most = len(listed.topics) + 1
    monkeypatch.setattr(limits, "TOPIC_COUNT_MAX", most)
    last = (await client.create(next(NAMES))).name

    refused = await refusal_of(make_topic(place))
    assert_named(refused, "topics", most)
    await neighbour.is_served()
    await client.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name=last))
    await make_topic(place)
