"""Files with secrets: read within bounds, replaced whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandglass.errors import InvalidError, NotFoundError, PreconditionError
from sandglass.security.files import read_file, replace_file


def read(path: Path, *, bytes_max: int = 10) -> bytes:
    return read_file(path, what="secret file", bytes_max=bytes_max, is_private=True)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_a_file_of_the_largest_size_is_read_and_a_byte_more_is_not(tmp_path: Path) -> None:
    assert read(written(tmp_path / "full", b"x" * 10)) == b"x" * 10
    with pytest.raises(InvalidError, match="is larger than 10 bytes"):
        read(written(tmp_path / "over", b"x" * 11))


def test_what_is_not_there_or_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(NotFoundError, match="none can't be read: No such file"):
        read(tmp_path / "none")
    with pytest.raises(InvalidError, match="is not a file"):
        read(tmp_path / "pipe")
    with pytest.raises(NotFoundError, match="Is a directory"):
        read(tmp_path)


def test_a_replaced_file_keeps_its_place_behind_a_link(tmp_path: Path) -> None:
    target = written(tmp_path / "target", b"a")
    link = tmp_path / "link"
    link.symlink_to(target)

    replace_file(link, lambda content: content + b"b", read=read)

    assert link.is_symlink()
    assert target.read_bytes() == b"ab"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "target"]


def test_a_change_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "file", b"a")

    def fail(content: bytes) -> bytes:
        raise InvalidError("no")

    with pytest.raises(InvalidError):
        replace_file(path, fail, read=read)

    assert path.read_bytes() == b"a"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="can't be written: No such file"):
        replace_file(tmp_path / "none" / "file", lambda content: content, read=read)


CHANGE = """
import sys
from pathlib import Path
from sandglass.security.files import read_file, replace_file

read = lambda path: read_file(path, what="file", bytes_max=10_000, is_private=True)
for _ in range(25):
    replace_file(Path(sys.argv[1]), lambda content: content + b"x", read=read)
"""


def test_changes_of_several_processes_come_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"

    running = [subprocess.Popen([sys.executable, "-c", CHANGE, str(path)]) for _ in range(3)]

    assert [each.wait(timeout=60) for each in running] == [0, 0, 0]
    assert path.read_bytes() == b"x" * 75
