"""
`make bench`: every line, or those named, and a table of them.

    python -m bench [--quick] [--line NAME ...] [--json | --markdown]
"""

import argparse
import sys
from functools import partial

import uvloop

from bench.burst import BURST_LINES
from bench.compatible import COMPATIBLE_LINES
from bench.faces import faces
from bench.lines import LINES, QUICK, Bench, Sizes
from bench.report import NodeReport
from bench.scale import SCALE_LINES
from bench.table import add_options, machine, measure, say

LINES_ALL = LINES | COMPATIBLE_LINES | BURST_LINES | SCALE_LINES | {"faces": faces}
LINE_S_MAX = 400


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    add_options(parser, LINES_ALL)
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    return say(uvloop.run(_run(options.line or list(LINES_ALL), sizes)), options)


async def _run(names: list[str], sizes: Sizes) -> NodeReport:
    async with Bench.open(sizes) as bench:
        lines = {name: partial(LINES_ALL[name], bench) for name in names}
        return NodeReport(machine(), *await measure(lines, line_s_max=LINE_S_MAX))


if __name__ == "__main__":
    sys.exit(main())
