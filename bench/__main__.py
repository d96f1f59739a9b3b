"""
`make bench`: every line, or those named, and a table of them.

    python -m bench [--quick] [--line NAME ...] [--json | --markdown]
"""

import argparse
import asyncio
import json
import sys

import uvloop

from bench.burst import BURST_LINES
from bench.compatible import COMPATIBLE_LINES
from bench.faces import faces
from bench.lines import LINES, QUICK, Bench, Figure, Sizes
from bench.load import WrongError
from bench.report import Report, machine, markdown, show
from bench.scale import SCALE_LINES

LINES_ALL = LINES | COMPATIBLE_LINES | BURST_LINES | SCALE_LINES | {"faces": faces}
LINE_S_MAX = 400


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--line", action="append", choices=LINES_ALL, help="only this one")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    report = uvloop.run(_run(options.line or list(LINES_ALL), sizes))
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
    async with Bench.open(sizes) as bench:
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                async with asyncio.timeout(LINE_S_MAX):
                    figures += await LINES_ALL[name](bench)
            except (WrongError, TimeoutError) as error:
                failures[name] = f"{type(error).__name__}: {error}"
    return Report(machine(), figures, failures)


if __name__ == "__main__":
    sys.exit(main())
