import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.core import limits
from sandglass.core.message import Slice
from sandglass.errors import InvalidError
from sandglass.wire import convert
from sandglass.wire.compat import sandglass_pb2 as pb
from sandglass.wire.compatible import compatible_messages, cut_compatible
from sandglass.wire.v1 import broker_pb2

ZEROS = bytes(14)
GO_MESSAGE = bytes.fromhex(
    "5a0e" + "00" * 14 + "620b088092b8c398feffffff01" + "6a00" + "f2010178"
)
"""A message with only the value "x", as the prototype's Go client sends it."""

WHOLE_MESSAGE = bytes.fromhex(
    "2a066d61737465725007"
    "5a0e01636b9e40c00000000000000007"
    "620c088ba9f3d705108084b8d901"
    "6a02085a"
    "a201016b"
    "f2010176"
)
"""Channel master, index 7, due and produced 2018-05-17T01:02:03.456Z, 90 s, key k, value v."""


def request_of(*messages: pb.Message, topic: str = "t", partition: str = "") -> bytes:
    return pb.ProduceMessageRequest(
        topic=topic, partition=partition, messages=messages
    ).SerializeToString()


def message(delay_ms: int = 0, **fields) -> pb.Message:
    made = pb.Message(**fields)
    if delay_ms:
        made.consumeIn.FromMilliseconds(delay_ms)
    return made


def refusal(request: bytes) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        cut_compatible(request)
    return caught.value


# --- in ---------------------------------------------------------------------------------------


def test_plain_messages_are_one_part_for_master_and_now():
    cut = cut_compatible(request_of(message(value=b"a"), message(value=b"b"), partition="P"))

    assert ("t", "P", 2) == (cut.topic, cut.partition, cut.count)
    [part] = cut.parts
    assert ("master", None) == (part.channel, part.places)
    assert ([], False, False) == (
        part.checked.dues,
        part.checked.is_delay,
        part.checked.has_keys,
    )


def test_what_a_go_client_writes_for_unset_fields_is_unset():
    raw = b"\x0a\x01t" + (b"\x1a" + bytes([len(GO_MESSAGE)]) + GO_MESSAGE) * 2

    [part] = cut_compatible(raw).parts

    assert ("master", [], False) == (part.channel, part.checked.dues, part.checked.is_delay)
    assert [GO_MESSAGE] * 2 == part.checked.raws


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=8))
def test_messages_are_stored_as_they_came_and_read_as_v1(values):
    messages = [message(value=value, key=b"k", channel="c") for value in values]

    [part] = cut_compatible(request_of(*messages)).parts

    assert [each.SerializeToString() for each in messages] == part.checked.raws
    stored = broker_pb2.MessageBatch.FromString(part.checked.body).messages
    assert values == [each.value for each in stored]
    assert len(values) == convert.cut(part.checked).count


def test_each_channel_is_a_part_with_its_places():
    cut = cut_compatible(
        request_of(message(channel="a"), message(), message(channel="a"), message(channel="b"))
    )

    assert [("a", [0, 2]), ("master", [1]), ("b", [3])] == [
        (part.channel, part.places) for part in cut.parts
    ]


def test_consume_in_is_a_delay_rounded_up():
    late = message(value=b"v")
    late.consumeIn.nanos = 1

    [part] = cut_compatible(request_of(late, message(1500), message())).parts

    assert part.checked.is_delay
    assert [1, 1500, 0] == part.checked.dues


def test_one_delay_of_all_messages_is_one_entry():
    [part] = cut_compatible(request_of(message(90_000), message(90_000))).parts

    assert ([90_000], [2]) == (part.checked.dues, convert.cut(part.checked).counts)


@pytest.mark.parametrize(
    "custom",
    [bytes.fromhex("01636b9e40c00000000000000007"), bytes.fromhex("01636b9e40c0" + "07" * 10)],
)
def test_the_time_part_of_a_custom_offset_is_the_due_time(custom):
    [part] = cut_compatible(request_of(message(offset=custom), message())).parts

    assert ([1526518923456, 0], False) == (part.checked.dues, part.checked.is_delay)


def test_a_custom_offset_is_stronger_than_consume_in():
    custom = (5000).to_bytes(6, "big") + bytes(8)

    [part] = cut_compatible(request_of(message(1000, offset=custom))).parts

    assert ([5000], False) == (part.checked.dues, part.checked.is_delay)


@pytest.mark.parametrize("unset", [b"", bytes(14), bytes(16)])
def test_zeros_are_no_custom_offset(unset):
    [part] = cut_compatible(request_of(message(1000, offset=unset))).parts

    assert ([1000], True) == (part.checked.dues, part.checked.is_delay)


def test_custom_offsets_beside_delays_make_two_parts():
    custom = (5000).to_bytes(6, "big") + bytes(8)

    cut = cut_compatible(request_of(message(offset=custom), message(100), message()))

    assert [([0, 2], [5000, 0], False), ([1], [100], True)] == [
        (part.places, part.checked.dues, part.checked.is_delay) for part in cut.parts
    ]


@pytest.mark.parametrize("size", [1, 13, 15, 17])
def test_an_offset_of_another_length_is_refused(size):
    error = refusal(request_of(message(), message(offset=b"\x01" * size)))

    assert "messages[1].offset" == error.field
    assert f"length of offset should be 14 but got {size}" in error.message


def test_a_time_lies_between_now_and_9999():
    at_end = limits.DUE_MS_MAX.to_bytes(6, "big") + b"\x01" * 8
    beyond = (limits.DUE_MS_MAX + 1).to_bytes(6, "big") + b"\x01" * 8
    assert 1 == cut_compatible(request_of(message(offset=at_end))).count
    assert 1 == cut_compatible(request_of(message(limits.DUE_MS_MAX))).count

    for wrong in (
        message(offset=beyond),
        message(offset=b"\xff" * 14),
        message(-1),
        message(limits.DUE_MS_MAX + 1),
    ):
        assert "messages[0]" in refusal(request_of(wrong)).message


def test_a_request_without_messages_is_refused():
    assert "ErrNoMessageToProduce" in refusal(b"").message
    assert "ErrNoMessageToProduce" in refusal(request_of()).message


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05t", b"\x0a\x01\xff"])
def test_garbage_is_not_a_request(raw):
    assert "request is not a ProduceMessageRequest" in refusal(raw).message


@pytest.mark.parametrize("raw", [b"\x2a\x01\xff", b"\x62\x01\x08", b"\xf2\x01\x05a"])
def test_a_malformed_message_is_refused(raw):
    assert "messages" == refusal(b"\x1a" + bytes([len(raw)]) + raw).field


def test_a_message_that_is_no_v1_message_is_refused():
    raw = b"\xca\x02\x01\xff"

    assert "messages[0]" == refusal(b"\x1a" + bytes([len(raw)]) + raw).field


KEY = b"k" * limits.KEY_BYTES_MAX
VALUE = bytes(limits.VALUE_BYTES_MAX)


@pytest.mark.parametrize(
    ("field", "largest", "larger"),
    [
        ("key", message(key=KEY), message(key=KEY + b"k")),
        ("clusteringKey", message(clusteringKey=KEY), message(clusteringKey=KEY + b"k")),
        ("value", message(value=VALUE), message(value=VALUE + b"v")),
    ],
)
def test_each_field_is_taken_at_its_limit_and_refused_beyond(field, largest, larger):
    assert 2 == cut_compatible(request_of(message(), largest)).count

    assert f"messages[1].{field}" == refusal(request_of(message(), larger)).field


def test_a_request_is_4_mib_of_messages_and_not_a_byte_more():
    four = [message(value=bytes(1_000_000))] * 4
    taken = len(request_of(*four, topic=""))
    last = bytes(limits.ATOM_BYTES_MAX - taken - 4 - 5)

    assert 5 == cut_compatible(request_of(*four, message(value=last))).count
    error = refusal(request_of(*four, message(value=last + b"v")))
    assert "messages" == error.field
    assert str(limits.ATOM_BYTES_MAX) in error.message


def test_due_times_count_towards_an_atom():
    four = [message(value=bytes(1_000_000), delay_ms=n) for n in range(4)]
    taken = len(request_of(*four, topic=""))
    last = bytes(limits.ATOM_BYTES_MAX - 5 * convert.COLUMN_ENTRY_BYTES - taken - 4 - 5)

    assert 5 == cut_compatible(request_of(*four, message(value=last))).count
    assert "messages" == refusal(request_of(*four, message(value=last + b"v"))).field


def test_a_request_is_65536_messages_and_not_one_more():
    most = b"\x1a\x00" * limits.ATOM_MESSAGE_COUNT_MAX

    assert limits.ATOM_MESSAGE_COUNT_MAX == cut_compatible(most).count
    assert "65536" in refusal(most + b"\x1a\x00").message


# --- out --------------------------------------------------------------------------------------


def slice_of(*messages: bytes, first: int = 0, count: int | None = None, **fields) -> Slice:
    body = convert.raw_pb2.RawBatch(messages=messages).SerializeToString()
    shown = {"due_ms": 1526518923456, "first_index": 7, "produced_ms": 1526518923456, **fields}
    return Slice(body, len(messages), first, count or len(messages), **shown)


def out(piece: Slice, channel: str = "master") -> list[pb.Message]:
    return [pb.Message.FromString(each) for each in compatible_messages(piece, channel)]


def test_a_message_goes_out_as_the_prototype_sent_it():
    sent = message(90_000, key=b"k", value=b"v")

    [got] = out(slice_of(sent.SerializeToString()))

    assert pb.Message.FromString(WHOLE_MESSAGE) == got


def test_what_the_broker_owns_wins_over_what_a_client_wrote():
    lie = pb.Message(channel="lie", index=99, offset=b"\x01" * 14, value=b"v")
    lie.producedAt.seconds, lie.producedAt.nanos = 5, 5

    [got] = out(slice_of(lie.SerializeToString(), produced_ms=0), "true")

    assert ("true", 7, "01636b9e40c00000000000000007") == (
        got.channel,
        got.index,
        got.offset.hex(),
    )
    assert (0, 0) == (got.producedAt.seconds, got.producedAt.nanos)


def test_an_offset_is_always_14_bytes():
    for due_ms, index in ((0, 1), (limits.DUE_MS_MAX, (1 << 64) - 1)):
        [got] = out(slice_of(GO_MESSAGE, due_ms=due_ms, first_index=index))

        assert (due_ms.to_bytes(6, "big") + index.to_bytes(8, "big"), index) == (
            got.offset,
            got.index,
        )


def test_indexes_go_on_through_a_slice():
    raws = [message(value=b"%d" % n).SerializeToString() for n in range(200)]

    got = out(slice_of(*raws, first=50, count=100, first_index=100), "c" * 200)

    assert list(range(100, 200)) == [each.index for each in got]
    assert [b"%d" % n for n in range(50, 150)] == [each.value for each in got]
    assert {"c" * 200} == {each.channel for each in got}


@given(st.integers(0, limits.DUE_MS_MAX))
def test_the_time_of_production_keeps_its_milliseconds(produced_ms):
    [got] = out(slice_of(GO_MESSAGE, produced_ms=produced_ms))

    assert produced_ms == got.producedAt.ToMilliseconds()


def test_a_v1_message_can_be_read_by_an_old_client():
    sent = broker_pb2.Message(key=b"k", value=b"v", id="i")
    sent.headers.add(name="h", value=b"w")

    [got] = out(slice_of(sent.SerializeToString()))

    assert (b"k", b"v") == (got.key, got.value)
