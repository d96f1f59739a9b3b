"""
What RocksDB says, as what the caller should do about it.

`rocksdict` raises nothing narrower than `Exception`, with RocksDB's status as its text.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sandglass.errors import (
    BusyError,
    CorruptError,
    InternalError,
    NoSpaceError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)

STALL_RETRY_MS: Final = 5
NO_SPACE_RETRY_MS: Final = 1000

_WRITING: Final = re.compile(
    r"While (?:appending|fsync|fdatasync|open a file for appending|open a file for random"
    r" read/write|create dir|mkdir|renam|allocat|truncat|.*\bsync\b)|Read-only file system",
    re.IGNORECASE,
)
"""What RocksDB did when a file could not be written: nothing that was written is damaged."""


def translated(error: Exception, directory: Path, advice: Callable[[], str]) -> SandglassError:
    """
    An error of `rocksdict`, or of the file system, about the view in a directory.

    Args:
        advice: what to do about damage, in an imperative; asked when there is some.
    """
    text = " ".join(str(error).split())
    if "Write stall" in text:
        return BusyError(
            f"view {directory}: RocksDB is behind with its work",
            retry_after_ms=STALL_RETRY_MS,
        )
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return NoSpaceError(
            f"view {directory}: no space left", retry_after_ms=NO_SPACE_RETRY_MS
        )
    if "/LOCK: " in text:
        return PreconditionError(
            f"view {directory} is in use, by another process or in this one"
        )
    is_for_operator = "Permission denied" in text or "Too many open files" in text
    if is_for_operator or isinstance(error, OSError):
        return PreconditionError(f"view {directory}: {text}")
    if text.startswith("IO error") and _WRITING.search(text):
        return UnavailableError(
            f"view {directory} cannot be written: {text.rstrip('.')}. See to its disk"
            " and start the node again: the log has what is missing"
        )
    if text.startswith(("Corruption", "IO error")):
        # Of a blob RocksDB doesn't say in which file it is.
        is_unnamed = "blob" in text.lower() and ".blob" not in text
        what = f"{text} (in a .blob file)" if is_unnamed else text
        return damaged(what, directory, advice)
    return InternalError(f"view {directory}: {text}")


def damaged(what: str, directory: Path, advice: Callable[[], str]) -> CorruptError:
    """The view in a directory is; arguments as for `translated`."""
    return CorruptError(
        f"view {directory} is damaged: {what.rstrip('.')}. What to do: {advice()}"
    )
