"""
The wheel in fresh environments: bare it is the client and `sandctl`, with `[server]` the node,
and with `[cluster]` one that may have peers, as that of the tour.

The wheel is built from this tree, and installed at the versions that requirements/dev.txt pins.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandglass.testing.ports import free_ports

ROOT = Path(__file__).parents[2]
RUN_S_MAX = 200
"""A deadline: an install takes some ten seconds."""

ENGINE_PORTS = ("raft_port", "gossip_port")

PIN = re.compile(r"^([A-Za-z0-9._\[\]-]+==\S+)", re.MULTILINE)

HELLO = """
import sandglass
with sandglass.Client(ADDRESS) as client:
    client.produce("emails", b"from the bare wheel")
"""


def run(*command: str | Path, code: int = 0) -> str:
    """What it prints, both streams; fails if it ends with another code."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RUN_S_MAX,
        check=False,
        env={name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")},
    )
    assert code == done.returncode, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    assert len(list(out.glob("sandglass-*.tar.gz"))) == 1
    (built,) = out.glob("sandglass-*.whl")
    return built


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pins") / "constraints.txt"
    pinned = PIN.findall((ROOT / "requirements" / "dev.txt").read_text())
    path.write_text("\n".join(re.sub(r"\[.*\]", "", pin) for pin in pinned))
    return path


def environment(directory: Path, wheel: Path, pins: Path, extra: str) -> Path:
    """A fresh environment with the wheel; returns where its commands are."""
    run(sys.executable, "-m", "venv", directory)
    binaries = directory / "bin"
    pip = (binaries / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "--disable-pip-version-check", "--constraint", pins, f"{wheel}{extra}")
    return binaries


@contextmanager
def node(binaries: Path, data: Path) -> Iterator[str]:
    """The tour's node, on a free port; yields its address."""
    port, *others = free_ports(3)
    engine = [f"--{name}={free}" for name, free in zip(ENGINE_PORTS, others, strict=True)]
    settings = ("--grpc_port", str(port), "--http_port", "0", "--data", str(data), *engine)
    process = subprocess.Popen(
        [
            str(binaries / "sandglass"),
            *("--config", "demo/node1.yaml", "--offset_replication_factor", "1", *settings),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(RUN_S_MAX)
    finally:
        process.kill()
        process.wait()


def wait_until_it_serves(sandctl: Path, address: str) -> None:
    deadline = time.monotonic() + RUN_S_MAX
    command = [str(sandctl), "--addrs", address, "topics", "list"]
    while subprocess.run(command, capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_tour_runs_from_an_installed_wheel(wheel: Path, pins: Path, tmp_path: Path) -> None:
    """A node of one environment; the tour, and a client, of another that is bare."""
    server = environment(tmp_path / "server", wheel, pins, "[server,cluster]")
    bare = environment(tmp_path / "bare", wheel, pins, "")

    with node(server, tmp_path / "data") as address:
        sandctl = (bare / "sandctl", "--addrs", address)
        wait_until_it_serves(bare / "sandctl", address)
        run(*sandctl, "topics", "create", "emails", "--num_partitions", "3", "-r", "1")
        run(*sandctl, "produce", "emails", '{"dest" : "hi@example.com"}', "-n", "10000")
        consumed = run(*sandctl, "consume", "emails")
        run(bare / "python", "-c", HELLO.replace("ADDRESS", repr(address)))
        last = run(*sandctl, "consume", "emails")

    assert 10_000 == consumed.count('{"dest" : "hi@example.com"}\n')
    assert "from the bare wheel\n" in last
    refused = run(bare / "sandglass", code=1)
    assert "install sandglass[server]" in refused
    assert 1 == len(refused.splitlines())
