"""The documents agree with the tree and with each other."""

import re
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, name_of, text_of, tracked

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
GLOSSARY_WORD = re.compile(r"^\*\*([^*]+)\*\* ", re.MULTILINE)

WORDS = """
    access token, ack, attempt, backoff, batch, channel, claim, closed offset, committed,
    consume, consumer, credit, dead letter, due, engine, entry, epoch, extend, fence, floor,
    generation, group, headers, home, index, key, leader, lease, log entry, mark, member,
    message, moved, nack, node, offset, outcome, partition, position, produce, promise, purge,
    record, redrive, release, replica, retention, revision, row, run, seal, seek, session,
    settled, snapshot, steady time, stream, subscription, switch, tile, token, topic, turn,
    value, view, write-ahead log
"""


def pages() -> list[Path]:
    """Every Markdown page of the repository."""
    return [path for path in tracked() if path.suffix == ".md"]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    without_code = FENCE.sub("", page.read_text())
    headings = [re.sub(r"[`*]", "", each) for each in HEADING.findall(without_code)]
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_to_files_of_the_tree_lead_somewhere(page: Path) -> None:
    targets = [link.split("#")[0] for link in LINK.findall(text_of(page) or "")]

    local = [target for target in targets if target and "://" not in target]

    assert [] == [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_to_headings_lead_to_one(page: Path) -> None:
    parts = [link.partition("#") for link in LINK.findall(text_of(page) or "")]

    headings = [
        (target, heading)
        for target, _, heading in parts
        if heading and (target.endswith(".md") or not target)
    ]

    assert [] == [
        f"{target}#{heading}"
        for target, heading in headings
        if heading not in anchors(page.parent / target if target else page)
    ]


def test_every_page_of_the_documents_is_in_their_index() -> None:
    index = ROOT / "docs" / "index.md"
    links = LINK.findall(index.read_text())
    linked = {(index.parent / link.split("#")[0]).resolve() for link in links}

    missing = [
        name_of(page)
        for page in pages()
        if page.is_relative_to(index.parent) and page.resolve() not in linked
    ]

    assert ["docs/decisions/0000-template.md", "docs/index.md"] == sorted(missing)


def test_glossary_explains_each_word_once_in_order() -> None:
    expected = [" ".join(word.split()) for word in WORDS.split(",")]

    actual = GLOSSARY_WORD.findall((ROOT / "docs" / "glossary.md").read_text())

    assert expected == actual


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()

    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)
    helped = re.findall(r"^([a-z][a-z-]*):[^#\n]*## \S", makefile, re.MULTILINE)

    assert phony is not None
    assert targets == helped
    assert sorted(targets) == sorted(phony.group(1).split())


def test_commands_that_the_documents_name_exist() -> None:
    targets = set(
        re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )
    named = {
        (name_of(page), target)
        for page in pages()
        for target in re.findall(r"(?:`|^ {4})make ([a-z][a-z-]*)", text_of(page) or "", re.M)
    }

    assert [] == sorted((page, target) for page, target in named if target not in targets)
