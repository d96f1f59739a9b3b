"""`sandglass.v1.KeyValue`, call by call, on a real node."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from sandglass.core import limits
from sandglass.testing import Broker
from sandglass.wire import status
from sandglass.wire.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    broker_pb2,
    broker_pb2_grpc,
    keyvalue_pb2,
    keyvalue_pb2_grpc,
)
from tests.integration.raw import batch, wire

CODE = grpc.StatusCode
Key, Message = keyvalue_pb2.Key, broker_pb2.Message
MIB = 1024 * 1024


@dataclass
class Keys:
    """The service, on a topic `kv`."""

    admin: Any
    broker: Any
    service: Any
    partitions: list[str]

    async def put(self, *messages: broker_pb2.Message, **fields: Any) -> keyvalue_pb2.PutReply:
        request = keyvalue_pb2.PutRequest(topic="kv", messages=messages, **fields)
        return await self.service.Put(request)

    async def get(self, *keys: bytes, **fields: Any) -> list[keyvalue_pb2.Entry]:
        wanted = [Key(key=key) for key in keys]
        request = keyvalue_pb2.GetRequest(topic="kv", keys=wanted, **fields)
        return list((await self.service.Get(request)).entries)

    async def has(self, *keys: bytes, **fields: Any) -> list[bool]:
        wanted = [Key(key=key) for key in keys]
        request = keyvalue_pb2.HasRequest(topic="kv", keys=wanted, **fields)
        return list((await self.service.Has(request)).exists)

    async def delete(self, *keys: bytes, **fields: Any) -> keyvalue_pb2.DeleteReply:
        wanted = [Key(key=key) for key in keys]
        request = keyvalue_pb2.DeleteRequest(topic="kv", keys=wanted, **fields)
        return await self.service.Delete(request)

    async def scan(self, **fields: Any) -> keyvalue_pb2.ScanReply:
        return await self.service.Scan(keyvalue_pb2.ScanRequest(topic="kv", **fields))


@pytest.fixture
async def one() -> AsyncIterator[Keys]:
    """A topic of one partition."""
    async with Broker() as broker, started(broker, 1) as keys:
        yield keys


@pytest.fixture
async def three() -> AsyncIterator[Keys]:
    async with Broker() as broker, started(broker, 3) as keys:
        yield keys


@asynccontextmanager
async def started(broker: Broker, partition_count: int) -> AsyncIterator[Keys]:
    async with grpc.aio.insecure_channel(broker.address) as channel:
        admin: Any = admin_pb2_grpc.AdminStub(channel)
        reply = await admin.CreateTopic(
            admin_pb2.CreateTopicRequest(
                name="kv", kind=admin_pb2.TOPIC_KIND_KV, partition_count=partition_count
            )
        )
        assert admin_pb2.TOPIC_KIND_KV == reply.topic.kind
        yield Keys(
            admin,
            broker_pb2_grpc.BrokerStub(channel),
            keyvalue_pb2_grpc.KeyValueStub(channel),
            list(reply.topic.partitions),
        )


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_an_entry_comes_back_as_it_was_put(one: Keys) -> None:
    sent = Message(
        key=b"k",
        clustering_key=b"c",
        value=b"v",
        id="mine",
        headers=[broker_pb2.Header(name="h", value=b"\xff")],
    )

    placed = (await one.put(sent)).placed

    assert [(one.partitions[0], 1)] == [(each.partition, each.first_index) for each in placed]
    request = keyvalue_pb2.GetRequest(topic="kv", keys=[Key(key=b"k", clustering_key=b"c")])
    [entry] = (await one.service.Get(request)).entries
    assert (sent, 1, placed[0].run_due_ms[0]) == (
        entry.message,
        entry.revision,
        entry.produced_ms,
    )
    assert entry.produced_ms.to_bytes(6, "big") + (1).to_bytes(8, "big") == entry.offset


async def test_keys_of_one_call_may_lie_in_several_partitions(three: Keys) -> None:
    names = [b"key-%d" % n for n in range(40)]

    reply = await three.put(*(Message(key=name, value=name.upper()) for name in names))

    assert set(three.partitions) == {each.partition for each in reply.placed}
    assert sorted(place for each in reply.placed for place in each.request_places) == [
        *range(40)
    ]
    entries = await three.get(*names, b"none", names[0])
    values = [entry.message.value for entry in entries]
    assert [*(name.upper() for name in names), b"", b"KEY-0"] == values
    assert 0 == entries[40].revision
    assert not entries[40].HasField("message")
    assert [True, False, True] == await three.has(names[0], b"none", names[1])
    removed = await three.delete(*names[:30], b"none", names[0])
    assert [True] * 30 + [False, False] == list(removed.existed)
    assert [False] * 30 + [True] * 10 == await three.has(*names)


async def test_revisions_of_a_key_only_grow(one: Keys) -> None:
    revisions: list[int] = []
    for _ in range(3):
        revisions.append((await one.put(Message(key=b"k"))).placed[0].first_index)
        revisions += (await one.delete(b"k")).revisions
        revisions += (await one.delete(b"k")).revisions

    assert [*range(1, 10)] == revisions


async def test_producing_is_putting(three: Keys) -> None:
    messages = [Message(key=b"a", value=b"1"), Message(key=b"my_key", value=b"2")]
    request = broker_pb2.ProduceRequest(
        topic="kv",
        batch=broker_pb2.MessageBatch(messages=messages).SerializeToString(),
        count=2,
        due_ms=[0],
    )

    reply = await three.broker.Produce(request)

    assert 2 == len(reply.placed)
    assert [b"1", b"2"] == [entry.message.value for entry in await three.get(b"a", b"my_key")]


async def test_a_session_puts_too_and_cannot_subscribe() -> None:
    async with Broker() as broker, wire(broker) as client, started(broker, 1) as keys:
        session = await client.session()
        good = broker_pb2.MessageBatch(messages=[Message(key=b"k", value=b"v")])
        await session.send(
            produces=[
                broker_pb2.ProduceRequest(
                    request_id=1, topic="kv", batch=good.SerializeToString(), count=1
                ),
                broker_pb2.ProduceRequest(
                    request_id=2, topic="kv", batch=batch(b"no key"), count=1
                ),
            ]
        )
        replies = [await session.take(broker_pb2.ProduceReply) for _ in range(2)]
        await session.subscribe("kv")
        subscribed = await session.take(broker_pb2.Subscribed)

        by_id = {reply.request_id: reply for reply in replies}
        assert 1 == by_id[1].placed[0].first_index
        assert ("INVALID", "messages[0].key") == (by_id[2].error.reason, by_id[2].error.field)
        assert "PRECONDITION" == subscribed.error.reason
        assert [b"v"] == [entry.message.value for entry in await keys.get(b"k")]


@pytest.mark.parametrize(
    ("times", "field"), [({"due_ms": [5]}, "due_ms"), ({"delay_ms": [0, 1]}, "delay_ms")]
)
async def test_a_time_is_refused(one: Keys, times: dict[str, Any], field: str) -> None:
    messages = [Message(key=b"a"), Message(key=b"b")]
    raw = broker_pb2.MessageBatch(messages=messages).SerializeToString()
    request = broker_pb2.ProduceRequest(topic="kv", batch=raw, count=2, **times)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.broker.Produce(request)

    error = status.from_rpc_error(caught.value)
    assert (CODE.INVALID_ARGUMENT, field) == (caught.value.code(), error.field)
    assert [False, False] == await one.has(b"a", b"b")


async def test_a_get_answers_as_much_as_fits(one: Keys) -> None:
    for key in (b"a", b"b", b"c"):
        await one.put(Message(key=key, value=key * (MIB // 2 - 50)))
    await one.put(Message(key=b"d", value=b"d" * MIB))

    assert 2 == len(await one.get(b"a", b"b", b"c"))
    assert [b"a", b"d"] == [
        (await one.get(key, b"a"))[0].message.value[:1] for key in (b"a", b"d")
    ]
    assert 1 == len(await one.get(b"d", b"a"))
    assert [True] * 4 == await one.has(b"a", b"b", b"c", b"d")


async def test_a_scan_comes_in_pages_in_key_order(one: Keys) -> None:
    names = [(b"k%d" % n, b"c%d" % m) for n in range(4) for m in range(5)]
    await one.put(*(Message(key=key, clustering_key=rest) for key, rest in reversed(names)))

    async def keys(**fields: Any) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        while True:
            page = await one.scan(count_max=3, **fields)
            assert len(page.entries) <= 3
            found += [(each.message.key, each.message.clustering_key) for each in page.entries]
            if not page.HasField("next"):
                return found
            fields["first"] = page.next

    assert names == await keys()
    assert names[5:10] == await keys(key=b"k1")
    assert names[7:10] == await keys(key=b"k1", first=Key(key=b"k1", clustering_key=b"c2"))
    assert names[5:8] == await keys(key=b"k1", end=Key(key=b"k1", clustering_key=b"c3"))
    assert names[2:12] == await keys(
        first=Key(key=b"k0", clustering_key=b"c2"), end=Key(key=b"k2", clustering_key=b"c2")
    )
    assert [] == await keys(first=Key(key=b"x"))
    assert [] == await keys(key=b"k1", end=Key(key=b"k0"))
    assert [] == await keys(key=b"k")


async def test_a_scan_of_several_partitions_names_one_or_a_key(three: Keys) -> None:
    await three.put(Message(key=b"my_key", clustering_key=b"1"), Message(key=b"a"))

    code, text = await refusal(three.scan())
    found = await three.scan(key=b"my_key")
    of_place_0 = await three.scan(partition=three.partitions[0])

    assert (CODE.INVALID_ARGUMENT, True) == (code, "ErrNoPartitionSet" in text)
    assert [b"my_key"] == [each.message.key for each in found.entries]
    assert [b"a"] == [each.message.key for each in of_place_0.entries]


async def test_a_page_of_large_entries_is_bounded_and_one_goes_alone(one: Keys) -> None:
    for key in (b"a", b"b", b"c"):
        await one.put(Message(key=key, value=b"x" * MIB))

    page = await one.scan()

    assert [b"a"] == [each.message.key for each in page.entries]
    assert b"b" == page.next.key


@pytest.mark.parametrize("call", ["get", "has", "delete"])
async def test_counts_of_keys_have_limits(one: Keys, call: str) -> None:
    most = limits.DELETE_KEY_COUNT_MAX if call == "delete" else limits.READ_KEY_COUNT_MAX
    names = [b"%d" % n for n in range(most + 1)]

    await getattr(one, call)(*names[:most])

    for wrong in ([], names):
        code, text = await refusal(getattr(one, call)(*wrong))
        assert (CODE.INVALID_ARGUMENT, True) == (code, f"must be 1 to {most}" in text)


@pytest.mark.parametrize("call", ["get", "has", "delete"])
async def test_keys_have_limits(one: Keys, call: str) -> None:
    top = b"\0" * limits.KEY_BYTES_MAX

    await getattr(one, call)(top)

    for wrong, said in ((b"", "ErrNoKeySet: keys[1].key"), (top + b"x", "keys[1].key is 1025")):
        code, text = await refusal(getattr(one, call)(b"k", wrong))
        assert (CODE.INVALID_ARGUMENT, True) == (code, said in text)


async def test_a_scan_has_limits(one: Keys) -> None:
    top = b"x" * limits.KEY_BYTES_MAX
    await one.scan(count_max=limits.SCAN_ENTRY_COUNT_MAX, key=top, first=Key(key=top))

    for fields in (
        {"count_max": limits.SCAN_ENTRY_COUNT_MAX + 1},
        {"key": top + b"x"},
        {"first": Key(key=top + b"x")},
        {"first": Key(key=b"k", clustering_key=top + b"x")},
        {"end": Key(key=top + b"x")},
        {"end": Key(key=b"k", clustering_key=top + b"x")},
    ):
        code, _ = await refusal(one.scan(**fields))
        assert CODE.INVALID_ARGUMENT is code


async def test_puts_have_the_limits_of_produces(one: Keys) -> None:
    top = b"x" * limits.KEY_BYTES_MAX
    await one.put(Message(key=top, clustering_key=top, value=b"x" * limits.VALUE_BYTES_MAX))
    count = limits.ATOM_MESSAGE_COUNT_MAX
    small = Message(key=b"k")
    assert count == (await one.put(*[small] * count)).placed[0].run_count[0]

    for wrong, field in (
        ([], "messages"),
        ([Message(value=b"v")], "messages[0].key"),
        ([Message(key=top + b"x")], "messages[0].key"),
        ([Message(key=b"k", clustering_key=top + b"x")], "messages[0].clustering_key"),
        ([Message(key=b"k", value=b"x" * (limits.VALUE_BYTES_MAX + 1))], "messages[0].value"),
        ([small] * (count + 1), "messages"),
        ([Message(key=b"k", value=b"x" * MIB)] * 4, "batch"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await one.put(*wrong)
        error = status.from_rpc_error(caught.value)
        assert (CODE.INVALID_ARGUMENT, field) == (caught.value.code(), error.field)


async def test_only_kv_topics_of_this_node_are_answered(one: Keys) -> None:
    await one.admin.CreateTopic(admin_pb2.CreateTopicRequest(name="timer"))
    key = [Key(key=b"k")]
    calls = [
        (one.service.Get, keyvalue_pb2.GetRequest(keys=key)),
        (one.service.Has, keyvalue_pb2.HasRequest(keys=key)),
        (one.service.Delete, keyvalue_pb2.DeleteRequest(keys=key)),
        (one.service.Scan, keyvalue_pb2.ScanRequest()),
        (one.service.Put, keyvalue_pb2.PutRequest(messages=[Message(key=b"k")])),
    ]

    for call, request in calls:
        for fields, expected in (
            ({"topic": "none"}, CODE.NOT_FOUND),
            ({"topic": "timer"}, CODE.FAILED_PRECONDITION),
            ({"topic": "kv", "partition": "nowhere"}, CODE.NOT_FOUND),
            ({"topic": "kv", "channel": "no name"}, CODE.INVALID_ARGUMENT),
        ):
            asked = type(request)()
            asked.CopyFrom(request)
            for name, value in fields.items():
                setattr(asked, name, value)
            code, _ = await refusal(call(asked))
            assert expected is code, (call, fields)


async def test_garbage_is_refused(one: Keys) -> None:
    channel = one.service  # only the bytes matter
    for method in ("Get", "Has", "Put", "Delete", "Scan"):
        call = getattr(channel, method)
        call._request_serializer = bytes
        code, _ = await refusal(call(b"\xff\xff\xff"))
        assert CODE.INVALID_ARGUMENT is code


async def test_a_deleted_topic_leaves_nothing_to_its_successor(one: Keys) -> None:
    await one.put(Message(key=b"k", value=b"old"))
    await one.admin.DeleteTopic(admin_pb2.DeleteTopicRequest(name="kv"))

    await one.admin.CreateTopic(
        admin_pb2.CreateTopicRequest(name="kv", kind=admin_pb2.TOPIC_KIND_KV)
    )

    assert [False] == await one.has(b"k")
    assert 1 == (await one.put(Message(key=b"k"))).placed[0].first_index
