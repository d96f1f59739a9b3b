"""Groups and partitions of a topic in pages: by call, over HTTP, and by clients that go on."""

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import httpx
import pytest

from sandglass import AsyncClient
from sandglass.core import limits
from sandglass.testing import Broker
from sandglass.wire.v1 import admin_pb2 as pb
from tests.integration.raw import Wire, wire

NAMES = ["a", "b", "c", "d", "e"]
CHANNELS = ["master", "one", "three", "two"]


@pytest.fixture
async def node() -> AsyncIterator[Broker]:
    """
    Topic `t` of three partitions. Five groups are known, two of which have read in all of
    them; the second partition has four channels.
    """
    async with Broker() as broker, AsyncClient(broker.address) as client:
        topic = await client.create_topic("t", partitions=3)
        for partition in topic.partitions:
            await client.produce("t", b"x", partition=partition)
        for channel in CHANNELS[1:]:
            await client.produce("t", b"x", partition=topic.partitions[1], channel=channel)
        for name in reversed(NAMES):
            await client.admin.create_group("t", name)
        for name in ("b", "d"):
            async for message in client.consume("t", group=name, drain=True):
                await message.ack(wait=True)
        yield broker


@pytest.fixture
async def client(node: Broker) -> AsyncIterator[Wire]:
    async with wire(node) as connected:
        yield connected


async def groups_in_pages(client: Wire, size: int, group: str = "") -> list[pb.ListGroupsReply]:
    request = pb.ListGroupsRequest(topic="t", page_size=size, group=group)
    pages: list[pb.ListGroupsReply] = []
    while not pages or request.page_token:
        pages.append(await client.admin.ListGroups(request))
        request.page_token = pages[-1].next_page_token
    return pages


async def partitions_in_pages(client: Wire, size: int) -> list[pb.ShowTopicReply]:
    request = pb.ShowTopicRequest(name="t", page_size=size)
    pages: list[pb.ShowTopicReply] = []
    while not pages or request.page_token:
        pages.append(await client.admin.ShowTopic(request))
        request.page_token = pages[-1].next_page_token
    return pages


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 10, 11, 12])
async def test_groups_come_in_pages_and_their_parts_after_all_of_them(
    client: Wire, size: int
) -> None:
    pages = await groups_in_pages(client, size)

    parts = [part for page in pages for part in page.groups]
    topic = (await client.admin.ShowTopic(pb.ShowTopicRequest(name="t"))).topic
    assert [[1, 1, 1] * 2, NAMES] == [
        [part.acked_count for part in parts],
        [group.name for page in pages for group in page.known],
    ]
    assert [(id_, name) for id_ in topic.partitions for name in ("b", "d")] == [
        (part.partition, part.group) for part in parts
    ]
    assert -(-11 // (size or 11)) == len(pages)
    assert all(len(page.known) + len(page.groups) <= (size or 11) for page in pages)


async def test_one_group_comes_in_pages_too(client: Wire) -> None:
    pages = await groups_in_pages(client, 2, "d")

    assert [(1, 1), (0, 2)] == [(len(page.known), len(page.groups)) for page in pages]
    assert {"d"} == {each.group for page in pages for each in page.groups}


async def test_a_group_that_goes_between_pages_takes_no_other_with_it(client: Wire) -> None:
    request = pb.ListGroupsRequest(topic="t", page_size=2)
    first = await client.admin.ListGroups(request)
    await client.admin.DeleteGroup(pb.DeleteGroupRequest(topic="t", group="b"))
    request.page_token = first.next_page_token

    second = await client.admin.ListGroups(request)

    assert ["a", "b"] == [each.name for each in first.known]
    assert ["c", "d"] == [each.name for each in second.known]


@pytest.mark.parametrize("size", [0, 1, 2, 3])
async def test_partitions_come_in_pages(client: Wire, size: int) -> None:
    pages = await partitions_in_pages(client, size)

    seen = [each for page in pages for each in page.partitions]
    assert [*pages[0].topic.partitions] == [each.id for each in seen]
    assert [["master"], CHANNELS, ["master"]] == [[*each.channels] for each in seen]
    assert -(-3 // (size or 3)) == len(pages)
    assert all(page.topic == pages[0].topic for page in pages)


async def test_channels_that_do_not_fit_go_on_with_the_next_page(
    node: Broker, client: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 95)

    pages = await partitions_in_pages(client, 0)

    first, second, third = pages[0].topic.partitions
    assert [
        (first, ["master"]),
        (second, ["master", "one"]),
        (second, ["three", "two"]),
        (third, ["master"]),
    ] == [(each.id, [*each.channels]) for page in pages for each in page.partitions]
    async with AsyncClient(node.address) as other:
        shown = await other.show_topic("t")
    assert [first, second, third] == [each.id for each in shown.partitions]
    assert tuple(CHANNELS) == shown.partitions[1].channels


async def test_clients_go_on_to_the_end(node: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PAGE_COUNT_MAX", 2)

    async with AsyncClient(node.address) as client:
        assert NAMES == [each.name for each in await client.admin.groups("t")]
        assert 6 == len(await client.list_groups("t"))
        assert 3 == len(await client.list_groups("t", "d"))
        assert "d" == (await client.admin.group("t", "d")).name
        assert 3 == len((await client.show_topic("t")).partitions)


async def test_http_gives_pages_of_groups(node: Broker) -> None:
    async with httpx.AsyncClient(base_url=f"http://{node.http_address}") as http:
        query = {"pageSize": "4"}
        pages = [(await http.get("/topics/t/groups", params=query)).json()]
        while token := pages[-1].get("nextPageToken"):
            query["pageToken"] = token
            pages.append((await http.get("/topics/t/groups", params=query)).json())

    assert NAMES == [each["name"] for page in pages for each in page.get("known", [])]
    assert 6 == len([each for page in pages for each in page.get("groups", [])])
    assert 3 == len(pages)


STRANGE = [b"\xff", b"b", b"b\0-1\0", b"b\0" + b"1" * 5 + b"\0", b"\0x\0"]


@pytest.mark.parametrize("token", STRANGE)
async def test_a_token_that_no_page_gave_is_refused(client: Wire, token: bytes) -> None:
    for call in (
        client.admin.ListGroups(pb.ListGroupsRequest(topic="t", page_token=token)),
        client.admin.ShowTopic(pb.ShowTopicRequest(name="t", page_token=token)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert grpc.StatusCode.INVALID_ARGUMENT is refused.value.code()
        assert "page_token is not one that an answer gave" in (refused.value.details() or "")
