"""
`make bench-cluster`: every line, or those named, and a table of them.

    python -m bench.cluster [--quick] [--line NAME ...] [--kills N]
        [--megabytes N] [--json | --markdown]
"""

import argparse
import sys
from dataclasses import replace
from functools import partial

import uvloop

from bench.cluster.alone import alone
from bench.cluster.bench import QUICK, ClusterBench, Line, Sizes
from bench.cluster.catchup import catchup
from bench.cluster.failover import failover
from bench.cluster.idle import idle
from bench.cluster.rates import both, growth, produce, singles
from bench.cluster.report import ClusterReport
from bench.table import add_options, machine, measure, say

LINES: dict[str, Line] = {
    "produce": produce,
    "both": both,
    "singles": singles,
    "growth": growth,
    "alone": alone,
    "failover": failover,
    "idle": idle,
    "catchup": catchup,
}
LINE_S_MAX = 900


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-cluster", description=__doc__)
    add_options(parser, LINES)
    parser.add_argument("--kills", type=int, help="of the line failover, for each way to end")
    parser.add_argument("--megabytes", type=int, help="of the line catchup")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.kills is not None:
        sizes = replace(sizes, kill_count=options.kills)
    if options.megabytes is not None:
        sizes = replace(sizes, catchup_bytes=options.megabytes * 1_000_000)
    return say(uvloop.run(_run(options.line or list(LINES), sizes)), options)


async def _run(names: list[str], sizes: Sizes) -> ClusterReport:
    async with ClusterBench.open(sizes) as bench:
        lines = {name: partial(LINES[name], bench) for name in names}
        return ClusterReport(machine(), *await measure(lines, line_s_max=LINE_S_MAX))


if __name__ == "__main__":
    sys.exit(main())
