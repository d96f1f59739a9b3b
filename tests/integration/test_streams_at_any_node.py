"""Streams of any node, and what becomes of them when their partition's leader changes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import httpx
import pytest
from google.protobuf.message import Message as Wire

from sandglass.core.topic import Topic, TopicKind
from sandglass.surface import leaders
from sandglass.wire.compat import sandglass_pb2 as pb
from tests.integration.several_nodes import OneNode, SeveralNodes, several_nodes

DEADLINE_S = 60
COUNT = 60
VALUE = bytes(64 * 1024)
"""Together far more than lies between a node and a client that doesn't read."""


@pytest.fixture
async def nodes() -> AsyncIterator[SeveralNodes]:
    async with several_nodes() as found, asyncio.timeout(DEADLINE_S):
        yield found


@pytest.fixture
async def topic(nodes: SeveralNodes) -> Topic:
    """Of one partition, which node1 leads."""
    found = await nodes.topic("t", partition_count=1)
    nodes.lead(found.partitions[0], nodes.nodes[1])
    await produce(nodes, found)
    return found


async def produce(nodes: SeveralNodes, topic: Topic) -> None:
    async with grpc.aio.insecure_channel(nodes.nodes[0].address) as channel:
        for first in range(0, COUNT, 20):
            messages = [
                pb.Message(key=b"%03d" % n, value=VALUE) for n in range(first, first + 20)
            ]
            request = pb.ProduceMessageRequest(
                topic=topic.name, partition=topic.partitions[0].id, messages=messages
            )
            await unary(channel, "BrokerService/Produce", request)


async def unary(channel: grpc.aio.Channel, method: str, request: Wire) -> bytes:
    call: Any = channel.unary_unary(f"/sandglass.{method}", None, None)
    return await call(request.SerializeToString())


def stream(channel: grpc.aio.Channel, method: str, request: Wire) -> Any:
    send: Any = channel.unary_stream(f"/sandglass.{method}", None, None)
    return send(request.SerializeToString())


def request_of(request: type[Any], topic: Topic, /, **fields: Any) -> Any:
    return request(topic=topic.name, partition=topic.partitions[0].id, **fields)


READS = [
    ("BrokerService/FetchFrom", pb.FetchFromRequest),
    ("BrokerService/FetchRange", pb.FetchRangeRequest),
    ("InternalService/FetchFromSync", pb.FetchFromSyncRequest),
]


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize(("method", "kind"), READS)
async def test_a_reader_goes_on_where_it_was_when_the_leader_changes(
    nodes: SeveralNodes, topic: Topic, method: str, kind: type[Wire], asked: int
) -> None:
    """Node 1 leads, is asked itself or by way of node 0, and another leader begins."""
    async with grpc.aio.insecure_channel(nodes.nodes[asked].address) as channel:
        found: list[bytes] = []
        async for raw in stream(channel, method, request_of(kind, topic)):
            found.append(pb.Message.FromString(raw).key)
            if len(found) == 3:
                await nodes.take_over(topic.partitions[0], nodes.nodes[2])

    assert [b"%03d" % n for n in range(COUNT)] == found


async def test_a_reader_of_keys_goes_on_behind_the_last_one(nodes: SeveralNodes) -> None:
    topic = await nodes.topic("keys", kind=TopicKind.KV, partition_count=1)
    await produce(nodes, topic)
    async with grpc.aio.insecure_channel(nodes.nodes[1].address) as channel:
        found: list[bytes] = []
        request = request_of(pb.FetchFromRequest, topic)
        async for raw in stream(channel, "BrokerService/FetchFrom", request):
            found.append(pb.Message.FromString(raw).key)
            if len(found) == 3:
                await nodes.take_over(topic.partitions[0], nodes.nodes[2])

    assert [b"%03d" % n for n in range(COUNT)] == found


async def test_a_reader_goes_on_when_the_leader_dies(nodes: SeveralNodes, topic: Topic) -> None:
    async with grpc.aio.insecure_channel(nodes.nodes[0].address) as channel:
        found: list[bytes] = []
        request = request_of(pb.FetchFromRequest, topic)
        async for raw in stream(channel, "BrokerService/FetchFrom", request):
            found.append(pb.Message.FromString(raw).key)
            if len(found) == 3:
                await nodes.kill(nodes.nodes[1])
                await nodes.take_over(topic.partitions[0], nodes.nodes[2])

    assert [b"%03d" % n for n in range(COUNT)] == found


async def test_a_stream_that_finds_no_leader_ends_with_an_error(
    nodes: SeveralNodes, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaders, "STREAM_TRY_COUNT", 3)
    nodes.lead(topic.partitions[0], None)
    async with grpc.aio.insecure_channel(nodes.nodes[0].address) as channel:
        request = request_of(pb.FetchFromRequest, topic)
        replies = stream(channel, "BrokerService/FetchFrom", request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await replies.read()

    assert grpc.StatusCode.UNAVAILABLE is caught.value.code()
    assert "has no leader just now" in (caught.value.details() or "")


# --- drains -----------------------------------------------------------------------------------


def drain_request(topic: Topic) -> Any:
    return request_of(
        pb.ConsumeFromGroupRequest, topic, consumerGroupName="g", consumerName="c"
    )


@pytest.mark.parametrize("asked", [0, 1])
async def test_a_drain_goes_on_at_the_new_leader_and_loses_nothing(
    nodes: SeveralNodes, topic: Topic, asked: int
) -> None:
    async with grpc.aio.insecure_channel(nodes.nodes[asked].address) as channel:
        found: set[bytes] = set()
        async for raw in stream(
            channel, "BrokerService/ConsumeFromGroup", drain_request(topic)
        ):
            message = pb.Message.FromString(raw)
            if not found:
                await nodes.take_over(topic.partitions[0], nodes.nodes[2])
            found.add(message.key)
            mark = request_of(
                pb.MarkRequest, topic, consumerGroup="g", offsets=[message.offset]
            )
            await unary(channel, "BrokerService/Acknowledge", mark)
        assert {b"%03d" % n for n in range(COUNT)} == found
        request = request_of(pb.LastOffsetRequest, topic, consumerGroup="g", kind=pb.Commited)
        last = pb.LastOffsetReply.FromString(
            await unary(channel, "InternalService/LastOffset", request)
        )
        end = pb.EndOfLogReply.FromString(
            await unary(
                channel, "InternalService/EndOfLog", request_of(pb.EndOfLogRequest, topic)
            )
        )

    assert COUNT == end.index == int.from_bytes(last.offset[6:], "big")


# --- HTTP -------------------------------------------------------------------------------------


async def http_lines(
    node: OneNode, path: str, *, after_first: Any = None, **query: str
) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    async with (
        httpx.AsyncClient(base_url=node.url, timeout=DEADLINE_S) as client,
        client.stream("GET", path, params=query) as response,
    ):
        assert 200 == response.status_code
        async for line in response.aiter_lines():
            if not lines and after_first is not None:
                await after_first()
            lines.append(json.loads(line))
    return lines


async def test_an_http_stream_comes_from_any_node(nodes: SeveralNodes, topic: Topic) -> None:
    path = f"/topics/t/{topic.partitions[0].id}/g/c"

    lines = await http_lines(nodes.nodes[0], path)

    assert [str(n + 1) for n in range(COUNT)] == [each["result"]["index"] for each in lines]
    assert [] == await http_lines(nodes.nodes[2], path)


async def test_an_http_stream_goes_on_at_the_new_leader(
    nodes: SeveralNodes, topic: Topic
) -> None:
    path = f"/topics/t/{topic.partitions[0].id}/g/c"

    async def change() -> None:
        await nodes.take_over(topic.partitions[0], nodes.nodes[2])

    lines = await http_lines(nodes.nodes[0], path, after_first=change)

    assert {str(n + 1) for n in range(COUNT)} == {each["result"]["index"] for each in lines}


async def test_an_http_stream_without_a_leader_ends_with_a_line_that_says_so(
    nodes: SeveralNodes, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaders, "STREAM_TRY_COUNT", 3)
    monkeypatch.setattr("sandglass.surface.following.STREAM_TRY_COUNT", 3)
    path = f"/topics/t/{topic.partitions[0].id}/g/c"

    async def end() -> None:
        nodes.lead(topic.partitions[0], None)

    lines = await http_lines(nodes.nodes[0], path, after_first=end)

    assert {"result"} == set(lines[0])
    assert 503 == lines[-1]["error"]["http_code"]
    assert "has no leader just now" in lines[-1]["error"]["message"]


async def test_an_http_stream_waits_for_what_comes(nodes: SeveralNodes) -> None:
    topic = await nodes.topic("t", partition_count=1)
    nodes.lead(topic.partitions[0], nodes.nodes[1])
    path = f"/topics/t/{topic.partitions[0].id}/g/c"
    waiting = asyncio.create_task(http_lines(nodes.nodes[0], path, wait="30s"))
    while not nodes.nodes[1].broker.pulls._waiting:
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(base_url=nodes.nodes[2].url) as client:
        posted = await client.post("/topics/t", json={"messages": [{"value": "eA=="}]})
    assert 200 == posted.status_code

    lines = await waiting

    assert ["eA=="] == [each["result"]["value"] for each in lines]


async def test_every_route_answers_at_a_node_that_leads_nothing(
    nodes: SeveralNodes, topic: Topic
) -> None:
    """All that concerns a partition, in turn."""
    place = f"/topics/t/{topic.partitions[0].id}"
    async with httpx.AsyncClient(base_url=nodes.nodes[0].url, timeout=DEADLINE_S) as client:

        async def asked(method: str, path: str, body: Any = None) -> dict[str, Any]:
            response = await client.request(method, path, json=body)
            assert 200 == response.status_code, (path, response.text)
            return response.json()

        await asked("POST", "/topics/t/groups", {"name": "g", "start": "now"})
        await asked("POST", place, {"messages": [{"value": "eA=="}]})
        await asked("POST", f"{place}/schedule", {"delay": "1h", "messages": [{"value": ""}]})
        assert "1" == (await asked("GET", "/topics/t/pending/count"))["count"]
        assert 1 == len((await asked("GET", "/topics/t/pending"))["messages"])
        request = {"group": "g", "consumer": "c"}
        (taken,) = (await asked("POST", "/topics/t/consume", request))["deliveries"]
        assert ["eA=="] == [each["value"] for each in taken["messages"]]
        lease = {"partitionNumber": 0, "token": taken["token"]}
        extends = [lease | {"leaseMs": "60000"}]
        reply = await asked("POST", "/topics/t/extend", {"group": "g", "extends": extends})
        assert "leaseEndsMs" in reply["extends"][0]
        outcomes = [lease | {"kind": "OUTCOME_DEAD"}]
        reply = await asked("POST", "/topics/t/settle", {"group": "g", "outcomes": outcomes})
        assert {} == reply["outcomes"][0]
        assert "1" == (await asked("GET", "/topics/t/dead/count"))["count"]
        assert 1 == len((await asked("GET", "/topics/t/dead"))["letters"])
        assert "1" == (await asked("POST", "/topics/t/dead/redrive", {}))["count"]
        assert "count" not in await asked("POST", "/topics/t/dead/purge", {})
        mark = {"consumerGroup": "g", "offsets": []}
        for outcome in ("ack", "nack"):
            assert (await asked("POST", f"{place}/{outcome}", mark))["success"]
        await asked("PATCH", "/topics/t/groups/g", {"maxDeliveries": 3})
        await asked("POST", "/topics/t/groups/g/seek", {"to": "beginning"})
        assert 1 == len((await asked("GET", "/topics/t/groups"))["known"])
        await asked("DELETE", "/topics/t/groups/g")
        assert {} == await asked("GET", "/topics/t/groups")
        await asked("PATCH", "/topics/t", {"maxDeliveries": 3})


async def test_keys_are_read_and_written_over_http_at_any_node(nodes: SeveralNodes) -> None:
    await nodes.topic("keys", kind=TopicKind.KV)
    for number in range(9):
        async with httpx.AsyncClient(base_url=nodes.nodes[number % 3].url) as client:
            path = f"/topics/keys/kv/k{number}"
            assert 200 == (await client.put(path, json={"value": "eA=="})).status_code
    for node in nodes.nodes:
        async with httpx.AsyncClient(base_url=node.url) as client:
            for number in range(9):
                found = await client.get(f"/topics/keys/kv/k{number}")
                assert "eA==" == found.json()["message"]["value"]
            gone = await client.delete(f"/topics/keys/kv/k{nodes.nodes.index(node)}")
            assert gone.json()["existed"]
            await client.put(
                f"/topics/keys/kv/k{nodes.nodes.index(node)}", json={"value": "eA=="}
            )
