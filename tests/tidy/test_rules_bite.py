"""
The rules of the house catch what they are there to catch.

Each test breaks one rule, in text given to the linter or in a copy of the packages, and expects
the tool that `make check` runs to object. A rule that nothing can break isn't there.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT

BIN = Path(sys.executable).parent

CLOCK_OR_CHANCE = [
    "import time\n\nNOW = time.time()\n",
    "import time\n\nNOW = time.time_ns()\n",
    "from time import monotonic\n\nNOW = monotonic()\n",
    "import time\n\nNOW = time.monotonic_ns()\n",
    "import datetime\n\nNOW = datetime.datetime.now(datetime.UTC)\n",
    "from datetime import datetime\n\nNOW = datetime.utcnow()\n",
    "import random\n\nLOT = random.random()\n",
    "from random import Random\n\nLOT = Random(1)\n",
    "import secrets\n\nLOT = secrets.token_bytes(8)\n",
    "import os\n\nLOT = os.urandom(8)\n",
    "import uuid\n\nLOT = uuid.uuid4()\n",
]

FORBIDDEN_IMPORTS = [
    ("core/extra.py", "import asyncio", "core-no-outside"),
    ("core/extra.py", "import grpc", "core-no-outside"),
    ("core/extra.py", "from sandglass.broker import extra", "layers"),
    ("replication/extra.py", "import asyncio", "core-no-outside"),
    ("replication/extra.py", "import sandglass.ports", "layers"),
    ("rpc/extra.py", "import sandglass.web", "layers"),
    ("adapters/extra.py", "import sandglass.broker", "adapters"),
    ("broker/extra.py", "import sandglass.wire", "broker"),
    ("client/extra.py", "import sandglass.adapters", "client"),
    ("client/extra.py", "import rocksdict", "client"),
    ("cli/ctl/extra.py", "import sandglass.broker", "client"),
]


def banned_in(name: str, text: str) -> bool:
    """Whether the linter finds a banned name in `text`, were it the file `name`."""
    linted = subprocess.run(
        [BIN / "ruff", "check", "--select=TID251", f"--stdin-filename={name}", "-"],
        cwd=ROOT,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return "TID251" in linted.stdout


@pytest.mark.parametrize("text", CLOCK_OR_CHANCE)
def test_clocks_and_chance_are_refused_outside_the_adapters(text: str) -> None:
    for package in ("core", "replication", "broker", "wire", "rpc"):
        assert banned_in(f"src/sandglass/{package}/extra.py", text)

    assert not banned_in("src/sandglass/adapters/extra.py", text)


def complaint(folder: Path, contract: str) -> str:
    """What one contract says of the package copied into `folder`; empty if it is kept."""
    linted = subprocess.run(
        [
            BIN / "lint-imports",
            "--no-cache",
            f"--config={ROOT / 'pyproject.toml'}",
            f"--contract={contract}",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return linted.stdout if linted.returncode else ""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source to break."""
    folder = tmp_path_factory.mktemp("contracts")
    # Others are writing theirs at that moment, and what is half written goes away again.
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src" / "sandglass", folder / "sandglass", ignore=compiled)
    (folder / "sandglass" / "broker" / "extra.py").touch()
    return folder


@pytest.mark.parametrize(("name", "line", "contract"), FORBIDDEN_IMPORTS)
def test_forbidden_import_breaks_its_contract(
    package: Path, name: str, line: str, contract: str
) -> None:
    target = package / "sandglass" / name
    assert complaint(package, contract) == ""
    target.write_text(line + "\n")

    said = complaint(package, contract)

    target.unlink()
    assert "is not allowed to import" in said
    assert (
        f"sandglass.{name.removesuffix('.py').replace('/', '.')} -> {line.split()[1]}" in said
    )
