"""`sandctl` for operators, against a real node."""

import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from sandglass import Client
from sandglass.testing import Broker
from sandglass.testing.faults import SteppedClock
from tests.integration.test_commands import BIN, FREE_PORTS, Server, environment, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--data", str(home / "data"), *FREE_PORTS) as started:
        yield started


def shown(server: Server, *arguments: str) -> object:
    return json.loads(server.ok(*arguments, "--json"))


def test_settings_of_topics_and_groups(server: Server) -> None:
    server.ok("topics", "create", "own", "--backoff", "1s*2..10m~20%")
    topic = shown(server, "topics", "set", "own", "--retention", "30d", "--max_deliveries", "2")
    server.ok("groups", "create", "own", "g", "--start", "now", "--backoff", "1s,5s")
    group = shown(server, "groups", "set", "own", "g", "--ack_timeout", "90s")

    assert isinstance(topic, dict)
    assert ("1s*2..10m~20%", "30d", 2) == (
        topic["backoff"],
        topic["retention"],
        topic["max_deliveries"],
    )
    assert isinstance(group, dict)
    assert ("1s,5s", "1m30s", ["ack_timeout", "backoff"]) == (
        group["backoff"],
        group["ack_timeout"],
        group["own"],
    )
    listed = shown(server, "groups", "list", "own")
    assert isinstance(listed, list)
    assert ["g"] == [each["group"] for each in listed]
    server.ok("groups", "seek", "own", "g", "--start", "beginning")
    assert {"deleted": "g"} == shown(server, "groups", "delete", "own", "g", "--yes")
    assert [] == shown(server, "groups", "list", "own")


def test_a_step_of_the_clock_is_shown_and_accepted(tmp_path: Path) -> None:
    clock = SteppedClock()
    with Broker(clock=clock) as broker, Client(broker.address) as client:

        def ctl(*arguments: str) -> str:
            command = [BIN / "sandctl", "--addrs", broker.address, "clock", *arguments]
            return subprocess.check_output(command, env=environment(tmp_path), text=True)

        client.create_topic("t")
        client.produce("t", b"in an hour", delay=timedelta(hours=1))
        nothing = ctl("accept")
        clock.step(2 * 3_600_000)

        shown = ctl("show")
        stepped = client.admin.show_clock()
        early = [*client.consume("t", group="g", drain=True)]
        accepted = ctl("accept")
        (due,) = client.consume("t", group="g", drain=True)

        assert "nothing to accept" in nothing
        assert "stepped forward by 2h: believed in " in shown
        assert timedelta(hours=2) == pytest.approx(stepped.step, abs=timedelta(seconds=1))
        assert [] == early
        assert "accepted: the clock has gone forward by 2h\n" == accepted
        assert b"in an hour" == due.value
        assert timedelta() == client.admin.show_clock().step
        assert timedelta() == client.admin.accept_clock()


def test_a_group_is_moved_to_an_offset_in_one_partition(server: Server) -> None:
    server.ok("topics", "create", "m")
    placed = [json.loads(server.ok("produce", "m", text, "--json")) for text in "abc"]
    assert "a\nb\nc\n" == server.ok("consume", "m", "--group", "g")

    place = f"{placed[1]['partition']}/{placed[1]['offset']}"
    server.ok("groups", "seek", "m", "g", "--at", place)

    assert "b\nc\n" == server.ok("consume", "m", "--group", "g")


def test_dead_letters_and_what_is_pending(server: Server) -> None:
    server.ok("topics", "create", "d")
    server.ok("produce", "d", "later", "--delay", "1h")

    pending = shown(server, "schedule", "count", "d")
    listed = shown(server, "schedule", "list", "d")

    assert isinstance(pending, dict)
    assert (1, False) == (pending["count"], pending["is_lower_bound"])
    assert isinstance(listed, list)
    assert 1 == len(listed)
    assert [] == shown(server, "dead", "list", "d")
    assert {"count": 0, "size_bytes": 0, "groups": []} == shown(server, "dead", "count", "d")
    for command in ("redrive", "purge"):
        assert {"count": 0, "skipped_count": 0} == shown(server, "dead", command, "d")


@pytest.mark.parametrize("what", ["info", "nodes", "partitions"])
def test_where_there_is_no_cluster_that_is_said_instead_of_an_empty_table(
    server: Server, what: str
) -> None:
    done = server.ctl("cluster", what)

    assert 0 == done.returncode
    assert b"this node serves alone: it was given no initial_peers\n" == done.stdout


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("topics set s", 2, "no setting is given"),
        (
            "topics set s --replication_factor 0",
            2,
            "--replication_factor is 0; it must be 1 to ",
        ),
        ("topics set s --num_partitions 0", 2, "--num_partitions is 0; it must be 1 to "),
        ("topics create r -r 3", 1, "needs 3 members, 2 missing: this node serves alone"),
        ("topics set s --max_deliveries 0", 2, "--max_deliveries is 0; it must be 1 to "),
        ("groups set s g --max_deliveries 0", 2, "--max_deliveries is 0; it must be 1 to "),
        ("topics set none --retention 1d", 1, "'none' not found"),
        ("topics create x --backoff soon", 2, "--backoff"),
        ("groups set s none --unset backoff", 1, "not found"),
        ("groups create s h --start yesterday", 2, "--start"),
        ("groups seek s g --start then", 2, "it must be beginning, now, or a moment"),
        ("groups seek s g --at here", 2, "PARTITION/OFFSET"),
        ("groups seek s g --at here/there", 2, "offset"),
        ("groups seek s g --start now --at p/o", 2, "--start and --at are both given"),
        ("dead redrive s --at here", 2, "PARTITION/OFFSET"),
        ("dead list s -n -1", 2, "--number is -1; it must be 0 or more"),
        ("dead redrive s -n -1", 2, "--number is -1; it must be 0 or more"),
        ("dead purge s --older-than soon", 2, "--older-than"),
        ("schedule count s --from noon", 2, "--from"),
        ("schedule count none", 1, "'none' not found"),
    ],
)
def test_what_is_wrong_is_one_line(server: Server, line: str, code: int, text: str) -> None:
    if "'none'" not in text:
        server.ctl("topics", "create", "s")

    done = server.ctl(*line.split())

    first, *rest = done.stderr.decode().splitlines()
    assert (code, b"") == (done.returncode, done.stdout)
    assert text in first
    assert len(rest) == (1 if code == 2 else 0)
