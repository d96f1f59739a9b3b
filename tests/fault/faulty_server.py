"""
`sandglass` on a disk that fails on demand: `python faulty_server.py SWITCHES [FLAG ...]`.

`SWITCHES` is the directory of `FaultyDisk`. Segments are small, so that a few hundred kilobytes
ask for another one.
"""

import sys
from functools import partial
from pathlib import Path

from sandglass import node
from sandglass.adapters.filelog import FileLog
from sandglass.cli import server
from sandglass.testing.faults import FaultyDisk

SEGMENT_BYTES = 256 * 1024
RESERVE_BYTES = 256 * 1024


def main() -> int:
    disk = FaultyDisk(Path(sys.argv[1]))
    node.FileLog = partial(
        FileLog, files=disk, segment_bytes=SEGMENT_BYTES, reserve_bytes=RESERVE_BYTES
    )
    return server.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
