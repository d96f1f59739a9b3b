"""The command line, rewritten for the parser."""

import pytest
import typer

from sandglass.cli import server
from sandglass.cli.argv import normalised, options_of
from sandglass.cli.ctl import main as ctl
from sandglass.errors import InvalidError

OPTIONS = options_of(ctl.build())
SERVER_OPTIONS = options_of(typer.main.get_command(server.app))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("consume t --ack=false", "consume t --no-ack"),
        ("consume t --ack=true", "consume t --ack"),
        ("consume t --ack", "consume t --ack"),
        ("consume t --no-ack=false", "consume t --ack"),
        ("consume t -f", "consume t --follow"),
        ("consume t -f=T", "consume t --follow"),
        ("consume t --follow=false", "consume t"),
        ("produce t x -n=5", "produce t x -n 5"),
        ("produce t x -n5", "produce t x -n 5"),
        ("produce t x -n -5", "produce t x -n -5"),
        ("produce t x --number 5", "produce t x --number=5"),
        ("topics create t --num-partitions 3", "topics create t --num_partitions=3"),
        ("consume t --consumer_group g", "consume t --consumer-group=g"),
        ("consume t --consumer g", "consume t --consumer=g"),
    ],
)
def test_options_are_rewritten_as_the_parser_wants_them(given: str, expected: str) -> None:
    assert normalised(given.split(), OPTIONS) == expected.split()


def test_options_of_the_whole_tool_may_stand_anywhere() -> None:
    given = "topics create t -p 3 --addrs :7171 --json -s=:7172 --timeout=5s --config x"

    actual = normalised(given.split(), OPTIONS)

    assert actual[:6] == [
        "--addrs=:7171",
        "--json",
        "-s",
        ":7172",
        "--timeout=5s",
        "--config=x",
    ]
    assert actual[6:] == ["topics", "create", "t", "-p", "3"]


def test_what_is_a_value_is_no_option() -> None:
    given = ["produce", "t", "--key", "--json", "--header", "-s"]

    assert normalised(given, OPTIONS) == ["produce", "t", "--key=--json", "--header=-s"]


def test_nothing_is_rewritten_after_two_hyphens() -> None:
    given = ["produce", "t", "--", "--ack=false", "--json"]

    assert normalised(given, OPTIONS) == given


def test_what_is_unknown_is_left_to_the_parser() -> None:
    given = ["produce", "t", "--nmber=5", "-x", "-fn", "-", "--number"]

    assert normalised(given, OPTIONS) == given


@pytest.mark.parametrize("value", ["maybe", "", "yes"])
def test_a_boolean_that_is_neither_true_nor_false_is_refused(value: str) -> None:
    with pytest.raises(InvalidError, match=r"--ack is .*; it must be true or false"):
        normalised(["consume", "t", f"--ack={value}"], OPTIONS)


def test_an_option_of_the_whole_tool_does_not_take_a_command_for_its_value() -> None:
    with pytest.raises(InvalidError, match="'--addrs' requires an argument"):
        normalised(["topics", "list", "--addrs"], OPTIONS)


def test_flags_of_the_server_can_say_no_to_a_config() -> None:
    given = ["--insecure=false", "-v", "--bootstrap_raft=true", "-p", "a:1"]

    actual = normalised(given, SERVER_OPTIONS)

    assert actual == ["--no-insecure", "--verbose", "--bootstrap_raft", "-p", "a:1"]
