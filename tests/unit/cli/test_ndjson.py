"""Lines of JSON as messages."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sandglass import Message
from sandglass.cli.ctl import ndjson
from sandglass.cli.ctl.ndjson import parse_line, parse_moment, read_lines
from sandglass.errors import InvalidError


def test_a_line_says_all_that_a_message_has() -> None:
    line = json.dumps(
        {
            "value": "grüße",
            "key": "k",
            "at": "2027-01-01T09:00:00+02:00",
            "headers": {"a": "b"},
            "headers_base64": {"c": "/w=="},
            "id": "i",
            "channel": "c",
        }
    ).encode()

    entry = parse_line(line)

    assert entry.channel == "c"
    assert entry.message == Message(
        "grüße".encode(),
        key=b"k",
        headers={"a": "b", "c": b"\xff"},
        id="i",
        due_at=datetime(2027, 1, 1, 7, tzinfo=UTC),
    )


def test_bytes_come_in_base64() -> None:
    entry = parse_line(b'{"value_base64": "/wA=", "key_base64": "/w==", "delay": "90s"}')

    expected = Message(b"\xff\x00", key=b"\xff", delay=timedelta(seconds=90))
    assert (entry.message, entry.channel) == (expected, None)


def test_an_empty_value_is_a_value() -> None:
    assert parse_line(b'{"value": ""}').message == Message(b"")


def test_what_consume_prints_beside_the_message_is_ignored() -> None:
    line = b'{"offset": "00", "index": 1, "due_at": "x", "attempt": 2, "value": "v"}'

    assert parse_line(line).message == Message(b"v")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not JSON: "),
        (b"\xff", "not JSON: "),
        (b"[1]", "not an object"),
        (b"{}", "no value"),
        (b'{"value": 1}', "value is 1; it must be text"),
        (b'{"value": "a", "value_base64": "YQ=="}', "value and value_base64 are both given"),
        (b'{"value_base64": "%"}', "value_base64 is not base64"),
        (b'{"value": "\\ud800"}', "half a character"),
        (b'{"value": "a", "vaule": "b"}', "unknown key 'vaule'; the nearest is 'value'"),
        (b'{"value": "a", "at": "2027-01-01T09:00:00"}', "without a time zone"),
        (b'{"value": "a", "at": "soon"}', "it must be a moment such as"),
        (b'{"value": "a", "at": "2027-01-01T09:00:00Z", "delay": "1s"}', "both given"),
        (b'{"value": "a", "delay": "1"}', "delay is '1'"),
        (b'{"value": "a", "headers": {"x": 1}}', "headers must be an object of texts"),
        (b'{"value": "a", "headers": ["x"]}', "headers must be an object of texts"),
        (b'{"value": "a", "id": 7}', "id is 7; it must be text"),
        (b'{"value": "a", "channel": "a/b"}', "channel 'a/b' is not a name"),
        (
            b'{"value": "%s"}' % (b"a" * 1_048_577),
            "value is 1048577 bytes; the limit is 1048576",
        ),
        (
            b'{"value": "a", "key": "%s"}' % (b"k" * 1025),
            "key is 1025 bytes; the limit is 1024",
        ),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_wrong_line_is_refused_with_its_reason(line: bytes, said: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_line(line)

    assert said in caught.value.message


def test_a_moment_needs_a_time_zone() -> None:
    assert parse_moment("2027-01-01T09:00:00Z", field="at").tzinfo is not None
    with pytest.raises(InvalidError, match=r"--at is .* add Z"):
        parse_moment("2027-01-01 09:00", field="--at")


async def test_lines_are_numbered_and_empty_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\n\n  \nfour\r\nlast")

    found = [each async for lines in read_lines(str(path)) for each in lines]

    assert found == [(1, b"one"), (4, b"four\r"), (5, b"last")]


async def test_lines_across_the_borders_of_reads_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "READ_BYTES", 3)
    path = tmp_path / "lines"
    path.write_bytes(b"abcdefg\nh\nijk\n")

    found = [each async for lines in read_lines(str(path)) for each in lines]

    assert found == [(1, b"abcdefg"), (2, b"h"), (3, b"ijk")]


async def test_lines_of_a_pipe_come_before_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    os.write(pipe, b"one\ntw")

    lines = read_lines(str(path))

    assert await anext(lines) == [(1, b"one")]
    os.write(pipe, b"o\n")
    assert await anext(lines) == [(2, b"two")]
    await lines.aclose()
    os.close(pipe)


async def test_a_line_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ndjson, "LINE_BYTES_MAX", 10)
    monkeypatch.setattr(ndjson, "READ_BYTES", 4)
    path = tmp_path / "lines"
    path.write_bytes(b"a\n" + b"x" * 10 + b"\n")
    assert [each async for lines in read_lines(str(path)) for each in lines]

    path.write_bytes(b"a\n" + b"x" * 20)
    with pytest.raises(InvalidError, match="line 2 is longer than 10 bytes"):
        async for _ in read_lines(str(path)):
            pass


async def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await anext(read_lines(str(tmp_path / "none")))
