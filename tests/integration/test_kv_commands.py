"""`sandctl kv`, as people and scripts run it."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_commands import FREE_PORTS, Server, serving

BINARY = bytes(range(256))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the module; each test has a topic of its own."""
    home = tmp_path_factory.mktemp("home")
    with serving(home, "--data", str(home / "data"), *FREE_PORTS) as started:
        yield started


_numbers = itertools.count(1)


@pytest.fixture
def topic(server: Server) -> str:
    """A KV topic of three partitions."""
    name = f"topic-{next(_numbers)}"
    server.ok("topics", "create", name, "-p", "3", "--kind", "KVKind")
    return name


@pytest.mark.parametrize("kind", ["KVKind", "kvkind", "kv"])
def test_a_kv_topic_is_created_by_any_spelling_of_its_kind(server: Server, kind: str) -> None:
    name = f"kind-{kind}"

    server.ok("topics", "create", name, "--kind", kind)

    assert "kv" == json.loads(server.ok("topics", "show", name, "--json"))["kind"]


def test_a_value_is_put_got_and_deleted(server: Server, topic: str) -> None:
    assert "OK\n" == server.ok("kv", "put", topic, "ada", "36")
    assert "36" == server.ok("kv", "get", topic, "ada")
    assert "OK\n" == server.ok("kv", "delete", topic, "ada")

    for command in ("get", "delete"):
        done = server.ctl("kv", command, topic, "ada")
        assert (1, b"") == (done.returncode, done.stdout)
        said = f"sandctl: topic '{topic}' holds nothing under key 'ada'\n"
        assert said == done.stderr.decode()


def test_producing_with_a_key_is_putting(server: Server, topic: str) -> None:
    server.ok("produce", topic, "36", "--key", "ada")
    server.ok("produce", topic, "37", "--key", "ada")

    assert "37" == server.ok("kv", "get", topic, "ada")


def test_a_value_goes_both_ways_as_it_is(server: Server, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(BINARY)

    server.ok("kv", "put", topic, "a", "--file", str(file))
    server.ok("kv", "put", topic, "b", "--file", "-", stdin=BINARY[::-1])
    server.ok("kv", "put", topic, "c", "")

    assert [BINARY, BINARY[::-1], b""] == [
        server.ctl("kv", "get", topic, key).stdout for key in "abc"
    ]


def test_keys_are_text_hexadecimal_or_base64(server: Server, topic: str) -> None:
    server.ok("kv", "put", topic, "00ff", "1", "--hex", "--clustering-key", "0a")
    server.ok("kv", "put", topic, "AP8=", "2", "--base64")

    assert "1" == server.ok("kv", "get", topic, "AP8=", "--base64", "--clustering-key", "Cg==")
    assert "2" == server.ok("kv", "get", topic, "00FF", "--hex=true")
    for arguments in (("00ff",), ("00ff", "--hex", "--clustering_key", "0b")):
        assert 1 == server.ctl("kv", "get", topic, *arguments).returncode


def test_json_has_all_parts(server: Server, topic: str) -> None:
    put = json.loads(
        server.ok(
            *("kv", "put", topic, "ada", "36", "--clustering-key", "age"),
            *("--header", "unit=years", "--channel", "side", "--json"),
        )
    )
    shown = json.loads(
        server.ok(
            *("kv", "get", topic, "ada", "--clustering-key", "age", "--channel", "side"),
            *("--partition", put["partition"], "--json"),
        )
    )

    produced_at = shown.pop("produced_at")
    assert {
        "key": "ada",
        "clustering_key": "age",
        "value": "36",
        "revision": 1,
        "offset": put["offset"],
        "headers": {"unit": "years"},
    } == shown
    assert ({"topic": topic, "revision": 1}, "Z") == (
        {name: put[name] for name in ("topic", "revision")},
        produced_at[-1],
    )
    server.ok("kv", "put", topic, "ff", "--hex", "--file", "-", stdin=b"\xff")
    binary = json.loads(server.ok("kv", "get", topic, "ff", "--hex", "--json"))
    assert ("/w==", "/w==") == (binary["key_base64"], binary["value_base64"])
    deleted = json.loads(server.ok("kv", "delete", topic, "ff", "--hex", "--json"))
    assert {"topic": topic, "deleted": 1} == deleted


def test_entries_are_listed_by_prefix_key_and_number(server: Server, topic: str) -> None:
    for number in range(5):
        server.ok("kv", "put", topic, f"a{number}", str(number))
    server.ok("kv", "put", topic, "b", "x" * 10, "--clustering-key", "one")
    server.ok("kv", "put", topic, "b", "", "--clustering-key", "two")

    def keys(*arguments: str) -> list[str]:
        return [each["key"] for each in json.loads(server.ok("kv", "list", topic, *arguments))]

    assert ["a0", "a1", "a2", "a3", "a4"] == sorted(keys("--prefix", "a", "--json"))
    assert ["b", "b"] == keys("--key", "b", "--json")
    assert 7 == len(keys("-n", "0", "--json"))
    assert 2 == len(keys("-n", "2", "--json"))
    lines = server.ok("kv", "list", topic, "--key", "b").splitlines()
    assert ["KEY", "CLUSTERING", "KEY", "REVISION", "BYTES", "PUT"] == lines[0].split()
    assert [["b", "one", "10"], ["b", "two", "0"]] == [
        [*line.split()[:2], line.split()[3]] for line in lines[1:]
    ]


def test_keys_that_are_no_text_are_listed_in_digits(server: Server, topic: str) -> None:
    server.ok("kv", "put", topic, "ff0a", "1", "--hex")

    assert "hex:ff0a" in server.ok("kv", "list", topic)
    assert "\nff0a " in server.ok("kv", "list", topic, "--hex", "--prefix", "ff")
    assert "\n/wo= " in server.ok("kv", "list", topic, "--base64")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("get none k", 1, "'none' not found"),
        ("put none k v", 1, "'none' not found"),
        ("delete none k", 1, "'none' not found"),
        ("get timer k", 1, "only with a KV topic"),
        ("put timer k v", 1, "only with a KV topic"),
        ("get T k --partition nowhere", 1, "no partition"),
        ("get T k --channel a/b", 1, "is not a name"),
        ("get T k --clustering-key c", 1, "under key 'k' and clustering key 'c'"),
        (f"get T {'k' * 1025}", 1, "key is 1025 bytes; the limit is 1024"),
        ("put T k", 2, "nothing to put"),
        ("put T k v --file f", 2, "VALUE and --file are both given"),
        ("put T k --file /none", 2, "--file /none: No such file"),
        ("put T k v --header nope", 2, "it must be NAME=VALUE"),
        ("get T zz --hex", 2, "KEY is not hexadecimal"),
        ("get T zz=z --base64", 2, "KEY is not base64"),
        ("get T 00 --hex --clustering-key x", 2, "--clustering-key is not hexadecimal"),
        ("get T 00 --hex --base64", 2, "--hex and --base64 are both given"),
        ("list none", 1, "'none' not found"),
        ("list timer", 1, "only with a KV topic"),
        ("list T --partition nowhere", 1, "no partition"),
        ("list T --key k --prefix p", 2, "--prefix and --key are both given"),
        ("list T --prefix zz --hex", 2, "--prefix is not hexadecimal"),
        ("list T --hex --base64", 2, "--hex and --base64 are both given"),
        ("list T -n -1", 2, "--number is -1; it must be 0 or more"),
        (f"list T --prefix {'k' * 1025}", 1, "prefix is 1025 bytes; the limit is 1024"),
    ],
)
def test_failures_on_keys_are_one_line_and_a_code(
    server: Server, topic: str, arguments: str, code: int, said: str
) -> None:
    server.ctl("topics", "create", "timer")

    done = server.ctl("kv", *[topic if each == "T" else each for each in arguments.split()])

    lines = done.stderr.decode().splitlines()
    assert (code, code) == (done.returncode, len(lines)), lines
    assert lines[0].startswith("sandctl: ")
    assert said in lines[0]


def test_an_empty_key_is_refused(server: Server, topic: str) -> None:
    done = server.ctl("kv", "get", topic, "")

    assert (2, b"") == (done.returncode, done.stdout)
    assert b"sandctl: KEY is empty" in done.stderr


def test_a_kv_topic_is_not_consumed(server: Server, topic: str) -> None:
    done = server.ctl("consume", topic)

    assert 1 == done.returncode
    assert b"is a KV topic" in done.stderr
