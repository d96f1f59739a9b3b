"""
A small file system of its own: a tmpfs in a mount namespace, which somebody without rights may
make where user namespaces are allowed. It is reached through `/proc`, by any process.
"""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_MOUNT: Final = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo ready && exec sleep 600'
_CHUNK_BYTES: Final = 64 * 1024


class SmallDisk:
    """`path` is its root; what else is done to it is done by others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    def fill(self) -> None:
        """Takes all the room that is left, to the last byte."""
        fd = os.open(self._filling, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        size = _CHUNK_BYTES
        try:
            while size:
                try:
                    os.write(fd, bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        finally:
            os.close(fd)

    def free(self) -> None:
        """Gives it back."""
        self._filling.unlink()


@contextmanager
def small_disk(mount_point: Path, *, size_mib: int) -> Iterator[SmallDisk]:
    """A file system of that size; skips the test where it can't be made."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no `unshare` here, which a small file system takes")
    mount_point.mkdir()
    holder = subprocess.Popen(
        [unshare, "-Urm", "sh", "-c", _MOUNT, str(mount_point), f"{size_mib}m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != "ready\n":
            reason = " ".join(holder.stderr.read().split())
            pytest.skip(f"no file system can be mounted here: {reason}")
        yield SmallDisk(Path(f"/proc/{holder.pid}/root{mount_point}"))
    finally:
        holder.kill()
        holder.communicate()
