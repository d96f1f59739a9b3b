"""What `sandglass` says of settings that can't be."""

import pytest

from sandglass.cli import server


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line in which it refuses to start with these, and says nothing else."""
    assert server.main([*arguments, "--config="]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sandglass: ")
    assert err.count("\n") == 1
    return err.removeprefix("sandglass: ")
