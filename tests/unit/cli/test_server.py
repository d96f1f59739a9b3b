"""What the server's command line refuses, and how it logs."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from sandglass.cli import logs, server
from sandglass.settings import Settings


@pytest.fixture
def log_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_addresses_that_only_this_machine_reaches_need_no_leave(address: str) -> None:
    assert server.is_loopback(address)
    assert server.exposure_of(Settings(bind_addr=address)) == ""


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "", "no such name", "."])
def test_addresses_that_others_reach_need_leave(address: str) -> None:
    assert not server.is_loopback(address)
    assert "--insecure" in server.exposure_of(Settings(bind_addr=address))
    assert server.exposure_of(Settings(bind_addr=address, insecure=True)) == ""


def test_an_exposed_listener_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["--bind_addr", "0.0.0.0", "--config="]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sandglass: bind_addr 0.0.0.0 can be reached")
    assert captured.err.count("\n") == 1


def test_a_setting_out_of_range_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["--grpc_port", "65536"]) == 2

    assert capsys.readouterr().err == (
        "sandglass: grpc_port (from --grpc_port) is '65536'; it must be 0 to 65535\n"
        "Try 'sandglass --help'.\n"
    )


def test_a_config_that_is_not_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.main(["--config", "/nowhere/s.yaml"]) == 1

    assert "config /nowhere/s.yaml can't be read" in capsys.readouterr().err


def test_the_version_is_printed_for_people_and_programs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert server.main(["version"]) == 0
    assert server.main(["version", "--json"]) == 0

    text, document = capsys.readouterr().out.splitlines()
    assert text.startswith("sandglass ")
    assert json.loads(document).keys() == {"tool", "version", "commit", "date"}


def test_python_without_asserts_is_refused() -> None:
    script = "import sys; from sandglass.cli.server import main; sys.exit(main([]))"

    done = subprocess.run(
        [sys.executable, "-O", "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr == (
        "sandglass: start Python without -O: the node relies on its asserts\n"
    )


@pytest.mark.usefixtures("log_restored")
def test_the_log_is_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("auto", is_verbose=False)

    structlog.get_logger("sandglass").info("serving", port=7170)
    logging.getLogger("some.library").warning("odd: %s", 1)
    logging.getLogger("some.library").debug("not shown")

    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert list(ours)[:3] == ["time", "level", "message"]
    assert (ours["level"], ours["message"], ours["port"]) == ("info", "serving", 7170)
    assert (theirs["level"], theirs["message"]) == ("warning", "odd: 1")
    assert theirs["logger"] == "some.library"


@pytest.mark.usefixtures("log_restored")
def test_the_log_is_a_plain_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("human", is_verbose=True)

    structlog.get_logger("sandglass").debug("serving", port=7170)

    line = capsys.readouterr().err
    assert "serving port=7170" in line
    assert "\x1b" not in line


def test_a_port_in_use_comes_with_advice() -> None:
    said = server._with_advice("port 7170 on 127.0.0.1 is in use")

    assert said.startswith("port 7170 on 127.0.0.1 is in use; ")
    assert server._with_advice("anything else") == "anything else"
