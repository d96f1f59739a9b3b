import grpc
import grpc.aio
import pytest

from sandglass.core import limits, offset
from sandglass.wire.v1 import admin_pb2 as pb
from sandglass.wire.v1.admin_pb2_grpc import AdminStub
from tests.unit.rpc.fake_broker import NOW_MS


@pytest.fixture
def admin(channel):
    return AdminStub(channel)


async def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_a_topic_has_one_partition_and_default_settings_unless_told(admin):
    reply = await admin.CreateTopic(pb.CreateTopicRequest(name="new"))

    topic = reply.topic
    assert ("new", ["new-0"], 1, NOW_MS, pb.TOPIC_KIND_TIMER) == (
        topic.name,
        list(topic.partitions),
        topic.replication_factor,
        topic.created_ms,
        topic.kind,
    )
    assert (
        limits.RETENTION_MS_DEFAULT,
        limits.ACK_TIMEOUT_MS_DEFAULT,
        limits.MAX_DELIVERIES_DEFAULT,
    ) == (
        topic.settings.retention_ms,
        topic.settings.ack_timeout_ms,
        topic.settings.max_deliveries,
    )


async def test_settings_are_taken(admin):
    settings = pb.TopicSettings(retention_ms=5000, ack_timeout_ms=100, max_deliveries=1)

    reply = await admin.CreateTopic(
        pb.CreateTopicRequest(name="new", partition_count=2, settings=settings)
    )

    settings.backoff.MergeFrom(pb.Backoff(delays_ms=[0], factor=1))
    assert settings == reply.topic.settings
    assert 2 == len(reply.topic.partitions)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"name": "t"}, grpc.StatusCode.ALREADY_EXISTS),
        ({"kind": 5}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"replication_factor": 2}, grpc.StatusCode.FAILED_PRECONDITION),
        ({"settings": pb.TopicSettings(ack_timeout_ms=1)}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"settings": pb.TopicSettings(retention_ms=-5)}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_topic_that_cannot_be_is_refused(admin, fields, code):
    got, _ = await refusal(
        admin.CreateTopic(pb.CreateTopicRequest(**{"name": "new", **fields}))
    )

    assert code is got


async def test_topics_are_listed_by_name(admin):
    for name in ("z", "a"):
        await admin.CreateTopic(pb.CreateTopicRequest(name=name))

    reply = await admin.ListTopics(pb.ListTopicsRequest())

    assert ["a", "t", "z"] == [topic.name for topic in reply.topics]


async def test_topics_come_in_pages_that_together_are_all_of_them(admin):
    for name in ("a", "b", "c", "d", "z"):
        await admin.CreateTopic(pb.CreateTopicRequest(name=name))

    token, pages = b"", []
    while token or not pages:
        page = await admin.ListTopics(pb.ListTopicsRequest(page_size=2, page_token=token))
        pages.append([topic.name for topic in page.topics])
        token = page.next_page_token

    assert [["a", "b"], ["c", "d"], ["t", "z"]] == pages


async def test_a_page_of_topics_is_bounded_in_bytes(admin):
    names = [letter * limits.NAME_LENGTH_MAX for letter in "abcdef"]
    for name in names:
        await admin.CreateTopic(pb.CreateTopicRequest(name=name, partition_count=1024))

    token, seen = b"", []
    while token or not seen:
        page = await admin.ListTopics(pb.ListTopicsRequest(page_token=token))
        assert page.ByteSize() <= limits.FRAME_BYTES_MAX
        seen += [topic.name for topic in page.topics]
        token = page.next_page_token

    assert [*names, "t"] == seen


async def test_a_topic_larger_than_a_page_comes_alone(admin, monkeypatch):
    monkeypatch.setattr(limits, "PAGE_BYTES_MAX", 1)
    await admin.CreateTopic(pb.CreateTopicRequest(name="a"))

    first = await admin.ListTopics(pb.ListTopicsRequest())
    second = await admin.ListTopics(pb.ListTopicsRequest(page_token=first.next_page_token))

    assert (["a"], ["t"]) == tuple(
        [topic.name for topic in page.topics] for page in (first, second)
    )
    assert b"" == second.next_page_token


async def test_a_page_of_topics_that_cannot_be_is_refused(admin):
    await admin.ListTopics(pb.ListTopicsRequest(page_size=limits.PAGE_COUNT_MAX))
    for request, text in (
        (pb.ListTopicsRequest(page_size=1001), "page_size is 1001; it must be 1 to 1000"),
        (pb.ListTopicsRequest(page_token=b"\xff"), "page_token"),
    ):
        code, said = await refusal(admin.ListTopics(request))
        assert grpc.StatusCode.INVALID_ARGUMENT is code
        assert text in said


async def test_a_topic_is_shown_with_its_partitions(admin):
    reply = await admin.ShowTopic(pb.ShowTopicRequest(name="t"))

    assert "t" == reply.topic.name
    assert ["t-0", "t-1", "t-2"] == [partition.id for partition in reply.partitions]
    assert (7, offset.to_bytes(offset.make(NOW_MS, 7)), ["master"]) == (
        reply.partitions[0].last_index,
        reply.partitions[0].closed_offset,
        list(reply.partitions[0].channels),
    )


async def test_a_deleted_topic_is_gone(admin):
    await admin.DeleteTopic(pb.DeleteTopicRequest(name="t"))

    for call in (
        admin.ShowTopic(pb.ShowTopicRequest(name="t")),
        admin.DeleteTopic(pb.DeleteTopicRequest(name="t")),
        admin.ListGroups(pb.ListGroupsRequest(topic="t")),
    ):
        code, text = await refusal(call)
        assert code is grpc.StatusCode.NOT_FOUND
        assert "ErrTopicNotFound" in text


async def test_groups_are_listed_with_every_figure(admin):
    [group] = (await admin.ListGroups(pb.ListGroupsRequest(topic="t", group="mine"))).groups

    assert ("t", "t-0", "master", "mine") == (
        group.topic,
        group.partition,
        group.channel,
        group.group,
    )
    assert [offset.make(NOW_MS, 1), offset.make(NOW_MS, 2)] == [
        offset.from_bytes(group.committed),
        offset.from_bytes(group.consumed),
    ]
    assert list(range(1, 8)) == [
        group.lag_count,
        group.leased_count,
        group.retry_count,
        group.acked_count,
        group.dead_count,
        group.generation,
        group.consumer_count,
    ]
