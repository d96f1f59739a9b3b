"""JSON bodies to messages of the protocols, and messages back to JSON."""

import json
from base64 import b64encode
from typing import Any

import pytest

from sandglass.core import limits
from sandglass.core.message import Slice
from sandglass.errors import InvalidError
from sandglass.wire import gateway
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.v1 import admin_pb2, broker_pb2

OFFSET = bytes.fromhex("01636b9e40c00000000000000007")


def message(**fields: Any) -> pb.Message:
    return gateway.to_message(fields, pb.Message)


def refusal(call, *args, **kwargs) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        call(*args, **kwargs)
    return caught.value


# --- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"  \n"])
def test_an_empty_body_holds_nothing(body):
    assert {} == gateway.parse(body)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"nope", "not JSON: Expecting value: line 1 column 1"),
        (b"{", "not JSON"),
        (b'{"a":1}x', "not JSON"),
        (b'{"a":' + b"1" * 5000 + b"}", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b"[]", "a list; it must be an object"),
        (b'"a"', "a text; it must be an object"),
        (b"null", "null; it must be an object"),
        (b'{"a":NaN}', "NaN, which JSON doesn't have"),
        (b'{"a":-Infinity}', "-Infinity, which JSON doesn't have"),
        (b'{"a":' + b"[" * 40_000 + b"]" * 40_000 + b"}", "nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body, text):
    error = refusal(gateway.parse, body)

    assert text in error.message
    assert "body" == error.field


def test_a_body_has_as_many_items_as_the_limit_and_no_more():
    limit = limits.HTTP_JSON_ITEM_COUNT_MAX
    most = b'{"a":[' + b"1," * (limit - 3) + b"1]}"

    assert limit - 2 == len(gateway.parse(most)["a"])
    assert f"the limit is {limit}" in refusal(gateway.parse, b" " + most + b",").message


# --- fields in --------------------------------------------------------------------------------


def test_unknown_fields_and_null_are_ignored():
    assert pb.Message(channel="c") == message(channel="c", nobody=[1], key=None)


def test_a_field_goes_by_its_own_name_too():
    for name in ("clustering_key", "clusteringKey"):
        wire = gateway.to_message({name: "aw=="}, broker_pb2.Message)
        assert b"k" == wire.clustering_key


@pytest.mark.parametrize("given", ["/+8=", "/+8", "_-8=", "_-8"])
def test_bytes_are_base64_of_either_alphabet(given):
    assert b"\xff\xef" == message(value=given).value


@pytest.mark.parametrize("given", ["a", "aGk=x", "a k=", "aGk\n", "ä", "\ud800", "=a=="])
def test_bytes_that_are_no_base64_are_refused(given):
    error = refusal(message, value=given)

    assert "value is not base64" == error.message
    assert "value" == error.field


@pytest.mark.parametrize("given", [b64encode(OFFSET).decode(), list(OFFSET)])
def test_an_offset_is_base64_or_a_list_of_numbers(given):
    assert OFFSET == message(offset=given).offset
    assert [OFFSET] == list(gateway.to_message({"offsets": [given]}, pb.MarkRequest).offsets)


@pytest.mark.parametrize("given", [[256], [-1], [1.5], ["1"], [True], [None], [[1]], [1 << 70]])
def test_an_offset_of_anything_else_is_refused(given):
    error = refusal(message, offset=given)

    assert "offset is neither base64 nor a list of numbers from 0 to 255" == error.message


@pytest.mark.parametrize(
    ("given", "ns"),
    [
        ("1.5s", 1_500_000_000),
        ("0s", 0),
        ("90s", 90_000_000_000),
        ("0.000000001s", 1),
        ("-1.5s", -1_500_000_000),
        ("-0.5s", -500_000_000),
        (5_000_000_000, 5_000_000_000),
        ("5000000000", 5_000_000_000),
        ("5", 5),
        (1e9, 1_000_000_000),
        (-7, -7),
        (315_576_000_000 * 10**9, 315_576_000_000 * 10**9),
    ],
)
def test_a_duration_is_seconds_with_their_unit_or_whole_nanoseconds(given, ns):
    wait = message(consumeIn=given).consumeIn

    assert ns == wait.seconds * 10**9 + wait.nanos


@pytest.mark.parametrize(
    "given",
    ["1.5", "1.s", ".5s", "5 s", "5m", "", True, [], {}, 1.5, "1" * 30, 10**21],
)
def test_a_duration_of_another_form_or_beyond_its_range_is_refused(given):
    assert refusal(message, consumeIn=given).field.startswith("consumeIn")


def test_a_timestamp_is_rfc_3339():
    stamp = message(producedAt="2018-05-17T03:02:03.456+02:00").producedAt

    assert 1_526_518_923_456 == stamp.ToMilliseconds()
    no_zones = ("2018-05-17T01:02:03-99:99", "2018-05-17T01:02:03+24:00")
    for given in ("2018-05-17", "2018-05-17T01:02:03", *no_zones, "yesterday", "", 5, ["a"]):
        assert "RFC 3339" in refusal(message, producedAt=given).message


def test_a_moment_is_rounded_up():
    assert 1 == gateway.due_ms("1970-01-01T00:00:00.000000001Z", "dueAt")
    assert 253_402_300_800_000 == gateway.due_ms("9999-12-31T23:59:59.999999999Z", "dueAt")


@pytest.mark.parametrize("given", ["KVKind", 1, 1.0])
def test_an_enum_is_a_name_or_a_number(given):
    assert pb.KVKind == gateway.to_message({"kind": given}, pb.TopicConfig).kind


def test_an_enum_of_an_unknown_name_is_refused_with_those_there_are():
    error = refusal(gateway.to_message, {"kind": "kvkind"}, pb.TopicConfig)

    assert "kind is not known; it must be one of TimerKind, KVKind" == error.message


@pytest.mark.parametrize("given", [3, "3", 3.0])
def test_a_number_may_be_a_text(given):
    assert 3 == gateway.to_message({"numPartitions": given}, pb.TopicConfig).numPartitions
    assert 3 == message(index=given).index


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("numPartitions", 1 << 31),
        ("numPartitions", -(1 << 31) - 1),
        ("numPartitions", "99999999999999999999"),
        ("numPartitions", "1" * 21),
        ("numPartitions", 1.5),
        ("numPartitions", float("inf")),
        ("numPartitions", True),
        ("numPartitions", []),
        ("numPartitions", "three"),
        ("numPartitions", "٣"),
        ("name", 1),
        ("name", ["a"]),
        ("name", "\ud800"),
        ("kind", []),
        ("storageDriver", "Bolt"),
    ],
)
def test_a_field_of_a_wrong_type_or_range_is_refused_by_name(name, given):
    assert name == refusal(gateway.to_message, {name: given}, pb.TopicConfig).field


def test_a_whole_number_is_within_the_bounds_of_its_type():
    for value in (-(1 << 31), (1 << 31) - 1):
        wire = gateway.to_message({"numPartitions": value}, pb.TopicConfig)
        assert value == wire.numPartitions
    assert (1 << 64) - 1 == message(index=str((1 << 64) - 1)).index
    assert "index" == refusal(message, index=1 << 64).field
    assert "index" == refusal(message, index=-1).field


def test_booleans_are_true_or_false_alone():
    wire = gateway.to_message({"success": True}, pb.TopicReply)

    assert wire.success
    for given in (1, "true", "True", []):
        assert "success" == refusal(gateway.to_message, {"success": given}, pb.TopicReply).field


def test_an_error_names_the_place_of_a_message_within_its_list():
    fields = {"messages": [{}, {"key": 5}]}

    error = refusal(gateway.to_message, fields, pb.ProduceMessageRequest)

    assert "messages[1].key" == error.field
    assert "messages[1].key is a number; it must be a text of base64" == error.message


@pytest.mark.parametrize("given", [{}, "a", 1, [1], [[]], ["a"]])
def test_a_list_of_objects_is_nothing_else(given):
    with pytest.raises(InvalidError):
        gateway.to_message({"messages": given}, pb.ProduceMessageRequest)
    with pytest.raises(InvalidError):
        gateway.objects({"messages": given}, "messages")


def test_a_list_of_objects_is_taken_out():
    fields = {"messages": [{"a": 1}], "b": 2}

    assert [{"a": 1}] == gateway.objects(fields, "messages")
    assert {"b": 2} == fields
    assert [] == gateway.objects(fields, "messages")


def test_a_text_that_is_not_there_is_empty():
    assert "" == gateway.text({}, "channel")
    assert "" == gateway.text({"channel": None}, "channel")
    assert "c" == gateway.text({"channel": "c"}, "channel")
    assert "channel" == refusal(gateway.text, {"channel": 1}, "channel").field


# --- out --------------------------------------------------------------------------------------


def test_empty_fields_are_left_out_and_large_numbers_are_texts():
    topic = admin_pb2.Topic(name="t", created_ms=5, replication_factor=1)
    reply = admin_pb2.ListTopicsReply(topics=[topic])

    shown = gateway.to_fields(reply)

    assert {"topics": [{"name": "t", "replicationFactor": 1, "createdMs": "5"}]} == shown


def test_an_enum_is_a_name_and_a_number_if_it_has_none():
    for number, shown in ((1, "KVKind"), (9, 9)):
        wire = gateway.to_message({"kind": number}, pb.TopicConfig)
        assert {"kind": shown} == gateway.to_fields(wire)


def test_what_is_written_reads_as_the_same_message():
    wire = pb.Message(channel="c", index=7, offset=OFFSET, key=b"k", value=b"\x00\xff")
    wire.producedAt.FromMilliseconds(1_526_518_923_456)
    wire.consumeIn.FromMilliseconds(1500)

    shown = gateway.to_fields(wire)

    assert wire == gateway.to_message(json.loads(json.dumps(shown)), pb.Message)
    assert "2018-05-17T01:02:03.456Z" == shown["producedAt"]
    assert "1.500s" == shown["consumeIn"]


def slice_of(*messages: Any, first: int = 0, count: int | None = None) -> Slice:
    body = b"".join(
        broker_pb2.MessageBatch(
            messages=[broker_pb2.Message.FromString(each.SerializeToString())]
        ).SerializeToString()
        for each in messages
    )
    return Slice(
        body,
        len(messages),
        first,
        count or len(messages),
        1_526_518_923_456,
        7,
        1_526_518_923_000,
    )


def test_a_message_is_shown_with_its_place_and_what_the_producer_gave():
    old = pb.Message(key=b"k", clusteringKey=b"c", value=b"v", offset=bytes(14), index=99)
    old.consumeIn.FromSeconds(90)
    new = broker_pb2.Message(id='a"b', value=b"w")
    new.headers.add(name="h", value=b"x")

    shown = [json.loads(each) for each in gateway.message_objects(slice_of(old, new), "m")]

    assert [
        {
            "channel": "m",
            "index": "7",
            "offset": b64encode(OFFSET).decode(),
            "producedAt": "2018-05-17T01:02:03.000Z",
            "consumeIn": "90s",
            "key": "aw==",
            "clusteringKey": "Yw==",
            "value": "dg==",
        },
        {
            "channel": "m",
            "index": "8",
            "offset": b64encode(OFFSET[:-1] + b"\x08").decode(),
            "producedAt": "2018-05-17T01:02:03.000Z",
            "value": "dw==",
            "id": 'a"b',
            "headers": [{"name": "h", "value": "eA=="}],
        },
    ] == shown


def test_a_slice_shows_its_own_messages_alone():
    messages = [broker_pb2.Message(value=value) for value in (b"a", b"b", b"c")]

    shown = list(gateway.message_objects(slice_of(*messages, first=1, count=1), "m"))

    assert 1 == len(shown)
    assert "Yg==" == json.loads(shown[0])["value"]
