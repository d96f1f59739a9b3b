"""The tour of a cluster, command by command, with one, two and three nodes of demo/."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandglass.testing.ports import free_ports

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
WAIT_S = 90.0
PORT = re.compile(r"\b(?:[2-4]108|717\d|91\d\d|990\d)\b")
EMAIL = '{"dest" : "hi@example.com"}'


class Tour:
    """A directory with the files of demo/, and the nodes that were started in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        texts = {path.name: path.read_text() for path in (ROOT / "demo").glob("node*.yaml")}
        found = sorted({port for text in texts.values() for port in PORT.findall(text)})
        self.ports = dict(zip(found, free_ports(len(found)), strict=True))
        (home / "demo").mkdir()
        for name, text in texts.items():
            moved = PORT.sub(lambda match: str(self.ports[match.group()]), text)
            (home / "demo" / name).write_text(moved.replace("/tmp/", f"{home}/"))

    def starts(self, line: str) -> None:
        """Types a command that goes on, in a terminal of its own, and waits until it serves."""
        name = Path(shlex.split(line)[2]).stem
        with (self.home / f"{name}.stderr").open("wb") as stderr:
            self.nodes[name] = subprocess.Popen(
                self._command(line), cwd=self.home, env=self._environment(), stderr=stderr
            )
        self.until(name, "serving")

    def until(self, name: str, text: str) -> None:
        """Waits until a node has said something."""
        end_s = time.monotonic() + WAIT_S
        said = ""
        while text not in said:
            assert time.monotonic() < end_s, f"{name} never said {text!r}: {said}"
            assert self.nodes[name].poll() is None, said
            time.sleep(0.05)
            said = (self.home / f"{name}.stderr").read_text()

    def ok(self, line: str, *, port: str = "7170") -> str:
        """Types a command; what it printed, after checking that all went well."""
        done = subprocess.run(
            self._command(line.replace("sandctl", f"sandctl --addrs :{self.ports[port]}", 1)),
            cwd=self.home,
            env=self._environment(),
            capture_output=True,
            check=False,
            timeout=WAIT_S,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    def end(self) -> None:
        """Stops the nodes, and what they may have left."""
        for node in self.nodes.values():
            node.terminate()
        for node in self.nodes.values():
            try:
                node.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                node.kill()
                node.wait()
        for pid in self.home.glob("sandglass-demo/*/engine/engine.pid"):
            with suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGKILL)

    def _command(self, line: str) -> list[str]:
        program, *arguments = shlex.split(line)
        return [str(BIN / program), *arguments]

    def _environment(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": os.environ["PATH"]}


@pytest.fixture
def tour(tmp_path: Path) -> Iterator[Tour]:
    found = Tour(tmp_path)
    try:
        yield found
    finally:
        found.end()


def goes_round(tour: Tour, topic: str, replicas: int, *, port: str = "7170") -> None:
    """The tour on one topic: made, produced to, consumed until nothing is left."""
    created = tour.ok(
        f"sandctl topics create {topic} --num_partitions 3 --replication_factor {replicas}",
        port=port,
    )
    assert created == f"topic '{topic}' was successfully created\n"
    assert tour.ok(f"sandctl produce {topic} '{EMAIL}' -n 10000", port=port) == "OK\n"
    assert tour.ok(f"sandctl consume {topic}", port=port) == f"{EMAIL}\n" * 10_000
    assert tour.ok(f"sandctl consume {topic}", port=port) == ""


def test_the_tour_goes_on_with_a_second_node_and_a_third(tour: Tour) -> None:
    """The ports are free ones and the data elsewhere; all else is as the README has it."""
    tour.starts("sandglass --config demo/node1.yaml --offset_replication_factor 1")
    goes_round(tour, "emails", 1)

    tour.starts("sandglass --config demo/node2.yaml")
    tour.until("node1", "joined the cluster")
    tour.until("node2", "joined the cluster")
    goes_round(tour, "both", 2)
    goes_round(tour, "second", 2, port="7171")
    # What the first node alone has is served at the second, too.
    assert tour.ok(f"sandctl produce emails '{EMAIL}' -n 100", port="7171") == "OK\n"
    assert tour.ok("sandctl consume emails", port="7171") == f"{EMAIL}\n" * 100

    tour.starts("sandglass --config demo/node3.yaml")
    tour.until("node3", "joined the cluster")
    goes_round(tour, "all", 3, port="7172")
    listed = tour.ok("sandctl topics list", port="7172")
    assert all(topic in listed for topic in ("emails", "both", "second", "all"))
