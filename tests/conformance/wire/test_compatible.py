"""Transcripts of the compatible protocol: what its clients do and see."""

import time

import grpc
import pytest

from tests.conformance.wire.conftest import (
    CODE,
    DEAD_LETTERS,
    due_ms,
    index,
    offsets_of,
    refusal,
    running,
    values,
)

# --- topics -----------------------------------------------------------------------------------


def test_a_topic_is_created_once_and_shows_its_partitions(client, topic):
    partitions = client.create(topic, 3)

    code, text = refusal(client.create, topic, 3)

    assert 3 == len(set(partitions))
    assert partitions == client.partitions(topic)
    assert CODE.ALREADY_EXISTS is code
    assert "ErrTopicAlreadyExist" in text


@pytest.mark.parametrize("name", ["", "a/b", "a b", "..", "_mine", "n" * 201, "é"])
def test_a_topic_s_name_has_rules(client, name):
    assert CODE.INVALID_ARGUMENT is refusal(client.create, name)[0]


def test_a_name_of_200_characters_is_taken(client):
    assert client.create("n" * 200)


def test_more_replicas_than_members_are_refused_with_their_number(client, topic):
    config = client.pb.TopicConfig(name=topic, numPartitions=1, replicationFactor=3)

    code, text = refusal(client.broker.CreateTopic, config)

    assert CODE.FAILED_PRECONDITION is code
    assert "2 missing" in text


def test_an_unknown_topic_or_partition_is_not_found(client, topic):
    code, text = refusal(client.partitions, topic)
    assert (CODE.NOT_FOUND, f"ErrTopicNotFound: topic '{topic}' not found") == (code, text)

    client.create(topic)
    for call in (
        lambda: client.produce(topic, b"x", partition="nowhere"),
        lambda: client.fetch(topic, "nowhere"),
        lambda: client.consume(topic, "nowhere"),
        lambda: client.ack(topic, "nowhere", b"\x01" * 14),
    ):
        code, text = refusal(call)
        assert CODE.NOT_FOUND is code
        assert "ErrPartitionNotFound" in text


# --- produce and read -------------------------------------------------------------------------


def test_a_thousand_single_messages_are_all_in_the_range(client, topic):
    [partition] = client.create(topic)

    offsets = [client.produce(topic, b"%d" % n)[0] for n in range(1000)]

    got = client.fetch(topic, partition, bytes(14), b"\xff" * 14)
    assert [b"%d" % n for n in range(1000)] == values(got)
    assert offsets == offsets_of(got)
    assert list(range(1, 1001)) == [message.index for message in got]


def test_a_message_is_read_as_it_was_produced_with_what_the_broker_adds(client, topic):
    [partition] = client.create(topic)
    before_ms = int(time.time() * 1000)
    sent = client.later(0, key=b"k", clusteringKey=b"ck", value=b"v")
    sent.index, sent.offset = 99, bytes(14)
    sent.producedAt.seconds = -62135596800

    [offset] = client.produce(topic, sent)

    [got] = client.fetch(topic, partition)
    assert (b"k", b"ck", b"v") == (got.key, got.clusteringKey, got.value)
    assert ("master", 1, offset) == (got.channel, got.index, got.offset)
    assert before_ms <= got.producedAt.ToMilliseconds() <= int(time.time() * 1000)
    assert before_ms <= due_ms(offset) <= int(time.time() * 1000)


def test_a_gzipped_request_is_taken(client, topic):
    [partition] = client.create(topic)
    request = client.pb.ProduceMessageRequest(topic=topic, partition=partition)
    request.messages.add(value=b"x" * 1_000_000)

    client.broker.Produce(request, compression=grpc.Compression.Gzip)

    assert 1 == len(client.fetch(topic, partition))


def test_a_large_message_makes_its_way(client, topic):
    [partition] = client.create(topic)
    value = bytes(range(256)) * 4096

    client.produce(topic, value)

    assert [value] == values(client.fetch(topic, partition))
    assert [value] == values(client.consume(topic, partition))


def test_what_is_too_large_is_refused_by_name_and_limit(client, topic):
    client.create(topic)

    code, text = refusal(client.produce, topic, bytes(1024 * 1024 + 1))

    assert CODE.INVALID_ARGUMENT is code
    assert "messages[0].value is 1048577 bytes; the limit is 1048576" == text


def test_a_request_that_is_no_request_is_refused(client):
    channel_call = client.broker.Produce
    code, _ = refusal(channel_call, client.pb.ProduceMessageRequest())

    assert CODE.INVALID_ARGUMENT is code


def test_messages_of_a_key_go_to_its_partition(client, topic):
    partitions = client.create(topic, 3)
    # The places of these keys among three are facts of the first Sandglass.
    keys = {b"a": 0, b"my_key": 1, b"same": 0, b"hello world": 1}
    messages = [client.pb.Message(key=key, value=key) for key in keys]

    offsets = client.produce(topic, *messages)

    for place in range(3):
        expected = [key for key, where in keys.items() if where == place]
        assert expected == values(client.fetch(topic, partitions[place]))
    assert [1, 1, 2, 2] == [index(offset) for offset in offsets]


def test_messages_without_a_key_are_spread_by_call(client, topic):
    partitions = client.create(topic, 3)

    for _ in range(6):
        client.produce(topic, b"x", b"y")

    assert [4, 4, 4] == [len(client.fetch(topic, partition)) for partition in partitions]


def test_a_range_includes_both_ends(client, topic):
    [partition] = client.create(topic)
    offsets = client.produce(topic, *(b"%d" % n for n in range(10)))

    assert [b"3", b"4", b"5"] == values(client.fetch(topic, partition, offsets[3], offsets[5]))
    assert [b"8", b"9"] == values(client.fetch_from(topic, partition, offsets[8]))


def test_an_offset_of_a_wrong_length_is_refused_everywhere(client, topic):
    [partition] = client.create(topic)
    for call in (
        lambda: client.fetch(topic, partition, b"short"),
        lambda: client.fetch(topic, partition, b"", b"short"),
        lambda: client.fetch_from(topic, partition, b"short"),
        lambda: client.ack(topic, partition, b"short"),
        lambda: client.produce(topic, client.pb.Message(offset=b"short")),
    ):
        code, text = refusal(call)
        assert CODE.INVALID_ARGUMENT is code
        assert "length of offset should be 14 but got 5" in text


# --- groups -----------------------------------------------------------------------------------


def test_a_group_sees_each_message_once_and_goes_on_from_there(client, topic):
    [partition] = client.create(topic)
    first = client.produce(topic, *(b"%d" % n for n in range(30)))

    got = client.consume(topic, partition)
    assert first == offsets_of(got)
    client.ack(topic, partition, *offsets_of(got))

    second = client.produce(topic, *(b"%d" % n for n in range(20)))
    assert second == offsets_of(client.consume(topic, partition))
    assert [] == client.consume(topic, partition)


def test_messages_are_there_as_soon_as_the_produce_is_answered(client, topic):
    [partition] = client.create(topic)

    for n in range(50):
        client.produce(topic, b"%d" % n)
        assert [b"%d" % n] == values(client.consume(topic, partition))


def test_ten_thousand_messages_are_drained_in_order(client, topic):
    # The stream must not wait for the end of leases: they last longer than a call may take.
    [partition] = client.create_with(topic, ack_timeout_ms=3_600_000)
    for start in range(0, 10_000, 2000):
        client.produce(topic, *(b"%d" % n for n in range(start, start + 2000)))

    got = client.consume(topic, partition)

    assert [b"%d" % n for n in range(10_000)] == values(got)
    client.ack(topic, partition, *offsets_of(got))
    assert [] == client.consume(topic, partition)


def test_each_group_sees_every_message(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"a", b"b")

    # One name begins with the other: they are still two groups.
    for group in ("g1", "g10"):
        got = client.consume(topic, partition, group=group)
        assert [b"a", b"b"] == values(got)
        client.ack(topic, partition, *offsets_of(got), group=group)
        assert [] == client.consume(topic, partition, group=group)


def test_consumers_of_a_group_never_hold_the_same_message(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, *(b"%d" % n for n in range(100)))

    got = client.consume(topic, partition, name="c1")
    got += client.consume(topic, partition, name="c2")

    assert 100 == len({message.offset for message in got}) == len(got)


def test_channels_of_a_partition_do_not_leak(client, topic):
    [partition] = client.create(topic)
    counts = {"": 30, "chan1": 15, "chan2": 16}
    for channel, count in counts.items():
        client.produce(topic, *(client.pb.Message(channel=channel) for _ in range(count)))

    for channel, count in counts.items():
        got = client.consume(topic, partition, channel=channel)
        assert count == len(got)
        assert {channel or "master"} == {message.channel for message in got}
        client.ack(topic, partition, *offsets_of(got), channel=channel)
        assert [] == client.consume(topic, partition, channel=channel)
        assert count == len(client.fetch(topic, partition, channel=channel))
        assert count == len(client.fetch_from(topic, partition, channel=channel))
    assert 15 == len(client.consume(topic, partition, group="g2", channel="chan1"))
    assert 30 == len(client.consume(topic, partition, group="g2", channel="master"))


def test_a_nacked_message_comes_again_at_once(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"a", b"b", b"c")
    got = client.consume(topic, partition)
    client.ack(topic, partition, got[0].offset, got[2].offset)

    client.nack(topic, partition, got[1].offset)

    [again] = client.consume_until(topic, partition, 1)
    assert (got[1].offset, got[1].index, b"b") == (again.offset, again.index, again.value)
    client.ack(topic, partition, again.offset)
    assert [] == client.consume(topic, partition)


def test_a_message_that_fails_five_times_is_one_dead_letter(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"poison", b"fine")

    for _ in range(5):
        got = client.consume_until(topic, partition, 1)
        [poison] = [message for message in got if message.value == b"poison"]
        client.ack(topic, partition, *(each.offset for each in got if each.value == b"fine"))
        client.nack(topic, partition, poison.offset)

    assert [] == client.consume(topic, partition)
    [dead] = client.consume(topic, partition, channel=DEAD_LETTERS)
    assert (b"poison", DEAD_LETTERS) == (dead.value, dead.channel)
    assert [b"poison"] == values(client.fetch(topic, partition, channel=DEAD_LETTERS))
    assert [b"poison", b"fine"] == values(client.fetch(topic, partition))


def test_nobody_produces_to_the_dead_letters(client, topic):
    client.create(topic)

    code, _ = refusal(client.produce, topic, client.pb.Message(channel=DEAD_LETTERS))

    assert CODE.INVALID_ARGUMENT is code


def test_settled_is_final(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"a")
    [got] = client.consume(topic, partition)

    assert client.ack(topic, partition, got.offset)
    assert client.ack(topic, partition, got.offset)
    assert client.nack(topic, partition, got.offset)

    assert [] == client.consume(topic, partition)


def test_outcomes_of_what_is_not_there_are_ignored(client, topic):
    [partition] = client.create(topic)
    offsets = client.produce(topic, b"a", b"b")
    unknown = offsets[0][:6] + (77).to_bytes(8, "big")

    # Nobody has been given anything yet, nor is there such a group.
    assert client.ack(topic, partition, unknown, *offsets, bytes(14), b"\xff" * 14)
    assert client.nack(topic, partition, unknown, group="never")

    assert [b"a", b"b"] == values(client.consume(topic, partition))
    # Now there is one.
    assert client.ack(topic, partition, unknown, bytes(14), b"\xff" * 14)
    assert client.nack(topic, partition, unknown, bytes(14), b"\xff" * 14)


def test_a_state_in_the_request_is_stronger_than_the_method(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"a")
    [got] = client.consume(topic, partition)
    request = client.pb.MarkRequest(
        topic=topic, partition=partition, consumerGroup="g", offsets=[got.offset]
    )
    request.state.kind = client.pb.NotAcknowledged

    assert client.broker.Acknowledge(request).success

    assert [b"a"] == values(client.consume_until(topic, partition, 1))


@pytest.mark.slow
def test_an_unanswered_message_comes_again_ten_seconds_after_its_delivery(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, b"a")
    delivered = time.monotonic()
    [first] = client.consume(topic, partition)

    [again] = client.consume_until(topic, partition, 1)

    assert first.offset == again.offset
    assert time.monotonic() - delivered >= 9.9


def test_a_client_that_cancels_in_the_middle_loses_nothing(client, topic):
    [partition] = client.create(topic)
    client.produce(topic, *(b"x" * 2000 for _ in range(2000)))
    request = client.pb.ConsumeFromGroupRequest(
        topic=topic, partition=partition, consumerGroupName="g", consumerName="c"
    )
    stream = client.broker.ConsumeFromGroup(request)
    taken = [next(stream) for _ in range(10)]
    stream.cancel()

    client.nack(topic, partition, *offsets_of(client.fetch(topic, partition)))

    rest = client.consume_until(topic, partition, 2000)
    assert 2000 == len({message.offset for message in rest})
    assert {message.offset for message in taken} <= {message.offset for message in rest}


# --- schedule ---------------------------------------------------------------------------------


def test_a_delayed_message_comes_when_it_is_due_and_not_before(client, topic):
    [partition] = client.create(topic)
    before_ms = int(time.time() * 1000)

    [offset, _] = client.produce(topic, client.later(700, value=b"late"), b"now")

    assert due_ms(offset) >= before_ms + 700
    got = client.consume(topic, partition)
    if time.time() * 1000 < due_ms(offset):
        assert [b"now"] == values(got)
    got += client.consume_until(topic, partition, 2 - len(got))
    assert [b"now", b"late"] == values(got)
    assert time.time() * 1000 >= due_ms(offset)
    client.ack(topic, partition, *offsets_of(got))
    assert [] == client.consume(topic, partition)


def test_a_custom_offset_names_the_due_time(client, topic):
    [partition] = client.create(topic)
    now = int(time.time() * 1000)
    hour, soon = now + 3_600_000, now + 600

    def both(moment: int) -> list[bytes]:
        custom = moment.to_bytes(6, "big") + (999).to_bytes(8, "big")
        sandflake = moment.to_bytes(6, "big") + bytes(10)
        return client.produce(
            topic,
            client.pb.Message(offset=custom, value=b"offset"),
            client.pb.Message(offset=sandflake, value=b"sandflake"),
        )

    offsets = both(hour) + both(soon)

    assert [hour, hour] == [due_ms(offset) for offset in offsets[:2]]
    assert [1, 2, 3, 4] == [index(offset) for offset in offsets]
    assert [b"offset", b"sandflake"] == values(client.consume_until(topic, partition, 2))
    assert time.time() * 1000 >= soon


def test_a_custom_offset_in_the_past_or_used_before_means_now(client, topic):
    [partition] = client.create(topic)
    [first] = client.produce(topic, b"first")
    before_ms = due_ms(first)

    offsets = client.produce(
        topic,
        client.pb.Message(offset=first, value=b"same"),
        client.pb.Message(offset=(1000).to_bytes(6, "big") + bytes(8), value=b"past"),
    )

    assert 3 == len({first, *offsets})
    assert all(due_ms(offset) >= before_ms for offset in offsets)
    assert [b"first", b"same", b"past"] == values(client.consume(topic, partition))


@pytest.mark.parametrize("delay_ms", [-1, -90_000])
def test_a_negative_delay_is_refused(client, topic, delay_ms):
    client.create(topic)

    code, text = refusal(client.produce, topic, client.later(delay_ms))

    assert CODE.INVALID_ARGUMENT is code
    assert "consumeIn" in text


def test_a_message_due_in_a_year_is_kept_and_not_shown(client, topic):
    [partition] = client.create(topic)

    client.produce(topic, client.later(365 * 24 * 3600 * 1000, value=b"far"), b"near")

    assert [b"near"] == values(client.consume(topic, partition))
    assert [b"near"] == values(client.fetch(topic, partition))


# --- restart ----------------------------------------------------------------------------------


def test_everything_is_there_after_a_restart(tmp_path, generated):
    with running(tmp_path / "data", generated) as client:
        [partition] = client.create("kept", 1)
        offsets = client.produce("kept", *(b"%d" % n for n in range(100)))
        later = client.produce("kept", client.later(1500, value=b"late"))
        got = client.consume("kept", partition)
        client.ack("kept", partition, *offsets_of(got[:60]))

    with running(tmp_path / "data", generated) as client:
        assert [partition] == client.partitions("kept")
        assert CODE.ALREADY_EXISTS is refusal(client.create, "kept")[0]
        assert offsets == offsets_of(client.fetch("kept", partition))[:100]
        [new] = client.produce("kept", b"new")
        assert 102 == index(new)
        rest = client.consume_until("kept", partition, 42)
        assert [*offsets[60:], *sorted([new, *later])] == sorted(offsets_of(rest))
        assert 42 == len(rest)
