"""`sandglass token`: who has a token, in the file that `token_file` names."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from sandglass.cli.ctl.output import print_table
from sandglass.errors import InvalidError
from sandglass.security.tokens import (
    TOKEN_BYTES,
    add_token,
    new_token,
    read_tokens,
    remove_token,
    renew_token,
)

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Tokens, in the file that --token_file names.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is: a program's.")]
Older = Annotated[bool, typer.Option("--older", help="Only the one that was renewed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def add(context: typer.Context, name: Name, is_json: AsJson = False) -> None:
    """Make a token and print it, this once: the file gets its hash alone."""
    path = _path(context)
    made = new_token(os.urandom(TOKEN_BYTES))
    add_token(path, name, made)
    _tell(name, made, is_json)


@app.command()
def renew(context: typer.Context, name: Name, is_json: AsJson = False) -> None:
    """
    Make and print a second token for a name.

    `token remove --older` takes the first one back.
    """
    path = _path(context)
    made = new_token(os.urandom(TOKEN_BYTES))
    renew_token(path, name, made)
    _tell(name, made, is_json)


@app.command(name="list")
def list_(context: typer.Context, is_json: AsJson = False) -> None:
    """List the names."""
    names = sorted(read_tokens(_path(context)).values())
    if is_json:
        print(json.dumps([{"name": name} for name in names]))
    else:
        print_table(["NAME"], [(name,) for name in names])


@app.command()
def remove(
    context: typer.Context, name: Name, is_older: Older = False, is_json: AsJson = False
) -> None:
    """Take a token back. Within 5 s it opens nothing, and what it has open ends."""
    remove_token(_path(context), name, is_older_alone=is_older)
    which = "older token" if is_older else "token"
    print(json.dumps({"name": name}) if is_json else f"{which} '{name}' was removed")


def _tell(name: str, made: str, is_json: bool) -> None:
    print(json.dumps({"name": name, "token": made}) if is_json else made)


def _path(context: typer.Context) -> Path:
    path = context.obj().settings.token_file
    if path is None:
        raise InvalidError("give --token_file PATH, or set token_file", field="token_file")
    return path
