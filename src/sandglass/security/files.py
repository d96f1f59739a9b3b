"""
Files with secrets: read within bounds, refused when others could write or read them, and
replaced whole.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sandglass.errors import InvalidError, NotFoundError, PreconditionError

OTHERS: Final = 0o077
"""The bits of a mode that let anybody but the owner do something."""


def read_file(path: Path, *, what: str, bytes_max: int, is_private: bool) -> bytes:
    """
    A file's content.

    Args:
        what: what it is, for errors: `token file`.
        is_private: refuse it if anybody but its owner has a right to it.

    Raises:
        NotFoundError: it isn't there, or can't be read.
        InvalidError: not a file, or too large.
        PreconditionError: others have a right to it; the error says how to take it away.
    """
    try:
        # Without O_NONBLOCK, a pipe would hold us up until somebody writes into it.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb", buffering=0) as file:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidError(f"{what} {path} is not a file")
            if is_private and status.st_mode & OTHERS:
                raise PreconditionError(
                    f"{what} {path} has mode {stat.S_IMODE(status.st_mode):04o}, which lets"
                    f" others at it; it must be 0600: chmod 600 {path}"
                )
            content = _read_all(file.read, bytes_max + 1)
    except OSError as error:
        raise NotFoundError(f"{what} {path} can't be read: {error.strerror}") from error
    if len(content) > bytes_max:
        raise InvalidError(f"{what} {path} is larger than {bytes_max} bytes")
    return content


def replace_file(
    path: Path, change: Callable[[bytes], bytes], *, read: Callable[[Path], bytes]
) -> None:
    """
    Changes a private file, or makes it: whoever reads it meanwhile sees the old or the new one.

    A link is followed, the owner stays, the mode is 0600. Changes come one after the other,
    also those of several processes.

    Args:
        change: from the content, empty if there is no file, to the new one.
        read: gives the content, and raises what `read_file` raises.

    Raises:
        PreconditionError: the folder takes no file.
        SandglassError: as `change` and `read`.
    """
    path = path.resolve()
    try:
        with _locked(path.parent):
            status = path.stat() if path.exists() else None
            content = change(read(path) if status is not None else b"")
            _write_beside(path, content, status)
    except OSError as error:
        raise PreconditionError(f"{path} can't be written: {error.strerror}") from error


def _read_all(read: Callable[[int], bytes | None], count: int) -> bytes:
    content = b""
    while len(content) < count and (piece := read(count - len(content))):
        content += piece
    return content


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The folder's lock, because the file itself is replaced."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield number
    finally:
        os.close(number)


def _write_beside(path: Path, content: bytes, status: os.stat_result | None) -> None:
    """Writes a new file and puts it in the place of the old one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        number = os.open(new, flags, 0o600)
        with open(number, "wb") as file:
            if status is not None and (status.st_uid, status.st_gid) != (
                os.geteuid(),
                os.getegid(),
            ):
                os.fchown(number, status.st_uid, status.st_gid)
            file.write(content)
            file.flush()
            os.fsync(number)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
