"""
Where a log's new segments come from: files whose space is taken and that read as zeros.

- The *spare* is made ahead by the thread that syncs, so that `append` needn't wait for one.
- The *reserve* is kept for a full disk. It is itself a blank segment, and open: using it is a
  rename, which takes no space and leaves nobody else a moment to take it either.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandglass.adapters.files import Files, is_shortage, make_blank
from sandglass.adapters.segment import FrameReader

SPARE_NAME: Final = "spare"
RESERVE_NAME: Final = "reserve"


@dataclass(frozen=True, slots=True)
class Blank:
    """A blank file, open for writing."""

    fd: int
    size_bytes: int
    is_reserve: bool = False


class Blanks:
    """
    The blank files of one directory.

    `take` may run while `prepare` does, in another thread.
    """

    def __init__(
        self, files: Files, directory: Path, *, segment_bytes: int, reserve_bytes: int
    ) -> None:
        self._files = files
        self._spare_path = directory / SPARE_NAME
        self._reserve_path = directory / RESERVE_NAME
        self._segment_bytes = segment_bytes
        self._reserve_bytes = reserve_bytes
        self._spare: Blank | None = None
        self._reserve: Blank | None = None

    def open(self) -> None:
        """
        Takes over what an earlier life left.

        A spare may hold a segment whose new name did not get to the disk; such a one was never
        said to be durable. So it goes, and a reserve that isn't blank is made anew.
        """
        self._files.remove(self._spare_path)
        self._reserve = self._whole_reserve() if self._reserve_bytes else None
        if self._reserve is None:
            self._files.remove(self._reserve_path)
        try:
            self._make_reserve()
        except OSError as exc:
            # A node with a full disk and no reserve can still serve what it has.
            if not is_shortage(exc):
                raise

    def take(self, path: Path, size_bytes: int, *, may_use_reserve: bool) -> Blank:
        """
        A blank file named `path`, of `size_bytes` or more.

        Raises:
            OSError: there is none, and it could not be made; nothing has changed.
        """
        spare = self._spare
        if spare is not None and spare.size_bytes >= size_bytes:
            self._files.rename(self._spare_path, path)
            self._spare = None
            return spare
        wanted = max(self._segment_bytes, size_bytes)
        try:
            return Blank(make_blank(self._files, path, wanted), wanted)
        except OSError as exc:
            reserve = self._reserve if may_use_reserve else None
            if not is_shortage(exc) or reserve is None or size_bytes > reserve.size_bytes:
                raise
        # It is open already: that there are no more descriptors doesn't matter.
        self._files.rename(self._reserve_path, path)
        self._reserve = None
        return reserve

    def prepare(self) -> None:
        """Makes the reserve, if it was used, and the spare, if there is room."""
        try:
            self._make_reserve()
            if self._spare is None:
                fd = make_blank(self._files, self._spare_path, self._segment_bytes)
                self._spare = Blank(fd, self._segment_bytes)
        except OSError as exc:
            # What isn't made ahead is made by `take`, which says so if there is no room.
            if not is_shortage(exc):
                raise

    def close(self) -> None:
        """Gives the descriptors back."""
        for blank in (self._spare, self._reserve):
            if blank is not None:
                self._files.close(blank.fd)
        self._spare = self._reserve = None

    def _make_reserve(self) -> None:
        if self._reserve_bytes and self._reserve is None:
            fd = make_blank(self._files, self._reserve_path, self._reserve_bytes)
            self._reserve = Blank(fd, self._reserve_bytes, is_reserve=True)

    def _whole_reserve(self) -> Blank | None:
        """What an earlier life left, if it is what this one would make."""
        try:
            fd = self._files.open(self._reserve_path)
        except FileNotFoundError:
            return None
        try:
            size = self._files.size_bytes(fd)
            reader = FrameReader(self._files, fd, file_id=b"", end_bytes=size)
            if size == self._reserve_bytes and reader.is_blank(0):
                kept, fd = fd, -1
                return Blank(kept, size, is_reserve=True)
            return None
        finally:
            if fd >= 0:
                self._files.close(fd)
