"""How the tools end: a code, one line, never a traceback."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from sandglass.cli import ending
from sandglass.errors import InvalidError, NotFoundError


def tool(work: Callable[[], Any]) -> Callable[[], Any]:
    """A command `t go` that does `work`."""
    app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

    @app.callback()
    def root() -> None:
        """A tool."""

    @app.command()
    def go(count: int = 1) -> None:
        work()

    return lambda: typer.main.get_command(app)


def raising(error: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        (lambda: None, 0, ""),
        (raising(typer.Exit(7)), 7, ""),
        (raising(InvalidError("x is wrong")), 2, "t: x is wrong\nTry 't go --help'.\n"),
        (raising(NotFoundError("no\nx")), 1, "t: no x\n"),
        (raising(KeyboardInterrupt()), 130, ""),
        (raising(ZeroDivisionError("by 0")), 1, "t: unexpected ZeroDivisionError: by 0\n"),
    ],
)
def test_each_ending_has_its_code_and_its_line(
    work: Callable[[], Any], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending.run(tool(work), "t", ["go"]) == code

    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "t: No such command 'gone'. Did you mean 'go'?\nTry 't --help'.\n"),
        (["go", "--x"], "t: No such option: --x\nTry 't go --help'.\n"),
    ],
)
def test_wrong_usage_is_told_in_a_line_and_a_hint(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending.run(tool(lambda: None), "t", arguments) == 2

    assert capsys.readouterr() == ("", said)


def test_a_value_of_a_wrong_type_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending.run(tool(lambda: None), "t", ["go", "--count", "x"]) == 2

    assert capsys.readouterr().err.startswith("t: Invalid value for '--count'")


def test_a_tool_without_a_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending.run(tool(lambda: None), "t", []) == 0

    captured = capsys.readouterr()
    assert captured.out.startswith("Usage: t")
    assert captured.err == ""


def test_a_defect_can_be_shown_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDGLASS_TRACEBACK", "1")

    with pytest.raises(ZeroDivisionError):
        ending.run(tool(raising(ZeroDivisionError())), "t", ["go"])


@pytest.mark.parametrize("arguments", ["--help", "version", "config show"])
@pytest.mark.parametrize("tool", ["server", "ctl.main"])
def test_a_reader_who_has_gone_is_no_failure(tool: str, arguments: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", f"sandglass.cli.{tool}", *arguments.split()],
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, b"")
