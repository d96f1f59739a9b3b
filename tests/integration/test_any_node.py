"""Any node gives the whole answer, whoever leads the partitions that it is about."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message as Wire

from sandglass.core.topic import Topic, TopicKind
from sandglass.errors import UnavailableError
from sandglass.wire import status
from sandglass.wire.v1 import admin_pb2, broker_pb2
from sandglass.wire.v1 import keyvalue_pb2 as kv
from tests.integration.several_nodes import OneNode, SeveralNodes, several_nodes

DEADLINE_S = 60
Reply = TypeVar("Reply", bound=Wire)
KEYS = [b"k%d" % number for number in range(30)]


@pytest.fixture
async def nodes() -> AsyncIterator[SeveralNodes]:
    async with several_nodes() as found, asyncio.timeout(DEADLINE_S):
        yield found


@pytest.fixture
async def topic(nodes: SeveralNodes) -> Topic:
    """Of three partitions, each led by another node, with 10 messages in each."""
    found = await nodes.topic("t")
    for place, ref in enumerate(found.partitions):
        batch = broker_pb2.MessageBatch(
            messages=[broker_pb2.Message(value=b"%d-%d" % (place, n)) for n in range(10)]
        )
        await call(
            nodes.nodes[0],
            "Broker/Produce",
            broker_pb2.ProduceRequest(
                topic="t", partition=ref.id, batch=batch.SerializeToString(), count=10
            ),
            broker_pb2.ProduceReply,
        )
    return found


async def call(node: OneNode, method: str, request: Wire, reply: type[Reply]) -> Reply:
    package = (
        "sandglass" if method.startswith(("BrokerService", "Internal")) else "sandglass.v1"
    )
    async with grpc.aio.insecure_channel(node.address) as channel:
        send: Any = channel.unary_unary(f"/{package}.{method}", None, None)
        raw = await send(request.SerializeToString())
    return reply.FromString(raw)


async def at_each(nodes: SeveralNodes, method: str, request: Wire, reply: type[Reply]) -> Reply:
    """What all nodes answer alike, once what goes by the clock stands still."""
    while True:
        replies = [await call(node, method, request, reply) for node in nodes.nodes]
        if all(replies[0] == other for other in replies[1:]):
            return replies[0]


async def test_a_topic_is_shown_whole(nodes: SeveralNodes, topic: Topic) -> None:
    found = await at_each(
        nodes, "Admin/ShowTopic", admin_pb2.ShowTopicRequest(name="t"), admin_pb2.ShowTopicReply
    )

    assert [ref.id for ref in topic.partitions] == [each.id for each in found.partitions]
    assert [10, 10, 10] == [each.last_index for each in found.partitions]


def consume_request(**fields: object) -> broker_pb2.ConsumeRequest:
    return broker_pb2.ConsumeRequest(topic="t", group="g", consumer="c", **fields)  # pyright: ignore[reportArgumentType]


async def take(node: OneNode, **fields: object) -> list[broker_pb2.Delivery]:
    reply = await call(
        node, "Broker/Consume", consume_request(**fields), broker_pb2.ConsumeReply
    )
    return [*reply.deliveries]


async def settle(
    node: OneNode, deliveries: list[broker_pb2.Delivery], kind: broker_pb2.OutcomeKind
) -> list[broker_pb2.OutcomeReply]:
    outcomes = [
        broker_pb2.Outcome(
            partition_number=each.partition_number, token=each.token, kind=kind, reason="bad"
        )
        for each in deliveries
    ]
    request = broker_pb2.SettleRequest(topic="t", group="g", outcomes=outcomes)
    reply = await call(node, "Broker/Settle", request, broker_pb2.SettleReply)
    return [*reply.outcomes]


def values(deliveries: list[broker_pb2.Delivery]) -> list[bytes]:
    return [
        message.value
        for each in deliveries
        for message in broker_pb2.MessageBatch.FromString(each.batch).messages
    ]


EVERYTHING = sorted(b"%d-%d" % (place, n) for place in range(3) for n in range(10))


# --- consuming --------------------------------------------------------------------------------


async def test_a_call_consumes_from_all_who_lead(nodes: SeveralNodes, topic: Topic) -> None:
    found = await take(nodes.nodes[1])
    assert EVERYTHING == sorted(values(found))

    replies = await settle(nodes.nodes[2], found, broker_pb2.OUTCOME_ACK)

    assert not any(reply.HasField("error") for reply in replies)
    assert [] == await take(nodes.nodes[0])


async def test_a_call_is_given_no_more_than_it_asks_for(
    nodes: SeveralNodes, topic: Topic
) -> None:
    found = [await take(nodes.nodes[n % 3], count_max=12) for n in range(3)]

    assert [12, 12, 6] == [sum(each.count for each in some) for some in found]
    assert EVERYTHING == sorted(value for some in found for value in values(some))


async def test_a_waiting_call_is_given_what_comes_first(
    nodes: SeveralNodes, topic: Topic
) -> None:
    await settle(nodes.nodes[0], await take(nodes.nodes[0]), broker_pb2.OUTCOME_ACK)
    waiting = asyncio.create_task(take(nodes.nodes[0], count_max=1, wait_ms=60_000))
    while not all(node.broker.pulls._waiting for node in nodes.nodes):
        await asyncio.sleep(0.01)

    batch = broker_pb2.MessageBatch(messages=[broker_pb2.Message(value=b"new")])
    for ref in topic.partitions:
        request = broker_pb2.ProduceRequest(
            topic="t", partition=ref.id, batch=batch.SerializeToString(), count=1
        )
        await call(nodes.nodes[1], "Broker/Produce", request, broker_pb2.ProduceReply)
    first = await waiting

    assert [b"new"] == values(first)
    assert not any(node.broker.pulls._waiting for node in nodes.nodes)
    # What others had handed out by then was given back at once, and is not lost.
    rest: list[bytes] = []
    while len(rest) < 2:
        rest += values(await take(nodes.nodes[2], wait_ms=1000))
    assert [b"new", b"new"] == rest


async def test_an_outcome_without_a_leader_has_an_error_in_its_place(
    nodes: SeveralNodes, topic: Topic
) -> None:
    found = sorted(await take(nodes.nodes[0]), key=lambda each: each.partition_number)
    nodes.lead(topic.partitions[1], None)

    replies = await settle(nodes.nodes[0], found, broker_pb2.OUTCOME_ACK)

    assert [False, True, False] == [reply.HasField("error") for reply in replies]
    assert "UNAVAILABLE" == replies[1].error.reason


async def test_leases_are_kept_wherever_they_are(nodes: SeveralNodes, topic: Topic) -> None:
    found = await take(nodes.nodes[0])
    request = broker_pb2.ExtendLeasesRequest(
        topic="t",
        group="g",
        extends=[
            broker_pb2.Extend(
                partition_number=each.partition_number, token=each.token, lease_ms=60_000
            )
            for each in found
        ],
    )

    reply = await call(
        nodes.nodes[1], "Broker/ExtendLeases", request, broker_pb2.ExtendLeasesReply
    )

    assert [each.token for each in found] == [each.token for each in reply.extends]
    assert all(each.lease_ends_ms for each in reply.extends)


# --- producing --------------------------------------------------------------------------------


async def test_keys_reach_their_partitions_and_offsets_come_in_order(
    nodes: SeveralNodes, topic: Topic
) -> None:
    batch = broker_pb2.MessageBatch(
        messages=[broker_pb2.Message(key=key, value=key) for key in KEYS]
    )
    request = broker_pb2.ProduceRequest(
        topic="t", batch=batch.SerializeToString(), count=len(KEYS), request_id=7
    )

    reply = await call(nodes.nodes[2], "Broker/Produce", request, broker_pb2.ProduceReply)

    assert 7 == reply.request_id
    assert {ref.id for ref in topic.partitions} == {each.partition for each in reply.placed}
    places = [place for each in reply.placed for place in each.request_places]
    assert [*range(len(KEYS))] == sorted(places)
    for each in reply.placed:
        fetched = await call(
            nodes.nodes[0],
            "Broker/Fetch",
            broker_pb2.FetchRequest(topic="t", partition=each.partition),
            broker_pb2.FetchReply,
        )
        stored = [
            message.value
            for part in fetched.fetched
            for message in broker_pb2.MessageBatch.FromString(part.batch).messages
        ]
        assert [KEYS[place] for place in each.request_places] == stored[10:]


async def test_each_message_keeps_its_own_time(nodes: SeveralNodes, topic: Topic) -> None:
    batch = broker_pb2.MessageBatch(messages=[broker_pb2.Message(key=key) for key in KEYS])
    dues = [4_000_000_000_000 + n for n in range(len(KEYS))]
    request = broker_pb2.ProduceRequest(
        topic="t", batch=batch.SerializeToString(), count=len(KEYS), due_ms=dues
    )
    await call(nodes.nodes[0], "Broker/Produce", request, broker_pb2.ProduceReply)

    count = await at_each(
        nodes,
        "Admin/CountPending",
        admin_pb2.CountPendingRequest(topic="t"),
        admin_pb2.CountPendingReply,
    )
    listed: list[int] = []
    token, turn = b"", 0
    while token or not turn:
        page = await at_each(
            nodes,
            "Admin/ListPending",
            admin_pb2.ListPendingRequest(topic="t", page_size=7, page_token=token),
            admin_pb2.ListPendingReply,
        )
        listed += [each.due_ms for each in page.messages]
        token, turn = page.next_page_token, turn + 1

    assert (len(KEYS), dues[0]) == (count.count, count.next_due_ms)
    assert dues == listed


async def test_a_part_that_cannot_be_taken_makes_the_result_unknown(
    nodes: SeveralNodes, topic: Topic
) -> None:
    nodes.lead(topic.partitions[1], None)
    batch = broker_pb2.MessageBatch(messages=[broker_pb2.Message(key=key) for key in KEYS])
    request = broker_pb2.ProduceRequest(
        topic="t", batch=batch.SerializeToString(), count=len(KEYS)
    )

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(nodes.nodes[0], "Broker/Produce", request, broker_pb2.ProduceReply)

    error = status.from_rpc_error(caught.value)
    assert isinstance(error, UnavailableError)
    assert error.is_result_unknown
    assert f"partition {topic.partitions[1].number} has no leader" in error.message


async def test_a_leader_that_moves_is_followed(nodes: SeveralNodes, topic: Topic) -> None:
    nodes.lead(topic.partitions[1], None)
    asking = asyncio.create_task(
        call(
            nodes.nodes[0],
            "Admin/ShowTopic",
            admin_pb2.ShowTopicRequest(name="t"),
            admin_pb2.ShowTopicReply,
        )
    )
    await asyncio.sleep(0.05)
    nodes.lead(topic.partitions[1], nodes.nodes[2])

    found = await asking

    assert [10, 10, 10] == [each.last_index for each in found.partitions]


async def test_a_node_that_is_gone_is_named(nodes: SeveralNodes, topic: Topic) -> None:
    gone = nodes.nodes[1]
    address = gone.address
    await nodes.kill(gone)
    nodes.leader_of[topic.partitions[1].number] = gone  # as others still believe

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(
            nodes.nodes[0],
            "Admin/ShowTopic",
            admin_pb2.ShowTopicRequest(name="t"),
            admin_pb2.ShowTopicReply,
        )

    assert grpc.StatusCode.UNAVAILABLE is caught.value.code()
    assert f"node node1, at {address}" in (caught.value.details() or "")


# --- groups -----------------------------------------------------------------------------------


async def test_groups_are_made_moved_and_deleted_everywhere(
    nodes: SeveralNodes, topic: Topic
) -> None:
    await call(
        nodes.nodes[0],
        "Admin/CreateGroup",
        admin_pb2.CreateGroupRequest(
            topic="t", group="g", start=admin_pb2.GroupStart(now=True)
        ),
        admin_pb2.CreateGroupReply,
    )
    assert [] == await take(nodes.nodes[1])
    listing = admin_pb2.ListGroupsRequest(topic="t")
    found = await at_each(nodes, "Admin/ListGroups", listing, admin_pb2.ListGroupsReply)
    assert [ref.id for ref in topic.partitions] == [each.partition for each in found.groups]

    await call(
        nodes.nodes[1],
        "Admin/SeekGroup",
        admin_pb2.SeekGroupRequest(topic="t", group="g"),
        admin_pb2.SeekGroupReply,
    )
    found = await at_each(nodes, "Admin/ListGroups", listing, admin_pb2.ListGroupsReply)
    assert [10, 10, 10] == [each.lag_count for each in found.groups]
    assert EVERYTHING == sorted(values(await take(nodes.nodes[2])))

    request = admin_pb2.DeleteGroupRequest(topic="t", group="g")
    await call(nodes.nodes[2], "Admin/DeleteGroup", request, admin_pb2.DeleteGroupReply)
    found = await at_each(nodes, "Admin/ListGroups", listing, admin_pb2.ListGroupsReply)
    assert admin_pb2.ListGroupsReply() == found
    assert EVERYTHING == sorted(values(await take(nodes.nodes[0])))


async def test_a_deletion_goes_on_when_there_is_a_leader_again(
    nodes: SeveralNodes, topic: Topic
) -> None:
    await take(nodes.nodes[0])
    nodes.lead(topic.partitions[1], None)
    request = admin_pb2.DeleteGroupRequest(topic="t", group="g")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(nodes.nodes[2], "Admin/DeleteGroup", request, admin_pb2.DeleteGroupReply)
    assert grpc.StatusCode.UNAVAILABLE is caught.value.code()
    nodes.lead(topic.partitions[1], nodes.nodes[1])
    while nodes.shared.by_topic["t"]:
        await asyncio.sleep(0.02)

    parts = await at_each(
        nodes,
        "Admin/ListGroups",
        admin_pb2.ListGroupsRequest(topic="t"),
        admin_pb2.ListGroupsReply,
    )
    assert [] == [*parts.groups]


# --- dead letters -----------------------------------------------------------------------------


async def test_dead_letters_are_listed_counted_and_taken_from_all(
    nodes: SeveralNodes, topic: Topic
) -> None:
    await settle(nodes.nodes[0], await take(nodes.nodes[0]), broker_pb2.OUTCOME_DEAD)
    counting = admin_pb2.CountDeadLettersRequest(topic="t")
    count = await at_each(
        nodes, "Admin/CountDeadLetters", counting, admin_pb2.CountDeadLettersReply
    )
    assert 30 == count.count
    assert [("g", 30)] == [(each.group, each.count) for each in count.groups]

    for is_newest_first in (False, True):
        found: list[tuple[bytes, int]] = []
        token, turn = b"", 0
        while token or not turn:
            page = await at_each(
                nodes,
                "Admin/ListDeadLetters",
                admin_pb2.ListDeadLettersRequest(
                    topic="t",
                    page_size=8,
                    page_token=token,
                    is_newest_first=is_newest_first,
                ),
                admin_pb2.ListDeadLettersReply,
            )
            ids = [ref.id for ref in topic.partitions]
            found += [
                (each.letter.offset, ids.index(each.letter.partition)) for each in page.letters
            ]
            token, turn = page.next_page_token, turn + 1
        assert 30 == len(set(found))
        assert sorted(found, reverse=is_newest_first) == found

    taken = await call(
        nodes.nodes[1],
        "Admin/RedriveDeadLetters",
        admin_pb2.TakeDeadLettersRequest(topic="t", limit=15),
        admin_pb2.TakeDeadLettersReply,
    )
    assert 15 == taken.count
    places = [
        admin_pb2.DeadLetterPlace(partition=each.letter.partition, offset=each.letter.offset)
        for each in (
            await call(
                nodes.nodes[2],
                "Admin/ListDeadLetters",
                admin_pb2.ListDeadLettersRequest(topic="t"),
                admin_pb2.ListDeadLettersReply,
            )
        ).letters
    ]
    taken = await call(
        nodes.nodes[0],
        "Admin/PurgeDeadLetters",
        admin_pb2.TakeDeadLettersRequest(topic="t", places=places[:9]),
        admin_pb2.TakeDeadLettersReply,
    )
    assert 9 == taken.count
    taken = await call(
        nodes.nodes[0],
        "Admin/RedriveDeadLetters",
        admin_pb2.TakeDeadLettersRequest(topic="t"),
        admin_pb2.TakeDeadLettersReply,
    )
    assert 6 == taken.count
    assert 21 == len(values(await take(nodes.nodes[0])))


# --- keys and values --------------------------------------------------------------------------


async def test_keys_of_one_call_lie_with_several_leaders(nodes: SeveralNodes) -> None:
    await nodes.topic("keys", kind=TopicKind.KV)
    keys = [kv.Key(key=key) for key in KEYS]
    messages = [broker_pb2.Message(key=key, value=key * 2) for key in KEYS]

    put = await call(
        nodes.nodes[0],
        "KeyValue/Put",
        kv.PutRequest(topic="keys", messages=messages),
        kv.PutReply,
    )
    assert 3 == len(put.placed)
    got = await at_each(
        nodes, "KeyValue/Get", kv.GetRequest(topic="keys", keys=keys), kv.GetReply
    )
    assert [key * 2 for key in KEYS] == [each.message.value for each in got.entries]
    removed = await call(
        nodes.nodes[1],
        "KeyValue/Delete",
        kv.DeleteRequest(topic="keys", keys=[*keys[:10], kv.Key(key=b"none")]),
        kv.DeleteReply,
    )
    assert [True] * 10 + [False] == [*removed.existed]
    assert all(removed.revisions)
    held = await at_each(
        nodes, "KeyValue/Has", kv.HasRequest(topic="keys", keys=keys), kv.HasReply
    )
    assert [False] * 10 + [True] * 20 == [*held.exists]
    scanned = await at_each(
        nodes, "KeyValue/Scan", kv.ScanRequest(topic="keys", key=KEYS[20]), kv.ScanReply
    )
    assert [KEYS[20]] == [each.message.key for each in scanned.entries]


async def test_what_is_got_of_several_leaders_fits_into_an_answer(nodes: SeveralNodes) -> None:
    await nodes.topic("keys", kind=TopicKind.KV)
    for key in KEYS[:9]:
        message = broker_pb2.Message(key=key, value=bytes(300_000))
        await call(
            nodes.nodes[0],
            "KeyValue/Put",
            kv.PutRequest(topic="keys", messages=[message]),
            kv.PutReply,
        )
    keys = [kv.Key(key=key) for key in KEYS[:9]]

    got = await at_each(
        nodes, "KeyValue/Get", kv.GetRequest(topic="keys", keys=keys), kv.GetReply
    )

    assert KEYS[:3] == [each.message.key for each in got.entries]


# --- pages ------------------------------------------------------------------------------------


async def test_pages_of_groups_and_partitions_cover_all_leaders(nodes: SeveralNodes) -> None:
    topic = await nodes.topic("t", partition_count=7)
    for group in ("g", "h"):
        request = broker_pb2.ConsumeRequest(topic="t", group=group, consumer="c")
        await call(nodes.nodes[0], "Broker/Consume", request, broker_pb2.ConsumeReply)
    known: list[str] = []
    parts: list[tuple[str, str]] = []
    shown: list[str] = []
    token, turn = b"", 0
    while token or not turn:
        page = await call(
            nodes.nodes[turn % 3],
            "Admin/ListGroups",
            admin_pb2.ListGroupsRequest(topic="t", page_size=3, page_token=token),
            admin_pb2.ListGroupsReply,
        )
        known += [each.name for each in page.known]
        parts += [(each.partition, each.group) for each in page.groups]
        token, turn = page.next_page_token, turn + 1
    token, turn = b"", 0
    while token or not turn:
        topic_page = await call(
            nodes.nodes[turn % 3],
            "Admin/ShowTopic",
            admin_pb2.ShowTopicRequest(name="t", page_size=2, page_token=token),
            admin_pb2.ShowTopicReply,
        )
        shown += [each.id for each in topic_page.partitions]
        token, turn = topic_page.next_page_token, turn + 1

    ids = [ref.id for ref in topic.partitions]
    assert ["g", "h"] == known
    assert [(each, group) for each in ids for group in ("g", "h")] == parts
    assert ids == shown
