"""The schema of what commands print: whole, and itself a schema."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator

from sandglass.cli import schema
from sandglass.cli.ctl import main as ctl
from sandglass.cli.server import app as server_app


def _printing(command: Any, name: str, *, is_everywhere: bool) -> Iterator[str]:
    """Commands that take --json: all of sandctl, those of sandglass that say so."""
    below = getattr(command, "commands", {})
    for word, each in below.items():
        yield from _printing(each, f"{name} {word}", is_everywhere=is_everywhere)
    if not below and (is_everywhere or any("--json" in each.opts for each in command.params)):
        yield name


def test_every_command_with_json_has_a_schema() -> None:
    commands = [
        *_printing(ctl.build(), "sandctl", is_everywhere=True),
        *_printing(typer.main.get_command(server_app), "sandglass", is_everywhere=False),
    ]

    assert sorted(schema.COMMANDS) == sorted(commands)


@pytest.mark.parametrize("command", schema.COMMANDS)
def test_each_is_a_schema(command: str) -> None:
    Draft202012Validator.check_schema(schema.schema_of(command))


def test_every_shape_is_somebodys() -> None:
    told = str(schema.document())

    assert not [each for each in schema.SHAPES if f"'#/$defs/{each}'" not in told]
