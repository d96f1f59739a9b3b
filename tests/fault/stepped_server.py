"""
`sandglass` whose wall clock is set from outside: `python stepped_server.py FILE [FLAG ...]`.

`FILE` holds by how many milliseconds the wall clock differs from the machine's. It is read at
each look at the clock.
"""

import sys
from functools import partial
from pathlib import Path

from sandglass import node
from sandglass.adapters.system import SystemClock
from sandglass.cli import server


class SetClock(SystemClock):
    """The machine's clock, whose wall time is set by a file."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def wall_ms(self) -> int:
        """See `Clock`."""
        return super().wall_ms() + int(self._path.read_bytes() or b"0")


def main() -> int:
    node.Node = partial(node.Node, clock=SetClock(Path(sys.argv[1])))
    return server.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
