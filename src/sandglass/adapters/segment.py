"""
The log's files on the disk: a header, then frames, then zeros. Bytes in and out, no policy.

1. A frame is one batch of records: all of it counts, or nothing.
2. Header and frames form a chain: each carries the CRC of the one before, so that a hole, a
   repeat or a swapped file shows. The header continues the last frame of the file before.
3. A frame carries the *mark*: the highest position known durable when it was written. So a
   later frame proves that earlier ones had reached the disk, and that damage there is damage.
4. A frame without records only carries a mark; a log that is closed ends with one.
5. A file is written by one node in one life. Its file id, drawn at random, is in each frame.

The format, and the steps for changing it: docs/internals/log-format.md.
"""

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crc32c import crc32c

from sandglass.adapters.files import Files
from sandglass.errors import CorruptError, PreconditionError

FORMAT_VERSION: Final = 1

NODE_ID_BYTES: Final = 16
FILE_ID_BYTES: Final = 8

HEADER_MAGIC: Final = b"SGLASLOG"
FRAME_MAGIC: Final = b"SGfr"

_HEADER: Final = struct.Struct("<8sII16s8sQQI")
"""Magic, version, CRC before, node id, file id, first position, size, number; then the CRC."""

_CRC: Final = struct.Struct("<I")

_FRAME_START: Final = struct.Struct("<4s8sI")
"""Magic, file id, CRC of all that follows in the frame."""

_FRAME_REST: Final = struct.Struct("<IIQQI")
"""Bytes after the frame's head, CRC before, first position, mark, count of records."""

HEADER_BYTES: Final = _HEADER.size + _CRC.size
FRAME_HEAD_BYTES: Final = _FRAME_START.size + _FRAME_REST.size

FRAME_BYTES_MAX: Final = 1 << 30
"""Sixteen times what a node lets in before it is durable; a length is four bytes."""

_JOIN_BYTES: Final = 64 * 1024
"""Batches up to this are joined into one buffer; the records of larger ones go uncopied."""

_CHUNK_BYTES: Final = 1024 * 1024

assert HEADER_BYTES == 64
assert FRAME_HEAD_BYTES == 44
assert FRAME_BYTES_MAX < 1 << 32


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself. `previous` is the CRC of the last frame before it."""

    number: int
    node_id: bytes
    file_id: bytes
    first_position: int
    size_bytes: int
    previous: int

    def encode(self) -> tuple[bytes, int]:
        """The header's bytes, and its CRC, which the first frame continues."""
        head = _HEADER.pack(
            HEADER_MAGIC,
            FORMAT_VERSION,
            self.previous,
            self.node_id,
            self.file_id,
            self.first_position,
            self.size_bytes,
            self.number,
        )
        crc = crc32c(head)
        return head + _CRC.pack(crc), crc


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that was read and whose CRC is right; `[offset, end)` in its file."""

    offset: int
    end: int
    crc: int
    previous: int
    first_position: int
    mark: int
    lengths: tuple[int, ...]
    body: memoryview

    @property
    def last_position(self) -> int:
        """The position of its last record; of one without records, that of the one before."""
        return self.first_position + len(self.lengths) - 1

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Its records with their positions."""
        start = 0
        for position, length in enumerate(self.lengths, self.first_position):
            yield position, bytes(self.body[start : start + length])
            start += length


def decode_header(data: bytes, path: Path) -> tuple[Header, int] | None:
    """
    The header and its CRC; None if this is none.

    Raises:
        PreconditionError: it is whole, and of a newer version than this program knows.
    """
    if len(data) != HEADER_BYTES or not data.startswith(HEADER_MAGIC):
        return None
    crc = crc32c(data[: _HEADER.size])
    if crc != _CRC.unpack_from(data, _HEADER.size)[0]:
        return None
    _, version, previous, node_id, file_id, first, size, number = _HEADER.unpack_from(data)
    if version > FORMAT_VERSION:
        raise PreconditionError(
            f"{path} has log format {version}, this program knows up to {FORMAT_VERSION}:"
            " start the newer version"
        )
    return Header(number, node_id, file_id, first, size, previous), crc


def frame_bytes(records: Sequence[bytes]) -> int:
    """How long the frame of a batch is."""
    return FRAME_HEAD_BYTES + 4 * len(records) + sum(map(len, records))


def encode_frame(
    records: Sequence[bytes], *, file_id: bytes, previous: int, first_position: int, mark: int
) -> tuple[list[bytes], int]:
    """The buffers to be written for a batch, and the CRC that the next frame continues."""
    lengths = struct.pack(f"<{len(records)}I", *map(len, records))
    after_bytes = len(lengths) + sum(map(len, records))
    rest = _FRAME_REST.pack(after_bytes, previous, first_position, mark, len(records)) + lengths
    body = [b"".join(records)] if after_bytes <= _JOIN_BYTES else list(records)
    crc = crc32c(rest)
    for buffer in body:
        crc = crc32c(buffer, crc)
    return [_FRAME_START.pack(FRAME_MAGIC, file_id, crc) + rest, *body], crc


class FrameReader:
    """
    Reads the frames of a file, holding one chunk or one frame, whichever is longer.

    Never looks beyond `end_bytes`, which may be raised while the file grows.
    """

    __slots__ = ("_chunk", "_chunk_offset", "_fd", "_files", "_needle", "end_bytes")

    def __init__(self, files: Files, fd: int, *, file_id: bytes, end_bytes: int) -> None:
        self._files = files
        self._fd = fd
        self._needle = FRAME_MAGIC + file_id
        self._chunk = memoryview(b"")
        self._chunk_offset = 0
        self.end_bytes = end_bytes

    def frame_at(self, offset: int) -> Frame | None:
        """The frame that starts there; None where none does, or it is damaged."""
        head = self._take(offset, FRAME_HEAD_BYTES)
        if len(head) < FRAME_HEAD_BYTES or head[: len(self._needle)] != self._needle:
            return None
        _, _, crc = _FRAME_START.unpack_from(head)
        after_bytes, previous, first, mark, count = _FRAME_REST.unpack_from(
            head, _FRAME_START.size
        )
        end = offset + FRAME_HEAD_BYTES + after_bytes
        if end > self.end_bytes or 4 * count > after_bytes:
            return None
        frame = self._take(offset, end - offset)
        if len(frame) < end - offset or crc32c(frame[_FRAME_START.size :]) != crc:
            return None
        lengths = struct.unpack_from(f"<{count}I", frame, FRAME_HEAD_BYTES)
        if sum(lengths) != after_bytes - 4 * count:
            return None
        body = frame[FRAME_HEAD_BYTES + 4 * count :]
        return Frame(offset, end, crc, previous, first, mark, lengths, body)

    def is_blank(self, offset: int) -> bool:
        """Is there nothing but zeros from `offset` to the end?"""
        zeros = bytes(_CHUNK_BYTES)
        while offset < self.end_bytes:
            chunk = self._files.read(self._fd, self._bound(offset), offset)
            if chunk != zeros[: len(chunk)]:
                return False
            if not chunk:
                break
            offset += len(chunk)
        return True

    def scattered(self, offset: int) -> Iterator[Frame]:
        """The frames that are whole from `offset` on, whatever stands between them."""
        while offset + FRAME_HEAD_BYTES <= self.end_bytes:
            if (frame := self.frame_at(offset)) is not None:
                yield frame
                offset = frame.end
                continue
            offset += 1
            chunk = self._files.read(self._fd, self._bound(offset), offset)
            found = chunk.find(self._needle)
            # Without one, the last bytes of the chunk may still be the beginning of one.
            offset += found if found >= 0 else max(len(chunk) - len(self._needle) + 1, 1)

    def _bound(self, offset: int) -> int:
        return min(_CHUNK_BYTES, self.end_bytes - offset)

    def _take(self, offset: int, size_bytes: int) -> memoryview:
        """That part of the file, from the chunk if it is there; shorter at the end."""
        start = offset - self._chunk_offset
        if start < 0 or start + size_bytes > len(self._chunk):
            wanted = min(max(size_bytes, _CHUNK_BYTES), self.end_bytes - offset)
            self._chunk = memoryview(self._files.read(self._fd, max(wanted, 0), offset))
            self._chunk_offset = offset
            start = 0
        return self._chunk[start : start + size_bytes]


@dataclass(frozen=True, slots=True)
class Scan:
    """
    What the last file of a log holds.

    `mark` is the highest position known durable; it ends at `mark_bytes`, with the CRC `link`.
    Frames above it follow up to `end_bytes` and `last_position`.
    Invariant: mark <= last_position; both lie at a frame's end.
    """

    mark: int
    mark_bytes: int
    link: int
    last_position: int
    end_bytes: int


def scan(reader: FrameReader, header: Header, header_crc: int, path: Path) -> Scan:
    """
    Follows the chain to its end, and looks for marks beyond.

    The chain ends in zeros, or in a batch that did not get to the disk whole, whatever follows:
    the kernel may have kept a later one and not this. Neither is an error, unless a mark proves
    that what is missing had been durable.

    Raises:
        CorruptError: it had been; the message names file and place.
    """
    mark, mark_bytes, link = header.first_position - 1, HEADER_BYTES, header.previous
    last, end_bytes, previous = mark, HEADER_BYTES, header_crc
    unproven: deque[tuple[int, int, int]] = deque()
    while (frame := reader.frame_at(end_bytes)) is not None:
        if frame.previous != previous or frame.first_position != last + 1:
            break
        last, end_bytes, previous = frame.last_position, frame.end, frame.crc
        if frame.lengths:
            unproven.append((last, end_bytes, frame.crc))
        while unproven and unproven[0][0] <= frame.mark:
            mark, mark_bytes, link = unproven.popleft()
        if frame.mark > last:
            raise CorruptError(f"{path}: at byte {frame.offset}, a mark beyond its own batch")
    if not reader.is_blank(end_bytes):
        for frame in reader.scattered(end_bytes):
            if frame.mark > last:
                raise CorruptError(
                    f"{path}: damaged at byte {end_bytes}: position {last + 1} had been"
                    f" durable, as the batch at byte {frame.offset} shows"
                )
            while unproven and unproven[0][0] <= frame.mark:
                mark, mark_bytes, link = unproven.popleft()
    return Scan(mark, mark_bytes, link, last, end_bytes)


def open_segment(
    files: Files, path: Path, *, number: int, node_id: bytes
) -> tuple[int, Header, int] | None:
    """
    A file's descriptor for reading, its header, and the header's CRC; None if it is blank.

    Blank is also a header that isn't whole with nothing behind it: it is synced before anything
    else is put in.

    Raises:
        CorruptError: it is missing, damaged, or not what its name says.
        PreconditionError: it is another node's, or a newer version's.
        OSError: it cannot be read.
    """
    try:
        fd = files.open_for_reading(path)
    except FileNotFoundError as exc:
        raise CorruptError(f"{path}: the segment is missing") from exc
    try:
        found = decode_header(files.read(fd, HEADER_BYTES, 0), path)
        if found is None:
            reader = FrameReader(files, fd, file_id=b"", end_bytes=files.size_bytes(fd))
            if not reader.is_blank(HEADER_BYTES):
                raise CorruptError(f"{path}: damaged at byte 0, in the header")
            files.close(fd)
            return None
        header, crc = found
        if header.number != number:
            raise CorruptError(f"{path}: is segment {header.number}, as byte 0 on says")
        if header.node_id != node_id:
            raise PreconditionError(
                f"{path} belongs to node {header.node_id.hex()}, not {node_id.hex()}"
            )
    except BaseException:
        files.close(fd)
        raise
    return fd, header, crc
