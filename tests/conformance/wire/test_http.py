"""
Transcripts of the HTTP surface: the routes that the first Sandglass had, as they were meant,
and ours. Nothing here imports `sandglass`.
"""

import json
import time
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conformance.wire.calls import b64, consume, create, ok, produce, results, values

DEAD_LETTERS = "__death_letter"


@pytest.fixture
def partition(http, topic) -> str:
    """The only one of a new topic."""
    return create(http, topic)[0]


def due_ms(offset: str) -> int:
    return int.from_bytes(b64decode(offset)[:6], "big")


# --- topics -----------------------------------------------------------------------------------


def test_a_topic_is_created_once_shown_listed_and_deleted(http, topic):
    partitions = create(http, topic, 3)

    again = http.post(
        "/topics", json={"name": topic, "numPartitions": 3, "replicationFactor": 1}
    )
    listed = {each["name"]: each for each in ok(http.get("/topics"))["topics"]}
    deleted = ok(http.delete(f"/topics/{topic}"))

    assert 3 == len(set(partitions))
    assert (409, 6) == (again.status_code, again.json()["code"])
    assert "ErrTopicAlreadyExist" in again.json()["error"]
    assert partitions == listed[topic]["partitions"]
    assert {} == deleted
    assert 404 == http.get(f"/topics/{topic}").status_code
    assert 404 == http.delete(f"/topics/{topic}").status_code


def test_the_kind_of_a_topic_is_a_name_or_a_number(http, topic):
    for place, kind in enumerate((0, "TimerKind")):
        config = {"name": f"{topic}-{place}", "numPartitions": 1, "replicationFactor": 1}
        ok(http.post("/topics", json=config | {"kind": kind, "storageDriver": "RocksDB"}))


def test_a_missing_topic_is_told_as_the_prototype_told_it(http):
    missing = http.get("/topics/none")

    text = "ErrTopicNotFound: topic 'none' not found"
    assert 404 == missing.status_code
    assert {"error": text, "message": text, "code": 5} == missing.json()
    assert "NOT_FOUND" == missing.headers["sandglass-reason"]
    assert "topic" == missing.headers["sandglass-field"]


def test_more_replicas_than_members_are_a_failed_precondition(http, topic):
    config = {"name": topic, "numPartitions": 1, "replicationFactor": 3}

    refused = http.post("/topics", json=config)

    assert (412, 9) == (refused.status_code, refused.json()["code"])


def test_an_unknown_path_and_a_wrong_method_are_plain_text(http, topic, partition):
    unknown = http.get("/nothing")
    wrong = http.put("/topics")

    assert (404, "Not Found") == (unknown.status_code, unknown.text)
    assert (405, "Method Not Allowed") == (wrong.status_code, wrong.text)
    for response in (unknown, wrong):
        assert response.headers["content-type"].startswith("text/plain")
    assert {"GET", "HEAD", "POST"} == set(wrong.headers["allow"].split(", "))
    assert 404 == http.get(f"/topics/{topic}/").status_code
    assert 404 == http.get(f"/topics/{topic}/{partition}/g/c/d").status_code


def test_a_segment_of_a_path_holds_no_slash(http, topic):
    assert 404 == http.get(f"/topics/{topic}%2Fx").status_code
    assert 400 == http.post("/topics", json={"name": "a/b", "numPartitions": 1}).status_code


# --- produce ----------------------------------------------------------------------------------


def test_both_routes_of_produce_take_a_body(http, topic, partition):
    first = produce(http, topic, b"a", b"b")
    second = produce(http, f"{topic}/{partition}", b"c")

    got = consume(http, f"{topic}/{partition}")

    assert [b"a", b"b", b"c"] == values(got)
    assert first + second == [each["offset"] for each in got]
    assert ["1", "2", "3"] == [each["index"] for each in got]
    assert {"master"} == {each["channel"] for each in got}


def test_the_topic_and_partition_of_the_path_win(http, topic):
    one, other = create(http, topic, 2)
    body = {"topic": "none", "partition": other, "messages": [{"value": "YQ=="}]}

    ok(http.post(f"/topics/{topic}/{one}", json=body))
    ok(http.post(f"/topics/{topic}", json=body))

    assert [1, 1] == [len(consume(http, f"{topic}/{each}")) for each in (one, other)]


def test_a_message_comes_back_with_all_that_its_producer_gave(http, topic, partition):
    message = {"key": b64(b"k"), "clusteringKey": b64(b"c"), "value": b64(b"\x00\xff")}

    produce(http, topic, message | {"channel": "side", "nobody": "knows"})
    (got,) = consume(http, f"{topic}/{partition}", channel="side")

    assert message == {name: got[name] for name in message}
    assert "side" == got["channel"]
    assert [] == consume(http, f"{topic}/{partition}")


def test_empty_fields_are_left_out(http, topic, partition):
    produce(http, topic, {})

    (got,) = consume(http, f"{topic}/{partition}")

    assert {"channel", "index", "offset", "producedAt"} == got.keys()


@pytest.mark.parametrize("wait", ["3600s", "3600.0s", 3_600_000_000_000, "3600000000000"])
def test_consume_in_is_a_duration_or_nanoseconds(http, topic, partition, wait):
    before_ms = int(time.time() * 1000)

    (offset,) = produce(http, topic, {"value": "YQ==", "consumeIn": wait})

    assert 0 <= due_ms(offset) - before_ms - 3_600_000 < 60_000
    assert [] == consume(http, f"{topic}/{partition}")


@pytest.mark.parametrize("as_list", [False, True])
def test_an_offset_of_the_producer_s_sets_the_due_time(http, topic, partition, as_list):
    at_ms = int(time.time() * 1000) + 3_600_000
    given = at_ms.to_bytes(6, "big") + bytes(8)

    (offset,) = produce(http, topic, {"offset": [*given] if as_list else b64(given)})

    assert at_ms == due_ms(offset)


def test_a_produce_without_messages_is_refused_with_the_prototype_s_text(
    http, topic, partition
):
    for path in (topic, f"{topic}/{partition}"):
        for body in (b"", b"{}", b'{"messages":[]}', b'{"messages":null}'):
            refused = http.post(f"/topics/{path}", content=body)
            assert (400, 3) == (refused.status_code, refused.json()["code"])
            assert "ErrNoMessageToProduce" in refused.json()["message"]


def test_an_unknown_partition_is_not_found(http, topic, partition):
    refused = http.post(f"/topics/{topic}/nope", json={"messages": [{}]})

    assert 404 == refused.status_code
    assert "ErrPartitionNotFound" in refused.json()["error"]


def test_keyed_messages_of_one_request_reach_their_partitions(http, topic, client):
    partitions = create(http, topic, 3)
    keys = [b"a", b"my_key", b"b", b"c", b"d"]

    offsets = produce(http, topic, *({"key": b64(key), "value": b64(key)} for key in keys))

    got = {each: values(consume(http, f"{topic}/{each}")) for each in partitions}
    assert 5 == len(offsets)
    assert sorted(keys) == sorted(value for each in got.values() for value in each)
    for key in keys:
        other = f"{topic}-again-{key.decode()}"
        again = create(http, other, 3)
        client.produce(other, client.pb.Message(key=key, value=key))
        by_grpc = [len(consume(http, f"{other}/{each}")) for each in again].index(1)
        assert key in got[partitions[by_grpc]]


# --- schedule ---------------------------------------------------------------------------------


def test_messages_are_scheduled_at_a_time_or_after_a_delay(http, topic, partition):
    moment = datetime.now(UTC) + timedelta(hours=1)
    before_ms = int(time.time() * 1000)

    at = ok(
        http.post(
            f"/topics/{topic}/schedule",
            json={"dueAt": moment.isoformat(), "messages": [{"value": "YQ=="}, {}]},
        )
    )["offsets"]
    later = ok(
        http.post(
            f"/topics/{topic}/{partition}/schedule",
            json={"messages": [{"delay": "1h30m"}, {"delay": 7_200_000_000_000}]},
        )
    )["offsets"]

    wanted_ms = -(-int(moment.timestamp() * 1_000_000) // 1000)
    assert {wanted_ms} == {due_ms(each) for each in at}
    for offset, minutes in zip(later, (90, 120), strict=True):
        assert 0 <= due_ms(offset) - before_ms - minutes * 60_000 < 60_000


def test_a_message_s_own_time_counts_before_that_of_all(http, topic, partition):
    body = {"delay": "1h", "messages": [{}, {"delay": "2h"}]}

    first, second = ok(http.post(f"/topics/{topic}/schedule", json=body))["offsets"]

    assert abs(due_ms(second) - due_ms(first) - 3_600_000) < 2


def test_a_scheduled_message_comes_when_it_is_due_with_id_and_headers(http, topic, partition):
    message = {
        "value": "YQ==",
        "id": "order-7",
        "headers": [{"name": "trace", "value": b64(b"1")}],
    }
    body = {"delay": "100ms", "channel": "side", "messages": [message]}

    ok(http.post(f"/topics/{topic}/schedule", json=body))
    (got,) = consume(http, f"{topic}/{partition}", channel="side", wait="20s")

    assert message == {name: got[name] for name in message}
    assert time.time() * 1000 >= due_ms(got["offset"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": [{}]}, "dueAt"),
        ({"messages": [{}], "delay": "1h", "dueAt": "2027-01-01T00:00:00Z"}, "delay"),
        (
            {"messages": [{"delay": "1h"}, {"dueAt": "2027-01-01T00:00:00Z"}]},
            "messages[0].dueAt",
        ),
        ({"messages": [{"delay": "1h"}, {}]}, "messages[1].delay"),
        ({"messages": [{"delay": "1 h"}]}, "messages[0].delay"),
        ({"messages": [{"delay": 1.5}]}, "messages[0].delay"),
        ({"messages": [{"delay": -1_000_000}]}, "delay_ms[0]"),
        ({"messages": [{"delay": "300000000h"}]}, "delay_ms[0]"),
        ({"messages": [{"dueAt": "2027-01-01"}]}, "messages[0].dueAt"),
        ({"messages": [{"dueAt": "2027-01-01T09:00:00"}]}, "messages[0].dueAt"),
        ({"messages": [{"dueAt": "9999-12-31T23:59:59.9999Z"}]}, "due_ms[0]"),
        ({"messages": [{"dueAt": "1969-12-31T23:59:59Z"}]}, "due_ms[0]"),
        ({"messages": [{"dueAt": 5}]}, "messages[0].dueAt"),
        ({"messages": [{"delay": "1h", "id": 5}]}, "messages[0].id"),
        ({"messages": [{"delay": "1h", "headers": {"a": "b"}}]}, "messages[0].headers"),
        ({"messages": [], "delay": "1h"}, "batch"),
        ({"messages": [{}], "delay": "1h", "channel": "a b"}, "channel"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused_by_field(
    http, topic, partition, body, field
):
    refused = http.post(f"/topics/{topic}/schedule", json=body)

    assert 400 == refused.status_code, refused.text
    assert field == refused.headers["sandglass-field"], refused.text


# --- consume ----------------------------------------------------------------------------------


def test_the_names_of_a_consumer_stand_in_the_path_or_in_the_query(http, topic, partition):
    produce(http, topic, b"a")
    names = {"consumerGroupName": "other", "consumerName": "c"}

    by_query = results(http.get(f"/topics/{topic}/{partition}", params=names))

    assert [b"a"] == values(by_query)
    assert [b"a"] == values(consume(http, f"{topic}/{partition}"))
    assert [] == consume(http, f"{topic}/{partition}")


def test_a_stream_is_chunked_json_a_line_each(http, topic, partition):
    produce(http, topic, *[b"%d" % number for number in range(2500)])

    response = http.get(f"/topics/{topic}/{partition}/g/c")

    assert "chunked" == response.headers["transfer-encoding"]
    assert "application/json" == response.headers["content-type"]
    assert [b"%d" % number for number in range(2500)] == values(results(response))


def test_server_sent_events_are_sent_where_they_are_asked_for(http, topic, partition):
    produce(http, topic, b"a", b"b")

    response = http.get(
        f"/topics/{topic}/{partition}/g/c", headers={"accept": "text/event-stream"}
    )

    assert "text/event-stream" == response.headers["content-type"]
    retry, *events = response.text.removesuffix("\n\n").split("\n\n")
    assert "retry: 1000" == retry
    assert all(each.startswith("data: ") for each in events)
    got = [json.loads(each.removeprefix("data: "))["result"] for each in events]
    assert [b"a", b"b"] == values(got)


def test_a_wait_ends_with_the_first_messages(http, topic, partition):
    produce(http, topic, {"value": "YQ==", "consumeIn": "0.2s"})

    got = consume(http, f"{topic}/{partition}", wait="20s")

    assert [b"a"] == values(got)


def test_a_wait_for_nothing_ends_with_nothing(http, topic, partition):
    assert [] == consume(http, f"{topic}/{partition}", wait="10ms")


@pytest.mark.parametrize("wait", ["60001ms", "5", "-1s", "soon"])
def test_a_wait_beyond_its_range_is_refused(http, topic, partition, wait):
    refused = http.get(f"/topics/{topic}/{partition}/g/c", params={"wait": wait})

    assert 400 == refused.status_code
    assert "wait" in refused.json()["error"]["message"]


def test_a_stream_that_cannot_begin_says_why_with_its_status(http, topic, partition):
    for path, code, number in (
        (f"none/{partition}/g/c", 404, 5),
        (f"{topic}/nope/g/c", 404, 5),
        (f"{topic}/{partition}/g/{'c' * 201}", 400, 3),
        (f"{topic}/{partition}", 400, 3),
    ):
        refused = http.get(f"/topics/{path}")

        assert code == refused.status_code
        error = refused.json()["error"]
        assert (number, code) == (error["grpc_code"], error["http_code"])
        assert {"grpc_code", "http_code", "message", "http_status"} == error.keys()


def test_a_head_hands_out_nothing(http, topic, partition):
    produce(http, topic, b"a")

    refused = http.head(f"/topics/{topic}/{partition}/g/c")

    assert 405 == refused.status_code
    assert [b"a"] == values(consume(http, f"{topic}/{partition}"))


# --- outcomes ---------------------------------------------------------------------------------


def test_acked_messages_are_done_and_nacked_ones_come_again(http, topic, partition):
    first, second, third = produce(http, topic, b"a", b"b", b"c")
    consume(http, f"{topic}/{partition}")
    path = f"/topics/{topic}/{partition}"

    acked = ok(http.post(f"{path}/ack", json={"consumerGroup": "g", "offsets": [first, third]}))
    nacked = ok(
        http.post(
            f"{path}/nack", json={"consumerGroup": "g", "offsets": [[*b64decode(second)]]}
        )
    )

    assert {"success": True} == acked == nacked
    assert [b"b"] == values(consume(http, f"{topic}/{partition}", wait="20s"))
    ok(http.post(f"{path}/ack", json={"consumerGroup": "g", "offsets": [second]}))
    (group,) = ok(http.get(f"/topics/{topic}/groups", params={"group": "g"}))["groups"]
    assert "3" == group["ackedCount"]
    assert "leasedCount" not in group


def test_offsets_that_hold_no_message_are_ignored(http, topic, partition):
    nothing = {"consumerGroup": "g", "offsets": [b64(b"\x01" * 14)]}

    assert {"success": True} == ok(http.post(f"/topics/{topic}/{partition}/ack", json=nothing))


def test_an_offset_of_a_wrong_length_is_refused_by_place(http, topic, partition):
    body = {"consumerGroup": "g", "offsets": [b64(bytes(14)), b64(b"short")]}

    refused = http.post(f"/topics/{topic}/{partition}/ack", json=body)

    assert 400 == refused.status_code
    assert "offsets[1]: length of offset should be 14 but got 5" == refused.json()["message"]


def test_dead_letters_are_read_by_the_channel_s_name(http, topic, partition):
    (offset,) = produce(http, topic, b"a")
    body = {"consumerGroup": "g", "offsets": [offset]}
    for _ in range(5):
        assert [b"a"] == values(consume(http, f"{topic}/{partition}", wait="20s"))
        ok(http.post(f"/topics/{topic}/{partition}/nack", json=body))

    dead = consume(http, f"{topic}/{partition}", group="doctor", channel=DEAD_LETTERS)

    assert [b"a"] == values(dead)
    assert [] == consume(http, f"{topic}/{partition}")


# --- the node ---------------------------------------------------------------------------------


def test_probes_answer_in_plain_text(http):
    for path in ("/livez", "/readyz"):
        response = http.get(path)
        assert (200, "ok") == (response.status_code, response.text)


def test_metrics_count_what_was_done(http, topic, partition):
    produce(http, topic, b"a", {"value": "Yg==", "consumeIn": "3600s"})
    (got,) = consume(http, f"{topic}/{partition}")
    body = {"consumerGroup": "g", "offsets": [got["offset"]]}
    ok(http.post(f"/topics/{topic}/{partition}/ack", json=body))

    lines = http.get("/metrics").text.splitlines()

    for line in (
        f'sandglass_produced_messages_total{{topic="{topic}"}} 2.0',
        f'sandglass_delivered_messages_total{{topic="{topic}"}} 1.0',
        f'sandglass_outcomes_total{{kind="ack",topic="{topic}"}} 1.0',
        f'sandglass_pending_messages{{topic="{topic}"}} 1.0',
        f'sandglass_leased_messages{{channel="master",group="g",topic="{topic}"}} 0.0',
        f'sandglass_ready_messages{{channel="master",group="g",topic="{topic}"}} 0.0',
        "sandglass_lower_bounds 0.0",
    ):
        assert line in lines


def test_the_document_and_its_page_need_nothing_from_elsewhere(http):
    document = ok(http.get("/openapi.json"))
    page = http.get("/docs")

    assert document["openapi"].startswith("3.")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "http" not in page.text.replace("HTTP", "").replace("http_", "").split("<body>")[0]


# --- keys -------------------------------------------------------------------------------------


@pytest.fixture
def keys(http, topic) -> str:
    """The path of a KV topic."""
    config = {"name": topic, "kind": "KVKind", "numPartitions": 3, "replicationFactor": 1}
    assert {"success": True} == ok(http.post("/topics", json=config))
    return f"/topics/{topic}/kv"


def test_a_key_is_put_got_and_deleted_by_path(http, keys):
    first = ok(http.put(f"{keys}/a%20k%C3%A9y", json={"value": b64(b"1")}))
    again = ok(http.put(f"{keys}/a%20k%C3%A9y", json={"value": b64(b"2")}))
    entry = ok(http.get(f"{keys}/a kéy"))
    deleted = ok(http.delete(f"{keys}/a kéy"))
    missing = http.get(f"{keys}/a kéy")

    assert int(first["revision"]) < int(again["revision"]) < int(deleted["revision"])
    assert {"key": b64("a kéy".encode()), "value": b64(b"2")} == entry["message"]
    assert again["revision"] == entry["revision"]
    assert deleted["existed"] is True
    assert (404, 5) == (missing.status_code, missing.json()["code"])
    assert "ErrKeyNotFound" in missing.json()["error"]
    assert ok(http.delete(f"{keys}/never"))["existed"] is False


def test_the_second_part_of_a_key_and_the_channel_stand_in_the_query(http, keys):
    for name in ("x", "y"):
        ok(
            http.put(
                f"{keys}/k", params={"clusteringKey": name}, json={"value": b64(name.encode())}
            )
        )
    ok(http.put(f"{keys}/k", params={"channel": "side"}, json={"value": b64(b"s")}))

    got = ok(http.get(f"{keys}/k", params={"clusteringKey": "y"}))
    side = ok(http.get(f"{keys}/k", params={"channel": "side"}))

    assert (b64(b"y"), b64(b"s")) == (got["message"]["value"], side["message"]["value"])
    assert 404 == http.get(f"{keys}/k").status_code


def test_keys_of_any_bytes_go_by_the_five_calls(http, keys, topic):
    any_bytes = [b"\xff/", b"a", b"b"]
    messages = [{"key": b64(key), "value": b64(key)} for key in any_bytes]
    wanted = [{"key": b64(key)} for key in (*any_bytes, b"none")]

    placed = ok(http.post(f"{keys}/put", json={"messages": messages}))["placed"]
    entries = ok(http.post(f"{keys}/get", json={"keys": wanted}))["entries"]
    exists = ok(http.post(f"{keys}/has", json={"keys": wanted}))["exists"]
    existed = ok(http.post(f"{keys}/delete", json={"keys": wanted[2:]}))["existed"]

    assert 3 == sum(sum(each["runCount"]) for each in placed)
    assert [*any_bytes, None] == [
        b64decode(each["message"]["value"]) if each else None for each in entries
    ]
    assert [True, True, True, False] == exists
    assert [True, False] == existed
    left: list[bytes] = []
    for partition in ok(http.get(f"/topics/{topic}"))["partitions"]:
        page = ok(http.post(f"{keys}/scan", json={"partition": partition}))
        left += [b64decode(each["message"]["key"]) for each in page.get("entries", [])]
    assert sorted(any_bytes[:2]) == sorted(left)


def test_a_scan_goes_on_where_the_page_before_ended(http, keys, topic):
    partition = ok(http.get(f"/topics/{topic}"))["partitions"][0]
    body = {"partition": partition, "messages": [{"key": b64(b"%d" % n)} for n in range(5)]}
    ok(http.post(f"{keys}/put", json=body))
    found: list[bytes] = []
    page: dict[str, Any] = {"next": None}

    while "next" in page:
        wanted = {"partition": partition, "first": page["next"], "countMax": 2}
        page = ok(http.post(f"{keys}/scan", json=wanted))
        found += [b64decode(each["message"]["key"]) for each in page["entries"]]

    assert [b"0", b"1", b"2", b"3", b"4"] == found


def test_keys_of_a_timer_topic_and_groups_of_a_kv_topic_are_refused(http, keys, topic):
    other = f"{topic}-timer"
    create(http, other)
    kv_partition = ok(http.get(f"/topics/{topic}"))["partitions"][0]

    assert 412 == http.get(f"/topics/{other}/kv/k").status_code
    assert 412 == http.get(f"/topics/{topic}/{kv_partition}/g/c").status_code


@pytest.mark.parametrize(
    ("call", "body", "field"),
    [
        ("get", {"keys": [{"key": 5}]}, "keys[0].key"),
        ("get", {"keys": [{"key": "a"}]}, "keys[0].key"),
        ("get", {"keys": {}}, "keys"),
        ("get", {}, "count of keys"),
        ("has", {"keys": ["a"]}, "keys[0]"),
        ("put", {"messages": [{"value": "YQ=="}]}, "messages[0].key"),
        ("put", {"messages": [{"key": 1}]}, "messages[0].key"),
        ("delete", {"keys": [{"key": "YQ=="}] * 101}, "count of keys"),
        ("scan", {"countMax": 1001}, "count_max"),
        ("scan", {"countMax": "many"}, "countMax"),
        ("scan", {}, "partition"),
    ],
)
def test_a_wrong_request_about_keys_is_refused_by_field(http, keys, call, body, field):
    refused = http.post(f"{keys}/{call}", json=body)

    assert 400 == refused.status_code, refused.text
    assert field == refused.headers["sandglass-field"]
