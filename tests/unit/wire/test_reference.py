"""The reference of the wire says what the code does."""

import re
from pathlib import Path

from google.protobuf import json_format

from sandglass import errors
from sandglass.core import limits, offset
from sandglass.wire import convert, status
from sandglass.wire.v1 import broker_pb2
from tests.unit.batches import cut_batch

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"
ROW = re.compile(r"^\| `([A-Z_]+)` \| `(\w+)` \| ([A-Z_]+) \| (\d+) \|", re.MULTILINE)


def test_the_table_of_errors_is_that_of_the_code():
    rows = ROW.findall((REFERENCE / "errors.md").read_text())

    described = {code: (name, grpc_code, int(http)) for code, name, grpc_code, http in rows}
    actual = {}
    for code in described:
        error = errors.by_code(code)("text")
        actual[error.code] = (
            type(error).__name__,
            status.grpc_code_of(error).name,
            status.http_status_of(error),
        )
    assert actual == described
    assert {kind.code for kind in vars(errors).values() if hasattr(kind, "code")} == set(actual)


def test_the_limits_are_those_of_the_code():
    page = (REFERENCE / "grpc.md").read_text()

    for text, value in (
        ("{} MiB, measured when decompressed", limits.REQUEST_BYTES_MAX >> 20),
        ("{} MiB and", limits.ATOM_BYTES_MAX >> 20),
        ("{} messages; each entry", f"{limits.ATOM_MESSAGE_COUNT_MAX:,}"),
        ("counts {} bytes", convert.COLUMN_ENTRY_BYTES),
        ("value of a message | {} MiB", limits.VALUE_BYTES_MAX >> 20),
        ("id | {} KiB each", limits.KEY_BYTES_MAX >> 10),
        ("headers of a message | {}, and", limits.HEADER_COUNT_MAX),
        ("and {} KiB of names", limits.HEADER_BYTES_MAX >> 10),
        ("| {} bytes |", f"{convert.MESSAGE_BYTES_MAX:,}"),
        ("1 to {} characters", limits.NAME_LENGTH_MAX),
        ("partitions of a topic | 1 to {} |", f"{limits.PARTITION_COUNT_MAX:,}"),
        ("replicas of a partition | 1 to {} |", limits.REPLICATION_FACTOR_MAX),
    ):
        assert text.format(value) in page


JSON = re.compile(r"^```json (\w+)\n(.*?)\n```(?:\n\n```hex\n([0-9a-f]+)\n```)?", re.M | re.S)


def examples() -> list[tuple[str, str, str]]:
    """(message, JSON, hex or nothing) of each example of the page."""
    return JSON.findall((REFERENCE / "grpc.md").read_text())


def test_every_example_is_a_message_of_the_contract_and_has_these_bytes():
    found = examples()

    for name, text, raw in found:
        message = json_format.Parse(text, getattr(broker_pb2, name)())
        if raw:
            assert raw == message.SerializeToString(deterministic=True).hex()
            assert message == type(message).FromString(bytes.fromhex(raw))
    assert len(found) == (REFERENCE / "grpc.md").read_text().count("```json") > 4


def test_the_example_of_a_request_passes_the_door_with_the_batch_before_it():
    parsed = [
        (name, json_format.Parse(text, getattr(broker_pb2, name)()))
        for name, text, _ in examples()
    ]
    [batch] = [each for name, each in parsed if name == "MessageBatch"]
    [request] = [each for name, one in parsed if name == "ClientFrame" for each in one.produces]

    cut = cut_batch(request.batch, request.count, request.due_ms, request.delay_ms)

    assert batch.SerializeToString() == request.batch
    assert (2, [60_000], True) == (cut.count, cut.dues, cut.is_delay)


def test_the_example_of_a_delivery_is_whole_and_its_offset_is_that_of_the_text():
    page = (REFERENCE / "grpc.md").read_text()
    [text] = [text for name, text, _ in examples() if name == "Delivery"]
    delivery = json_format.Parse(text, broker_pb2.Delivery())

    messages = broker_pb2.MessageBatch.FromString(delivery.batch).messages
    first = offset.make(delivery.run_due_ms[0], delivery.run_first_index[0])

    assert delivery.count == len(messages) == sum(delivery.run_count)
    assert f"The first of them stands at `{offset.to_text(first)}`" in page
