"""The reference of the wire says what the code does."""

import re
from pathlib import Path

from sandglass import errors
from sandglass.core import limits
from sandglass.wire import convert, status

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
    ):
        assert text.format(value) in page
