"""A produce request, cut by partition."""

import pytest

from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.errors import InvalidError
from sandglass.wire import convert
from sandglass.wire.splitting import split_request
from sandglass.wire.v1 import broker_pb2

TOPIC = Topic(
    "t",
    TopicKind.TIMER,
    tuple(PartitionRef(f"p{number}", number) for number in range(4)),
    3,
    0,
    TopicSettings(),
)
KV = Topic("kv", TopicKind.KV, TOPIC.partitions, 3, 0, TopicSettings())


def request_of(*messages: broker_pb2.Message, **fields: object) -> broker_pb2.ProduceRequest:
    batch = broker_pb2.MessageBatch(messages=messages).SerializeToString()
    return broker_pb2.ProduceRequest(
        request_id=9,
        topic="t",
        channel="c",
        batch=batch,
        count=len(messages),
        **fields,  # pyright: ignore[reportArgumentType]
    )


def keyed(count: int) -> list[broker_pb2.Message]:
    return [broker_pb2.Message(key=b"%d" % n, value=b"v%d" % n) for n in range(count)]


def never() -> int:
    raise AssertionError("nothing is spread")


def test_a_request_without_keys_goes_to_one_partition_as_it_is() -> None:
    request = request_of(broker_pb2.Message(value=b"a"), broker_pb2.Message(value=b"b"))

    [part] = split_request(request, TOPIC, lambda: 2)

    assert (part.place, part.places, part.request.partition) == (2, None, "p2")
    assert part.request.batch == request.batch


def test_messages_go_where_their_keys_point_in_their_order() -> None:
    messages = keyed(20)
    request = request_of(*messages, due_ms=range(1000, 1020))

    parts = split_request(request, TOPIC, never)

    keys = [message.key for message in messages]
    wanted = convert.places_of(keys, 4, spread=0)
    assert [part.place for part in parts] == sorted(set(wanted))
    for part in parts:
        places = [n for n, place in enumerate(wanted) if place == part.place]
        found = broker_pb2.MessageBatch.FromString(part.request.batch).messages
        assert part.places == places
        assert list(found) == [messages[n] for n in places]
        assert list(part.request.due_ms) == [1000 + n for n in places]
        assert (part.request.partition, part.request.channel) == (f"p{part.place}", "c")
        assert part.request.count == len(places)


def test_one_delay_for_all_goes_with_each_part() -> None:
    parts = split_request(request_of(*keyed(20), delay_ms=[5000]), TOPIC, never)

    assert len(parts) > 1
    assert all(list(part.request.delay_ms) == [5000] for part in parts)


def test_what_has_no_key_among_others_goes_to_the_next_partition() -> None:
    messages = [*keyed(3), broker_pb2.Message(value=b"x")]

    parts = split_request(request_of(*messages), TOPIC, lambda: 1)

    [second] = [part for part in parts if part.place == 1]
    assert second.places is not None
    assert 3 in second.places


def test_a_part_that_is_all_of_it_says_so() -> None:
    [part] = split_request(request_of(*keyed(1)), TOPIC, never)

    assert part.places is None


def test_what_is_wrong_with_one_part_is_found_before_any_is_made() -> None:
    large = broker_pb2.Message(key=b"k", value=bytes(1024 * 1024 + 1))

    with pytest.raises(InvalidError):
        split_request(request_of(*keyed(5), large), TOPIC, never)
    with pytest.raises(InvalidError, match="has no key"):
        split_request(request_of(*keyed(5), broker_pb2.Message(value=b"x")), KV, never)


def test_entries_go_where_their_keys_point() -> None:
    parts = split_request(request_of(*keyed(20)), KV, never)

    places = [number for part in parts for number in part.places or []]
    assert sorted(places) == list(range(20))
