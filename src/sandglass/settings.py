"""
Settings of the commands: values only.

One table: a field of `Settings` or `CtlSettings` holds name, default, range and help text; the
flags, the reference documents and their tests are made from `table()`. `cli.config` fills the
classes from their sources. Components get the values they need, never a whole `Settings`.
"""

import os
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from sandglass.core import limits
from sandglass.errors import InvalidError

SERVER_PREFIX: Final = "SANDGLASS_"
CTL_PREFIX: Final = "SANDCTL_"
"""Of variables: the server's, and sandctl's."""

HIDDEN: Final = "(hidden)"
"""What is shown of a secret."""

PORT_MAX: Final = 65_535

_DURATION_PART: Final = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?(d|h|ms|m|s|us|µs)")
_DURATION: Final = re.compile(rf"(?:{_DURATION_PART.pattern})+\Z")
_UNIT_US: Final = {
    "us": 1,
    "µs": 1,
    "ms": 1000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_TRUE: Final = frozenset({"1", "t", "true"})
_FALSE: Final = frozenset({"0", "f", "false"})

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Setting:
    """
    A row of the table.

    `kind` is the type of the value: str, int, bool, tuple (of str), Path or timedelta. `low`
    and `high` are allowed themselves. `envs` are the variables that set it, strongest first.
    A secret is never shown, and is no flag: all users of a machine see those of its processes.
    """

    name: str
    kind: type
    help: str
    default_text: str
    short: str
    low: Any
    high: Any
    choices: tuple[str, ...]
    envs: tuple[str, ...]
    is_secret: bool

    @property
    def metavar(self) -> str:
        """What stands for a value in a line of help."""
        return {str: "TEXT", int: "N", tuple: "LIST", Path: "PATH", timedelta: "DURATION"}.get(
            self.kind, ""
        )

    @property
    def range_text(self) -> str:
        """What is allowed, for people; empty if there is nothing to say."""
        if self.choices:
            return " | ".join(self.choices)
        if self.kind is bool:
            return "true | false"
        return "" if self.low is None else f"{shown(self.low)} to {shown(self.high)}"


def host_name() -> str:
    """This machine's name, made fit to be a node's."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[: limits.NAME_LENGTH_MAX]
    return name.strip(".-") or "node"


def data_folder() -> Path:
    """Where a user's programs keep data on this system, and in it our folder."""
    base = os.environ.get("XDG_DATA_HOME")
    if base:
        return Path(base) / "sandglass"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "sandglass"
    return Path.home() / ".local" / "share" / "sandglass"


def setting(
    default: Value | Callable[[], Value],
    help: str,  # noqa: A002 - the word of the command line
    *,
    default_text: str = "",
    short: str = "",
    low: Any = None,
    high: Any = None,
    choices: tuple[str, ...] = (),
    bare: bool = False,
    kind: type | None = None,
    secret: bool = False,
) -> Value:
    """
    A field of a settings class, with its row of the table.

    A callable default is asked at each load, and needs a `default_text` for the documents.
    `bare` settings are also read from the variable without a prefix. A `kind` is needed where
    the default, None, doesn't tell it.
    """
    row = {
        "help": help,
        "default_text": default_text,
        "short": short,
        "low": low,
        "high": high,
        "choices": choices,
        "bare": bare,
        "kind": kind,
        "secret": secret,
    }
    value: Any = (
        field(default_factory=default, metadata=row)
        if callable(default)
        else field(default=default, metadata=row)
    )
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a node is told. Paths are absolute or relative to the working directory."""

    name: str = setting(
        host_name, "Name of the node, unique in a cluster.", default_text="the host name"
    )
    data: Path = setting(
        data_folder,
        "Data directory; made if absent.",
        default_text="a folder of the user's: ~/.local/share/sandglass",
    )
    bind_addr: str = setting(
        "127.0.0.1",
        "Address that every listener binds to; beyond loopback it takes TLS and tokens, or"
        " --insecure.",
        bare=True,
    )
    advertise_addr: str = setting(
        "", "Address that other nodes are told; empty: bind_addr.", bare=True
    )
    http_port: int = setting(
        2108,
        "Port of HTTP: JSON, metrics and probes; 0 for a free one.",
        low=0,
        high=PORT_MAX,
        bare=True,
    )
    http_hosts: tuple[str, ...] = setting(
        (),
        "Names by which HTTP requests may call the node (their Host header), beside loopback,"
        " bind_addr and advertise_addr.",
    )
    grpc_port: int = setting(
        7170, "Port of the gRPC service; 0 for a free one.", low=0, high=PORT_MAX, bare=True
    )
    raft_port: int = setting(
        9190,
        "Client port of the cluster's engine: this node's own, on bind_addr.",
        low=1,
        high=PORT_MAX,
        bare=True,
    )
    gossip_port: int = setting(
        9900,
        "Route port of the cluster's engine: the other nodes' engines connect to it.",
        low=1,
        high=PORT_MAX,
        bare=True,
    )
    initial_peers: tuple[str, ...] = setting(
        (),
        "Route addresses (host:port, with their gossip_port) of the other nodes; this one's own"
        " is left out. With any, the node is part of a cluster and runs an engine; without, it"
        " is one machine.",
        short="p",
        bare=True,
    )
    bootstrap_raft: bool = setting(
        False,
        "Found the cluster, if nobody has: exactly one of its nodes.",
        bare=True,
    )
    cluster_secret_file: Path | None = setting(
        None,
        "File with the cluster's secret, the same on all nodes, mode 0600: engines know each"
        " other by it. Needed beyond loopback.",
        kind=Path,
    )
    engine_binary: Path | None = setting(
        None,
        "A nats-server (2.12 or newer) to run as the engine, instead of the one that comes with"
        " sandglass[cluster].",
        kind=Path,
    )
    engine_tls: bool = setting(
        False,
        "Encrypt what the nodes' engines say to each other: each shows the certificate in"
        " tls_cert_file, and wants one of the authorities in tls_client_ca_file.",
    )
    engine_url: tuple[str, ...] = setting(
        (),
        "Addresses (nats://host:4222, or tls://) of a NATS cluster of your own, to be the"
        " cluster's engine instead of one that the nodes run.",
    )
    engine_credentials_file: Path | None = setting(
        None,
        "What to show that engine, mode 0600: user:password, or a token, on one line.",
        kind=Path,
    )
    engine_ca_file: Path | None = setting(
        None,
        "Authorities of that engine's certificates, PEM, instead of the system's.",
        kind=Path,
    )
    snapshot_bytes: int = setting(
        limits.SNAPSHOT_BYTES_DEFAULT,
        "Bytes by which a replicated log grows from one snapshot to the next; its stream is"
        " trimmed to about twice as much.",
        low=limits.SNAPSHOT_BYTES_MIN,
        high=limits.SNAPSHOT_BYTES_MAX,
    )
    snapshot_folder: Path | None = setting(
        None,
        "A folder that all nodes of the cluster share, for snapshots of replicated logs;"
        " without it they lie in the engine.",
        kind=Path,
    )
    offset_replication_factor: int = setting(
        3,
        "Accepted, without effect: a group's state is replicated with its partition.",
        low=1,
        high=1000,
        bare=True,
    )
    session_grace: timedelta = setting(
        timedelta(milliseconds=limits.SESSION_GRACE_MS_DEFAULT),
        "How long a consumer may be away after a break, and still go on with what it holds.",
        low=timedelta(0),
        high=timedelta(milliseconds=limits.SESSION_GRACE_MS_MAX),
    )
    stop_grace: timedelta = setting(
        timedelta(seconds=5),
        "How long a stop waits for what is on its way.",
        low=timedelta(0),
        high=timedelta(seconds=8),
    )
    tls_cert_file: Path | None = setting(
        None,
        "Certificate chain of every listener, PEM. Read again when it changes.",
        kind=Path,
    )
    tls_key_file: Path | None = setting(
        None, "Key of the certificate, PEM, not encrypted.", kind=Path
    )
    tls_client_ca_file: Path | None = setting(
        None,
        "Authorities, PEM: clients must have a certificate of one of them.",
        kind=Path,
    )
    token_file: Path | None = setting(
        None,
        "Tokens of which clients must show one, as hashes; see sandglass token. Mode 0600, read"
        " again when it changes.",
        kind=Path,
    )
    insecure: bool = setting(False, "Serve beyond loopback although TLS or tokens are missing.")
    log_format: str = setting(
        "auto",
        "Form of the log on stderr; auto is human on a terminal, and json otherwise.",
        choices=("auto", "human", "json"),
    )
    verbose: bool = setting(False, "Log at debug level.", short="v", bare=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CtlSettings:
    """What sandctl is told."""

    addrs: tuple[str, ...] = setting(
        ("127.0.0.1:7170",),
        "Addresses (host:port) of nodes; a missing host is 127.0.0.1. The first that answers"
        " is used.",
        short="s",
        bare=True,
    )
    timeout: timedelta = setting(
        timedelta(seconds=10),
        "How long a call may wait for its answer; where it is given, for a node to come, too.",
        low=timedelta(milliseconds=1),
        high=timedelta(hours=24),
        bare=True,
    )
    tls: bool = setting(
        False, "Encrypt, and trust the system's authorities. The files below imply it."
    )
    ca_file: Path | None = setting(
        None, "Authorities to trust instead of the system's, PEM.", kind=Path
    )
    cert_file: Path | None = setting(
        None, "Certificate chain to show, where the node asks for one, PEM.", kind=Path
    )
    key_file: Path | None = setting(
        None, "Key of that certificate, PEM, not encrypted.", kind=Path
    )
    server_name: str = setting(
        "", "Name that the node's certificate must have; empty: the host of the address."
    )
    token_file: Path | None = setting(
        None, "File with the token to show, and nothing else; mode 0600.", kind=Path
    )
    token: str = setting(
        "",
        "The token itself, where a file is out of the question: no flag, only a variable or a"
        " config.",
        secret=True,
    )
    insecure: bool = setting(
        False, "Send the token to other machines although nothing is encrypted."
    )


@cache
def table(kind: type[Any]) -> tuple[Setting, ...]:
    """The rows of a settings class, in order."""
    return tuple(_row(each, _PREFIXES[kind]) for each in fields(kind))


def parse(row: Setting, value: object, *, source: str) -> Any:
    """
    A value of the setting's type and range, from a flag, a variable, or a file.

    Raises:
        InvalidError: it is neither.
    """
    parsed = _PARSERS[row.kind](row, value, source)
    if row.choices and parsed not in row.choices:
        raise _wrong(row, value, source, f"must be one of {', '.join(row.choices)}")
    if row.low is not None and not row.low <= parsed <= row.high:
        raise _wrong(row, value, source, f"must be {row.range_text}")
    if row.name == "name":
        limits.check_name(parsed, field="name")
    return parsed


def parse_duration(text: str, *, field: str) -> timedelta:
    """
    A length of time as people write it: `250ms`, `90s`, `5m`, `1h30m`, `7d`.

    Raises:
        InvalidError: no such length, or longer than can be counted.
    """
    if not _DURATION.match(text):
        raise InvalidError(
            f"{field} is {text!r}; it must be a length of time such as 250ms, 90s, 5m, 1h30m"
            " or 7d",
            field=field,
        )
    try:
        return timedelta(microseconds=sum(map(_part_us, _DURATION_PART.finditer(text))))
    except OverflowError:
        raise InvalidError(f"{field} is {text!r}; that is too long", field=field) from None


def _part_us(part: re.Match[str]) -> int:
    """Rounded to the nearest; in whole numbers, since a float is not exact for long ones."""
    whole, rest, unit = part.group(1), part.group(2) or "", part.group(3)
    scale = 10 ** len(rest)
    return (2 * int(whole + rest) * _UNIT_US[unit] + scale) // (2 * scale)


def parse_bool(text: str) -> bool | None:
    """true, t, 1, false, f, 0 in any case; None for anything else."""
    lower = text.lower()
    if lower in _TRUE:
        return True
    return False if lower in _FALSE else None


# --- the table ---


_PREFIXES: Final[dict[type, str]] = {Settings: SERVER_PREFIX, CtlSettings: CTL_PREFIX}


def _row(each: Any, prefix: str) -> Setting:
    meta = each.metadata
    default = each.default if each.default is not MISSING else each.default_factory()
    upper = each.name.upper()
    envs = [prefix + upper]
    if meta["bare"]:
        # Those of sandctl are also read with the server's prefix, as they were at first.
        envs += [SERVER_PREFIX + upper, upper]
    return Setting(
        name=each.name,
        kind=meta["kind"] or (Path if isinstance(default, Path) else type(default)),
        help=meta["help"],
        default_text=meta["default_text"] or shown(default),
        short=meta["short"],
        low=meta["low"],
        high=meta["high"],
        choices=meta["choices"],
        envs=tuple(dict.fromkeys(envs)),
        is_secret=meta["secret"],
    )


def shown(value: object) -> str:
    """A value for people."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value) or "none"
    if isinstance(value, timedelta):
        return show_duration(value)
    if value is None:
        return "none"
    return str(value) if value != "" else "empty"


def show_duration(value: timedelta) -> str:
    """As `parse_duration` reads it: `1h30m`, `250ms`; `0s` for nothing."""
    rest = value // timedelta(microseconds=1)
    shown = ""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, rest = divmod(rest, _UNIT_US[unit])
        if count:
            shown += f"{count}{unit}"
    return shown or "0s"


# --- values ---


def _wrong(row: Setting, value: object, source: str, rule: str) -> InvalidError:
    text = HIDDEN if row.is_secret else _text_of(value)
    text = text if len(text) <= 60 else text[:60] + "..."
    return InvalidError(f"{row.name} (from {source}) is {text!r}; it {rule}", field=row.name)


def _text_of(value: object, *, is_inside: bool = False) -> str:
    """
    As a person would write it, or what it is. A file can hold a list of lists that is endless
    when it is written out, and a number with more digits than Python shows.
    """
    if isinstance(value, (list, tuple)) and not is_inside:
        return f"[{', '.join(_text_of(each, is_inside=True) for each in value[:10])}]"
    if isinstance(value, (list, tuple, dict, set)):
        return "a list or a table"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number beyond all limits"
    return str(value)


def _parse_text(row: Setting, value: object, source: str) -> str:
    if not isinstance(value, str):
        raise _wrong(row, value, source, "must be text; put it in quotes")
    return value


def _parse_path(row: Setting, value: object, source: str) -> Path:
    text = str(value) if isinstance(value, Path) else _parse_text(row, value, source)
    if not text or "\0" in text:
        raise _wrong(row, value, source, "must be a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise _wrong(
            row, value, source, "begins with the home of a user who has none"
        ) from error


def _parse_whole(row: Setting, value: object, source: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(row, value, source, f"must be a whole number, {row.range_text}")


def _parse_bool(row: Setting, value: object, source: str) -> bool:
    found = value if isinstance(value, bool) else parse_bool(_text_of(value))
    if found is None:
        raise _wrong(row, value, source, "must be true or false")
    return found


def _parse_texts(row: Setting, value: object, source: str) -> tuple[str, ...]:
    """A list, or a text with commas; lists from repeated flags may have commas too."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(each, str) for each in listed):
        raise _wrong(row, value, source, "must be a list of texts")
    parts = [part.strip() for each in listed for part in str(each).split(",")]
    return tuple(part for part in parts if part)


def _parse_length(row: Setting, value: object, source: str) -> timedelta:
    try:
        return parse_duration(_text_of(value), field=row.name)
    except InvalidError as error:
        rule = error.message.partition("; it ")[2] or "is too long"
        raise _wrong(row, value, source, rule) from None


_PARSERS: Final[dict[type, Callable[[Setting, object, str], Any]]] = {
    str: _parse_text,
    Path: _parse_path,
    int: _parse_whole,
    bool: _parse_bool,
    tuple: _parse_texts,
    timedelta: _parse_length,
}
