"""
The wheel without extras is the client and sandctl, and needs nothing of the server's.

Their modules are imported in a process of their own, where nothing can be imported but the
dependencies that pyproject.toml names without an extra, and theirs.
"""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tidy.tree import ROOT

PACKAGES = ["sandglass", "sandglass.client", "sandglass.wire", "sandglass.cli.ctl"]

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"no module named {name!r} in the bare wheel", name=name)

sys.meta_path.insert(0, Absent())
package = importlib.import_module(PACKAGE)
if PACKAGE != "sandglass":
    for module in pkgutil.walk_packages(package.__path__, PACKAGE + "."):
        importlib.import_module(module.name)
"""


def bare_distributions() -> set[str]:
    """The dependencies of the bare wheel, and theirs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    waiting: list[str] = project["dependencies"]
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in found or (
            requirement.marker and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        found.add(name)
        waiting += requires(requirement.name) or []
    return found


def absent_modules() -> set[str]:
    """Top-level modules of this environment that the bare wheel doesn't bring."""
    present = bare_distributions() | {"sandglass"}
    return {
        module
        for module, owners in packages_distributions().items()
        if not present & {canonicalize_name(owner) for owner in owners}
    }


def test_dependencies_of_the_server_are_absent_from_the_bare_wheel() -> None:
    assert {"rocksdict", "structlog", "uvloop", "yaml"} <= absent_modules()


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_of_the_bare_wheel_import_without_the_server_extra(package: str) -> None:
    script = f"ABSENT = {absent_modules()!r}\nPACKAGE = {package!r}\n{IMPORT_EVERYTHING}"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
