"""What must not be in the tree, and what must."""

import re

from tests.tidy.tree import ROOT, name_of, text_of, tracked

FILE_BYTES_MAX = 1_500_000
WRITTEN = {".md", ".proto", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml"}

# Put together here, so that this file doesn't hold what it looks for.
MACHINE_PATHS = re.compile(rf"(?<![\w.])/(?:{'|'.join(['work', 'farm'])})/")
FRAGMENT = re.compile(
    r"[a-z0-9][a-z0-9-]*\.(added|changed|fixed|removed|security|performance)\.md"
)


def test_no_file_names_a_path_of_some_machine() -> None:
    found = [name_of(path) for path in tracked() if MACHINE_PATHS.search(text_of(path) or "")]

    assert [] == found


def test_no_file_is_larger_than_the_tree_should_carry() -> None:
    found = [name_of(path) for path in tracked() if path.stat().st_size > FILE_BYTES_MAX]

    assert [] == found


def test_what_we_write_ends_with_one_newline_and_has_no_carriage_return() -> None:
    texts = {name_of(path): text_of(path) for path in tracked() if path.suffix in WRITTEN}

    wrong = [
        name
        for name, text in texts.items()
        if text and ("\r" in text or not text.endswith("\n") or text.endswith("\n\n"))
    ]

    assert [] == wrong


def test_no_merge_is_left_unfinished() -> None:
    marks = tuple(sign * 7 + " " for sign in "<>")

    found = [
        name_of(path)
        for path in tracked()
        if any(line.startswith(marks) for line in (text_of(path) or "").splitlines())
    ]

    assert [] == found


def test_every_changelog_fragment_says_its_kind_in_its_name() -> None:
    fragments = {path.name for path in (ROOT / "changes").iterdir()} - {"README.md"}

    assert [] == [name for name in sorted(fragments) if not FRAGMENT.fullmatch(name)]


def test_decisions_are_numbered_without_a_gap_or_a_repeat() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))

    numbers = [int(name.split("-")[0]) for name in names]

    assert list(range(len(names))) == numbers


def test_every_package_of_the_source_has_an_init_file() -> None:
    source = ROOT / "src" / "sandglass"

    folders = {path.parent for path in source.rglob("*.py")}

    assert [] == sorted(
        name_of(each) for each in folders if not (each / "__init__.py").exists()
    )
