"""
`SnapshotStore` in a folder that all nodes share: a mounted file system, a bucket behind one.

    <folder>/<log>/<name>

A file gets its name when it is whole and synced. All work is done in threads.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from secrets import token_hex
from typing import TypeVar

from sandglass.adapters.files import Files, translate, write_all

Value = TypeVar("Value")

_UNFINISHED = "."
"""What the name of a file begins with until it is whole."""


class FolderSnapshots:
    """`SnapshotStore` over files below `folder`, which is made when it is needed."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self._folder = folder
        self._files = files or Files()

    async def put(self, log: int, name: str, raw: bytes) -> None:
        """See `SnapshotStore.put`."""
        await self._in_thread(lambda: self._put(self._folder / str(log), name, raw))

    async def get(self, log: int, name: str) -> bytes | None:
        """See `SnapshotStore.get`."""
        return await self._in_thread(lambda: _read(self._folder / str(log) / name))

    async def names(self, log: int) -> frozenset[str]:
        """See `SnapshotStore.names`."""
        found = await self._in_thread(lambda: self._names(self._folder / str(log)))
        return frozenset(name for name in found if not name.startswith(_UNFINISHED))

    async def delete(self, log: int, names: Iterable[str]) -> None:
        """See `SnapshotStore.delete`."""

        def delete() -> None:
            for name in names:
                self._files.remove(self._folder / str(log) / name)

        await self._in_thread(delete)

    async def clear(self, log: int) -> None:
        """See `SnapshotStore.clear`."""

        def clear() -> None:
            directory = self._folder / str(log)
            for name in self._names(directory):
                self._files.remove(directory / name)
            if directory.exists():
                directory.rmdir()

        await self._in_thread(clear)

    async def _in_thread(self, act: Callable[[], Value]) -> Value:
        try:
            return await asyncio.to_thread(act)
        except OSError as error:
            raise translate(error, self._folder) from error

    def _put(self, directory: Path, name: str, raw: bytes) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        unfinished = directory / f"{_UNFINISHED}{name}-{token_hex(4)}"
        try:
            fd = self._files.open(unfinished, is_new=True)
            try:
                write_all(self._files, fd, [raw], 0)
                self._files.sync(fd)
            finally:
                self._files.close(fd)
            self._files.rename(unfinished, directory / name)
        except OSError:
            self._files.remove(unfinished)
            raise
        self._files.sync_directory(directory)

    def _names(self, directory: Path) -> list[str]:
        return self._files.list_names(directory) if directory.exists() else []


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
