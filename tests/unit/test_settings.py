"""The table of settings, and values of each kind."""

from dataclasses import fields
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from sandglass.core import limits
from sandglass.errors import InvalidError
from sandglass.settings import (
    CtlSettings,
    Setting,
    Settings,
    host_name,
    parse,
    parse_bool,
    parse_duration,
    show_duration,
    table,
)

PROTOTYPE = {
    "name": "",
    "data": "",
    "bind_addr": "",
    "advertise_addr": "",
    "http_port": "",
    "grpc_port": "",
    "raft_port": "",
    "gossip_port": "",
    "initial_peers": "p",
    "bootstrap_raft": "",
    "offset_replication_factor": "",
    "verbose": "v",
}


SECRET = next(each for each in table(CtlSettings) if each.is_secret)


def row(name: str) -> Setting:
    return next(each for each in (*table(Settings), *table(CtlSettings)) if each.name == name)


def test_each_key_and_short_form_of_the_first_sandglass_is_there() -> None:
    known = {each.name: each.short for each in table(Settings)}

    assert PROTOTYPE == {name: known.get(name) for name in PROTOTYPE}


def test_defaults_are_those_that_are_promised() -> None:
    settings = Settings()

    assert settings.bind_addr == "127.0.0.1"
    assert (settings.grpc_port, settings.http_port) == (7170, 2108)
    assert (settings.raft_port, settings.gossip_port) == (9190, 9900)
    assert settings.name == host_name()
    assert settings.data.is_absolute()
    assert CtlSettings() == CtlSettings(
        addrs=("127.0.0.1:7170",), timeout=timedelta(seconds=10)
    )


@pytest.mark.parametrize("kind", [Settings, CtlSettings])
def test_each_field_has_a_row_with_help_and_a_default_within_its_range(kind: type) -> None:
    rows = table(kind)

    assert [each.name for each in fields(kind)] == [each.name for each in rows]
    for each in rows:
        assert each.help.endswith(".")
        assert each.default_text
        default = getattr(kind(), each.name)
        assert each.low is None or each.low <= default <= each.high


def test_bare_variables_are_those_of_the_first_sandglass_without_name_and_data() -> None:
    bare = {each.name for each in table(Settings) if each.name.upper() in each.envs}

    assert bare == PROTOTYPE.keys() - {"name", "data"}


def test_the_host_name_is_a_name_a_node_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "_my box!.local")

    assert parse(row("name"), host_name(), source="x") == "my-box-.local"


def test_a_user_s_data_lie_where_the_system_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")

    assert Settings().data == Path("/somewhere/sandglass")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("grpc_port", "0", 0),
        ("grpc_port", 65_535, 65_535),
        ("offset_replication_factor", "1", 1),
        ("initial_peers", "a:1, b:2,", ("a:1", "b:2")),
        ("initial_peers", ["a:1", "b:2,c:3"], ("a:1", "b:2", "c:3")),
        ("insecure", "TRUE", True),
        ("verbose", False, False),
        ("data", "~/x", Path("~/x").expanduser()),
        ("log_format", "json", "json"),
        ("session_grace", "0s", timedelta(0)),
        ("session_grace", "1m", timedelta(minutes=1)),
        ("timeout", "1ms", timedelta(milliseconds=1)),
    ],
)
def test_a_value_within_its_range_is_taken(name: str, given: object, expected: object) -> None:
    assert parse(row(name), given, source="x") == expected


@pytest.mark.parametrize(
    ("name", "given", "rule"),
    [
        ("grpc_port", "65536", "must be 0 to 65535"),
        ("grpc_port", -1, "must be 0 to 65535"),
        ("grpc_port", "71x", "must be a whole number, 0 to 65535"),
        ("grpc_port", True, "must be a whole number, 0 to 65535"),
        ("grpc_port", 7170.0, "must be a whole number, 0 to 65535"),
        ("offset_replication_factor", 0, "must be 1 to 1000"),
        ("bootstrap_raft", "yes", "must be true or false"),
        ("name", 17, "must be text; put it in quotes"),
        ("data", "", "must be a path"),
        ("initial_peers", [1], "must be a list of texts"),
        ("log_format", "xml", "must be one of auto, human, json"),
        ("session_grace", "60001ms", "must be 0s to 1m"),
        ("stop_grace", "9s", "must be 0s to 8s"),
        ("timeout", "10", "must be a length of time such as 250ms, 90s, 5m, 1h30m or 7d"),
        ("timeout", "0s", "must be 1ms to 1d"),
        ("timeout", "25h", "must be 1ms to 1d"),
    ],
)
def test_a_wrong_value_is_refused_by_name_source_value_and_rule(
    name: str, given: object, rule: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        parse(row(name), given, source="some.yaml")

    assert caught.value.message == f"{name} (from some.yaml) is {str(given)!r}; it {rule}"
    assert caught.value.field == name


def test_a_secret_is_not_shown_by_the_error_that_refuses_it() -> None:
    with pytest.raises(InvalidError) as caught:
        parse(SECRET, 12345, source="some.yaml")

    assert caught.value.message == (
        "token (from some.yaml) is '(hidden)'; it must be text; put it in quotes"
    )


def test_variables_of_sandctl_have_its_name_and_the_first_ones_the_old_names_too() -> None:
    assert row("timeout").envs == ("SANDCTL_TIMEOUT", "SANDGLASS_TIMEOUT", "TIMEOUT")
    assert row("ca_file").envs == ("SANDCTL_CA_FILE",)
    assert SECRET.envs == ("SANDCTL_TOKEN",)


def test_a_name_with_a_slash_is_refused() -> None:
    with pytest.raises(InvalidError, match="name"):
        parse(row("name"), "a/b", source="x")


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("250ms", timedelta(milliseconds=250)),
        ("90s", timedelta(seconds=90)),
        ("1.5s", timedelta(seconds=1.5)),
        ("1h30m", timedelta(hours=1.5)),
        ("7d", timedelta(days=7)),
        ("0s", timedelta(0)),
    ],
)
def test_lengths_of_time_are_read_as_people_write_them(text: str, length: timedelta) -> None:
    assert parse_duration(text, field="delay") == length


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5s ", "1e3s", "٥s", "1h-5m"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="delay is"):
        parse_duration(text, field="delay")


def test_a_length_beyond_counting_is_refused() -> None:
    with pytest.raises(InvalidError, match="too long"):
        parse_duration("9999999999999d", field="delay")


@pytest.mark.parametrize("text", ["9999999999992s", "0.123456s", "86400000.000001s"])
def test_long_lengths_are_exact(text: str) -> None:
    number, us = text.removesuffix("s"), timedelta(microseconds=1)

    assert int(Decimal(number) * 1_000_000) == parse_duration(text, field="delay") // us


@pytest.mark.parametrize("text", ["250ms", "1h30m", "7d", "0s", "1d2h3m4s5ms"])
def test_lengths_are_shown_as_they_are_read(text: str) -> None:
    assert show_duration(parse_duration(text, field="x")) == text


def test_booleans_are_read_as_the_first_sandglass_did() -> None:
    assert [parse_bool(each) for each in ("true", "T", "1")] == [True] * 3
    assert [parse_bool(each) for each in ("false", "F", "0")] == [False] * 3
    assert [parse_bool(each) for each in ("yes", "", "on", "2")] == [None] * 4


def test_a_value_that_is_endless_when_written_out_is_refused_in_few_words() -> None:
    """Aliases in a YAML file can make such a list of a few lines."""
    endless: list[object] = ["x"] * 10
    for _ in range(40):
        endless = [endless] * 10

    for row in table(Settings):
        for value in (endless, {"a": endless}, 10**5000):
            with pytest.raises(InvalidError) as refused:
                parse(row, value, source="some.yaml")
            assert len(refused.value.message) < 300


def test_snapshot_bytes_have_bounds() -> None:
    bounds = row("snapshot_bytes")
    low, high = limits.SNAPSHOT_BYTES_MIN, limits.SNAPSHOT_BYTES_MAX
    assert [low, high] == [parse(bounds, str(each), source="x") for each in (low, high)]
    assert low <= limits.SNAPSHOT_BYTES_DEFAULT == Settings().snapshot_bytes <= high

    for beyond in (low - 1, high + 1):
        with pytest.raises(InvalidError, match=f"snapshot_bytes.*{low}.*{high}"):
            parse(bounds, str(beyond), source="x")
