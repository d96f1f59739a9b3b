"""
The flags of both tools, made from the table of their settings.

A flag has no default of its own: the table's must be the weakest source, not the strongest.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import typer

from sandglass.settings import Setting, table

CONFIG_HELP: Final = "Settings to read: a file or an http(s) URL; YAML, TOML or JSON."


def declare(
    app: typer.Typer,
    callback: Any,
    kind: type[Any],
    *,
    is_hyphenated: bool = False,
    more: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """
    Makes `callback` the root of a tool, with `--config` and a flag for each setting of `kind`.

    Args:
        is_hyphenated: `--token-file` instead of `--token_file`; either is understood.
        more: further parameters by name, as typer annotates them, False by default.
        options: for typer, as they are.
    """
    config = Annotated[str, typer.Option("--config", metavar="PATH", help=CONFIG_HELP)]
    rows = [row for row in table(kind) if not row.is_secret]
    parameters = [
        inspect.Parameter(
            "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
        ),
        _parameter("config", config, ""),
        *(_parameter(row.name, _flag(row, is_hyphenated=is_hyphenated), None) for row in rows),
        *(_parameter(name, annotation, False) for name, annotation in (more or {}).items()),
    ]
    callback.__signature__ = inspect.Signature(parameters)
    callback.__annotations__ = {each.name: each.annotation for each in parameters}
    app.callback(**options)(callback)


def version_flag(tool: str) -> Any:
    """`--version` of a tool: prints what its command prints, and ends."""

    def show(is_wanted: bool) -> None:
        if is_wanted:
            from sandglass.cli.version import version_text

            print(version_text(tool, is_json=False))
            raise typer.Exit

    option = typer.Option("--version", is_eager=True, callback=show, help="Print the version.")
    return Annotated[bool, option]


def given(flags: Mapping[str, Any]) -> dict[str, object]:
    """Those that stood on the command line."""
    return {name: value for name, value in flags.items() if value not in (None, [])}


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _flag(row: Setting, *, is_hyphenated: bool) -> Any:
    name = row.name.replace("_", "-") if is_hyphenated else row.name
    short = [f"-{row.short}"] if row.short else []
    notes = [f"default: {row.default_text}"]
    if row.range_text and row.kind is not bool:
        notes.append(row.range_text)
    help_text = f"{row.help} [{'; '.join(notes)}]"
    if row.kind is bool:
        option = typer.Option(f"--{name}/--no-{name}", *short, help=help_text)
        return Annotated[bool | None, option]
    kind = list[str] | None if row.kind is tuple else str | None
    return Annotated[
        kind, typer.Option(f"--{name}", *short, metavar=row.metavar, help=help_text)
    ]


Load = Callable[[], Any]
"""What a root leaves for the commands below it: loads the settings, when they are wanted."""
