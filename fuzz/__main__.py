"""
`make fuzz`: every target, or those named, for some time each; two at a time.

    python -m fuzz [--seconds N] [--target NAME ...] [--jobs N]

What a target has learned stays in `.fuzz/` for the next time, and so does each input that was a
find.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha1
from pathlib import Path

from fuzz.all import TARGETS
from fuzz.target import Target

FOLDER = Path(".fuzz")
INPUT_S_MAX = 10
"""An input that takes longer is a find; the largest take milliseconds."""

MEMORY_MIB_MAX = 2048
END_S = 120
"""What a target may take beyond its time, to start and to end."""


def main() -> int:
    """Runs them; 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", action="append", choices=TARGETS, help="only this one")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris has no build for this Python or system: no target was run")
        return 0
    targets = [TARGETS[name] for name in options.target or TARGETS]
    with ThreadPoolExecutor(options.jobs) as pool:
        failed = sum(pool.map(lambda target: _run(target, options.seconds), targets))
    print(f"{len(targets) - failed} of {len(targets)} targets found nothing")
    return 1 if failed else 0


def _run(target: Target, seconds: int) -> bool:
    """Runs one in a process of its own, says how it went, and whether it found something."""
    folder = FOLDER / target.name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    command = [
        *(sys.executable, "-m", "fuzz.one", target.name, str(corpus)),
        *(f"-max_total_time={seconds}", f"-timeout={INPUT_S_MAX}"),
        *(f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-artifact_prefix={folder}/"),
    ]
    ended = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds + END_S,
        check=False,
    )
    done = re.search(r"^Done (\d+) runs in (\d+) second", ended.stdout, re.MULTILINE)
    if ended.returncode == 0 and done is not None:
        print(f"{target.name:14} {int(done[1]):10,} inputs in {done[2]} s", flush=True)
        return False
    print(f"{target.name:14} FOUND SOMETHING\n{_told(ended.stdout)}", flush=True)
    return True


def _told(output: str) -> str:
    """What was raised, and where the input is."""
    start = output.find("Uncaught Python exception")
    return output[start:][-4000:] if start >= 0 else output[-4000:]


if __name__ == "__main__":
    sys.exit(main())
