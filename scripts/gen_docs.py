"""
Writes the tables of docs/reference/ from what the code declares.

    python scripts/gen_docs.py            write them
    python scripts/gen_docs.py --check    fail if the committed ones differ

A page is written by hand, except for what stands between `<!-- begin NAME -->` and
`<!-- end NAME -->`: a part of `PARTS`. The schema of what commands print is made whole.
"""

import argparse
import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import typer

from sandglass import telemetry
from sandglass.cli import schema
from sandglass.cli.argv import commands_of
from sandglass.cli.ctl import main as ctl
from sandglass.cli.server import app as server_app
from sandglass.core import limits
from sandglass.settings import CtlSettings, Setting, Settings, table
from sandglass.web import openapi

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "reference"
PAGES: Final = ("settings.md", "cli.md", "limits.md", "metrics.md", "http.md")
SCHEMA: Final = "sandctl.schema.json"


def main() -> int:
    """Write or check the pages; returns the exit code."""
    parser = argparse.ArgumentParser(description="Generates the tables of docs/reference/.")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    is_check = parser.parse_args().check
    made = {name: filled(_read(name)) for name in PAGES}
    made[SCHEMA] = json.dumps(schema.document(), indent=2) + "\n"
    stale = [name for name, text in made.items() if text != _read(name)]
    if is_check and stale:
        print(f"not fresh: {', '.join(stale)}; run scripts/gen_docs.py", file=sys.stderr)
        return 1
    for name in stale:
        (REFERENCE / name).write_text(made[name])
    print(f"{len(made)} pages are fresh" if is_check else f"{len(stale)} pages written")
    return 0


def filled(page: str) -> str:
    """A page with its generated parts made anew."""

    def part(found: re.Match[str]) -> str:
        name = found.group(1)
        return f"<!-- begin {name} -->\n\n{PARTS[name]()}\n\n<!-- end {name} -->"

    return re.sub(r"<!-- begin ([a-z-]+) -->.*?<!-- end \1 -->", part, page, flags=re.DOTALL)


def _read(name: str) -> str:
    page = REFERENCE / name
    return page.read_text() if page.exists() else ""


# --- settings ---


def _settings(kind: type[Any]) -> Callable[[], str]:
    def write() -> str:
        rows = [
            "| setting | default | allowed | variables | what it does |",
            "|---|---|---|---|---|",
        ]
        rows += [_settings_row(row) for row in table(kind)]
        return "\n".join(rows)

    return write


def _settings_row(row: Setting) -> str:
    flags = f"`{row.name}`" + (f", `-{row.short}`" if row.short else "")
    envs = ", ".join(f"`{env}`" for env in row.envs)
    allowed = row.range_text or row.metavar.lower()
    return _row(flags, row.default_text, allowed, envs, row.help)


# --- commands ---


def _commands(root: Callable[[], Any], tool: str) -> Callable[[], str]:
    def write() -> str:
        command = root()
        names = {id(each): name for each, name in _named(command, tool)}
        sections = [
            f"### {names[id(each)]}\n\n{_command(each)}" for each in commands_of(command)
        ]
        return "\n\n".join(sections)

    return write


def _named(command: Any, name: str) -> Iterator[tuple[Any, str]]:
    yield command, name
    for word, below in getattr(command, "commands", {}).items():
        yield from _named(below, f"{name} {word}")


def _command(command: Any) -> str:
    lines = [" ".join((command.help or "").split())]
    rows = [_option_row(each) for each in command.params]
    if rows:
        lines += ["", "| argument, flag | default | what it does |", "|---|---|---|", *rows]
    return "\n".join(lines)


def _option_row(option: Any) -> str:
    help_text, default = _help_and_default(option)
    if option.param_type_name == "argument":
        return _row(f"`{option.metavar or option.name}`", default, help_text)
    value = "" if option.is_flag else f" {option.metavar}"
    spelled = ", ".join(f"`{each}`" for each in option.opts)
    return _row(f"{spelled}{value}", default, help_text)


def _help_and_default(option: Any) -> tuple[str, str]:
    """The default is the parser's, or stands in brackets at the end of the help."""
    said = re.fullmatch(r"(.*?)(?: \[default: ([^]]*)\])?", option.help or "", re.DOTALL)
    assert said is not None
    default = said.group(2) or option.default
    if isinstance(default, bool):
        default = "true" if default else "false"
    return said.group(1), "" if default in (None, "", []) else str(default).partition(";")[0]


# --- limits ---


def _limits() -> str:
    """Each constant of `core/limits.py`, and the text below it."""
    body = ast.parse(Path(limits.__file__).read_text()).body
    rows = ["| limit | value | why |", "|---|---|---|"]
    for place, node in enumerate(body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            below = body[place + 1] if place + 1 < len(body) else None
            rows.append(_row(f"`{name}`", _limit(getattr(limits, name)), _text_of(below)))
    return "\n".join(rows)


def _limit(value: object) -> str:
    if isinstance(value, re.Pattern):
        return f"`{value.pattern}`"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return " ".join(str(node.value.value).split())
    return ""


# --- HTTP and metrics ---


def _metrics() -> str:
    rows = ["| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for each in telemetry.METRICS:
        name = telemetry.PREFIX + each.name + ("_total" if each.kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(_row(f"`{name}`", each.kind, labels, each.help))
    return "\n".join(rows)


def _http_routes() -> str:
    rows = ["| route | body | what it does |", "|---|---|---|"]
    for path, methods in openapi.PATHS.items():
        for method, call in methods.items():
            content = call.get("requestBody", {}).get("content", {}).get("application/json")
            body = f"`{content['schema']['$ref'].rpartition('/')[2]}`" if content else ""
            rows.append(_row(f"`{method.upper()} {path}`", body, call["summary"]))
    return "\n".join(rows)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


PARTS: Final[dict[str, Callable[[], str]]] = {
    "server-settings": _settings(Settings),
    "ctl-settings": _settings(CtlSettings),
    "server-commands": _commands(lambda: typer.main.get_command(server_app), "sandglass"),
    "ctl-commands": _commands(ctl.build, "sandctl"),
    "limits": _limits,
    "metrics": _metrics,
    "http-routes": _http_routes,
}


if __name__ == "__main__":
    sys.exit(main())
