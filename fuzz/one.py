"""
One target under atheris: `python -m fuzz.one TARGET FOLDER [libFuzzer's options]`.

With `-runs=0 FILE` it tries a single input, such as one that was found.
"""

import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")  # by name: it is not there for every Python

with atheris.instrument_imports(include=["sandglass", "fuzz"]):
    from fuzz.all import TARGETS


def main() -> None:
    """Runs until libFuzzer has had enough, and leaves by its exit code."""
    name, *rest = sys.argv[1:]
    target = TARGETS[name]
    atheris.Setup([sys.argv[0], f"-max_len={target.bytes_max}", *rest], target.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
