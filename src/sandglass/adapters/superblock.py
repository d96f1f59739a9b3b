"""
The superblock: a few bytes beside log and view that say whose they are.

An empty database opens where a view is missing, and a log whose last files are missing looks
like a shorter one. The superblock tells: it names node and cluster, and a position that the log
had reached. It is replaced as a whole, so that it is always the old one or the new one.

The file: magic (8 bytes), format version (4), length of the file (4), node id (16), cluster id
(16), last position (8), CRC32C of all before (4); little-endian. A new version keeps magic,
version and length where they are, and the CRC at the end, so that an older program can tell
"newer" from "damaged". Steps for changing it: docs/internals/log-format.md.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crc32c import crc32c

from sandglass.adapters.files import Files, replace_file, translate
from sandglass.errors import CorruptError, PreconditionError

SUPERBLOCK_VERSION: Final = 2
"""2 is laid out as 1 was; it says that the view's rows may be of version 2."""

ID_BYTES: Final = 16

_MAGIC: Final = b"SGLASSUP"
_START: Final = struct.Struct("<8sII")
_REST: Final = struct.Struct("<16s16sQ")
_CRC: Final = struct.Struct("<I")
_SIZE_BYTES: Final = _START.size + _REST.size + _CRC.size
_SIZE_BYTES_MAX: Final = 4096
"""No version is longer."""

assert _SIZE_BYTES == 60


@dataclass(frozen=True, slots=True)
class Superblock:
    """
    Whose data these are.

    `last_position` is a lower bound: the log has once been durable up to there. `cluster_id` is
    16 zero bytes while the node belongs to none. `version` is that of the file it came from.
    """

    node_id: bytes
    cluster_id: bytes
    last_position: int
    version: int = SUPERBLOCK_VERSION


def save_superblock(path: Path, superblock: Superblock, *, files: Files | None = None) -> None:
    """
    Replaces the file by one that says this, and makes it durable. Blocks.

    Raises:
        NoSpaceError, DeniedError, UnavailableError: the file may be the old one or the new one.
    """
    assert len(superblock.node_id) == ID_BYTES
    assert len(superblock.cluster_id) == ID_BYTES
    files = files or Files()
    data = encode_superblock(superblock, version=SUPERBLOCK_VERSION)
    try:
        replace_file(files, path, data)
    except OSError as exc:
        raise translate(exc, path) from exc


def load_superblock(path: Path, *, files: Files | None = None) -> Superblock | None:
    """
    What the file says; None if there is none.

    Raises:
        CorruptError: it is damaged.
        PreconditionError: it is of a newer version than this program knows.
        DeniedError, UnavailableError: it cannot be read.
    """
    files = files or Files()
    try:
        fd = files.open_for_reading(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise translate(exc, path) from exc
    try:
        data = files.read(fd, _SIZE_BYTES_MAX, 0)
    except OSError as exc:
        raise translate(exc, path) from exc
    finally:
        files.close(fd)
    return decode_superblock(data, path)


def encode_superblock(superblock: Superblock, *, version: int) -> bytes:
    """The bytes of a file of a version; all are laid out alike so far."""
    data = _START.pack(_MAGIC, version, _SIZE_BYTES)
    data += _REST.pack(superblock.node_id, superblock.cluster_id, superblock.last_position)
    return data + _CRC.pack(crc32c(data))


def decode_superblock(data: bytes, path: Path) -> Superblock:
    """
    What the bytes of a file say; `path` is what to call it.

    Raises:
        CorruptError, PreconditionError: as `load_superblock`.
    """
    if len(data) < _START.size + _CRC.size:
        raise CorruptError(f"{path}: {len(data)} bytes are too few, it was cut off")
    magic, version, size = _START.unpack_from(data)
    if magic != _MAGIC or size != len(data):
        raise CorruptError(f"{path}: damaged at byte 0")
    if crc32c(data[: -_CRC.size]) != _CRC.unpack_from(data, size - _CRC.size)[0]:
        raise CorruptError(f"{path}: damaged, the checksum is wrong")
    if version > SUPERBLOCK_VERSION:
        raise PreconditionError(
            f"{path} has version {version}, this program knows up to {SUPERBLOCK_VERSION}:"
            " start the newer version"
        )
    if version < 1 or size != _SIZE_BYTES:
        raise CorruptError(f"{path}: version {version} of {size} bytes does not exist")
    node_id, cluster_id, last_position = _REST.unpack_from(data, _START.size)
    return Superblock(node_id, cluster_id, last_position, version)
