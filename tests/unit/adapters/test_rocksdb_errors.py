"""What RocksDB says, as what the caller should do about it."""

from pathlib import Path

import pytest

from sandglass.adapters.rocksdb_errors import translated
from sandglass.errors import (
    BusyError,
    CorruptError,
    InternalError,
    NoSpaceError,
    PreconditionError,
    UnavailableError,
)

VIEW = Path("/data/view")


@pytest.mark.parametrize(
    ("text", "kind", "retry_after_ms"),
    [
        ("Result incomplete: Write stall", BusyError, 5),
        (
            "IO error: No space left on device: While appending to file: /v/1.sst",
            NoSpaceError,
            1000,
        ),
        ("IO error: Disk quota exceeded: While appending to file", NoSpaceError, 1000),
        (
            "IO error: While lock file: /v/LOCK: Resource temporarily unavailable",
            PreconditionError,
            0,
        ),
        ("IO error: While open a file: /v/1.sst: Permission denied", PreconditionError, 0),
        ("IO error: While open a file: /v/1.sst: Too many open files", PreconditionError, 0),
        ("IO error: While pread: /v/1.sst: Input/output error", CorruptError, 0),
        (
            "IO error: While fsync: /v/1.sst: Input/output error",
            UnavailableError,
            0,
        ),
        ("Corruption: block checksum mismatch", CorruptError, 0),
        ("Invalid argument: end key comes before start key", InternalError, 0),
    ],
)
def test_status_of_rocksdb_becomes_what_to_do(
    text: str, kind: type[Exception], retry_after_ms: int
) -> None:
    error = translated(Exception(text), VIEW, lambda: "restore it")

    assert type(error) is kind
    assert error.retry_after_ms == retry_after_ms


def test_damage_says_where_and_what_to_do() -> None:
    text = "Corruption: Corrupted blob."

    error = translated(Exception(text), VIEW, lambda: "restore it")

    assert error.message == (
        "view /data/view is damaged: Corruption: Corrupted blob. (in a .blob file)."
        " What to do: restore it"
    )
