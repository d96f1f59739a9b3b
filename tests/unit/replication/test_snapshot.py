import json
import struct
from dataclasses import replace
from typing import Any

import pytest

from sandglass.core import limits
from sandglass.errors import CorruptError, PreconditionError
from sandglass.replication.reader import Mark
from sandglass.replication.snapshot import (
    Generation,
    Generations,
    Manifest,
    ObjectName,
    Part,
    decode_part,
    digest_of,
    encode_part,
    is_whole,
)

ROWS = [(b"a", b"1"), (b"b", b""), (b"ba", b"3" * 1000)]
NAME = str(ObjectName("p", 12, digest_of(b"x")))
OTHER = str(ObjectName("p", 13, digest_of(b"y")))
MARK = Mark(5, 2, 1, 77, 4, b"w" * 16, "s", 6)
MANIFEST = Manifest(
    "c", 7, MARK, 1000, (Part(NAME, b"a", 2, 10), Part(OTHER, b"c", 1, 20)), ((1, 500),)
)
NEWER = Generation("m2-" + "0" * 64, 20, 19, 30, 1000)
OLDER = Generation("m1-" + "0" * 64, 10, 9, 30, 900)


def test_a_name_says_what_it_was_made_of() -> None:
    assert ObjectName("p", 12, digest_of(b"x")) == ObjectName.read(NAME)
    assert is_whole(NAME, b"x")
    assert not is_whole(NAME, b"X")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "p1",
        "q1-" + "0" * 64,
        "p01-" + "0" * 64,
        "p1-" + "0" * 63,
        "p1-" + "G" * 64,
        "p1-" + "0" * 64 + "\n",
        "p" + "1" * 21 + "-" + "0" * 64,
    ],
)
def test_other_names_are_none(name: str) -> None:
    assert ObjectName.read(name) is None
    assert not is_whole(name, b"x")


def test_a_part_is_read_as_it_was_written() -> None:
    assert ROWS == decode_part(encode_part(ROWS))
    assert [] == decode_part(encode_part([]))


def test_bytes_of_a_part_are_what_the_format_says() -> None:
    raw = encode_part(ROWS[:2])

    assert b"SGpt\x01" + struct.pack("<IIIII", 2, 1, 1, 1, 0) + b"ab1" == raw


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "unpack"),
        (b"SGen" + encode_part(ROWS)[4:], "it is no part"),
        (b"SGpt\x02" + encode_part(ROWS)[5:], "format version 2; this node reads 1"),
        (encode_part(ROWS)[:-1], "it ends at"),
        (encode_part(ROWS) + b"x", "it ends at"),
        (struct.pack("<4sBI", b"SGpt", 1, 0xFFFFFFFF), "can't hold 4294967295 rows"),
        (encode_part(ROWS[::-1]), "out of order"),
        (encode_part([ROWS[0], ROWS[0]]), "out of order"),
    ],
)
def test_what_is_no_part_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(CorruptError, match=reason):
        decode_part(raw)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert MANIFEST == Manifest.decode(MANIFEST.encode())
    assert 30 == MANIFEST.size_bytes
    assert {NAME, OTHER} == MANIFEST.names


def altered(**fields: Any) -> bytes:
    raw = MANIFEST.encode()
    return raw[:5] + json.dumps(json.loads(raw[5:]) | fields).encode()


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"SG", "unpack"),
        (b"SGpt\x01{}", "it is no manifest"),
        (b"SGsm\x02{}", "format version 2; this node reads 1"),
        (b"SGsm\x01{}", "manifest of 7 bytes"),
        (b"SGsm\x01[]", "manifest of 7 bytes"),
        (b"SGsm\x01" + b"[" * 100_000, "manifest of"),
        (altered(parts=[["p1", "00", 1, 1]]), "'p1' names no part"),
        (altered(parts=[["m1-" + "0" * 64, "00", 1, 1]]), "names no part"),
        (altered(parts=[[NAME, "01", 1, 1], [NAME, "01", 1, 1]]), "out of order"),
        (altered(parts=[[NAME, 1]]), "manifest of"),
        (altered(mark={"version": 2}), "mark"),
        (altered(closed=[[1, "x"]]), "manifest of"),
        (altered(made_ms=float("inf")), "manifest of"),
    ],
)
def test_what_is_no_manifest_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(CorruptError, match=reason):
        Manifest.decode(raw)


def test_a_manifest_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    size_bytes = len(MANIFEST.encode())
    monkeypatch.setattr(limits, "SNAPSHOT_MANIFEST_BYTES_MAX", size_bytes)
    assert MANIFEST.encode()
    larger = replace(MANIFEST, made_ms=10_000)

    with pytest.raises(PreconditionError, match=f"the limit is {size_bytes}"):
        larger.encode()


def test_generations_are_read_as_they_were_written() -> None:
    generations = Generations((NEWER, OLDER))

    assert generations == Generations.decode(generations.encode())
    assert Generations() == Generations.decode(None)
    assert NEWER == generations.newest
    assert Generations().newest is None


def test_the_stream_is_needed_from_the_older_of_two_on() -> None:
    assert 10 == Generations((NEWER, OLDER)).trim_sequence
    assert 0 == Generations((NEWER,)).trim_sequence
    assert 0 == Generations().trim_sequence


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 2, "generations": []}',
        b'{"version": 1, "generations": [{}]}',
        b'{"version": 1, "generations": [1]}',
        b"[" * 100_000,
        Generations((OLDER, NEWER)).encode(),
        Generations((NEWER, OLDER, OLDER)).encode(),
    ],
)
def test_what_are_no_generations_is_refused(raw: bytes) -> None:
    with pytest.raises(CorruptError, match="snapshots cannot be read"):
        Generations.decode(raw)
