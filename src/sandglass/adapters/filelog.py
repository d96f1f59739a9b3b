"""
The log of a single node: a directory of segments, written by group commit.

Rules, each with a test that fails without it:

1. A batch is written once and synced once. The first error of either ends this log's life: what
   is on the disk is unknown, and a second fsync would say yes to pages that were dropped.
2. A segment's space is taken before anything is put in, so that a full disk shows in `append`,
   where nothing is lost yet, and never in a write.
3. A segment's header is durable before its first batch, and everything before it is durable
   before its header. So all segments but the last are proven by the next one's header, and what
   a segment holds from the next one's first position on counts for nothing.
4. On open, what lies above the highest known-durable mark was perhaps only in the page cache.
   It is copied to a new segment and synced before anybody is shown it.
5. Each life writes to new segments: no file is ever synced by two.
6. A reserve, a blank segment kept aside, is for those who empty the queue of a full disk.

Threads: `append` and `sync` may run at the same time. `_lock` guards what both change, the
pending batches and the list of segments, and is never held over a write or a sync. What is
written and durable is changed by `sync` alone, and read everywhere.

A known weakness: the batches of the very last sync before a crash have no mark yet. Damage to
them by anything but the crash looks like a torn tail, and they are dropped without a word. The
next batch marks them, a sync with nothing to sync, and a clean stop.
"""

import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from os import urandom
from pathlib import Path
from typing import Final

from sandglass.adapters.blanks import Blank, Blanks
from sandglass.adapters.files import (
    Files,
    is_shortage,
    lock_directory,
    translate,
    write_all,
)
from sandglass.adapters.segment import (
    FILE_ID_BYTES,
    FRAME_BYTES_MAX,
    FRAME_HEAD_BYTES,
    HEADER_BYTES,
    NODE_ID_BYTES,
    Frame,
    FrameReader,
    Header,
    Scan,
    encode_frame,
    frame_bytes,
    open_segment,
    scan,
)
from sandglass.errors import (
    CorruptError,
    InvalidError,
    OutOfRangeError,
    UnavailableError,
)

SEGMENT_BYTES_DEFAULT: Final = 64 * 1024 * 1024
SEGMENT_BYTES_MIN: Final = 1024

RESERVE_BYTES_DEFAULT: Final = 8 * 1024 * 1024
"""Room for some hundred thousand acknowledgements while the disk is full."""

_OVERHEAD_BYTES: Final = HEADER_BYTES + FRAME_HEAD_BYTES
"""A segment has room for its header, and for the mark that a clean stop ends it with."""

_NAME: Final = re.compile(r"[0-9]{10}\.log\Z")
_COPY_NAME: Final = "copy"


@dataclass(slots=True)
class _Segment:
    """
    One file.

    `planned_bytes` is how far it is spoken for, `written_bytes` how far it is written,
    `end_bytes` how far of that is durable. `crc` is that of its last frame. `after_position` is
    where the next segment takes over, once there is one. `fd` is -1 if this life doesn't write
    to it. Until `is_started`, its header is not known durable.

    Invariant: of a segment of this life, `end_bytes <= written_bytes <= planned_bytes`, which
    leaves room for one more frame without records.
    """

    number: int
    path: Path
    first_position: int
    size_bytes: int
    file_id: bytes
    fd: int = -1
    planned_bytes: int = HEADER_BYTES
    written_bytes: int = HEADER_BYTES
    end_bytes: int = HEADER_BYTES
    crc: int = 0
    after_position: int | None = None
    is_started: bool = False
    is_reserve: bool = False

    def has_room(self, size_bytes: int, *, may_use_reserve: bool) -> bool:
        """Can a frame of that size still go here, and the last mark after it?"""
        if self.fd < 0 or (self.is_reserve and not may_use_reserve):
            return False
        return self.planned_bytes + size_bytes + FRAME_HEAD_BYTES <= self.size_bytes


_Batch = tuple[int, tuple[bytes, ...]]
"""The first position and the records of one `append`."""


class FileLog:
    """
    `Log` in files of one directory, which it locks.

    Args:
        directory: made if it doesn't exist.
        node_id: 16 bytes; another node's files are refused.
        segment_bytes: size of a file; one larger batch gets a larger file.
        reserve_bytes: size of the reserve; 0 for none.

    Raises:
        PreconditionError: the directory is in use, another node's, or a newer version's.
        CorruptError: what had been durable is damaged or missing.
        DeniedError: the directory cannot be written.
        NoSpaceError: no room for copying what the last life left behind; nothing is lost.
        BusyError: too many files are open.
        UnavailableError: the disk fails otherwise.
    """

    def __init__(
        self,
        directory: Path,
        *,
        node_id: bytes = bytes(NODE_ID_BYTES),
        segment_bytes: int = SEGMENT_BYTES_DEFAULT,
        reserve_bytes: int = RESERVE_BYTES_DEFAULT,
        files: Files | None = None,
    ) -> None:
        assert len(node_id) == NODE_ID_BYTES
        assert segment_bytes >= SEGMENT_BYTES_MIN
        assert reserve_bytes == 0 or reserve_bytes >= SEGMENT_BYTES_MIN
        self._directory = directory
        self._node_id = node_id
        self._files = files or Files()
        self._blanks = Blanks(
            self._files, directory, segment_bytes=segment_bytes, reserve_bytes=reserve_bytes
        )
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._trash_lock = threading.Lock()
        self._pending: list[tuple[_Segment, _Batch]] = []
        self._segments: list[_Segment] = []
        self._current: _Segment | None = None
        self._prepared_number = 0
        self._trash: deque[Path] = deque()
        self._last = self._durable = self._mark = 0
        self._link = 0
        self._failure: BaseException | None = None
        self._is_closed = False
        self._lock_fd = lock_directory(self._files, directory)
        try:
            self._open()
        except OSError as exc:
            self._release()
            raise translate(exc, directory) from exc
        except BaseException:
            self._release()
            raise

    # --- the port ---------------------------------------------------------------------------

    @property
    def first_position(self) -> int:
        """The lowest position still held; `last_position + 1` when none is."""
        return self._segments[0].first_position if self._segments else self._last + 1

    @property
    def last_position(self) -> int:
        """The highest position given out; 0 before the first."""
        return self._last

    @property
    def durable_position(self) -> int:
        """The highest position that survives a power cut."""
        return self._durable

    def append(self, records: Sequence[bytes], *, may_use_reserve: bool = False) -> int:
        """Takes records for the next `sync`; see `Log.append`."""
        self._check_alive()
        if not records:
            return self._last
        size = frame_bytes(records)
        if size > FRAME_BYTES_MAX:
            raise InvalidError(
                f"records take {size} bytes; one append takes up to {FRAME_BYTES_MAX}",
                field="records",
            )
        with self._lock:
            segment = self._segments[-1] if self._segments else None
            if segment is None or not segment.has_room(size, may_use_reserve=may_use_reserve):
                segment = self._plan(size, may_use_reserve=may_use_reserve)
            segment.planned_bytes += size
            self._pending.append((segment, (self._last + 1, tuple(records))))
            self._last += len(records)
            return self._last

    def sync(self) -> int:
        """Makes durable what was appended before the call; see `Log.sync`."""
        with self._sync_lock:
            self._check_alive()
            with self._lock:
                pending, self._pending = self._pending, []
            try:
                for _, group in groupby(pending, lambda item: item[0].number):
                    items = list(group)
                    self._write(items[0][0], [batch for _, batch in items])
                if not pending:
                    self._leave_mark()
                self._empty_trash()
                self._prepare()
            except OSError as exc:
                self._failure = exc
                raise UnavailableError(
                    f"log {self._directory}: a write failed, its outcome is unknown;"
                    f" restart the node: {exc}",
                    is_result_unknown=True,
                ) from exc
            except BaseException as exc:
                # What was pending is gone, so nothing may follow it.
                self._failure = exc
                raise
            return self._durable

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """Durable records from `position` on; see `Log.read`."""
        if position < self.first_position:
            raise OutOfRangeError(
                f"position {position} is no longer kept; the log starts at"
                f" {self.first_position}"
            )
        return self._read(position)

    def trim(self, position: int) -> None:
        """Lets whole segments below `position` go; the next `sync` removes the files."""
        with self._lock:
            while len(self._segments) > 1:
                # Set once the next header is durable: it proves and continues this segment.
                after_position = self._segments[0].after_position
                if after_position is None or after_position > position:
                    break
                self._trash.append(self._segments.pop(0).path)

    def close(self) -> None:
        """Marks what is durable as such, drops what is not, and releases files and lock."""
        with self._sync_lock:
            if self._is_closed:
                return
            self._is_closed = True
            try:
                if self._failure is None:
                    self._write_mark()
                    self._empty_trash()
            except OSError as exc:
                raise translate(exc, self._directory) from exc
            finally:
                self._release()

    # --- append: where space is taken ---------------------------------------------------------

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise UnavailableError(
                f"log {self._directory} takes nothing since a write failed; restart the node:"
                f" {self._failure}"
            ) from self._failure
        if self._is_closed:
            raise UnavailableError(f"log {self._directory} is closed")

    def _plan(self, size_bytes: int, *, may_use_reserve: bool) -> _Segment:
        """A segment after all others, blank, with room for a frame of that size."""
        path = self._path(self._next_number())
        wanted = size_bytes + _OVERHEAD_BYTES
        try:
            try:
                blank = self._blanks.take(path, wanted, may_use_reserve=may_use_reserve)
            except OSError as exc:
                if not (self._trash and is_shortage(exc)):
                    raise
                # With producers held back there may be no sync for a while: free it here.
                self._empty_trash()
                blank = self._blanks.take(path, wanted, may_use_reserve=may_use_reserve)
        except OSError as exc:
            if not is_shortage(exc):
                self._failure = exc
            raise translate(exc, path) from exc
        return self._add(blank, self._last + 1)

    def _add(self, blank: Blank, first_position: int) -> _Segment:
        number = self._next_number()
        segment = _Segment(
            number,
            self._path(number),
            first_position,
            blank.size_bytes,
            urandom(FILE_ID_BYTES),
            blank.fd,
            is_reserve=blank.is_reserve,
        )
        self._segments.append(segment)
        return segment

    # --- sync: where it becomes durable -------------------------------------------------------

    def _write(self, segment: _Segment, batches: list[_Batch]) -> None:
        """Writes and syncs batches of one segment."""
        if not segment.is_started:
            self._put_header(segment)
            self._files.sync(segment.fd)
            self._files.sync_directory(self._directory)
            self._take_over(segment)
        self._put(segment, batches)
        self._files.sync(segment.fd)
        first, records = batches[-1]
        self._mark = self._durable
        self._link = segment.crc
        # In this order: a reader looks for as much as is said to be durable.
        segment.end_bytes = segment.written_bytes
        self._durable = first + len(records) - 1
        assert self._durable <= self._last

    def _put_header(self, segment: _Segment) -> None:
        header = Header(
            number=segment.number,
            node_id=self._node_id,
            file_id=segment.file_id,
            first_position=segment.first_position,
            size_bytes=segment.size_bytes,
            previous=self._link,
        )
        data, segment.crc = header.encode()
        write_all(self._files, segment.fd, [data], 0)

    def _put(self, segment: _Segment, batches: Iterable[_Batch]) -> None:
        """Writes frames behind the last one."""
        buffers: list[bytes] = []
        for first_position, records in batches:
            frame, segment.crc = encode_frame(
                records,
                file_id=segment.file_id,
                previous=segment.crc,
                first_position=first_position,
                mark=self._durable,
            )
            buffers += frame
        at = segment.written_bytes
        segment.written_bytes = at + sum(map(len, buffers))
        assert segment.written_bytes <= segment.size_bytes, "a segment outgrew its space"
        write_all(self._files, segment.fd, buffers, at)

    def _take_over(self, segment: _Segment) -> None:
        """The segment is durable, and follows the one before, whose excess is cut off."""
        before, self._current = self._current, segment
        segment.is_started = True
        if before is None:
            return
        self._files.truncate(before.path, before.end_bytes)
        if before.fd >= 0:
            self._files.close(before.fd)
            before.fd = -1
        before.after_position = segment.first_position

    def _leave_mark(self) -> None:
        """For a log that is quiet: as `_write_mark`, if there is room for this and the last."""
        segment = self._current
        if segment is None or self._mark == self._durable:
            return
        with self._lock:
            if not segment.has_room(FRAME_HEAD_BYTES, may_use_reserve=True):
                return
            segment.planned_bytes += FRAME_HEAD_BYTES
        self._write_mark()
        self._mark = self._durable
        segment.end_bytes = segment.written_bytes

    def _write_mark(self) -> None:
        """Says in the file that all is durable, so that the next open need not wonder."""
        segment = self._current
        if segment is None or self._mark == self._durable:
            return
        assert segment.fd >= 0, "what this life made durable lies in a file of this life"
        self._put(segment, [(self._durable + 1, ())])
        self._files.sync(segment.fd)

    def _prepare(self) -> None:
        """Makes blanks ahead, once a segment is half full."""
        current = self._current
        if current is None or current.number == self._prepared_number:
            return
        if current.planned_bytes * 2 >= current.size_bytes:
            self._prepared_number = current.number
            self._blanks.prepare()

    def _empty_trash(self) -> None:
        """Removes what was trimmed, the oldest first: a hole would look like a loss."""
        with self._trash_lock:
            while self._trash:
                try:
                    self._files.remove(self._trash[0])
                    self._files.sync_directory(self._directory)
                except OSError as exc:
                    if not is_shortage(exc):
                        raise
                    return  # the next sync tries once more
                self._trash.popleft()

    # --- read ---------------------------------------------------------------------------------

    def _read(self, position: int) -> Iterator[tuple[int, bytes]]:
        with self._lock:
            number = max(
                (s.number for s in self._segments if s.first_position <= position), default=0
            )
        link: int | None = None
        while (segment := self._started(number)) is not None:
            try:
                fd, header, crc = self._open_file(number)
                try:
                    if header.file_id != segment.file_id or link not in (None, header.previous):
                        raise CorruptError(f"{segment.path}: byte 0: doesn't continue the log")
                    link = header.previous
                    reader = FrameReader(self._files, fd, file_id=header.file_id, end_bytes=0)
                    for frame in self._frames(segment, reader, crc):
                        link = frame.crc
                        if frame.last_position >= position:
                            yield from (r for r in frame.records() if r[0] >= position)
                finally:
                    self._files.close(fd)
            except OSError as exc:
                raise CorruptError(f"{segment.path}: cannot be read: {exc}") from exc
            number += 1

    def _frames(self, segment: _Segment, reader: FrameReader, previous: int) -> Iterator[Frame]:
        """The durable frames of a segment, as far as they are when each is asked for."""
        position, offset = segment.first_position, HEADER_BYTES
        while True:
            # In this order: while nothing follows, all that is durable so far lies here.
            durable = self._durable
            if position >= (segment.after_position or durable + 1):
                return
            reader.end_bytes = segment.end_bytes
            frame = reader.frame_at(offset)
            if frame is None or (frame.previous, frame.first_position) != (previous, position):
                raise CorruptError(
                    f"{segment.path}: damaged at byte {offset}: position {position} had been"
                    " durable"
                )
            yield frame
            position, offset, previous = frame.last_position + 1, frame.end, frame.crc

    def _started(self, number: int) -> _Segment | None:
        """
        The segment of that number, once its header is durable.

        Raises:
            OutOfRangeError: it was trimmed meanwhile.
        """
        with self._lock:
            first = self._segments[0] if self._segments else None
            if first is None or number > self._segments[-1].number:
                return None
            if number < first.number:
                raise OutOfRangeError(
                    f"trimmed while it was read; the log starts at {first.first_position}"
                )
            segment = self._segments[number - first.number]
            return segment if segment.is_started else None

    # --- open and release ---------------------------------------------------------------------

    def _open(self) -> None:
        self._files.remove(self._directory / _COPY_NAME)
        self._blanks.open()
        names = filter(_NAME.match, self._files.list_names(self._directory))
        numbers = [int(name[:10]) for name in names]
        for before, after in pairwise(numbers):
            if after != before + 1:
                raise CorruptError(f"{self._path(before + 1)}: the segment is missing")
        while numbers and self._is_blank(numbers[-1]):
            # Its space was taken, and no more: the header comes before all else.
            self._files.remove(self._path(numbers.pop()))
        for number in numbers:
            fd, header, crc = self._open_file(number)
            try:
                size = self._files.size_bytes(fd)
                self._add_earlier(header, end_bytes=size)
                if number == numbers[-1]:
                    self._open_tail(fd, header, crc, size_bytes=size)
            finally:
                self._files.close(fd)

    def _is_blank(self, number: int) -> bool:
        found = open_segment(
            self._files, self._path(number), number=number, node_id=self._node_id
        )
        if found is not None:
            self._files.close(found[0])
        return found is None

    def _open_file(self, number: int) -> tuple[int, Header, int]:
        """Descriptor, header and the header's CRC of a segment that is not blank."""
        path = self._path(number)
        found = open_segment(self._files, path, number=number, node_id=self._node_id)
        if found is None:
            raise CorruptError(f"{path}: damaged at byte 0, in the header")
        return found

    def _add_earlier(self, header: Header, *, end_bytes: int) -> None:
        """
        Takes over a segment of an earlier life by its header; `read` checks the rest.

        Its `end_bytes` bounds what is read, and the next segment's header what counts.
        """
        path = self._path(header.number)
        if self._segments:
            if header.first_position < self._segments[-1].first_position:
                raise CorruptError(f"{path}: byte 0: starts before the file before it")
            self._segments[-1].after_position = header.first_position
        segment = _Segment(
            header.number, path, header.first_position, header.size_bytes, header.file_id
        )
        segment.end_bytes = end_bytes
        segment.is_started = True
        self._segments.append(segment)

    def _open_tail(self, fd: int, header: Header, header_crc: int, *, size_bytes: int) -> None:
        """Finds the end of the log in its last segment, and makes sure that it is durable."""
        self._current = tail = self._segments[-1]
        if size_bytes < header.size_bytes:
            raise CorruptError(
                f"{tail.path}: cut off at byte {size_bytes} of {header.size_bytes}"
            )
        reader = FrameReader(self._files, fd, file_id=header.file_id, end_bytes=size_bytes)
        found = scan(reader, header, header_crc, tail.path)
        tail.end_bytes = found.mark_bytes
        self._link = found.link
        self._last = self._durable = self._mark = found.mark
        if found.last_position > found.mark:
            self._copy(reader, found)

    def _copy(self, reader: FrameReader, found: Scan) -> None:
        """
        Makes what follows the mark durable in a new segment.

        It gets its number only when it is whole: up to then the old file is the truth.
        """
        path = self._directory / _COPY_NAME
        wanted = found.end_bytes - found.mark_bytes + _OVERHEAD_BYTES
        blank = self._blanks.take(path, wanted, may_use_reserve=True)
        segment = self._add(blank, found.mark + 1)
        self._put_header(segment)
        offset = found.mark_bytes
        while offset < found.end_bytes:
            frame = reader.frame_at(offset)
            assert frame is not None, "the scan read it a moment ago"
            if frame.lengths:
                records = tuple(record for _, record in frame.records())
                self._put(segment, [(frame.first_position, records)])
            offset = frame.end
        self._files.sync(segment.fd)
        self._files.rename(path, segment.path)
        self._files.sync_directory(self._directory)
        segment.planned_bytes = segment.end_bytes = segment.written_bytes
        self._link = segment.crc
        self._last = self._durable = found.last_position
        self._take_over(segment)

    def _release(self) -> None:
        fds = [segment.fd for segment in self._segments if segment.fd >= 0]
        for segment in self._segments:
            segment.fd = -1
        self._blanks.close()
        for fd in [*fds, self._lock_fd]:
            self._files.close(fd)
        self._pending = []
        self._is_closed = True

    def _next_number(self) -> int:
        return self._segments[-1].number + 1 if self._segments else 1

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:010d}.log"
