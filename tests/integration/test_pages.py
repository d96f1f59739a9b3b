"""Every command and every snippet that a page shows, runs."""

import shutil
from itertools import groupby
from pathlib import Path

import pytest
import yaml

from sandglass.settings import Settings, table
from tests.integration.pages import Block, Reader, blocks

NOT_RUN = {
    ("README.md", "make demo"): "tests/integration/test_demo.py runs the demo",
    ("README.md", "make install\n. .venv/bin/activate"): "these tests run in what it makes",
    ("docs/quickstart.md", "make install\n. .venv/bin/activate"): "as above",
}
"""Blocks that nobody runs, and why."""

NOT_CODE = {"mermaid", "json", "hex", "yaml"}
"""Languages of blocks that are to be looked at; the test below reads settings, and
tests/unit/wire/test_reference.py examples of the protocol."""

NEEDS = {"docs/guide/security.md": "openssl"}
"""Commands that a page takes for granted, and that not every machine has."""

HAVE_EMAILS = {"docs/guide/consume.md", "docs/guide/produce.md", "docs/guide/schedule.md"}
"""Pages whose snippets take a topic `emails` for granted."""

PAGES = {page: [*found] for page, found in groupby(blocks(), lambda block: block.page)}
RUN = {
    page: run
    for page, found in PAGES.items()
    if (run := [each for each in found if each.language not in NOT_CODE])
}


@pytest.mark.parametrize("page", RUN)
async def test_a_page_works_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    if page in NEEDS and shutil.which(NEEDS[page]) is None:
        pytest.skip(f"no {NEEDS[page]} here")
    has_node = any(each.is_node for each in RUN[page])
    has_emails = page in HAVE_EMAILS
    async with Reader(tmp_path, has_emails=has_emails, has_node=has_node) as reader:
        for block in RUN[page]:
            if (page, block.text) not in NOT_RUN:
                await reader.do(block)


def test_every_block_says_its_language_and_we_know_what_to_do_with_it() -> None:
    known = {"python", "sh"} | NOT_CODE

    found = [each for run in PAGES.values() for each in run]

    assert [] == [each.place for each in found if each.language not in known]


def test_settings_that_a_page_shows_are_settings() -> None:
    shown = [each for run in PAGES.values() for each in run if each.language == "yaml"]
    known = {row.name for row in table(Settings)}

    assert [] == [each.place for each in shown if not yaml.safe_load(each.text).keys() <= known]
    assert shown


def test_every_exception_is_still_in_its_page() -> None:
    found = {(each.page, each.text) for run in PAGES.values() for each in run}

    assert set() == set(NOT_RUN) - found
    assert set() == HAVE_EMAILS - set(RUN)


async def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    wrong = [
        ("sh", "false"),
        ("sh", "sandctl topics show none"),
        ("sh", "echo odd >&2"),
        ("sh", "topic=$(curl -sS http://127.0.0.1:2108/topics/none | cat)"),
        ("python", "await client.produce('none', b'')"),
        ("python", "import asyncio\nasyncio.run(None)"),
        ("python", "def test_it():\n    assert False"),
    ]

    async with Reader(tmp_path, has_emails=False) as reader:
        for line, (language, text) in enumerate(wrong, 1):
            with pytest.raises(AssertionError, match="a page"):
                await reader.do(Block("a page", line, language, text))
