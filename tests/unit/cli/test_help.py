"""What a list of commands says of each of them."""

from typing import Any

import pytest
import typer

from sandglass.cli import server
from sandglass.cli.argv import commands_of
from sandglass.cli.ctl import main as ctl

COLUMNS = 80


@pytest.mark.parametrize("root", [typer.main.get_command(server.app), ctl.build()])
def test_no_line_of_a_list_of_commands_is_cut_on_a_narrow_terminal(root: Any) -> None:
    cut = []
    for command in commands_of(root):
        below = getattr(command, "commands", {})
        width = max(map(len, below), default=0)
        for name, each in below.items():
            shown = each.get_short_help_str(COLUMNS - 6 - width)
            if not shown or shown.endswith("..."):
                cut.append(f"{command.name} {name}: {shown}")

    assert [] == cut
