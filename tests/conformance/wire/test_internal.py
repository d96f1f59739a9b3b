"""Transcripts of InternalService: marks, how far a group is, a partition in order of index."""

import time

import pytest

from tests.conformance.wire.conftest import (
    CODE,
    DEAD_LETTERS,
    index,
    offsets_of,
    refusal,
    running,
    values,
)

NIL = bytes(14)
CONSUMED, NOT_ACKNOWLEDGED, ACKNOWLEDGED, COMMITED = 10, 20, 30, 40


def key_of(last: int) -> bytes:
    """A key of the log as a client of the first Sandglass makes one."""
    return b"\x01w/some/where/" + last.to_bytes(8, "big")


# --- how far a group is -----------------------------------------------------------------------


def test_a_group_that_is_not_there_has_fourteen_zero_bytes(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"a")

    for kind in (CONSUMED, ACKNOWLEDGED, COMMITED):
        assert NIL == client.last_offset(topic, partition, kind, group="never")


def test_last_offsets_follow_deliveries_and_acks(client, topic):
    [partition] = client.create(topic)
    offsets = client.produce(topic, *(b"%d" % n for n in range(5)))

    def last(kind: int) -> bytes:
        return client.last_offset(topic, partition, kind)

    client.consume(topic, partition)
    assert (offsets[4], NIL, NIL) == (last(CONSUMED), last(ACKNOWLEDGED), last(COMMITED))

    client.ack(topic, partition, offsets[2])
    assert (offsets[2], NIL) == (last(ACKNOWLEDGED), last(COMMITED))

    client.ack(topic, partition, offsets[0])
    assert (offsets[2], offsets[0]) == (last(ACKNOWLEDGED), last(COMMITED))

    client.ack(topic, partition, offsets[1])
    assert (offsets[2], offsets[2]) == (last(ACKNOWLEDGED), last(COMMITED))

    client.nack(topic, partition, offsets[3])
    client.ack(topic, partition, offsets[4])
    assert (offsets[4], offsets[2]) == (last(ACKNOWLEDGED), last(COMMITED))


@pytest.mark.parametrize("kind", [0, NOT_ACKNOWLEDGED, 77])
def test_other_kinds_have_no_last_offset(client, topic, kind):
    [partition] = client.create(topic)

    code, text = refusal(client.last_offset, topic, partition, kind)

    assert (CODE.INVALID_ARGUMENT, True) == (code, f"kind {kind} has no" in text)


# --- marks ------------------------------------------------------------------------------------


def test_a_message_is_marked_by_what_happened_to_it(client, topic):
    [partition] = client.create(topic)
    offsets = client.produce(topic, *(b"%d" % n for n in range(4)))
    assert CODE.NOT_FOUND is refusal(client.mark_state, topic, partition, offsets[0])[0]

    client.consume(topic, partition)
    later = client.produce(topic, b"later")
    client.ack(topic, partition, offsets[0], offsets[2])
    client.nack(topic, partition, offsets[3])

    assert [(COMMITED, 0), (CONSUMED, 1), (ACKNOWLEDGED, 0), (NOT_ACKNOWLEDGED, 1)] == [
        client.mark_state(topic, partition, offset) for offset in offsets
    ]
    for offset in (*later, NIL, b"\xff" * 14):
        assert CODE.NOT_FOUND is refusal(client.mark_state, topic, partition, offset)[0]


def test_a_mark_is_an_outcome_of_its_kind(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"a", b"b", b"c", b"d")
    a, b, c, d = offsets_of(client.consume(topic, partition))

    assert client.mark(topic, partition, ACKNOWLEDGED, a)
    assert client.mark(topic, partition, COMMITED, b)
    assert client.mark(topic, partition, NOT_ACKNOWLEDGED, c)
    assert client.mark(topic, partition, CONSUMED, d)

    assert [b"c"] == values(client.consume_until(topic, partition, 1))
    assert b == client.last_offset(topic, partition, COMMITED)
    assert (CONSUMED, 2) == client.mark_state(topic, partition, c)
    assert (CONSUMED, 1) == client.mark_state(topic, partition, d)


def test_a_mark_without_a_kind_is_refused_and_harms_nobody(client, topic):
    [partition] = client.create(topic)
    [offset] = client.produce(topic, b"a")
    client.consume(topic, partition)

    code, text = refusal(client.mark, topic, partition, 0, offset)

    assert (CODE.INVALID_ARGUMENT, True) == (code, "state.kind 0" in text)
    assert offset == client.last_offset(topic, partition, CONSUMED)


def test_marks_and_last_offsets_survive_a_kill(tmp_path, generated):
    with running(tmp_path / "data", generated, is_killed=True) as client:
        [partition] = client.create("kept")
        offsets = client.produce("kept", *(b"%d" % n for n in range(6)))
        client.consume("kept", partition)
        client.ack("kept", partition, offsets[0], offsets[3])
        client.nack("kept", partition, offsets[4])

    with running(tmp_path / "data", generated) as client:
        for kind, offset in (
            (COMMITED, offsets[0]),
            (ACKNOWLEDGED, offsets[3]),
            (CONSUMED, offsets[4]),
        ):
            assert offset == client.last_offset("kept", partition, kind)
        assert (ACKNOWLEDGED, 0) == client.mark_state("kept", partition, offsets[3])
        assert (NOT_ACKNOWLEDGED, 1) == client.mark_state("kept", partition, offsets[4])


# --- in order of index ------------------------------------------------------------------------


def test_the_end_of_the_log_counts_every_message(client, topic):
    [partition] = client.create(topic)
    assert 0 == client.end_of_log(topic, partition)

    client.produce(topic, b"a", client.later(60_000, value=b"later"))
    client.produce(topic, client.pb.Message(channel="other"))

    assert 3 == client.end_of_log(topic, partition)


def test_a_sync_gives_every_message_once_in_order_of_index(client, topic):
    [partition] = client.create(topic)
    sent = [
        client.later(60_000, value=b"far"),
        client.pb.Message(value=b"now"),
        client.pb.Message(value=b"other", channel="other"),
        client.later(30_000, value=b"near", key=b"k"),
        client.pb.Message(value=b"last"),
    ]
    offsets = [client.produce(topic, message)[0] for message in sent]

    got = client.sync(topic, partition)

    assert [b"far", b"now", b"other", b"near", b"last"] == values(got)
    assert offsets == offsets_of(got)
    assert [1, 2, 3, 4, 5] == [message.index for message in got]
    assert ["master", "master", "other", "master", "master"] == [m.channel for m in got]
    assert [b"near", b"last"] == values(client.sync(topic, partition, key_of(3)))
    assert [] == client.sync(topic, partition, key_of(5))
    assert [] == client.sync(topic, partition, b"\xff" * 8)


def test_a_follower_that_syncs_by_index_has_everything_there_is(client, topic):
    """Dead letters and what comes between two polls included."""
    [partition] = client.create(topic)
    followed: list[int] = []
    for _ in range(4):
        client.produce(topic, *(b"x" for _ in range(700)))
        client.produce(topic, *(client.later(n % 50_000, value=b"y") for n in range(300)))
        followed += [
            message.index
            for message in client.sync(
                topic, partition, key_of(followed[-1] if followed else 0)
            )
        ]

    assert list(range(1, 4001)) == followed


def test_dead_letters_are_in_the_order_of_index_too(client, topic):
    [partition] = client.create_with(topic, max_deliveries=1)
    client.produce(topic, b"poison", b"fine")
    [poison, _] = client.consume(topic, partition)
    client.nack(topic, partition, poison.offset)

    got = client.sync(topic, partition)

    assert [b"poison", b"fine", b"poison"] == values(got)
    assert DEAD_LETTERS == got[2].channel
    assert 3 == client.end_of_log(topic, partition)


def test_a_key_that_holds_no_index_is_refused(client, topic):
    [partition] = client.create(topic)

    code, text = refusal(client.sync, topic, partition, b"short")

    assert (CODE.INVALID_ARGUMENT, True) == (code, "from is 5 bytes" in text)


def test_what_is_no_longer_kept_is_out_of_range_and_says_what_is(client, topic):
    [partition] = client.create_with(topic, retention_ms=1000)
    client.produce(topic, client.later(3_600_000, value=b"far"), b"old", b"old")
    deadline = time.monotonic() + 60
    while client.fetch(topic, partition):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # What waits is kept, however long the calls take.
    client.produce(topic, client.later(3_600_000, value=b"new"))

    stream_of = client.sync
    code, text = refusal(stream_of, topic, partition)

    assert CODE.OUT_OF_RANGE is code
    assert text.endswith("the first index still held above it is 4")
    assert [b"new"] == values(client.sync(topic, partition, key_of(3)))


def test_a_kv_topic_has_an_end_and_no_order_of_production(client, topic):
    config = client.pb.TopicConfig(name=topic, numPartitions=1, replicationFactor=1, kind=1)
    client.broker.CreateTopic(config)
    [partition] = client.partitions(topic)
    client.produce(topic, client.pb.Message(key=b"k"), client.pb.Message(key=b"k"))

    assert 2 == client.end_of_log(topic, partition)
    assert CODE.FAILED_PRECONDITION is refusal(client.sync, topic, partition)[0]
    assert NIL == client.last_offset(topic, partition, COMMITED)


def test_unknown_places_are_not_found(client, topic):
    client.create(topic)
    pb, internal = client.pb, client.internal
    for name, partition, code, text in (
        ("none", "p", CODE.NOT_FOUND, "ErrTopicNotFound"),
        (topic, "", CODE.INVALID_ARGUMENT, "ErrNoPartitionSet"),
        (topic, "none", CODE.NOT_FOUND, "ErrPartitionNotFound"),
    ):
        place = {"topic": name, "partition": partition}
        for call in (
            lambda place=place: internal.EndOfLog(pb.EndOfLogRequest(**place)),
            lambda place=place: list(internal.FetchFromSync(pb.FetchFromSyncRequest(**place))),
            lambda place=place: internal.LastOffset(
                pb.LastOffsetRequest(**place, consumerGroup="g", kind=COMMITED)
            ),
            lambda place=place: internal.Mark(pb.MarkRequest(**place, consumerGroup="g")),
            lambda place=place: internal.GetMarkStateMessage(
                pb.GetMarkRequest(**place, consumerGroup="g")
            ),
        ):
            got_code, got_text = refusal(call)
            assert (code, True) == (got_code, text in got_text)


def test_offsets_in_answers_are_always_fourteen_bytes_long(client, topic):
    """A Go client refuses any other length, a field that is present and empty included."""
    [partition] = client.create(topic)
    [offset] = client.produce(topic, b"a")
    client.consume(topic, partition)

    for kind in (CONSUMED, ACKNOWLEDGED, COMMITED):
        request = client.pb.LastOffsetRequest(
            topic=topic, partition=partition, consumerGroup="g", kind=kind
        )
        raw = client.raw("InternalService/LastOffset", request)
        assert (b"\x0a\x0e", 16) == (raw[:2], len(raw))
    request = client.pb.GetMarkRequest(
        topic=topic, partition=partition, consumerGroup="g", offset=offset
    )
    raw = client.raw("InternalService/GetMarkStateMessage", request)
    assert b"\x5a\x0e" + offset in raw
    assert index(offset) == 1
