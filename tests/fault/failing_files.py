"""Files of which one operation fails, the nth that a node does, whatever it is."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.unit.adapters.faulty_files import FaultyFiles, error

OPENING: Final = frozenset({"open", "open_lock", "open_for_reading", "sync_directory"})
TAKING: Final = frozenset({"allocate", "open", "make_directory"})
READING: Final = frozenset({"open_for_reading", "read", "size_bytes", "list_names"})

LASTING: Final = {
    errno.ENOSPC: lambda operation: operation in TAKING,
    errno.EDQUOT: lambda operation: operation in TAKING,
    errno.EMFILE: lambda operation: operation in OPENING,
    errno.EROFS: lambda operation: operation not in READING,
    errno.EIO: lambda _: True,
}
"""What goes on failing on a disk that is full, a quota that is used up, and so on."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`nth` counts operations from 0. A lasting one goes on until the disk is healed."""

    nth: int
    number: int
    is_lasting: bool = False

    def __str__(self) -> str:
        name = errno.errorcode[self.number]
        return f"{name}, {'from' if self.is_lasting else 'at'} operation {self.nth}"


class FailingFiles(FaultyFiles):
    """
    Attributes:
        fault: what fails; None for nothing.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        super().__init__()
        self.fault = fault

    def heal(self) -> None:
        """Nothing fails any more."""
        self.fault = None

    def _enter(self, operation: str, name: str) -> None:
        place = len(self.calls)
        self.calls.append((operation, name))
        fault = self.fault
        if fault is None or place < fault.nth:
            return
        if place == fault.nth or (fault.is_lasting and LASTING[fault.number](operation)):
            raise error(fault.number)

    def open_lock(self, path: Path) -> int:
        self._enter("open_lock", path.name)
        return super().open_lock(path)

    def open_for_reading(self, path: Path) -> int:
        self._enter("open_for_reading", path.name)
        return super().open_for_reading(path)

    def make_directory(self, path: Path) -> None:
        self._enter("make_directory", path.name)
        super().make_directory(path)

    def size_bytes(self, fd: int) -> int:
        self._enter("size_bytes", "")
        return super().size_bytes(fd)

    def list_names(self, directory: Path) -> list[str]:
        self._enter("list_names", directory.name)
        return super().list_names(directory)
