"""
The few file operations that log and superblock are made of, as one small object, so that tests
can put a full disk, a failing one or a power cut in its place.

All of them block. All raise `OSError`; whoever calls knows what it means and translates it.
"""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sandglass.errors import (
    BusyError,
    DeniedError,
    NoSpaceError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)

BUFFER_COUNT_MAX: Final = 1024
"""The kernel's bound on buffers in one vectored write (IOV_MAX)."""

NO_SPACE_RETRY_MS: Final = 1000
"""A full disk is not emptied within milliseconds."""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NOT_A_DIRECTORY: Final = frozenset({errno.ENOTDIR, errno.EEXIST})


class Files:
    """The operating system's files."""

    def open(self, path: Path, *, is_new: bool = False) -> int:
        """A descriptor for reading and writing; `is_new` makes a file that must not exist."""
        flags = os.O_RDWR | os.O_CLOEXEC
        return os.open(path, flags | os.O_CREAT | os.O_EXCL if is_new else flags, 0o640)

    def open_lock(self, path: Path) -> int:
        """A descriptor of a file that is made if it isn't there, and holds nothing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def open_for_reading(self, path: Path) -> int:
        """A descriptor for reading only."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def make_directory(self, path: Path) -> None:
        """Makes a directory, unless it is there; its parent must be."""
        path.mkdir(exist_ok=True)

    def close(self, fd: int) -> None:
        """Gives the descriptor back."""
        os.close(fd)

    def allocate(self, fd: int, size_bytes: int) -> None:
        """Takes the space of `[0, size_bytes)` from the disk; unwritten bytes read as 0."""
        os.posix_fallocate(fd, 0, size_bytes)

    def size_bytes(self, fd: int) -> int:
        """How long the file is."""
        return os.fstat(fd).st_size

    def read(self, fd: int, size_bytes: int, offset: int) -> bytes:
        """Up to `size_bytes` from `offset`; fewer at the end of the file."""
        return os.pread(fd, size_bytes, offset)

    def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        """Writes the buffers, at most `BUFFER_COUNT_MAX`, or a first part; returns how much."""
        return os.pwritev(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        """Makes the file's content and size durable."""
        os.fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        """Makes the names in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Gives the file another name, in one step; a file of that name goes."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Removes the file; one that does not exist is no error."""
        path.unlink(missing_ok=True)

    def truncate(self, path: Path, size_bytes: int) -> None:
        """Cuts the file off."""
        os.truncate(path, size_bytes)

    def list_names(self, directory: Path) -> list[str]:
        """The names in a directory, sorted."""
        return sorted(os.listdir(directory))


def write_all(files: Files, fd: int, buffers: Sequence[bytes], offset: int) -> int:
    """
    Writes all of `buffers` at `offset`, in as few calls as it takes; returns where they end.

    Raises:
        OSError: a part may have been written.
    """
    full = [buffer for buffer in buffers if buffer]
    for start in range(0, len(full), BUFFER_COUNT_MAX):
        group = full[start : start + BUFFER_COUNT_MAX]
        while group:
            written = files.write(fd, group, offset)
            if written <= 0:
                raise OSError(errno.EIO, "the write wrote nothing")
            offset += written
            group = _after(group, written)
    return offset


def _after(buffers: list[bytes], written: int) -> list[bytes]:
    """What is left of the buffers after a write of that many bytes."""
    for index, buffer in enumerate(buffers):
        if written < len(buffer):
            return [buffer[written:], *buffers[index + 1 :]]
        written -= len(buffer)
    return []


def make_blank(files: Files, path: Path, size_bytes: int) -> int:
    """
    A new file whose space is taken and which reads as zeros; returns its descriptor.

    Raises:
        OSError: nothing is left behind, so that a full disk isn't made fuller.
    """
    files.remove(path)
    fd = files.open(path, is_new=True)
    try:
        files.allocate(fd, size_bytes)
    except OSError:
        files.close(fd)
        files.remove(path)
        raise
    return fd


def lock_directory(files: Files, directory: Path) -> int:
    """
    Makes the directory if need be, and keeps other nodes out of it until the returned
    descriptor is closed.

    Raises:
        PreconditionError: another node has it, or it is no directory.
        DeniedError: it cannot be written.
    """
    try:
        make_directories(files, directory)
        fd = files.open_lock(directory / "lock")
    except OSError as exc:
        raise translate(exc, directory) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        files.close(fd)
        if exc.errno in {errno.EAGAIN, errno.EACCES}:
            raise PreconditionError(
                f"data directory in use by another node: {directory}"
            ) from exc
        raise translate(exc, directory) from exc
    return fd


def replace_file(files: Files, path: Path, data: bytes) -> None:
    """Puts a file in place of the one before, durably: whoever looks finds one or the other."""
    draft = path.with_name(path.name + ".new")
    files.remove(draft)
    fd = files.open(draft, is_new=True)
    try:
        write_all(files, fd, [data], 0)
        files.sync(fd)
    finally:
        files.close(fd)
    files.rename(draft, path)
    files.sync_directory(path.parent)


def make_directories(files: Files, directory: Path) -> None:
    """
    Makes the directory and those above it, names durable: a file's own sync isn't enough.

    Raises:
        OSError: some may have been made.
    """
    if directory.is_dir():
        return
    make_directories(files, directory.parent)
    files.make_directory(directory)
    files.sync_directory(directory.parent)


def is_shortage(exc: OSError) -> bool:
    """Is the disk full, or the quota on it, or are too many files open? It may pass."""
    return exc.errno in _NO_SPACE | _NO_FILES


def translate(exc: OSError, path: Path) -> SandglassError:
    """Our error for one of the operating system's, with the path."""
    if exc.errno in _NO_SPACE:
        return NoSpaceError(f"no space for {path}", retry_after_ms=NO_SPACE_RETRY_MS)
    if exc.errno in _NO_FILES:
        return BusyError(f"{path}: {exc.strerror}", retry_after_ms=NO_SPACE_RETRY_MS)
    if exc.errno in _DENIED:
        return DeniedError(f"no right to write {path}: {exc.strerror}")
    if exc.errno in _NOT_A_DIRECTORY:
        return PreconditionError(f"{path} is not a directory")
    return UnavailableError(f"{path}: {exc.strerror or exc}")
