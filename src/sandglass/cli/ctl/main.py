"""
`sandctl`: the tool for people and scripts.

Options of the whole tool (`--addrs`, `--token-file`, `--json` and more) may stand anywhere: see
`sandglass.cli.argv`. What is slow to load is loaded by the command that needs it.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from sandglass.cli import ending, flags, show
from sandglass.cli.config import CTL_CONFIG_ENV, load
from sandglass.cli.ctl import (
    bench,
    clock,
    cluster,
    consume,
    dead,
    groups,
    kv,
    produce,
    schedule,
    topics,
)
from sandglass.cli.ctl.call import TOOL, Globals, globals_of
from sandglass.settings import CtlSettings

EPILOG: Final = "The options above may stand anywhere on the line."


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
app.add_typer(dead.app, name="dead")
app.add_typer(schedule.app, name="schedule")
app.add_typer(kv.app, name="kv")
app.add_typer(cluster.app, name="cluster")
app.add_typer(clock.app, name="clock")
settings_app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Settings of sandctl itself."
)
app.add_typer(settings_app, name="config")
app.command(name="produce")(produce.produce)
app.command(name="consume")(consume.consume)
app.command(name="bench")(bench.bench)


def root(context: typer.Context, **given: Any) -> None:
    """Produce, consume and look after a Sandglass."""
    is_json = bool(given.pop("is_json"))
    del given["is_version"]  # it has been shown, and that was all
    loaded = load(
        CtlSettings,
        flags=flags.given({name: each for name, each in given.items() if name != "config"}),
        environ=os.environ,
        config=given["config"] or os.environ.get(CTL_CONFIG_ENV, ""),
        home=Path.home(),
        file_stem=TOOL,
    )
    for note in loaded.notes:
        print(f"{TOOL}: {note}", file=sys.stderr)
    context.obj = Globals(loaded.settings, is_json, loaded)


flags.declare(
    app,
    root,
    CtlSettings,
    is_hyphenated=True,
    more={
        "is_json": Annotated[bool, typer.Option("--json", help="Print JSON.")],
        "is_version": flags.version_flag(TOOL),
    },
)


@settings_app.command(name="show")
def show_settings(context: typer.Context) -> None:
    """Show each setting and its source: flag, environment, file or default."""
    found = globals_of(context)
    assert found.loaded is not None
    show.print_settings(found.loaded, is_json=found.is_json)


@app.command()
def version(context: typer.Context) -> None:
    """Print the version."""
    from sandglass.cli.version import version_text

    print(version_text(TOOL, is_json=globals_of(context).is_json))


if __name__ == "__main__":
    sys.exit(main())
