"""
`sandctl`: the tool for people and scripts.

Options of the whole tool (`--addrs`, `--timeout`, `--config`, `--json`) may stand anywhere; see
`sandglass.cli.argv`. What is slow to load is loaded by the command that needs it.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from sandglass.cli import ending
from sandglass.cli.config import CTL_CONFIG_ENV, load
from sandglass.cli.ctl import consume, groups, produce, topics
from sandglass.cli.ctl.call import TOOL, Globals, globals_of
from sandglass.settings import CtlSettings, Setting, table

EPILOG: Final = "--addrs, --timeout, --config and --json may stand anywhere on the line."


def main(arguments: Sequence[str] | None = None) -> int:
    """The entry point; returns the code to exit with."""
    given = sys.argv[1:] if arguments is None else arguments
    return ending.run(build, TOOL, given)


def build() -> Any:
    """The command as the parser knows it, with all below it."""
    return typer.main.get_command(app)


app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(topics.app, name="topics")
app.add_typer(groups.app, name="groups")
app.command(name="produce")(produce.produce)
app.command(name="consume")(consume.consume)

_ROWS: Final = {row.name: row for row in table(CtlSettings)}


def _help(row: Setting) -> str:
    return f"{row.help} [default: {row.default_text}]"


@app.callback()
def root(
    context: typer.Context,
    addrs: Annotated[
        list[str] | None,
        typer.Option("--addrs", "-s", metavar="LIST", help=_help(_ROWS["addrs"])),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="DURATION", help=_help(_ROWS["timeout"])),
    ] = None,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="PATH",
            help="Settings to read: a file or an http(s) URL; YAML, TOML or JSON.",
        ),
    ] = "",
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Produce, consume and look after a Sandglass."""
    loaded = load(
        CtlSettings,
        flags={"addrs": addrs or None, "timeout": timeout},
        environ=os.environ,
        config=config or os.environ.get(CTL_CONFIG_ENV, ""),
        home=Path.home(),
        file_stem=TOOL,
    )
    for note in loaded.notes:
        print(f"{TOOL}: {note}", file=sys.stderr)
    context.obj = Globals(loaded.settings, is_json)


@app.command()
def version(context: typer.Context) -> None:
    """Print the version."""
    from sandglass.cli.version import version_text

    print(version_text(TOOL, is_json=globals_of(context).is_json))


if __name__ == "__main__":
    sys.exit(main())
