"""
Transcripts of the compatible protocol on KV topics, with those of the first Sandglass's tests
that are about them, and one for each defect that it had there.
"""

import itertools

import grpc
import pytest

from tests.conformance.wire.conftest import Client, running

CODE = grpc.StatusCode
KV = 1
KEY_BYTES_MAX = 1024

PLACES = {
    b"a": (0, 5, 15),
    b"my_key": (1, 1, 48),
    b"same": (0, 8, 31),
    b"hello world": (1, 9, 34),
}
"""Where the first Sandglass puts a key among 3, 10 and 50 partitions."""


def refusal(call, *args, **kwargs) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **kwargs)
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


def put(client: Client, topic: str, key: bytes, value: bytes, **fields) -> bytes:
    partition = fields.pop("partition", "")
    message = client.pb.Message(key=key, value=value, **fields)
    [offset] = client.produce(topic, message, partition=partition)
    return offset


def get(client: Client, topic: str, key: bytes, clustering: bytes = b"", **fields):
    request = client.pb.GetRequest(topic=topic, key=key, clusteringKey=clustering, **fields)
    return client.internal.GetByKey(request, timeout=60)


def has(client: Client, topic: str, key: bytes, clustering: bytes = b"", **fields) -> bool:
    request = client.pb.GetRequest(topic=topic, key=key, clusteringKey=clustering, **fields)
    return client.internal.HasKey(request, timeout=60).exists


# --- tests of the first Sandglass -------------------------------------------------------------


def test_a_thousand_writes_of_a_key_leave_one_message_with_the_last_value(client, topic):
    [partition] = client.create(topic, kind=KV)

    for n in range(1000):
        put(client, topic, b"my_key", b"%d" % n)

    [found] = client.fetch(topic, partition, bytes(14), b"\xff" * 14)
    assert (b"my_key", b"999") == (found.key, found.value)
    assert b"999" == get(client, topic, b"my_key").value


def test_keyed_writes_without_a_partition_are_found_by_the_key_s_hash(client, topic):
    client.create(topic, 10, kind=KV)

    for n in range(30):
        put(client, topic, b"my_key", b"%d" % n)

    assert {b"29"} == {get(client, topic, b"my_key").value for _ in range(20)}


# --- a defect each ----------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "count"), [(0, 3), (1, 10), (2, 50)])
def test_a_key_is_in_one_partition_and_in_that_of_the_vectors(client, topic, place, count):
    """It was anywhere: 20 writes of a key landed in 4 of 4 partitions."""
    partitions = client.create(topic, count, kind=KV)

    for key in PLACES:
        for n in range(3):
            put(client, topic, key, b"%d" % n)

    for key, places in PLACES.items():
        own = partitions[places[place]]
        assert b"2" == get(client, topic, key, partition=own).value
        holding = [each for each in partitions if has(client, topic, key, partition=each)]
        assert [own] == holding


def test_a_key_that_begins_like_another_is_not_the_other(client, topic):
    """Asking for `a` gave `ab`."""
    client.create(topic, kind=KV)
    put(client, topic, b"ab", b"longer")

    assert CODE.NOT_FOUND is refusal(get, client, topic, b"a")[0]
    assert not has(client, topic, b"a")

    put(client, topic, b"a", b"shorter")
    assert b"shorter" == get(client, topic, b"a").value
    assert b"longer" == get(client, topic, b"ab").value


def test_has_key_tells_the_truth(client, topic):
    """It said no, always."""
    client.create(topic, 3, kind=KV)

    assert not has(client, topic, b"k")
    put(client, topic, b"k", b"")
    assert has(client, topic, b"k")
    assert not has(client, topic, b"k", b"clustered")
    assert not has(client, topic, b"k", channel="side")


def test_what_crashed_the_broker_is_answered(client, topic):
    """An unknown topic or partition, and a timer topic, with and without a partition."""
    other = topic + "-timer"
    client.create(topic, kind=KV)
    [partition] = client.create(other)

    for call in (get, has):
        code, text = refusal(call, client, topic + "-none", b"k")
        assert (CODE.NOT_FOUND, True) == (code, "ErrTopicNotFound" in text)
        code, text = refusal(call, client, topic, b"k", partition="nowhere")
        assert (CODE.NOT_FOUND, True) == (code, "ErrPartitionNotFound" in text)
        for where in ("", partition):
            code, text = refusal(call, client, other, b"k", partition=where)
            assert CODE.FAILED_PRECONDITION is code
            assert "should be used only with a KV topic" in text
    assert client.partitions(topic)


# --- what a key is ----------------------------------------------------------------------------


def test_binary_keys_are_exact_and_come_in_byte_order(client, topic):
    [partition] = client.create(topic, kind=KV)
    parts = [
        b"",
        b"\0",
        b"\0\0",
        b"\0\xff",
        b"/",
        b"a",
        b"a\0",
        b"a/",
        b"a/b",
        b"\xff",
        b"\xff\xff",
    ]
    keys = [(key, clustering) for key, clustering in itertools.product(parts[1:], parts)]

    for key, clustering in keys[::2] + keys[1::2]:
        put(client, topic, key, key + b"|" + clustering, clusteringKey=clustering)

    found = client.fetch(topic, partition)
    assert sorted(keys) == [(each.key, each.clusteringKey) for each in found]
    for key, clustering in keys:
        assert key + b"|" + clustering == get(client, topic, key, clustering).value


def test_keys_at_their_limit_are_taken_and_above_it_refused(client, topic):
    client.create(topic, kind=KV)
    top = b"\0" * KEY_BYTES_MAX

    put(client, topic, top, b"x", clusteringKey=top)

    assert b"x" == get(client, topic, top, top).value
    for key, clustering in ((top + b"\0", b""), (b"k", top + b"\0")):
        for call in (get, has):
            code, text = refusal(call, client, topic, key, clustering)
            assert CODE.INVALID_ARGUMENT is code
            assert "1025 bytes; the limit is 1024" in text
        code, _ = refusal(put, client, topic, key, b"x", clusteringKey=clustering)
        assert CODE.INVALID_ARGUMENT is code


def test_channels_have_keys_of_their_own(client, topic):
    [partition] = client.create(topic, kind=KV)

    put(client, topic, b"k", b"one")
    put(client, topic, b"k", b"two", channel="side")

    assert b"one" == get(client, topic, b"k", channel="master").value
    assert b"two" == get(client, topic, b"k", channel="side").value
    assert ["one"] == [each.value.decode() for each in client.fetch(topic, partition)]
    assert [] == client.fetch(topic, partition, channel="third")


# --- what a message is ------------------------------------------------------------------------


def test_an_entry_is_read_as_it_was_put_with_what_the_broker_adds(client, topic):
    [partition] = client.create(topic, kind=KV)

    offset = put(client, topic, b"k", b"v", clusteringKey=b"c", index=99)

    for found in (get(client, topic, b"k", b"c"), *client.fetch(topic, partition)):
        assert (b"k", b"c", b"v") == (found.key, found.clusteringKey, found.value)
        assert ("master", 1, offset) == (found.channel, found.index, found.offset)
        assert int.from_bytes(offset[:6], "big") == found.producedAt.ToMilliseconds()
        assert 1 == int.from_bytes(offset[6:], "big")


def test_offsets_are_answered_in_order_and_the_last_of_equal_keys_stays(client, topic):
    [partition] = client.create(topic, kind=KV)

    offsets = client.produce(
        topic,
        *(
            client.pb.Message(key=key, value=b"%d" % n)
            for n, key in enumerate([b"b", b"a", b"b"])
        ),
    )

    assert [1, 2, 3] == [int.from_bytes(each[6:], "big") for each in offsets]
    found = client.fetch(topic, partition)
    assert [(b"a", b"1", 2), (b"b", b"2", 3)] == [(m.key, m.value, m.index) for m in found]


def test_a_request_may_reach_several_partitions_and_is_answered_in_its_order(client, topic):
    partitions = client.create(topic, 3, kind=KV)
    keys = [b"key-%d" % n for n in range(50)]

    offsets = client.produce(topic, *(client.pb.Message(key=key, value=key) for key in keys))

    for key, offset in zip(keys, offsets, strict=True):
        found = get(client, topic, key)
        assert (key, offset) == (found.value, found.offset)
    fetched = [m.key for partition in partitions for m in client.fetch(topic, partition)]
    assert sorted(keys) == sorted(fetched)


def test_a_range_shows_what_was_put_within_it_in_key_order(client, topic):
    [partition] = client.create(topic, kind=KV)
    offsets = [put(client, topic, key, b"v") for key in (b"c", b"a", b"b")]

    def keys(*bounds: bytes) -> list[bytes]:
        return [each.key for each in client.fetch(topic, partition, *bounds)]

    assert [b"a", b"b", b"c"] == keys()
    assert [b"a", b"b"] == keys(offsets[1])
    assert [b"a", b"c"] == keys(b"", offsets[1])
    assert [b"a", b"b"] == [
        each.key for each in client.fetch_from(topic, partition, offsets[1])
    ]


# --- what is refused --------------------------------------------------------------------------


def test_a_message_without_a_key_or_with_a_time_is_refused_with_the_whole_request(
    client, topic
):
    [partition] = client.create(topic, kind=KV)
    good = client.pb.Message(key=b"k", value=b"v")
    bad = {
        "ErrNoKeySet: messages[1]": client.pb.Message(value=b"v"),
        "no time of its own": client.later(1000, key=b"k", value=b"v"),
        "leave due_ms and delay_ms, or offset": client.pb.Message(
            key=b"k", value=b"v", offset=b"\x01" * 14
        ),
    }

    for text, message in bad.items():
        for where in ("", partition):
            code, told = refusal(client.produce, topic, good, message, partition=where)
            assert (CODE.INVALID_ARGUMENT, True) == (code, text in told)
    assert CODE.INVALID_ARGUMENT is refusal(client.produce, topic, b"plain")[0]
    assert [] == client.fetch(topic, partition)


def test_no_group_reads_a_kv_topic(client, topic):
    [partition] = client.create(topic, kind=KV)
    offset = put(client, topic, b"k", b"v")

    for code, text in (
        refusal(client.consume, topic, partition),
        refusal(client.ack, topic, partition, offset),
        refusal(client.nack, topic, partition, offset),
    ):
        assert CODE.FAILED_PRECONDITION is code
        assert "KV topic" in text


def test_a_key_must_be_given(client, topic):
    client.create(topic, kind=KV)

    for call in (get, has):
        code, text = refusal(call, client, topic, b"")
        assert (CODE.INVALID_ARGUMENT, True) == (code, "ErrNoKeySet" in text)


# --- what stays -------------------------------------------------------------------------------


def test_entries_are_there_after_a_restart_and_revisions_go_on(tmp_path, generated):
    with running(tmp_path / "data", generated) as before:
        before.create("t", 3, kind=KV)
        for n in range(20):
            put(before, "t", b"key-%d" % (n % 5), b"%d" % n)
        known = {b"key-%d" % n: get(before, "t", b"key-%d" % n).offset for n in range(5)}

    with running(tmp_path / "data", generated) as after:
        for n in range(5):
            found = get(after, "t", b"key-%d" % n)
            assert (b"%d" % (15 + n), known[found.key]) == (found.value, found.offset)
            assert put(after, "t", found.key, b"new") > found.offset
            assert b"new" == get(after, "t", found.key).value
