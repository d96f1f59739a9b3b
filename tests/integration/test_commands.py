"""The two commands, as people and scripts run them: processes, pipes, signals, exit codes."""

import contextlib
import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandglass.core import limits
from sandglass.testing.ports import free_ports

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
FREE_PORTS = ("--grpc_port", "0", "--http_port", "0")
HANGUP = pytest.param(
    signal.SIGHUP,
    marks=pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="we run under nohup"
    ),
)


def environment(home: Path) -> dict[str, str]:
    """Ours, without settings of whoever runs the tests."""
    kept = ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_START")
    return {
        "HOME": str(home),
        **{name: os.environ[name] for name in kept if name in os.environ},
    }


@dataclass
class Server:
    """A `sandglass` that serves on `port`."""

    process: subprocess.Popen[str]
    home: Path
    started: list[dict[str, Any]]

    @property
    def port(self) -> int:
        return int(self.started[-1]["grpc"].rpartition(":")[2])

    def ctl(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Runs `sandctl` against it."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=WAIT_S,
            env=environment(self.home),
        )

    def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        """As above; what it printed, after checking that all went well."""
        done = self.ctl(*arguments, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    @contextmanager
    def running(
        self, *arguments: str, more_env: dict[str, str] | None = None, **pipes: Any
    ) -> Iterator[subprocess.Popen[Any]]:
        """A `sandctl` at work; killed at the end if it still is."""
        env = environment(self.home) | (more_env or {})
        with subprocess.Popen(self.command(*arguments), env=env, **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    def command(self, *arguments: str) -> list[str]:
        return [str(BIN / "sandctl"), "--addrs", f":{self.port}", *arguments]

    def group(self, topic: str, group: str = "sandctl") -> dict[str, Any]:
        """Sums over the partitions."""
        rows = json.loads(self.ok("groups", "list", topic, "--json"))
        nobody: dict[str, Any] = dict.fromkeys(
            ("leased_count", "acked_count", "lag_count", "retry_count"), 0
        )
        return next((row for row in rows if row["group"] == group), nobody)


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Server]:
    """A `sandglass` that has said that it serves; stopped at the end, with its engine."""
    process = subprocess.Popen(
        [str(BIN / "sandglass"), "--log_format", "json", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(home),
    )
    with process:
        try:
            assert process.stderr is not None
            lines: list[dict[str, Any]] = []
            while not lines or lines[-1]["message"] != "serving":
                lines.append(json.loads(process.stderr.readline()))
            yield Server(process, home, lines)
            process.terminate()
            process.wait(WAIT_S)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the module; each test has a topic of its own."""
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--data", str(home / "data"), *FREE_PORTS) as started:
        yield started


def messages_of(lines: list[dict[str, Any]]) -> list[str]:
    """What was logged, but for pauses: a busy machine makes them."""
    said = [line["message"] for line in lines]
    return [each for each in said if not each.startswith("paused for ")]


_numbers = itertools.count(1)


@pytest.fixture
def topic(server: Server) -> str:
    """An empty topic of three partitions."""
    name = f"topic-{next(_numbers)}"
    server.ok("topics", "create", name, "-p", "3")
    return name


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


# --- the tour ---


def test_the_tour_works_word_for_word(tmp_path: Path) -> None:
    """The ports are free ones and the data elsewhere; all else is as the README has it."""
    raft, gossip = free_ports(2)
    config = tmp_path / "node1.yaml"
    text = (ROOT / "demo" / "node1.yaml").read_text()
    config.write_text(
        text.replace("grpc_port: 7170", "grpc_port: 0")
        .replace("http_port: 2108", "http_port: 0")
        .replace("raft_port: 9190", f"raft_port: {raft}")
        .replace("gossip_port: 9900", f"gossip_port: {gossip}")
        .replace("/tmp/", f"{tmp_path}/")
    )
    arguments = ("--config", str(config), "--offset_replication_factor", "1")

    with serving(tmp_path, *arguments) as node:
        created = node.ok(
            *("topics", "create", "emails"),
            *("--num_partitions", "3", "--replication_factor", "1"),
        )
        produced = node.ok("produce", "emails", '{"dest" : "hi@example.com"}', "-n", "10000")
        consumed = node.ok("consume", "emails")
        again = node.ok("consume", "emails")

    assert created == "topic 'emails' was successfully created\n"
    assert produced == "OK\n"
    assert consumed == '{"dest" : "hi@example.com"}\n' * 10_000
    assert again == ""
    assert messages_of(node.started) == ["settings read", "serving"]


# --- topics ---


def test_topics_are_listed_shown_and_deleted(server: Server) -> None:
    server.ok("topics", "create", "shown", "-p=2", "--retention", "1h", "--kind", "TimerKind")

    listed = json.loads(server.ok("topics", "list", "--json"))
    shown = json.loads(server.ok("topics", "show", "shown", "--json"))
    table = server.ok("topics", "show", "shown")
    deleted = server.ok("topics", "delete", "shown", "--yes")

    assert "shown" in [each["name"] for each in listed]
    assert (shown["kind"], shown["retention"], shown["max_deliveries"]) == ("timer", "1h", 5)
    assert [each["message_count"] for each in shown["partitions"]] == [0, 0]
    assert all(each["id"] in table for each in shown["partitions"])
    assert deleted == "topic 'shown' was deleted\n"
    assert server.ctl("topics", "show", "shown").returncode == 1


def test_badger_is_accepted_with_a_line(server: Server) -> None:
    done = server.ctl("topics", "create", "badger", "--storage_driver", "Badger")

    assert done.returncode == 0
    assert done.stdout == b"topic 'badger' was successfully created\n"
    assert done.stderr == b"sandctl: storage driver Badger: stored as RocksDB\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("topics create a/b", 2, "topic 'a/b' is not a name"),
        ("topics create x -p 0", 2, "--num_partitions is 0; it must be 1 to 1024"),
        ("topics create x -p 1025", 2, "--num_partitions is 1025; it must be 1 to 1024"),
        ("topics create x --kind Tree", 2, "--kind is 'Tree'"),
        ("topics create x --storage_driver Oracle", 2, "--storage_driver is 'Oracle'"),
        ("topics create x --retention 7", 2, "--retention is '7'"),
        ("topics create x --retention 0s", 2, "--retention is 0s; it must be 1s to 36500d"),
        ("topics set t --retention 1ms", 2, "--retention is 1ms; it must be 1s to 36500d"),
        (
            "topics create x --ack_timeout 13h",
            2,
            "--ack_timeout is 13h; it must be 100ms to 12h",
        ),
        ("groups set t g --ack_timeout 0s", 2, "--ack_timeout is 0s; it must be 100ms to 12h"),
        ("topics create x -r 2", 1, "replication_factor 2"),
        ("topics create x -r 6", 2, "--replication_factor is 6; it must be 0 to 5"),
        ("topics show none", 1, "'none' not found"),
        ("topics delete none", 1, "'none' not found"),
        ("topics", 0, ""),
        ("groups show none g", 1, "'none' not found"),
        ("produce none x", 1, "'none' not found"),
        ("produce t", 2, "nothing to produce"),
        ("produce t x --file y", 2, "PAYLOAD and --file are both given"),
        ("produce t --file /none", 2, "--file /none: No such file or directory"),
        ("produce t --ndjson /none", 1, "/none: No such file or directory"),
        ("produce t --ndjson - --key k", 2, "--key goes into the lines"),
        ("produce t x -n 0", 2, "--number is 0"),
        ("produce t x -n 2 --id i", 2, "--id names one message"),
        ("produce t x --delay 5", 2, "--delay is '5'"),
        ("produce t x --delay 1s --at 2027-01-01T00:00:00Z", 2, "both given"),
        ("produce t x --at 2027-01-01T00:00:00", 2, "without a time zone"),
        ("produce t x --header nope", 2, "it must be NAME=VALUE"),
        ("consume none", 1, "'none' not found"),
        ("consume t --group a/b", 2, "--consumer-group 'a/b' is not a name"),
        ("consume t --poll-interval 5", 2, "--poll-interval is '5'"),
        ("consume t --ack=perhaps", 2, "--ack is 'perhaps'; it must be true or false"),
        ("groups seek t g --at p/1", 2, "offset '1' is not 28 hex digits"),
        ("dead purge t --yes --at p/1", 2, "offset '1' is not 28 hex digits"),
        ("topics list --addrs", 2, "'--addrs' requires an argument"),
        ("--timeout 0s topics list", 2, "it must be 1ms to 1d"),
        ("--addrs a/b topics list", 2, "address"),
        ("--config /none topics list", 1, "config /none can't be read"),
    ],
)
def test_failures_are_one_line_and_a_code(
    server: Server, arguments: str, code: int, said: str
) -> None:
    done = server.ctl(*arguments.split())

    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert len(lines) == code
    if code:
        assert lines[0].startswith("sandctl: ")
        assert said in lines[0]
    if code == 2:
        assert lines[1].startswith("Try 'sandctl ")


@pytest.mark.parametrize(
    ("flags", "end"),
    [((), b": connection refused\n"), (("--timeout=3s",), b" within 3 s: connection")],
)
@pytest.mark.parametrize("command", [("topics", "list"), ("produce", "t", "x")])
def test_nobody_at_the_address_is_a_failure(
    tmp_path: Path, command: tuple[str, ...], flags: tuple[str, ...], end: bytes
) -> None:
    """At once, or within the time for which a node is to be waited for."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        done = subprocess.run(
            [BIN / "sandctl", "-s", address, *flags, *command],
            capture_output=True,
            check=False,
            timeout=WAIT_S,
            env=environment(tmp_path),
        )

    expected = f"sandctl: no Sandglass node answered at {address}".encode() + end
    assert done.returncode == 1
    assert done.stderr.startswith(expected)
    assert done.stderr.count(b"\n") == 1


def test_addresses_come_from_the_environment_and_a_config(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / ".sandctl.toml").write_text(f'addrs = ["127.0.0.1:{server.port}"]\n')
    plain = [BIN / "sandctl", "topics", "list"]
    env = environment(tmp_path)

    by_config = subprocess.run(plain, env=env, capture_output=True, check=False)
    (tmp_path / ".sandctl.toml").unlink()
    env["ADDRS"] = f":{server.port}"
    by_variable = subprocess.run(plain, env=env, capture_output=True, check=False)

    assert (by_config.returncode, by_variable.returncode) == (0, 0)


# --- producing ---


def test_a_message_is_produced_with_all_its_parts(server: Server, topic: str) -> None:
    shown = json.loads(server.ok("topics", "show", topic, "--json"))
    partition = shown["partitions"][1]["id"]

    receipt = json.loads(
        server.ok(
            *("produce", topic, "grüße", "--json", "--partition", partition, "--channel", "c"),
            *("--key", "k", "--header", "a=b=c", "--header", "d=", "--id", "i"),
            *("--at", "2020-01-01T00:00:00+01:00"),
        )
    )
    found = json.loads(server.ok("consume", topic, "--channel", "c", "--json"))

    assert receipt == {
        "topic": topic,
        "count": 1,
        "partition": partition,
        "offset": found["offset"],
    }
    assert {key: found[key] for key in ("value", "key", "id", "headers", "attempt")} == {
        "value": "grüße",
        "key": "k",
        "id": "i",
        "headers": {"a": "b=c", "d": ""},
        "attempt": 1,
    }
    assert (found["partition"], found["channel"]) == (partition, "c")


def test_a_value_is_as_large_as_the_limit_and_no_larger(server: Server, topic: str) -> None:
    most = b"v" * limits.VALUE_BYTES_MAX

    server.ok("produce", topic, "--file", "-", stdin=most)
    refused = server.ctl("produce", topic, "--file", "-", stdin=most + b"v")

    said = b"sandctl: value is 1048577 bytes; the limit is 1048576\n"
    assert (1, said) == (refused.returncode, refused.stderr)
    assert most == server.ok("consume", topic).rstrip("\n").encode()


def test_a_delayed_message_comes_later_and_not_before(server: Server, topic: str) -> None:
    server.ok("produce", topic, "later", "--delay", "1h")
    server.ok("produce", topic, "soon", "--delay", "300ms", "-n", "2")

    produced_s = time.time()
    found = json.loads(server.ok("consume", topic, "-f", "-n", "1", "--json"))
    seen_s = time.time()

    assert found["value"] == "soon"
    assert found["due_at"] > found["produced_at"]
    assert seen_s >= produced_s
    until(lambda: server.ok("consume", topic) == "soon\n", "the other one")
    assert server.ok("consume", topic) == ""


def test_a_file_is_produced_whole_and_as_it_is(
    server: Server, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "payload").write_bytes(b"\xff\x00\nline\r\n")

    server.ok("produce", topic, "--file", str(tmp_path / "payload"))
    server.ok("produce", topic, "--file", "-", stdin=b"piped")

    assert json.loads(server.ok("consume", topic, "-n1", "--json"))["value_base64"]
    assert server.ctl("consume", topic, "--group", "g").stdout in (
        b"\xff\x00\nline\r\n\npiped\n",
        b"piped\n\xff\x00\nline\r\n\n",
    )


def test_a_file_beyond_the_limit_of_a_value_is_refused(
    server: Server, topic: str, tmp_path: Path
) -> None:
    largest = tmp_path / "largest"
    largest.write_bytes(b"x" * 1_048_576)
    server.ok("produce", topic, "--file", str(largest))

    largest.write_bytes(b"x" * 1_048_577)
    done = server.ctl("produce", topic, "--file", str(largest))

    assert done.returncode == 1
    assert b"1048577" in done.stderr
    assert b"1048576" in done.stderr


def test_lines_of_json_are_produced_and_come_back_the_same(server: Server, topic: str) -> None:
    lines = [
        {"value": "one", "key": "k", "headers": {"a": "b"}, "id": "1"},
        {"value_base64": "/wA=", "key": "k"},
        {"value": "other", "channel": "c"},
        {"value": "three", "key": "k", "at": "2020-01-01T00:00:00Z"},
        {"value": "far", "key": "k", "delay": "1h"},
    ]
    stdin = "\n".join(json.dumps(each) for each in lines).encode()

    assert server.ok("produce", topic, "--ndjson", "-", stdin=stdin) == "OK\n"

    printed = server.ok("consume", topic, "--json")
    found = [json.loads(line) for line in printed.splitlines()]
    kept = [
        {key: each[key] for key in each if key in ("value", "value_base64", "key", "headers")}
        for each in found
    ]
    assert kept == [
        {"value": "one", "key": "k", "headers": {"a": "b"}},
        {"value_base64": "/wA=", "key": "k"},
        {"value": "three", "key": "k"},
    ]
    assert server.ok("consume", topic, "--channel", "c") == "other\n"

    server.ok("topics", "create", f"{topic}-again")
    server.ok("produce", f"{topic}-again", "--ndjson", "-", stdin=printed.encode())
    again = server.ok("consume", f"{topic}-again", "--json").splitlines()
    assert [json.loads(line).get("value") for line in again] == ["one", None, "three"]


def test_a_wrong_line_ends_it_and_those_before_are_produced(server: Server, topic: str) -> None:
    stdin = b'{"value": "a"}\n\n{"value": "b"}\n{"valu": "c"}\n{"value": "d"}\n'

    done = server.ctl("produce", topic, "--ndjson", "-", stdin=stdin)

    assert done.returncode == 1
    assert done.stderr == (
        b"sandctl: stdin line 4: unknown key 'valu'; the nearest is 'value'"
        b" (2 messages were produced before)\n"
    )
    assert sorted(server.ok("consume", topic).split()) == ["a", "b"]


def test_a_refusal_by_the_node_says_how_many_lines_were_produced(
    server: Server, topic: str
) -> None:
    """The topic ends while lines are on their way: what was answered before counts."""
    with server.running(
        "produce", topic, "--ndjson", "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b'{"value": "a"}\n{"value": "b"}\n')
        process.stdin.flush()
        until(lambda: len(server.ok("consume", topic, "--ack=false").split()) == 2, "both")
        server.ok("topics", "delete", topic, "--yes")
        process.stdin.write(b'{"value": "c"}\n')
        process.stdin.close()
        assert process.wait(WAIT_S) == 1
        said = process.stderr.read().decode()

    assert said.endswith("not found (2 messages were produced before)\n")


def test_a_folder_is_no_lines(server: Server, tmp_path: Path) -> None:
    done = server.ctl("produce", "t", "--ndjson", str(tmp_path))

    assert (done.returncode, done.stderr) == (
        1,
        f"sandctl: {tmp_path}: Is a directory\n".encode(),
    )


def test_lines_are_produced_as_they_come(server: Server, topic: str) -> None:
    with server.running(
        "produce",
        topic,
        "--ndjson",
        "-",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"value": "first"}\n')
        process.stdin.flush()
        until(lambda: server.ok("consume", topic) == "first\n", "the first line")
        process.stdin.close()
        assert process.wait(WAIT_S) == 0


# --- consuming ---


def test_what_is_not_acknowledged_is_given_back_uncounted(server: Server, topic: str) -> None:
    server.ok("produce", topic, "v", "-n", "100")

    kept = [server.ok("consume", topic, "--ack=false", "--json") for _ in range(7)]
    acked = server.ok("consume", topic, "--ack=true", "--json")

    for each in (*kept, acked):
        assert [json.loads(line)["attempt"] for line in each.splitlines()] == [1] * 100
    assert server.ok("consume", topic) == ""


def test_at_most_so_many_are_taken_and_the_rest_stays(server: Server, topic: str) -> None:
    server.ok("produce", topic, "v", "-n", "50")

    assert server.ok("consume", topic, "-n", "7") == "v\n" * 7
    assert server.group(topic)["acked_count"] == 7
    assert server.ok("consume", topic) == "v\n" * 43


def test_partitions_and_groups_can_be_named(server: Server, topic: str) -> None:
    ids = [
        each["id"]
        for each in json.loads(server.ok("topics", "show", topic, "--json"))["partitions"]
    ]
    for place, each in enumerate(ids):
        server.ok("produce", topic, f"v{place}", "--partition", each)

    one = server.ok("consume", topic, "--partition", ids[1], "--consumer-name", "me")
    two = server.ok("consume", topic, "--partition", ids[0], "--partition", ids[2])
    other = server.ok("consume", topic, "--group", "other", "--consumer", "me")

    assert one == "v1\n"
    assert sorted(two.split()) == ["v0", "v2"]
    assert sorted(other.split()) == ["v0", "v1", "v2"]
    shown = json.loads(server.ok("groups", "show", topic, "other", "--json"))
    assert sorted(each["partition"] for each in shown["parts"]) == sorted(ids)
    assert "other" in server.ok("groups", "list")


def test_ctrl_c_keeps_what_was_acknowledged_and_gives_the_rest_back(
    server: Server, topic: str
) -> None:
    server.ok("produce", topic, "v", "-n", "100")
    with server.running(
        "consume",
        topic,
        "-f",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = [process.stdout.readline() for _ in range(100)]
        until(lambda: server.group(topic)["acked_count"] == 100, "acks while it follows")
        server.ok("produce", topic, "more")
        printed.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        assert process.stderr.read() == b""

    assert printed == [b"v\n"] * 100 + [b"more\n"]
    assert server.ok("consume", topic) == ""


def test_ctrl_c_without_acknowledging_gives_everything_back(server: Server, topic: str) -> None:
    server.ok("produce", topic, "v", "-n", "10")
    with server.running(
        "consume",
        topic,
        "--follow=true",
        "--ack=false",
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(10)]
        assert server.group(topic)["leased_count"] == 10
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130

    assert printed == [b"v\n"] * 10
    found = [json.loads(line) for line in server.ok("consume", topic, "--json").splitlines()]
    assert [each["attempt"] for each in found] == [1] * 10


@pytest.mark.parametrize("number", [signal.SIGTERM, HANGUP])
def test_other_signals_give_everything_back_as_well(
    server: Server, topic: str, number: signal.Signals
) -> None:
    """`timeout 5 sandctl consume -f`, or a terminal that is closed."""
    server.ok("produce", topic, "v", "-n", "10")
    with server.running(
        "consume", topic, "-f", "--ack=false", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        printed = [process.stdout.readline() for _ in range(10)]
        process.send_signal(number)
        assert process.wait(WAIT_S) == 128 + number
        assert process.stderr.read() == b""

    assert printed == [b"v\n"] * 10
    found = [json.loads(line) for line in server.ok("consume", topic, "--json").splitlines()]
    assert [each["attempt"] for each in found] == [1] * 10


def test_ctrl_c_ends_it_although_nobody_reads(server: Server, topic: str) -> None:
    server.ok("produce", topic, "v" * 1000, "-n", "2000")
    with server.running("consume", topic, stdout=subprocess.PIPE) as process:
        until(lambda: server.group(topic)["leased_count"] > 0, "a full pipe")
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130

    acked_count = server.group(topic)["acked_count"]
    assert len(server.ok("consume", topic).splitlines()) == 2000 - acked_count
    assert server.group(topic)["acked_count"] == 2000


def test_a_reader_who_has_enough_ends_it_quietly_and_loses_nothing(
    server: Server, topic: str
) -> None:
    """A delivery whose writing failed is given back: at least what `head` didn't read."""
    server.ok("produce", topic, "v" * 1000, "-n", "5000")
    with server.running(
        "consume",
        topic,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        assert process.wait(WAIT_S) == 0
        assert process.stderr.read() == b""

    rest = server.ok("consume", topic, "--json").splitlines()
    assert first == b"v" * 1000 + b"\n"
    status = server.group(topic)
    assert (status["acked_count"], status["lag_count"]) == (5000, 0)
    assert {json.loads(line)["attempt"] for line in rest} == {1}


def test_output_that_cannot_be_written_is_a_failure(server: Server, topic: str) -> None:
    server.ok("produce", topic, "v")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            server.command("consume", topic),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=environment(server.home),
        )

    assert done.returncode == 1
    assert done.stderr == b"sandctl: No space left on device\n"
    assert server.ok("consume", topic) == "v\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(server: Server, topic: str, closed: str) -> None:
    script = f'"$0" "$@" produce {topic} v {closed} && "$0" "$@" consume {topic} {closed}'
    done = subprocess.run(
        ["sh", "-c", script, *server.command()],
        capture_output=True,
        check=False,
        timeout=WAIT_S,
        env=environment(server.home),
    )

    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout in (b"", b"OK\nv\n")
    assert server.group(topic)["acked_count"] == 1


def test_a_table_that_cannot_be_written_is_a_failure(server: Server) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            server.command("topics", "list"),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            env=environment(server.home),
        )

    assert (done.returncode, done.stderr) == (1, b"sandctl: No space left on device\n")


def test_deleting_on_a_terminal_asks_first(server: Server, topic: str) -> None:
    ours, theirs = pty.openpty()
    with server.running(
        "topics",
        "delete",
        topic,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        os.write(ours, b"n\n")
        assert process.wait(WAIT_S) == 1
    os.close(ours)
    os.close(theirs)

    assert server.ok("topics", "show", topic)


@pytest.mark.parametrize("columns", [70, 200])
@pytest.mark.parametrize("line", ["topics list", "consume t -f"])
def test_progress_says_that_there_is_no_node_and_for_how_long(
    line: str, columns: int, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with subprocess.Popen(
            [BIN / "sandctl", *line.split(), "-s", address, "--timeout=1h"],
            env=environment(tmp_path) | {"TERM": "xterm", "COLUMNS": str(columns)},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            wanted = re.compile(rf"waiting for a node at {address}: .*\d:\d\d:\d\d".encode())
            shown = b""
            while not wanted.search(shown):
                shown += os.read(ours, 4096)
            process.kill()
    os.close(ours)


@pytest.mark.parametrize("tool", ["sandctl", "sandglass"])
def test_the_version_is_a_flag_too(tool: str, tmp_path: Path) -> None:
    shown = [
        subprocess.run(
            [BIN / tool, word], capture_output=True, check=True, env=environment(tmp_path)
        ).stdout
        for word in ("version", "--version")
    ]

    assert shown[0] == shown[1] != b""


@pytest.mark.parametrize("tool", ["sandctl", "sandglass"])
def test_a_shell_completes_commands(tool: str, tmp_path: Path) -> None:
    """In a shell of its own: which one is asked is what the tool finds out first."""
    script = f"""
        eval "$({BIN / tool} --show-completion bash)"
        PATH={BIN}:$PATH COMP_WORDS=({tool} versi) COMP_CWORD=1
        _{tool}_completion {tool}
        echo "${{COMPREPLY[@]}}"
    """

    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, check=True, env=environment(tmp_path)
    )

    assert (b"version\n", b"") == (done.stdout, done.stderr)


def test_progress_appears_on_a_terminal_after_a_second(server: Server, topic: str) -> None:
    ours, theirs = pty.openpty()
    with server.running(
        "consume",
        topic,
        "-f",
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        more_env={"TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        shown = b""
        while f"consuming {topic}".encode() not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        # A terminal that nobody has open any more answers with an error.
        with contextlib.suppress(OSError):
            while more := os.read(ours, 4096):
                shown += more
        assert process.wait(WAIT_S) == 130
    os.close(ours)

    assert b"\x1b[?25h" in shown, "the cursor is back"
    assert b"Traceback" not in shown


# --- the server ---


def test_a_port_in_use_is_told_in_one_line(server: Server, tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "sandglass", "--grpc_port", str(server.port), "--data", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
        env=environment(tmp_path),
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"sandglass: port {server.port} on 127.0.0.1 is in use; stop what listens there, or"
        " choose another with --grpc_port\n"
    )


def test_data_in_use_are_told_in_one_line(server: Server) -> None:
    done = subprocess.run(
        [BIN / "sandglass", *FREE_PORTS, "--data", server.home / "data"],
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
        env=environment(server.home),
    )

    assert done.returncode == 1
    assert done.stderr.startswith("sandglass: ")
    assert "in use" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, HANGUP])
def test_a_signal_stops_it_well_and_everything_is_there_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    arguments = ("--data", str(tmp_path / "data"), "--name", "n1", *FREE_PORTS)
    with serving(tmp_path, *arguments) as node:
        node.ok("topics", "create", "t")
        node.ok("produce", "t", "v", "-n", "10")
        with node.running(
            "consume",
            "t",
            "-f",
            "--ack=false",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as consumer:
            assert consumer.stdout is not None
            assert consumer.stdout.readline() == b"v\n"
            node.process.send_signal(number)
            assert node.process.wait(WAIT_S) == 0
            consumer.kill()
        assert node.process.stderr is not None
        said = [json.loads(line) for line in node.process.stderr]

    assert messages_of(said) == ["stopping", "stopped"]
    assert number.name in [line.get("signal") for line in said]
    with serving(tmp_path, *arguments) as node:
        assert node.ok("consume", "t", "-f", "-n", "10") == "v\n" * 10
