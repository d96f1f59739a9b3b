"""Tests that stand for a stranger's client know no more than a stranger does."""

import ast
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, name_of

STRANGERS = sorted((ROOT / "tests" / "conformance" / "wire").rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """Every module that a file imports, however deep in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", STRANGERS, ids=name_of)
def test_the_wire_is_tested_without_importing_sandglass(path: Path) -> None:
    modules = imported_by(path)

    ours = {
        each for each in modules if each.partition(".")[0] in ("sandglass", "bench", "demo")
    }
    helpers = {each for each in modules if each.startswith("tests.")}
    assert set() == ours
    assert {f"tests.conformance.wire.{name}" for name in ("calls", "conftest")} >= helpers


def test_there_are_such_tests() -> None:
    assert len(STRANGERS) >= 4
