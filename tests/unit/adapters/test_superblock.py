"""The superblock: whole or refused, old or new."""

import errno
from pathlib import Path
from random import Random

import pytest

from sandglass.adapters import superblock
from sandglass.adapters.superblock import Superblock, load_superblock, save_superblock
from sandglass.errors import (
    CorruptError,
    DeniedError,
    NoSpaceError,
    PreconditionError,
    UnavailableError,
)
from tests.unit.adapters.faulty_files import FaultyFiles, PowerCutError, PowerFiles

OLD = Superblock(b"n" * 16, bytes(16), 7)
NEW = Superblock(b"n" * 16, b"c" * 16, (1 << 64) - 1)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "superblock"

    for wanted in (OLD, NEW):
        save_superblock(path, wanted)

        assert load_superblock(path) == wanted


def test_there_is_none_before_the_first_save(tmp_path: Path) -> None:
    assert load_superblock(tmp_path / "superblock") is None


def test_any_flipped_bit_is_corruption(tmp_path: Path) -> None:
    path = tmp_path / "superblock"
    save_superblock(path, OLD)
    content = path.read_bytes()

    for at in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[at] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(CorruptError, match=str(path)):
                load_superblock(path)


def test_any_other_length_is_corruption(tmp_path: Path) -> None:
    path = tmp_path / "superblock"
    save_superblock(path, OLD)
    content = path.read_bytes()

    for changed in [*(content[:size] for size in range(len(content))), content + b"\0"]:
        path.write_bytes(changed)
        with pytest.raises(CorruptError, match=str(path)):
            load_superblock(path)


def test_a_newer_version_is_refused_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "superblock"
    with monkeypatch.context() as newer:
        newer.setattr(superblock, "SUPERBLOCK_VERSION", 3)
        save_superblock(path, OLD)

    with pytest.raises(PreconditionError, match="has version 3"):
        load_superblock(path)


@pytest.mark.parametrize("left_count", range(7))
@pytest.mark.parametrize("seed", range(5))
def test_a_power_cut_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, left_count: int, seed: int
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    save_superblock(before / "superblock", OLD)
    files = PowerFiles.over(before)
    files.left_count = left_count
    is_done = False
    try:
        save_superblock(before / "superblock", NEW, files=files)
        is_done = True
    except PowerCutError:
        files.left_count = None

    files.cut_power(Random(seed), after)

    found = load_superblock(after / "superblock")
    assert found == NEW if is_done else found in (OLD, NEW)
    save_superblock(after / "superblock", NEW)
    assert load_superblock(after / "superblock") == NEW


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EACCES, DeniedError),
        (errno.EIO, UnavailableError),
    ],
)
@pytest.mark.parametrize("operation", ["open", "write", "sync", "rename"])
def test_a_save_that_fails_leaves_the_old_one(
    tmp_path: Path, operation: str, number: int, expected: type[Exception]
) -> None:
    path = tmp_path / "superblock"
    save_superblock(path, OLD)
    files = FaultyFiles()
    files.errors[operation] = number

    with pytest.raises(expected, match=str(path)):
        save_superblock(path, NEW, files=files)

    assert load_superblock(path) == OLD


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "superblock"
    save_superblock(path, OLD)
    files = FaultyFiles()
    files.errors["read"] = errno.EIO

    with pytest.raises(UnavailableError, match=str(path)):
        load_superblock(path, files=files)
