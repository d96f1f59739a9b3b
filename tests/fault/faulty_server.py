"""
`sandglass` on a disk that fails on demand: `python faulty_server.py SWITCHES [FLAG ...]`.

`SWITCHES` is the directory of `FaultyDisk`. Segments and memtables are small, so that a few
hundred kilobytes ask for another segment, and for a flush.
"""

import sys
from functools import partial
from pathlib import Path

from sandglass import node
from sandglass.adapters.rocksdb import RocksStore
from sandglass.cli import server
from sandglass.testing.faults import FaultyDisk

SEGMENT_BYTES = 256 * 1024
RESERVE_BYTES = 32 * 1024
FLUSH_BYTES = 128 * 1024


def main() -> int:
    node.NodeConfig = partial(
        node.NodeConfig, segment_bytes=SEGMENT_BYTES, reserve_bytes=RESERVE_BYTES
    )
    node.Node = partial(node.Node, files=FaultyDisk(Path(sys.argv[1])))
    node.RocksStore = partial(RocksStore, flush_bytes=FLUSH_BYTES)
    return server.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
