"""Files that fail on demand, and files that a power cut can strike."""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from sandglass.adapters.files import Files


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class FaultyFiles(Files):
    """
    A full disk, a failing one, one that writes little at a time.

    Attributes:
        room_bytes: what `allocate` may still take; None for no bound. Removing frees nothing.
        errors: the errno that the named operation raises from now on.
        skip_counts: how often the named operation still succeeds before it raises.
        write_bytes_max: the most that one `write` writes.
        calls: the operations so far, with the file's name where it is known.
    """

    def __init__(self) -> None:
        self.room_bytes: int | None = None
        self.errors: dict[str, int] = {}
        self.skip_counts: dict[str, int] = {}
        self.write_bytes_max: int | None = None
        self.calls: list[tuple[str, str]] = []
        self._names: dict[int, str] = {}

    def open(self, path: Path, *, is_new: bool = False) -> int:
        self._enter("open", path.name)
        fd = super().open(path, is_new=is_new)
        self._names[fd] = path.name
        return fd

    def allocate(self, fd: int, size_bytes: int) -> None:
        self._enter("allocate", self._names[fd])
        if self.room_bytes is not None:
            if size_bytes > self.room_bytes:
                raise error(errno.ENOSPC)
            self.room_bytes -= size_bytes
        super().allocate(fd, size_bytes)

    def read(self, fd: int, size_bytes: int, offset: int) -> bytes:
        self._enter("read", "")
        return super().read(fd, size_bytes, offset)

    def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        self._enter("write", self._names[fd])
        if self.write_bytes_max is not None:
            buffers = [b"".join(buffers)[: self.write_bytes_max]]
        return super().write(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        self._enter("sync", self._names[fd])
        super().sync(fd)

    def sync_directory(self, path: Path) -> None:
        self._enter("sync_directory", path.name)
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._enter("rename", target.name)
        for fd, name in self._names.items():
            if name == source.name:
                self._names[fd] = target.name
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._enter("remove", path.name)
        super().remove(path)

    def truncate(self, path: Path, size_bytes: int) -> None:
        self._enter("truncate", path.name)
        super().truncate(path, size_bytes)

    def count(self, operation: str) -> int:
        return sum(1 for called, _ in self.calls if called == operation)

    def _enter(self, operation: str, name: str) -> None:
        self.calls.append((operation, name))
        if operation not in self.errors:
            return
        if self.skip_counts.get(operation, 0):
            self.skip_counts[operation] -= 1
            return
        raise error(self.errors[operation])


class PowerCutError(BaseException):
    """Nobody catches it: the process is gone."""


@dataclass(slots=True)
class _Content:
    """A file: what the programs see, and what the disk has."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytes = b""


class PowerFiles(Files):
    """
    A directory whose power can be cut.

    Of what was not synced, a cut keeps any blocks of any file, and of the names any first part
    of what was done to them: no order between two writes is kept, except by a sync.
    """

    BLOCK_BYTES = 32

    def __init__(self) -> None:
        self.left_count: int | None = None
        """So many more operations, and the power goes; None for never."""
        self._contents: dict[str, _Content] = {}
        self._durable_names: dict[str, _Content] = {}
        self._steps: list[dict[str, _Content]] = []
        self._by_fd: dict[int, _Content] = {}

    @classmethod
    def over(cls, directory: Path) -> "PowerFiles":
        """With the files that stand in a directory, all of them durable."""
        files = cls()
        files.adopt(directory)
        return files

    def adopt(self, directory: Path) -> None:
        """Takes the files that stand in a directory as durable."""
        for path in sorted(directory.iterdir()):
            data = path.read_bytes()
            self._contents[path.name] = _Content(bytearray(data), data)
        self._durable_names = dict(self._contents)

    def cut_power(self, chance: Random, target: Path) -> None:
        """Writes what a new start finds to the directory `target`."""
        target.mkdir()
        names = chance.choice([self._durable_names, *self._steps])
        for name, content in names.items():
            (target / name).write_bytes(self._torn(content, chance))

    def open(self, path: Path, *, is_new: bool = False) -> int:
        if is_new:
            self._enter()
        fd = super().open(path, is_new=is_new)
        if is_new:
            self._contents[path.name] = _Content()
            self._step()
        self._by_fd[fd] = self._contents[path.name]
        return fd

    def close(self, fd: int) -> None:
        self._by_fd.pop(fd, None)
        super().close(fd)

    def allocate(self, fd: int, size_bytes: int) -> None:
        self._enter()
        super().allocate(fd, size_bytes)
        seen = self._by_fd[fd].seen
        seen.extend(bytes(max(0, size_bytes - len(seen))))

    def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        self._enter()
        data = b"".join(buffers)
        self._by_fd[fd].seen[offset : offset + len(data)] = data
        return super().write(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        self._enter()
        content = self._by_fd[fd]
        content.durable = bytes(content.seen)

    def sync_directory(self, path: Path) -> None:
        self._enter()
        self._durable_names = dict(self._contents)
        self._steps = []

    def rename(self, source: Path, target: Path) -> None:
        self._enter()
        super().rename(source, target)
        self._contents[target.name] = self._contents.pop(source.name)
        self._step()

    def remove(self, path: Path) -> None:
        self._enter()
        super().remove(path)
        if self._contents.pop(path.name, None) is not None:
            self._step()

    def truncate(self, path: Path, size_bytes: int) -> None:
        self._enter()
        super().truncate(path, size_bytes)
        del self._contents[path.name].seen[size_bytes:]

    def _enter(self) -> None:
        if self.left_count is not None:
            if self.left_count == 0:
                raise PowerCutError
            self.left_count -= 1

    def _step(self) -> None:
        self._steps.append(dict(self._contents))

    def _torn(self, content: _Content, chance: Random) -> bytes:
        """Each block is the durable one or the one last seen, and so is the size."""
        size = chance.choice([len(content.durable), len(content.seen)])
        durable, seen = (
            content.durable.ljust(size, b"\0"),
            bytes(content.seen).ljust(size, b"\0"),
        )
        mood = chance.choice([0.0, 0.1, 0.5, 0.9, 1.0])
        blocks = [
            (seen if chance.random() < mood else durable)[at : at + self.BLOCK_BYTES]
            for at in range(0, size, self.BLOCK_BYTES)
        ]
        return b"".join(blocks)[:size]
