"""What is pinned, what is declared and what the stubs ask for agree."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.tidy.tree import ROOT, tracked

PINNED_TEXT = (ROOT / "requirements" / "dev.txt").read_text()


def pinned() -> dict[str, Version]:
    """Name -> version, as pinned for contributors and CI."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", PINNED_TEXT, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in lines}


def declared() -> list[Requirement]:
    """What pyproject.toml asks for, extras included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in project["dependencies"] + extras]


def lower_bound(name: str) -> Version:
    """The lowest version of a dependency that pyproject.toml allows."""
    requirement = next(each for each in declared() if each.name == name)
    return next(
        Version(each.version) for each in requirement.specifier if each.operator == ">="
    )


def test_requirements_name_no_address_and_no_local_path() -> None:
    texts = {path.name: path.read_text() for path in (ROOT / "requirements").iterdir()}

    found = [
        (name, line)
        for name, text in texts.items()
        for line in text.splitlines()
        if re.search(r"://|^\s*-(?!-hash)|--(?!hash=)\w|file:|@|[ =]/", line.split("#")[0])
        and not re.match(r"\s+--hash=sha256:[0-9a-f]{64}( \\)?$", line)
    ]

    assert [] == found


def test_every_pinned_release_has_hashes() -> None:
    entries = re.split(r"^(?=\S+==)", PINNED_TEXT, flags=re.MULTILINE)[1:]

    bare = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]

    assert [] == bare
    assert len(pinned()) == len(entries)


def test_every_declared_dependency_is_pinned_within_its_bounds() -> None:
    versions = pinned()

    wrong = [
        str(each)
        for each in declared()
        if each.specifier.contains(versions.get(canonicalize_name(each.name), Version("0")))
        is False
    ]

    assert [] == wrong


def test_every_tool_is_pinned() -> None:
    lines = (ROOT / "requirements" / "dev.in").read_text().splitlines()
    tools = [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]

    assert [] == [each.name for each in tools if canonicalize_name(each.name) not in pinned()]


def test_lower_bounds_are_what_the_stubs_check_when_they_are_imported() -> None:
    stubs = [
        path.read_text() for path in tracked() if path.name.endswith(("_pb2.py", "_grpc.py"))
    ]

    protobuf = {
        match for text in stubs for match in re.findall(r"Protobuf Python Version: (\S+)", text)
    }
    grpcio = {
        match
        for text in stubs
        for match in re.findall(r"GRPC_GENERATED_VERSION = '(.+)'", text)
    }

    assert {str(lower_bound("protobuf"))} >= protobuf
    assert {str(lower_bound("grpcio"))} >= grpcio
