"""`sandctl bench` against a real node: it measures, and leaves nothing behind."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from sandglass.cli.ctl.bench import quantile
from tests.integration.test_commands import FREE_PORTS, WAIT_S, Server, serving, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--data", str(home / "data"), *FREE_PORTS) as started:
        yield started


def test_a_load_is_measured_and_its_topic_is_gone(server: Server) -> None:
    printed = server.ok("bench", "-n", "250", "--batch", "100", "--size", "0", "--delay", "1ms")

    assert ["MESSAGES/S", "produce", "consume"] == [
        line.split()[0] for line in printed.splitlines()
    ]
    assert "sandctl-bench" not in server.ok("topics", "list")


def test_a_topic_that_is_there_is_refused_and_stays(server: Server) -> None:
    server.ok("topics", "create", "mine")
    server.ok("produce", "mine", "x")

    done = server.ctl("bench", "--topic", "mine")

    assert (1, b"") == (done.returncode, done.stdout)
    assert b"topic 'mine' already exists" in done.stderr
    assert "x\n" == server.ok("consume", "mine")


def test_ctrl_c_takes_the_topic_away(server: Server) -> None:
    with server.running(
        "bench", "--topic", "left", "--delay", "1h", stderr=subprocess.PIPE
    ) as process:
        until(lambda: "left" in server.ok("topics", "list"), "the topic")
        process.send_signal(signal.SIGINT)
        assert (None, b"") == process.communicate(timeout=WAIT_S)

    assert process.returncode == 130
    assert "left" not in server.ok("topics", "list")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--count 0", "--count is 0; it must be 1 to 10000000"),
        ("--size 1048577", "--size is 1048577; it must be 0 to 1048576"),
        ("--batch 65537", "--batch is 65537; it must be 1 to 65536"),
        ("--delay 61m", "--delay in ms is 3660000; it must be 0 to 3600000"),
        ("--topic no/name", "--topic"),
    ],
)
def test_what_is_out_of_bounds_is_refused(server: Server, line: str, text: str) -> None:
    done = server.ctl("bench", *line.split())

    assert done.returncode == 2
    assert text in done.stderr.decode()


def test_a_quantile_is_one_of_the_numbers() -> None:
    numbers = [float(each) for each in range(100, 0, -1)]

    assert (50.0, 99.0) == (quantile(numbers, 0.5), quantile(numbers, 0.99))
    assert 7.0 == quantile([7.0], 0.99)
