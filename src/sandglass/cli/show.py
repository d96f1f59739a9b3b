"""`config show`, of both tools: each setting, and where its value comes from."""

import json
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from sandglass.cli.config import DEFAULT, Loaded
from sandglass.cli.ctl.output import print_table
from sandglass.settings import HIDDEN, Setting, show_duration, shown, table

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Settings of the node.")


@app.command(name="show")
def show(
    context: typer.Context,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each setting and its source: flag, environment, file or default."""
    print_settings(context.obj(), is_json=is_json)


def print_settings(loaded: Loaded[Any], *, is_json: bool) -> None:
    """A line a setting; secrets are hidden."""
    rows = table(type(loaded.settings))
    assert [row.name for row in rows] == [each.name for each in fields(loaded.settings)]
    if is_json:
        print(json.dumps([_json(loaded, row) for row in rows]))
        return
    print_table(["SETTING", "VALUE", "SOURCE"], [_cells(loaded, row) for row in rows])


def _cells(loaded: Loaded[Any], row: Setting) -> tuple[str, str, str]:
    source = loaded.sources.get(row.name, DEFAULT)
    value = getattr(loaded.settings, row.name)
    text = HIDDEN if row.is_secret and value else shown(value)
    return row.name, text, f"{source.kind} {source.name}".strip()


def _json(loaded: Loaded[Any], row: Setting) -> dict[str, object]:
    source = loaded.sources.get(row.name, DEFAULT)
    value: object = getattr(loaded.settings, row.name)
    if row.is_secret and value:
        value = HIDDEN
    elif isinstance(value, timedelta):
        value = show_duration(value)
    elif isinstance(value, Path):
        value = str(value)
    return {"name": row.name, "value": value, "source": source.kind, "from": source.name}
