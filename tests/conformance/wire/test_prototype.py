"""
The test cases of the first Sandglass that one node can be held to, and a regression for each of
its defects. Both tables name the tests; one of them checks the tables.

| its case | here |
| --- | --- |
| 1 TestSandglass | test_a_thousand_single_messages_are_all_in_the_range |
| 2 TestKVTopic | test_a_thousand_writes_of_a_key_leave_one_message_with_the_last_value |
| 3 TestACK | test_acks_move_the_last_offsets_as_the_contract_has_it |
| 4 TestConsume | test_a_group_gets_thirty_then_twenty_then_those_again_until_they_die |
| 5 TestSyncRequest | test_a_replica_that_syncs_ends_where_the_log_ends |
| 6 TestChannels | test_each_channel_and_group_has_its_own_count_and_last_offset |
| 7, 9 benchmarks | `make bench` |
| 8, 10, 11 | parts of a server that is built otherwise |
| 12 TestOffset | test_an_offset_keeps_time_and_index_and_their_order |
| 13 sandflakes | test_partition_ids_are_sandflakes_and_are_taken_as_offsets |

What was seen on one node of it and must not be here; B1 is the first.

| | its defect | here |
| --- | --- | --- |
| B1 | a Badger topic kills the node | test_a_badger_topic_is_like_any_other |
| B2 | dies at a restart with data | test_a_node_starts_again_on_its_data_however_it_ended |
| B3 | a group's first is lost | test_a_group_s_first_message_is_never_committed_unread |
| B4 | without channel all again | test_consuming_without_a_channel_brings_back_nothing_acked |
| B5 | a dead letter each redelivery | test_a_redelivery_changes_nothing_and_buries_nothing |
| B6, B7 | HTTP routes crash | HTTP has tests of its own |
| B8 | a non-controller crashes | needs a second node |
| B9 | unknown names crash the node | test_no_unknown_name_harms_the_node |
| B10 | KV keys are spread | test_keyed_writes_without_a_partition_are_found_by_the_key_s_hash |
| B11 | a key is a prefix | test_a_key_that_begins_like_another_is_not_the_other |
| B12 | HasKey is always false | test_has_key_tells_the_truth |
| B13 | FetchFrom ignores its fields | test_a_range_includes_both_ends |
| B14 | FetchRange mixes channels | test_a_range_without_a_channel_is_of_master_alone |
| B15 | a text with a missing argument | test_an_unknown_topic_or_partition_is_not_found |
| B16 | batches beyond the limit | test_an_atom_of_four_mebibytes_is_taken_and_more_is_told |
| B17, B18 | no quorum, lost after failover | needs replicas |
| B19 | marks lost from snapshots | test_marks_and_last_offsets_survive_a_kill |
| B20 | sandctl mixes up its flags | sandctl has tests of its own |
| B21 | truncates the marked entry | test_a_node_starts_again_on_its_data_however_it_ended |
| B22 | visible late, or too early | test_what_is_answered_is_visible_at_once |
| B23 | a node resets its peers | needs a second node |
| B24 | overdue when delivered | test_the_time_to_ack_counts_from_the_delivery |
| B25 | late entries are lost | test_what_comes_due_behind_later_messages_is_not_lost |
| B26 | custom offsets overwrite | test_a_custom_offset_in_the_past_or_used_before_means_now |
| B27 | a consumer leaves, a crash | test_consumers_that_leave_at_any_moment_harm_nobody |
| B28 | g1 reads the marks of g10 | test_names_that_begin_alike_are_kept_apart |
| B29 | the first 1000 twice | test_a_sync_gives_each_of_many_messages_once |
| B30 | goroutines stay, a bad stop | every node here is stopped, and has to end with 0 |
| B31 | an empty mark is malformed | test_a_mark_without_a_kind_is_refused_and_harms_nobody |
"""

import re
import time
from pathlib import Path

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

CONSUMED, ACKNOWLEDGED, COMMITED = 10, 30, 40
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def test_the_tables_are_whole_and_name_tests_that_exist():
    here = Path(__file__).parent
    written = "".join(path.read_text() for path in here.glob("test_*.py"))
    existing = set(re.findall(r"^def (test_\w+)", written, re.MULTILINE))

    assert set(re.findall(r"test_\w+", __doc__ or "")) <= existing
    rows = re.findall(r"^\| (B?\d+(?:, B?\d+)*)", __doc__ or "", re.MULTILINE)
    numbers = [number for row in rows for number in row.split(", ")]
    assert [str(n) for n in range(1, 14)] == sorted(filter(str.isdigit, numbers), key=int)
    assert [f"B{n}" for n in range(1, 32)] == [each for each in numbers if each[0] == "B"]


# --- its cases --------------------------------------------------------------------------------


def test_acks_move_the_last_offsets_as_the_contract_has_it(client, topic):
    """Its committed offset moved only by a commit; ours is the end of the settled prefix."""
    [partition] = client.create(topic)
    first, second = client.produce(topic, b"1", b"2")

    # Not handed out yet: ignored.
    assert client.ack(topic, partition, first, group="group1")
    assert bytes(14) == client.last_offset(topic, partition, ACKNOWLEDGED, group="group1")

    client.consume(topic, partition, group="group1")
    client.ack(topic, partition, first, group="group1")
    assert first == client.last_offset(topic, partition, ACKNOWLEDGED, group="group1")
    assert first == client.last_offset(topic, partition, COMMITED, group="group1")

    client.mark(topic, partition, COMMITED, second, group="group1")
    assert second == client.last_offset(topic, partition, ACKNOWLEDGED, group="group1")
    assert second == client.last_offset(topic, partition, COMMITED, group="group1")


def test_a_group_gets_thirty_then_twenty_then_those_again_until_they_die(client, topic):
    """Three more rounds after the first delivery: `max_deliveries` is 4."""
    ack_timeout_s = 2.0
    [partition] = client.create_with(
        topic, ack_timeout_ms=int(ack_timeout_s * 1000), max_deliveries=4
    )
    thirty = client.produce(topic, *(b"%d" % n for n in range(30)))
    got = client.consume(topic, partition)
    assert thirty == offsets_of(got)
    client.ack(topic, partition, *offsets_of(got))
    assert thirty[-1] == client.last_offset(topic, partition, CONSUMED)

    twenty = client.produce(topic, *(b"%d" % n for n in range(20)))
    delivered = time.monotonic()
    assert twenty == offsets_of(client.consume(topic, partition))
    again = client.consume(topic, partition)
    if time.monotonic() - delivered < ack_timeout_s:
        assert [] == again

    rounds = again + client.consume_until(topic, partition, 60 - len(again))
    for place in range(3):
        assert set(twenty) == set(offsets_of(rounds[20 * place : 20 * place + 20]))
    dead = client.consume_until(topic, partition, 20, channel=DEAD_LETTERS)
    assert sorted(b"%d" % n for n in range(20)) == sorted(values(dead))
    assert [] == client.consume(topic, partition)


def test_a_replica_that_syncs_ends_where_the_log_ends(client, topic):
    """Each message names the offset of the one before as its own."""
    [partition] = client.create(topic)
    offsets = client.produce(topic, b"0")
    for n in range(1, 5):
        offsets += client.produce(topic, client.pb.Message(offset=offsets[-1], value=b"%d" % n))

    got = client.sync(topic, partition)

    assert offsets == offsets_of(got)
    assert 5 == len(set(offsets))
    assert client.end_of_log(topic, partition) == index(offsets[-1]) == got[-1].index


def test_each_channel_and_group_has_its_own_count_and_last_offset(client, topic):
    [partition] = client.create(topic)
    last = {}
    for channel, count in (("", 30), ("chan1", 15), ("chan2", 15)):
        messages = [client.pb.Message(channel=channel) for _ in range(count)]
        last[channel] = client.produce(topic, *messages)[-1]

    for channel, group, count in (
        ("", "group1", 30),
        ("chan1", "group1", 15),
        ("chan2", "group1", 15),
        ("chan1", "group2", 15),
    ):
        got = client.consume(topic, partition, group=group, channel=channel)
        client.ack(topic, partition, *offsets_of(got), group=group, channel=channel)
        assert (count, last[channel]) == (len(got), got[-1].offset)
        assert [] == client.consume(topic, partition, group=group, channel=channel)
        for kind in (CONSUMED, ACKNOWLEDGED, COMMITED):
            assert last[channel] == client.last_offset(
                topic, partition, kind, group=group, channel=channel
            )


def test_an_offset_keeps_time_and_index_and_their_order(client, topic):
    client.create(topic)
    now = int(time.time() * 1000)
    times = [now + 60_000, now + 50_000, now + 60_000, now + 2**40]

    offsets = client.produce(
        topic,
        *(client.pb.Message(offset=each.to_bytes(6, "big") + bytes(8)) for each in times),
    )

    assert times == [due_ms(offset) for offset in offsets]
    assert [1, 2, 3, 4] == [index(offset) for offset in offsets]
    assert [offsets[place] for place in (1, 0, 2, 3)] == sorted(offsets)


def test_partition_ids_are_sandflakes_and_are_taken_as_offsets(client, topic):
    before = int(time.time() * 1000)
    ids = client.create(topic, 64)
    after = int(time.time() * 1000)

    raws = [sandflake(each) for each in ids]

    assert sorted(ids) == ids == [text_of(raw) for raw in raws]
    assert 64 == len(set(raws))
    assert sorted(raws) == raws
    assert all(before <= int.from_bytes(raw[:6], "big") <= after for raw in raws)
    assert 1 == len({raw[6:10] for raw in raws})
    [offset] = client.produce(topic, client.pb.Message(offset=raws[0]), partition=ids[0])
    assert due_ms(offset) >= before
    assert 14 == len(offset)


def sandflake(text: str) -> bytes:
    """26 characters of five bits, the first 128 of them."""
    assert 26 == len(text)
    number = 0
    for character in text:
        number = number << 5 | CROCKFORD.index(character)
    return (number >> 2).to_bytes(16, "big")


def text_of(raw: bytes) -> str:
    number = int.from_bytes(raw, "big") << 2
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def test_the_vectors_of_sandflakes():
    for raw, text in (
        (bytes(16), "0" * 26),
        (b"\xff" * 16, "Z" * 25 + "W"),
        (bytes(range(16)), "000G40R40M30E209185GR38E1W"),
        (bytes.fromhex("015c4733dc1401020304000005070809"), "05E4ECYW2G0G40R40000A1R814"),
    ):
        assert (text, raw) == (text_of(raw), sandflake(text))


# --- its defects ------------------------------------------------------------------------------


def test_a_badger_topic_is_like_any_other(client, topic):
    pb = client.pb
    config = pb.TopicConfig(
        name=topic, numPartitions=1, replicationFactor=1, storageDriver=pb.Badger
    )
    assert client.broker.CreateTopic(config).success
    [partition] = client.partitions(topic)

    client.produce(topic, b"a")

    assert [b"a"] == values(client.consume(topic, partition))


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_node_starts_again_on_its_data_however_it_ended(tmp_path, generated, is_killed):
    """B18's like on one node: no index is given out twice. B21: the last message is there."""
    data = tmp_path / "data"
    offsets: list[bytes] = []
    partitions: list[list[str]] = []
    for life in range(3):
        with running(data, generated, is_killed=is_killed) as client:
            if life == 0:
                client.create("kept")
            partitions.append(client.partitions("kept"))
            [partition] = partitions[0]
            offsets += client.produce("kept", *(b"%d" % n for n in range(20)))
            assert offsets == offsets_of(client.fetch("kept", partition))
            assert offsets[life * 20 :] == offsets_of(
                client.consume_until("kept", partition, 20)
            )
            client.ack("kept", partition, *offsets)

    assert partitions[0] == partitions[1] == partitions[2]
    assert list(range(1, 61)) == [index(offset) for offset in offsets]
    assert sorted(offsets) == offsets


def test_a_group_s_first_message_is_never_committed_unread(client, topic):
    [partition] = client.create(topic)
    offsets = client.produce(topic, b"1", b"2", b"3")
    client.consume(topic, partition)
    client.ack(topic, partition, *offsets[1:])

    client.nack(topic, partition, offsets[0])

    assert bytes(14) == client.last_offset(topic, partition, COMMITED)
    assert [b"1"] == values(client.consume_until(topic, partition, 1))
    client.ack(topic, partition, offsets[0])
    assert offsets[2] == client.last_offset(topic, partition, COMMITED)


def test_consuming_without_a_channel_brings_back_nothing_acked(client, topic):
    [partition] = client.create(topic)
    for _ in range(3):
        client.produce(topic, *(b"%d" % n for n in range(10)))
        got = client.consume(topic, partition, channel="")
        assert 10 == len(got)
        client.ack(topic, partition, *offsets_of(got), channel="")
        assert [] == client.consume(topic, partition, channel="")


def test_a_redelivery_changes_nothing_and_buries_nothing(client, topic):
    [partition] = client.create(topic)
    [sent] = client.produce(topic, client.pb.Message(key=b"k", value=b"v", channel="c"))
    client.produce(topic, client.pb.Message(channel="c"))
    first = client.consume(topic, partition, channel="c")[0]

    for _ in range(4):
        client.nack(topic, partition, sent, channel="c")
        [again] = client.consume_until(topic, partition, 1, channel="c")
        assert first == again
        assert [] == client.fetch(topic, partition, channel=DEAD_LETTERS)

    client.nack(topic, partition, sent, channel="c")
    [dead] = client.fetch(topic, partition, channel=DEAD_LETTERS)
    assert (b"k", b"v", DEAD_LETTERS) == (dead.key, dead.value, dead.channel)


def test_no_unknown_name_harms_the_node(client, topic):
    [partition] = client.create(topic)
    pb, broker, internal = client.pb, client.broker, client.internal
    places = (
        {"topic": "none", "partition": "none"},
        {"topic": "none"},
        {"topic": topic, "partition": "none"},
        {"topic": topic},
        {},
    )
    for place in places:
        for call in (
            lambda place=place: list(broker.FetchFrom(pb.FetchFromRequest(**place))),
            lambda place=place: list(broker.FetchRange(pb.FetchRangeRequest(**place))),
            lambda place=place: list(
                broker.ConsumeFromGroup(
                    pb.ConsumeFromGroupRequest(**place, consumerGroupName="g")
                )
            ),
            lambda place=place: broker.Acknowledge(pb.MarkRequest(**place, consumerGroup="g")),
            lambda place=place: internal.Mark(pb.MarkRequest(**place, consumerGroup="g")),
            lambda place=place: internal.EndOfLog(pb.EndOfLogRequest(**place)),
            lambda place=place: list(internal.FetchFromSync(pb.FetchFromSyncRequest(**place))),
            lambda place=place: internal.GetByKey(pb.GetRequest(**place, key=b"k")),
            lambda place=place: internal.HasKey(pb.GetRequest(**place, key=b"k")),
        ):
            code, _ = refusal(call)
            assert code not in {CODE.UNKNOWN, CODE.INTERNAL, CODE.UNAVAILABLE}

    client.produce(topic, b"a")
    assert [b"a"] == values(client.consume(topic, partition))


def test_a_range_without_a_channel_is_of_master_alone(client, topic):
    [partition] = client.create_with(topic, max_deliveries=1)
    client.produce(topic, b"m", client.pb.Message(channel="a", value=b"a"))
    [got] = client.consume(topic, partition)
    client.nack(topic, partition, got.offset)

    assert [b"m"] == values(client.fetch(topic, partition))
    assert [b"m"] == values(client.fetch_from(topic, partition))
    assert [b"m"] == values(client.fetch(topic, partition, channel=DEAD_LETTERS))


def test_an_atom_of_four_mebibytes_is_taken_and_more_is_told(client, topic):
    [partition] = client.create(topic)
    each = client.pb.Message(value=bytes(1000))
    size_bytes = len(each.SerializeToString()) + 3
    count = 4 * 1024 * 1024 // size_bytes

    assert count == len(client.produce(topic, *[each] * count))

    code, text = refusal(client.produce, topic, *[each] * (count + 1))
    assert CODE.INVALID_ARGUMENT is code
    assert f"{(count + 1) * size_bytes} bytes; the limit is 4194304" in text
    code, text = refusal(client.produce, topic, *[each] * 10_000)
    assert CODE.RESOURCE_EXHAUSTED is code
    assert "larger than max" in text
    assert count == client.end_of_log(topic, partition)


def test_what_is_answered_is_visible_at_once(client, topic):
    [partition] = client.create(topic)
    for n in range(50):
        client.produce(topic, b"%d" % n)
        assert n + 1 == len(client.fetch(topic, partition))
        assert [b"%d" % n] == values(client.consume(topic, partition))


def test_the_time_to_ack_counts_from_the_delivery(client, topic):
    due_s, ack_timeout_s = 2.5, 2.0
    [partition] = client.create_with(topic, ack_timeout_ms=int(ack_timeout_s * 1000))
    produced = time.monotonic()
    [offset] = client.produce(topic, client.later(int(due_s * 1000), value=b"late"))
    assert [offset] == offsets_of(client.consume_until(topic, partition, 1))

    client.consume_until(topic, partition, 1)
    # Not delivered before it was due, nor again before its lease had ended. A clock that is
    # being set right may gain a little.
    assert time.monotonic() - produced > due_s + ack_timeout_s - 0.1


def test_what_comes_due_behind_later_messages_is_not_lost(client, topic):
    """A scheduled message whose neighbours in production were consumed and committed before."""
    [partition] = client.create(topic)
    [late] = client.produce(topic, client.later(800, value=b"late"))
    seen: list[bytes] = []
    while time.time() * 1000 < due_ms(late) + 100:
        client.produce(topic, b"now")
        got = client.consume(topic, partition)
        client.ack(topic, partition, *offsets_of(got))
        seen += offsets_of(got)

    seen += offsets_of(client.consume(topic, partition))
    assert 1 == seen.count(late)
    assert len(seen) == len(set(seen)) == client.end_of_log(topic, partition)


def test_consumers_that_leave_at_any_moment_harm_nobody(client, topic):
    [partition] = client.create_with(topic, ack_timeout_ms=500, max_deliveries=1000)
    offsets = client.produce(topic, *(b"x" * 1000 for _ in range(200)))
    request = client.pb.ConsumeFromGroupRequest(
        topic=topic, partition=partition, consumerGroupName="g", consumerName="c"
    )

    for count in (0, 1, 2, 100, 199, 200, 0, 1, 200):
        stream = client.broker.ConsumeFromGroup(request)
        for _ in zip(range(count), stream, strict=False):
            pass
        stream.cancel()

    left = set(offsets)
    deadline = time.monotonic() + 60
    while left:
        assert time.monotonic() < deadline
        got = offsets_of(client.consume(topic, partition))
        client.ack(topic, partition, *got)
        left -= set(got)


def test_names_that_begin_alike_are_kept_apart(client, topic):
    [partition] = client.create(topic)
    [other] = client.create(topic + "0")
    offsets = client.produce(topic, b"a", b"b")
    client.produce(topic + "0", b"c")

    client.ack(topic, partition, *offsets_of(client.consume(topic, partition, group="g1")))
    client.ack(topic, partition, *offsets, group="g1")

    for group in ("g", "g10"):
        assert bytes(14) == client.last_offset(topic, partition, COMMITED, group=group)
        assert [b"a", b"b"] == values(client.consume(topic, partition, group=group))
        assert bytes(14) == client.last_offset(topic, partition, COMMITED, group=group)
    assert [b"c"] == values(client.consume(topic + "0", other, group="g1"))
    for name in ("g/1", "g1/", "/"):
        code, _ = refusal(client.consume, topic, partition, group=name)
        assert CODE.INVALID_ARGUMENT is code


def test_a_sync_gives_each_of_many_messages_once(client, topic):
    [partition] = client.create(topic)
    for first in range(0, 3500, 500):
        client.produce(topic, *(b"%d" % n for n in range(first, first + 500)))

    got = client.sync(topic, partition)

    assert [b"%d" % n for n in range(3500)] == values(got)
