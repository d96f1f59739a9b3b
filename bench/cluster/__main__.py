"""
`make bench-cluster`: every line, or those named, and a table of them.

    python -m bench.cluster [--quick] [--line NAME ...] [--kills N] [--json | --markdown]
"""

import argparse
import asyncio
import json
import sys
from dataclasses import replace

import uvloop

from bench.cluster.alone import alone
from bench.cluster.bench import QUICK, ClusterBench, Line, Sizes
from bench.cluster.failover import failover
from bench.cluster.idle import idle
from bench.cluster.rates import both, growth, produce, singles
from bench.cluster.report import Report, markdown, show
from bench.lines import Figure
from bench.load import WrongError
from bench.report import machine

LINES: dict[str, Line] = {
    "produce": produce,
    "both": both,
    "singles": singles,
    "growth": growth,
    "alone": alone,
    "failover": failover,
    "idle": idle,
}
LINE_S_MAX = 900


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--line", action="append", choices=LINES, help="only this one")
    parser.add_argument("--kills", type=int, help="of the line failover, for each way to end")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.kills is not None:
        sizes = replace(sizes, kill_count=options.kills)
    report = uvloop.run(_run(options.line or list(LINES), sizes))
    if options.json:
        print(json.dumps(report.as_dict(), indent=2))
    elif options.markdown:
        print(markdown(report))
    else:
        show(report)
    return 1 if report.failures else 0


async def _run(names: list[str], sizes: Sizes) -> Report:
    figures: list[Figure] = []
    failures: dict[str, str] = {}
    async with ClusterBench.open(sizes) as bench:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                async with asyncio.timeout(LINE_S_MAX):
                    figures += await LINES[name](bench)
            except (WrongError, TimeoutError) as error:
                failures[name] = f"{type(error).__name__}: {error}"
    return Report(machine(), figures, failures)


if __name__ == "__main__":
    sys.exit(main())
