import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from sandglass.core import limits
from sandglass.core.message import Placed
from sandglass.errors import InvalidError
from sandglass.wire import convert
from sandglass.wire.v1.broker_pb2 import Header, Message, MessageBatch
from sandglass.wire.v1.raw_pb2 import RawBatch
from tests.unit.batches import cut_batch as cut


def batch_of(*messages: Message) -> bytes:
    return MessageBatch(messages=messages).SerializeToString()


def raw_batch(*raws: bytes) -> bytes:
    return RawBatch(messages=raws).SerializeToString()


def values_of(body: bytes) -> list[bytes]:
    return [message.value for message in MessageBatch.FromString(body).messages]


def refusal(batch: bytes, count: int, due_ms=(), delay_ms=()) -> InvalidError:
    with pytest.raises(InvalidError) as caught:
        cut(batch, count, due_ms, delay_ms)
    return caught.value


# --- rows -------------------------------------------------------------------------------------


def test_a_plain_batch_becomes_one_row_of_the_very_bytes():
    batch = batch_of(*(Message(value=b"%d" % n) for n in range(1000)))

    rows = cut(batch, 1000)

    assert ([1000], [0], 1000) == (rows.counts, rows.dues, rows.count)
    assert rows.bodies[0] is batch
    assert len(batch) == rows.size_bytes
    assert not rows.is_delay


def test_one_due_time_is_that_of_all_messages():
    rows = cut(batch_of(Message(value=b"a"), Message(value=b"b")), 2, due_ms=[5000])

    assert ([2], [5000]) == (rows.counts, rows.dues)


def test_a_delay_is_kept_as_a_delay():
    rows = cut(batch_of(Message(value=b"a"), Message()), 2, delay_ms=[0, 90_000])

    assert rows.is_delay
    assert ([1, 1], [0, 90_000]) == (rows.counts, rows.dues)


def test_a_row_holds_1000_messages_and_not_1001():
    batch = batch_of(*(Message(value=b"x") for _ in range(1001)))

    rows = cut(batch, 1001)

    assert [1000, 1] == rows.counts
    assert batch == b"".join(rows.bodies)


def test_a_row_holds_256_kib_and_not_a_byte_more():
    head = Message(value=b"h" * 1000)
    fixed = len(batch_of(head))
    room = limits.ROW_BYTES_MAX - fixed
    tail = Message(value=b"t" * (room - 4 - 5))
    exact = batch_of(head, tail)
    assert limits.ROW_BYTES_MAX == len(exact)
    larger = batch_of(head, Message(value=tail.value + b"t"))

    assert [2] == cut(exact, 2).counts
    assert [1, 1] == cut(larger, 2).counts
    assert [2, 1] == cut(exact + batch_of(Message()), 3).counts


def test_a_message_larger_than_a_row_is_a_row_alone():
    small, large = Message(value=b"s"), Message(value=b"L" * limits.VALUE_BYTES_MAX)

    rows = cut(batch_of(small, large, small), 3)

    assert [1, 1, 1] == rows.counts


def test_different_due_times_make_a_row_each():
    batch = batch_of(*(Message(value=b"%d" % n) for n in range(3)))

    rows = cut(batch, 3, due_ms=[30, 10, 20])

    assert ([1, 1, 1], [30, 10, 20]) == (rows.counts, rows.dues)
    assert [[b"0"], [b"1"], [b"2"]] == [values_of(body) for body in rows.bodies]


def test_neighbours_due_at_one_time_share_a_row():
    batch = batch_of(*(Message(value=b"%d" % n) for n in range(6)))

    rows = cut(batch, 6, due_ms=[7, 7, 8, 7, 7, 7])

    assert ([2, 1, 3], [7, 8, 7]) == (rows.counts, rows.dues)
    assert [b"3", b"4", b"5"] == values_of(rows.bodies[2])


messages = st.builds(
    Message,
    key=st.binary(max_size=4),
    value=st.one_of(st.binary(max_size=40), st.just(b"v" * 130), st.just(b"w" * 70_000)),
    id=st.text(max_size=3),
    headers=st.lists(
        st.builds(Header, name=st.text(max_size=3), value=st.binary(max_size=3)), max_size=3
    ),
)


@given(st.data())
def test_rows_hold_each_message_once_in_order_with_its_due_time(data):
    given_messages = data.draw(st.lists(messages, min_size=1, max_size=12))
    count = len(given_messages)
    dues = data.draw(
        st.one_of(
            st.just([]),
            st.lists(st.integers(0, 3), min_size=1, max_size=1),
            st.lists(st.integers(0, 3), min_size=count, max_size=count),
        )
    )
    batch = batch_of(*given_messages)

    rows = cut(batch, count, due_ms=dues)

    assert batch == b"".join(rows.bodies)
    assert count == rows.count == sum(rows.counts)
    assert len(rows.counts) == len(rows.dues) == len(rows.bodies)
    assert rows.counts == [len(values_of(body)) for body in rows.bodies]
    each = [due for due, n in zip(rows.dues, rows.counts, strict=True) for _ in range(n)]
    assert (dues if len(dues) == count else (dues or [0]) * count) == each
    for body, row_count in zip(rows.bodies, rows.counts, strict=True):
        assert row_count == 1 or len(body) <= limits.ROW_BYTES_MAX


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (b"\x0a", 1),
        (b"\x0a\x05ab", 1),
        (b"garbage", 1),
        (b"\xff" * 12, 1),
        (b"\x0a\xff\xff", 1),
    ],
)
def test_garbage_is_not_a_batch(batch, count):
    error = refusal(batch, count)

    assert "batch" == error.field
    assert "batch is not a serialized MessageBatch" in error.message


def test_a_malformed_message_is_named_by_its_place():
    error = refusal(raw_batch(b"", b"\xf2\x01\x05ab"), 2)

    assert "messages[1]" == error.field


def test_a_message_may_not_borrow_bytes_of_the_next_one():
    # Joined they would be one well-formed message.
    whole = Message(value=b"abcdef").SerializeToString()

    assert "messages[0]" == refusal(raw_batch(whole[:5], whole[5:]), 2).field


@pytest.mark.parametrize("field", [b"\xca\x02", b"\xc2\x02\x03\x0a"])
def test_an_id_or_header_name_that_is_not_utf8_is_refused(field):
    error = refusal(raw_batch(field + b"\x01\xff"), 1)

    assert "not UTF-8" in error.message


@pytest.mark.parametrize(
    "extra",
    [b"\x10\x01", b"\x12\x03abc", b"\x0a\x80\x00", b"\x8a\x00\x00"],
    ids=["a number", "bytes", "a padded length", "a padded tag"],
)
def test_nothing_may_stand_beside_the_messages(extra):
    batch = batch_of(Message(value=b"a"))
    count = len(RawBatch.FromString(batch + extra).messages)

    for smuggled in (batch + extra, extra + batch):
        assert "batch holds fields beside its messages" == refusal(smuggled, count).message


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_kept_whole(batch):
    try:
        count = len(RawBatch.FromString(batch).messages)
    except DecodeError:
        count = 1
    try:
        rows = cut(batch, count)
    except InvalidError:
        return
    assert batch == b"".join(rows.bodies)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_count_that_lies_is_refused(count):
    error = refusal(batch_of(Message(), Message()), count)

    assert "count" == error.field
    assert f"count is {count}, but the batch holds 2 messages" == error.message


def test_an_empty_batch_is_refused():
    assert "ErrNoMessageToProduce" in refusal(b"", 0).message
    assert "count" == refusal(b"", 1).field


def test_unknown_fields_within_a_message_are_kept():
    raw = Message(value=b"v").SerializeToString() + b"\xa2\x06\x03new"

    assert raw_batch(raw) == cut(raw_batch(raw), 1).bodies[0]


def test_reserved_fields_are_kept_if_old_clients_can_read_them():
    fine = b"\x2a\x02ok" + b"\x6a\x02\x08\x05"
    assert 1 == cut(raw_batch(fine), 1).count

    for broken in (b"\x2a\x01\xff", b"\x6a\x01\xff", b"\x62\x01\x08"):
        assert "reserved fields" in refusal(raw_batch(broken), 1).message


# --- limits -----------------------------------------------------------------------------------


def headers_of(count: int, size: int) -> list[Header]:
    return [Header(name="n", value=b"v" * (size - 1)) for _ in range(count)]


KEY = b"k" * limits.KEY_BYTES_MAX
LIMITS = [
    ("key", Message(key=KEY), Message(key=KEY + b"k")),
    ("clustering_key", Message(clustering_key=KEY), Message(clustering_key=KEY + b"k")),
    ("id", Message(id="i" * 1024), Message(id="i" * 1025)),
    ("id", Message(id="é" * 512), Message(id="é" * 512 + "i")),
    (
        "value",
        Message(value=bytes(limits.VALUE_BYTES_MAX)),
        Message(value=bytes(limits.VALUE_BYTES_MAX + 1)),
    ),
    ("headers", Message(headers=[Header()] * 64), Message(headers=[Header()] * 65)),
    ("headers", Message(headers=headers_of(64, 3)), Message(headers=headers_of(65, 3))),
    (
        "headers",
        Message(headers=headers_of(64, 256)),
        Message(headers=[*headers_of(63, 256), *headers_of(1, 257)]),
    ),
]


@pytest.mark.parametrize(("field", "largest", "larger"), LIMITS)
def test_each_field_is_taken_at_its_limit_and_refused_beyond(field, largest, larger):
    small = Message(value=b"small")
    assert 3 == cut(batch_of(small, largest, small), 3).count

    error = refusal(batch_of(small, small, larger), 3)

    assert f"messages[2].{field}" == error.field
    assert "the limit is" in error.message


def test_headers_of_many_messages_are_not_added_up():
    batch = batch_of(*(Message(headers=headers_of(30, 10)) for _ in range(50)))

    assert 50 == cut(batch, 50).count


def test_a_padded_tag_does_not_hide_a_header():
    header = b"\xc2\x82\x00\x00"

    assert 1 == cut(raw_batch(header * 64), 1).count
    assert "messages[0].headers" == refusal(raw_batch(header * 65), 1).field


def test_a_message_with_everything_at_its_limit_is_taken():
    largest = Message(
        key=KEY,
        clustering_key=KEY,
        id="i" * 1024,
        value=bytes(limits.VALUE_BYTES_MAX),
        headers=headers_of(64, 256),
    )

    assert 1 == cut(batch_of(largest), 1).count
    assert convert.MESSAGE_BYTES_MAX - largest.ByteSize() < 1024


def test_unknown_fields_count_towards_a_message_s_size():
    def padded(size: int) -> bytes:
        unknown = size - 6
        length = [unknown >> 7 * place & 0x7F | (place < 3) << 7 for place in range(4)]
        return b"\xa2\x06" + bytes(length) + bytes(unknown)

    assert 1 == cut(raw_batch(padded(convert.MESSAGE_BYTES_MAX)), 1).count
    error = refusal(raw_batch(padded(convert.MESSAGE_BYTES_MAX + 1)), 1)
    assert "messages[0]" == error.field
    assert "unknown fields included" in error.message


def batch_of_size(size: int) -> bytes:
    """Five messages, `size` bytes in all."""
    four = batch_of(*(Message(value=bytes(1_000_000)) for _ in range(4)))
    # A tag and a length of three bytes around the message, and again around its value.
    last = Message(value=bytes(size - len(four) - 4 - 5))
    batch = four + batch_of(last)
    assert size == len(batch)
    return batch


def test_an_atom_is_4_mib_and_not_a_byte_more():
    assert 5 == cut(batch_of_size(limits.ATOM_BYTES_MAX), 5).count

    error = refusal(batch_of_size(limits.ATOM_BYTES_MAX + 1), 5)

    assert "batch" == error.field
    assert str(limits.ATOM_BYTES_MAX) in error.message


def test_columns_count_towards_an_atom():
    room = limits.ATOM_BYTES_MAX - 5 * convert.COLUMN_ENTRY_BYTES

    rows = cut(batch_of_size(room), 5, due_ms=range(5))

    assert limits.ATOM_BYTES_MAX == rows.size_bytes
    assert "with 5 due times" in refusal(batch_of_size(room + 1), 5, due_ms=range(5)).message


def test_an_atom_is_65536_messages_and_not_one_more():
    most = b"\x0a\x00" * limits.ATOM_MESSAGE_COUNT_MAX

    assert limits.ATOM_MESSAGE_COUNT_MAX == cut(most, limits.ATOM_MESSAGE_COUNT_MAX).count
    error = refusal(most + b"\x0a\x00", limits.ATOM_MESSAGE_COUNT_MAX + 1)
    assert "count" == error.field
    assert "65536" in error.message
    assert "count" == refusal(b"\x0a\x00" * 2_000_000, 1).field


# --- times ------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["due_ms", "delay_ms"])
def test_a_time_is_0_to_the_end_of_9999(column):
    batch = batch_of(Message(), Message())
    assert [0, limits.DUE_MS_MAX] == cut(batch, 2, **{column: [0, limits.DUE_MS_MAX]}).dues

    for wrong in (-1, limits.DUE_MS_MAX + 1):
        error = refusal(batch, 2, **{column: [5, wrong]})
        assert f"{column}[1]" == error.field
        assert str(limits.DUE_MS_MAX) in error.message
        assert f"{column}[0]" == refusal(batch, 2, **{column: [wrong]}).field


@pytest.mark.parametrize("column", ["due_ms", "delay_ms"])
def test_a_column_has_no_entry_or_one_or_one_each(column):
    batch = batch_of(Message(), Message(), Message())

    for length in (2, 4):
        error = refusal(batch, 3, **{column: [1] * length})
        assert column == error.field
        assert f"{column} has {length} entries for 3 messages" in error.message


def test_due_times_and_delays_exclude_each_other():
    error = refusal(batch_of(Message()), 1, due_ms=[1], delay_ms=[1])

    assert "delay_ms" == error.field


# --- keys and partitions ----------------------------------------------------------------------


def checked(*given_messages: Message, due_ms=(), delay_ms=()) -> convert.Checked:
    return convert.check_batch(batch_of(*given_messages), len(given_messages), due_ms, delay_ms)


def test_messages_are_routed_by_key_else_by_id():
    batch = checked(Message(key=b"k", id="i"), Message(id="é"), Message(value=b"v"))

    assert [b"k", "é".encode(), b""] == convert.keys_of(batch)


def test_without_any_key_there_is_nothing_to_route_by():
    explicit = raw_batch(b"\xa2\x01\x00", b"\xca\x02\x00")

    assert convert.keys_of(checked(Message(value=b"v"), Message())) is None
    assert convert.keys_of(convert.check_batch(explicit, 2, (), ())) is None


def test_an_empty_key_in_the_last_message_hides_no_key_before_it():
    explicit = raw_batch(b"\xa2\x01\x01k", b"\xa2\x01\x00")

    assert [b"k", b""] == convert.keys_of(convert.check_batch(explicit, 2, (), ()))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"a", (0, 5, 15, 927)),
        (b"my_key", (1, 1, 48, 750)),
        (b"same", (0, 8, 31, 990)),
        (b"hello world", (1, 9, 34, 34)),
    ],
)
def test_known_keys_go_where_the_first_sandglass_put_them(key, expected):
    places = [convert.places_of([key], n, spread=-1)[0] for n in (3, 10, 50, 1000)]

    assert list(expected) == places


def test_a_message_without_a_key_goes_with_the_spread():
    assert [2, 0, 2] == convert.places_of([b"", b"a", b""], 3, spread=2)


def test_keys_of_one_partition_leave_the_batch_whole():
    batch = checked(Message(key=b"a"), Message(key=b"a"))

    [(partition, places, rows)] = convert.split_by_partition(batch, [1, 1])

    assert (1, None, batch.body) == (partition, places, rows.bodies[0])


def test_a_batch_splits_with_its_times_and_places():
    batch = checked(
        *(Message(key=b"k", value=b"%d" % n) for n in range(5)), due_ms=[10, 20, 10, 30, 10]
    )

    split = convert.split_by_partition(batch, [2, 0, 2, 0, 2])

    assert [(0, [1, 3]), (2, [0, 2, 4])] == [(place, places) for place, places, _ in split]
    assert [20, 30] == split[0][2].dues
    assert ([10], [3]) == (split[1][2].dues, split[1][2].counts)
    assert [b"0", b"2", b"4"] == values_of(split[1][2].bodies[0])


def test_a_split_keeps_the_one_time_of_all_and_its_being_a_delay():
    batch = checked(Message(value=b"0"), Message(value=b"1"), delay_ms=[500])

    split = convert.split_by_partition(batch, [1, 0])

    assert [([500], True)] * 2 == [(rows.dues, rows.is_delay) for _, _, rows in split]


# --- slices and answers -----------------------------------------------------------------------


def test_a_whole_row_is_the_very_bytes():
    body = batch_of(Message(value=b"a"), Message(value=b"b"))

    assert convert.slice_body(body, 2, 0, 2) is body


@given(st.lists(messages, min_size=1, max_size=10), st.data())
def test_a_slice_is_a_batch_of_its_messages(given_messages, data):
    body = batch_of(*given_messages)
    first = data.draw(st.integers(0, len(given_messages) - 1))
    count = data.draw(st.integers(1, len(given_messages) - first))

    part = convert.slice_body(body, len(given_messages), first, count)

    assert batch_of(*given_messages[first : first + count]) == part


def test_slices_of_two_rows_may_alternate():
    rows = [batch_of(*(Message(value=b"%d%d" % (r, n)) for n in range(4))) for r in range(2)]

    parts = [convert.slice_body(rows[n % 2], 4, n // 2, 1) for n in range(8)]

    assert [b"00", b"10", b"01", b"11", b"02", b"12", b"03", b"13"] == [
        values_of(part)[0] for part in parts
    ]


def test_a_slice_lies_within_its_row():
    body = batch_of(Message(), Message())

    for first, count in ((0, 3), (1, 2), (-1, 1), (0, 0)):
        with pytest.raises(AssertionError):
            convert.slice_body(body, 2, first, count)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_the_size_of_a_message_in_a_batch_is_known_without_making_it(size):
    raw = bytes(size)

    assert [len(raw_batch(raw))] == convert.encoded_sizes([raw])


def test_a_placed_batch_tells_runs_and_places():
    placed = Placed("P", 7, [1000, 500], [2, 1], [4, 0, 2])

    wire = convert.placed_to_wire(placed)

    assert ("P", 7) == (wire.partition, wire.first_index)
    assert ([1000, 500], [2, 1]) == (list(wire.run_due_ms), list(wire.run_count))
    assert [4, 0, 2] == list(wire.request_places)
    assert not convert.placed_to_wire(Placed("P", 1, [1], [1])).request_places


def test_offsets_are_due_time_then_index():
    placed = Placed("P", 7, [1526518923456], [2])

    assert [
        "01636b9e40c00000000000000007",
        "01636b9e40c00000000000000008",
    ] == [each.hex() for each in convert.offsets_of(placed)]
