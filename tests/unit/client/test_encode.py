"""Hand-made batches are what the stubs would have made, within the limits."""

import random

import pytest

from sandglass.client import encode
from sandglass.core import limits
from sandglass.errors import InvalidError
from sandglass.wire.v1 import broker_pb2 as pb

LENGTHS = [0, 1, 122, 123, 124, 125, 127, 128, 16_376, 16_380, 16_384, 70_000]


def by_stubs(values: list[bytes]) -> bytes:
    messages = [pb.Message(value=value) for value in values]
    return pb.MessageBatch(messages=messages).SerializeToString()


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16_383, 16_384, 2**32, 2**63])
def test_varint_is_that_of_the_stubs(number: int) -> None:
    stub = pb.ProduceReply(request_id=number).SerializeToString()

    assert stub[1:] == (encode.varint(number) if number else b"")


@pytest.mark.parametrize("length", LENGTHS)
def test_values_of_one_length_make_the_batch_of_the_stubs(length: int) -> None:
    values = [bytes([each]) * length for each in range(3)]

    assert by_stubs(values) == encode.encode_values(values)
    assert by_stubs(values[:1]) == encode.encode_value(values[0])


def test_values_of_many_lengths_make_the_batch_of_the_stubs() -> None:
    values = [bytes(length) for length in LENGTHS]

    assert by_stubs(values) == encode.encode_values(values)


def test_random_messages_make_the_batch_of_the_stubs() -> None:
    chance = random.Random(20270101)

    for _ in range(300):
        sizes = [chance.choice([0, 0, 1, 100, 128, 1000]) for _ in range(4)]
        value, key, clustering_key, id_bytes = (chance.randbytes(size) for size in sizes)
        headers = {
            chr(97 + each): chance.randbytes(chance.choice([0, 3, 200]))
            for each in range(chance.randrange(4))
        }
        stub = pb.Message(
            value=value,
            key=key,
            clustering_key=clustering_key,
            headers=[pb.Header(name=name, value=raw) for name, raw in headers.items()],
            id=id_bytes.hex()[:1000],
        )

        made = encode.encode_message(value, key, clustering_key, headers, stub.id)

        assert pb.MessageBatch(messages=[stub]).SerializeToString() == made


def test_text_is_utf_8() -> None:
    made = encode.encode_message("grüße", "schlüssel", headers={"é": "ü"}, id="naïve")

    (message,) = pb.MessageBatch.FromString(made).messages

    assert "grüße".encode() == message.value
    assert "schlüssel".encode() == message.key
    assert ("é", "ü".encode()) == (message.headers[0].name, message.headers[0].value)
    assert "naïve" == message.id


@pytest.mark.parametrize(
    ("field", "limit"),
    [
        ("value", limits.VALUE_BYTES_MAX),
        ("key", limits.KEY_BYTES_MAX),
        ("clustering_key", limits.KEY_BYTES_MAX),
        ("id", limits.KEY_BYTES_MAX),
    ],
)
def test_a_field_is_taken_up_to_its_limit(field: str, limit: int) -> None:
    fields = {"value": "", field: "x" * limit}
    encode.encode_message(**fields)  # pyright: ignore[reportArgumentType] - text goes anywhere

    with pytest.raises(
        InvalidError, match=f"{field} is {limit + 1} bytes; the limit"
    ) as caught:
        encode.encode_message(**{**fields, field: "x" * (limit + 1)})  # pyright: ignore[reportArgumentType] - as above

    assert field == caught.value.field


def test_plain_values_are_taken_up_to_their_limit() -> None:
    most = bytes(limits.VALUE_BYTES_MAX)
    encode.encode_values([most, b""])
    encode.encode_value(most)

    with pytest.raises(InvalidError, match="value"):
        encode.encode_values([b"", most + b"x"])
    with pytest.raises(InvalidError, match="value"):
        encode.encode_value(most + b"x")


def test_headers_are_taken_up_to_their_limits() -> None:
    encode.encode_message(b"", headers={str(each): b"" for each in range(64)})
    encode.encode_message(b"", headers={"n": bytes(limits.HEADER_BYTES_MAX - 1)})

    with pytest.raises(InvalidError, match="65 entries; the limit is 64"):
        encode.encode_message(b"", headers={str(each): b"" for each in range(65)})
    with pytest.raises(InvalidError, match="16385 bytes; the limit is 16384"):
        encode.encode_message(b"", headers={"n": bytes(limits.HEADER_BYTES_MAX)})


@pytest.mark.parametrize(
    ("field", "content"), [("value", 7), ("key", None), ("value", "\ud800"), ("id", "\udfff")]
)
def test_what_is_no_text_and_no_bytes_is_refused(field: str, content: object) -> None:
    fields: dict[str, object] = {"value": b"", field: content}

    with pytest.raises(InvalidError) as caught:
        encode.encode_message(**fields)  # pyright: ignore[reportArgumentType] - that is the test

    assert field == caught.value.field
