"""
Settings of the commands: values only, from flags, environment, a file, and defaults.

Rules
1. One table. A field of `Settings` or `CtlSettings` holds name, default, range and help text; the
   flags, the reference documents and their tests are made from `table()`.
2. The strongest source wins: flag, environment, file, default. Each value is checked where it
   comes from, and an error names that source.
3. An unknown key of a file is refused with the nearest known one. An unknown variable only earns
   a note when it looks like a slip: others may put `SANDGLASS_...` into an environment too.
4. Components get the values they need, never a whole `Settings`.
"""

import difflib
import importlib
import ipaddress
import json
import os
import re
import socket
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from sandglass.core import limits
from sandglass.errors import InvalidError, NotFoundError

ENV_PREFIX: Final = "SANDGLASS_"

CONFIG_BYTES_MAX: Final = 1024 * 1024
"""Of a file or a fetched page: a config is a page of text."""

CONFIG_FETCH_S: Final = 10.0
"""A start that waits longer for its config had better fail, and say so."""

SUFFIXES: Final = ("yaml", "yml", "toml", "json")
PORT_MAX: Final = 65_535

_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:d|h|ms|m|s|us|µs))+\Z")
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(d|h|ms|m|s|us|µs)")
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
Values = TypeVar("Values")


@dataclass(frozen=True, slots=True)
class Setting:
    """
    A row of the table.

    `kind` is the type of the value: str, int, bool, tuple (of str), Path or timedelta. `low` and
    `high` are both allowed. `envs` are the variables that set it, strongest first.
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

    @property
    def range_text(self) -> str:
        """What is allowed, for people; empty if there is nothing to say."""
        if self.choices:
            return " | ".join(self.choices)
        if self.kind is bool:
            return "true | false"
        return "" if self.low is None else f"{_shown(self.low)} to {_shown(self.high)}"


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Values]):
    """
    Settings, and what a start should say about them: the config that was read (empty if none),
    and notes, a line each.
    """

    settings: Values
    config: str
    notes: tuple[str, ...]


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
    env: str = "",
) -> Value:
    """
    A field of a settings class, with its row of the table.

    A callable default is asked at each load, and needs a `default_text` for the documents. `bare`
    settings are also read from the variable without a prefix; `env` replaces the prefix.
    """
    row = {
        "help": help,
        "default_text": default_text,
        "short": short,
        "low": low,
        "high": high,
        "choices": choices,
        "bare": bare,
        "env": env,
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
        "Address that every listener binds to. Beyond loopback, --insecure is needed.",
        bare=True,
    )
    advertise_addr: str = setting(
        "", "Address that other nodes are told; empty: bind_addr.", bare=True
    )
    http_port: int = setting(
        2108,
        "Port of the HTTP gateway. Accepted; nothing listens there yet.",
        low=0,
        high=PORT_MAX,
        bare=True,
    )
    grpc_port: int = setting(
        7170, "Port of the gRPC service; 0 for a free one.", low=0, high=PORT_MAX, bare=True
    )
    raft_port: int = setting(
        9190,
        "Client port of the cluster's engine. Accepted; unused until there is a cluster.",
        low=0,
        high=PORT_MAX,
        bare=True,
    )
    gossip_port: int = setting(
        9900,
        "Route port of the cluster's engine. Accepted; unused until there is a cluster.",
        low=0,
        high=PORT_MAX,
        bare=True,
    )
    initial_peers: tuple[str, ...] = setting(
        (),
        "Route addresses (host:port) of other nodes. Accepted; the node serves alone and says"
        " so until there is a cluster.",
        short="p",
        bare=True,
    )
    bootstrap_raft: bool = setting(
        False,
        "Found the cluster. Accepted; no effect until there is a cluster.",
        bare=True,
    )
    offset_replication_factor: int = setting(
        3,
        "Accepted, without effect: a group's state is replicated with its partition.",
        low=1,
        high=1000,
        bare=True,
    )
    insecure: bool = setting(
        False, "Serve beyond loopback although nothing is encrypted and nobody is asked who."
    )
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
        "How long a call may wait for its answer.",
        low=timedelta(milliseconds=1),
        high=timedelta(hours=24),
        bare=True,
    )


def table(kind: type[Any]) -> tuple[Setting, ...]:
    """The rows of a settings class, in order."""
    return tuple(_row(each) for each in fields(kind))


def load(
    kind: type[Values],
    *,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    config: str = "",
    home: Path | None = None,
    file_stem: str = "",
) -> Loaded[Values]:
    """
    Settings from all their sources.

    Args:
        flags: by setting name; None for those not given.
        config: path or http(s) URL; empty for `.<file_stem>.yaml` (or .yml, .toml, .json) in
            `home`, if there is one.

    Raises:
        InvalidError: an unknown key, a value of a wrong type or outside its range, or a config
            that can't be understood; `field` names the key.
        NotFoundError: the config isn't there, or can't be read.
    """
    rows = table(kind)
    config = config or _home_config(home, file_stem)
    values: dict[str, object] = {}
    if config:
        values |= _from_file(rows, read_config(config), config)
    notes = _slips(rows, environ)
    for row in rows:
        for env in row.envs:
            if environ.get(env):
                values[row.name] = parse(row, environ[env], source=f"the variable {env}")
                break
        given = flags.get(row.name)
        if given is not None:
            values[row.name] = parse(row, given, source=f"--{row.name}")
    return Loaded(kind(**values), config, notes)


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
    parts: list[tuple[str, str]] = _DURATION_PART.findall(text)
    try:
        return timedelta(
            microseconds=sum(float(number) * _UNIT_US[unit] for number, unit in parts)
        )
    except OverflowError:
        raise InvalidError(f"{field} is {text!r}; that is too long", field=field) from None


def parse_bool(text: str) -> bool | None:
    """true, t, 1, false, f, 0 in any case; None for anything else."""
    lower = text.lower()
    if lower in _TRUE:
        return True
    return False if lower in _FALSE else None


def is_loopback(address: str) -> bool:
    """
    Whether only this machine can reach a listener bound to `address`; a name counts by what it
    resolves to now, and one that resolves to nothing doesn't count.
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(each[4][0]).is_loopback for each in found)


def read_config(config: str) -> dict[str, object]:
    """
    The keys of a config, from a path or an http(s) URL; YAML, TOML or JSON by its suffix, and
    YAML without one.

    Raises:
        InvalidError: too large, or not of that form.
        NotFoundError: it isn't there, or can't be read.
    """
    if re.match(r"https?://", config, re.IGNORECASE):
        content, suffix = _fetched(config)
    else:
        path = Path(config).expanduser()
        try:
            with path.open("rb") as file:
                content = file.read(CONFIG_BYTES_MAX + 1)
        except OSError as error:
            raise NotFoundError(
                f"config {config} can't be read: {error.strerror or error}", field="config"
            ) from error
        suffix = path.suffix
    if len(content) > CONFIG_BYTES_MAX:
        raise InvalidError(
            f"config {config} is larger than {CONFIG_BYTES_MAX} bytes", field="config"
        )
    try:
        found = _decoded(content, suffix.lstrip(".").lower())
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidError(
            f"config {config} can't be understood: {reason}", field="config"
        ) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidError(f"config {config} holds no keys", field="config")
    return {str(key): value for key, value in found.items()}


# --- the table ---


def _row(each: Any) -> Setting:
    meta = each.metadata
    default = each.default if each.default is not MISSING else each.default_factory()
    upper = each.name.upper()
    envs = [(meta["env"] or ENV_PREFIX) + upper]
    if meta["bare"]:
        envs.append(upper)
    return Setting(
        name=each.name,
        kind=Path if isinstance(default, Path) else type(default),
        help=meta["help"],
        default_text=meta["default_text"] or _shown(default),
        short=meta["short"],
        low=meta["low"],
        high=meta["high"],
        choices=meta["choices"],
        envs=tuple(envs),
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value) or "none"
    if isinstance(value, timedelta):
        return show_duration(value)
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


# --- sources ---


def _home_config(home: Path | None, file_stem: str) -> str:
    if home is None:
        return ""
    for suffix in SUFFIXES:
        path = home / f".{file_stem}.{suffix}"
        if path.is_file():
            return str(path)
    return ""


def _fetched(url: str) -> tuple[bytes, str]:
    """Content of a page, and the suffix of its form."""
    # Only a start with a URL pays for these.
    import http.client
    import urllib.request

    # Read in pieces, so that the limit on time holds for a server that trickles, too.
    try:
        with urllib.request.urlopen(url, timeout=CONFIG_FETCH_S) as answer:
            content: bytes = answer.read(CONFIG_BYTES_MAX + 1)
            form = str(answer.headers.get_content_subtype())
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NotFoundError(f"config {url} can't be read: {reason}", field="config") from error
    suffix = Path(urlsplit(url).path).suffix.lstrip(".").lower()
    return content, suffix if suffix in SUFFIXES else form


def _decoded(content: bytes, suffix: str) -> object:
    text = content.decode()
    if suffix == "json":
        return json.loads(text)
    if suffix == "toml":
        return tomllib.loads(text)
    try:
        # By name, because the bare wheel (client and sandctl) doesn't bring it.
        yaml = importlib.import_module("yaml")
    except ModuleNotFoundError:
        raise ValueError("YAML needs the package pyyaml; TOML and JSON don't") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _from_file(
    rows: tuple[Setting, ...], found: Mapping[str, object], config: str
) -> dict[str, object]:
    known = {row.name: row for row in rows}
    values: dict[str, object] = {}
    for key, value in found.items():
        name = key.lower().replace("-", "_")
        if name not in known:
            raise InvalidError(
                f"{key} in {config} is not a setting; {_nearest(name, list(known))}", field=key
            )
        if value is not None:
            values[name] = parse(known[name], value, source=config)
    return values


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"the nearest is {close[0]}" if close else "there are none"


def _slips(rows: tuple[Setting, ...], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on variables with our prefix that are one slip away from a setting's."""
    ours = {*CONFIG_ENVS, *(env for kind in (Settings, CtlSettings) for env in _envs(kind))}
    wanted = [env for row in rows for env in row.envs if env.startswith(ENV_PREFIX)]
    notes: list[str] = []
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in ours:
            close = difflib.get_close_matches(name, wanted, n=1, cutoff=0.9)
            if close:
                notes.append(f"the variable {name} sets nothing; did you mean {close[0]}?")
    return tuple(notes)


def _envs(kind: type[Any]) -> list[str]:
    return [env for row in table(kind) for env in row.envs]


CONFIG_ENVS: Final = (ENV_PREFIX + "CONFIG", "SANDCTL_CONFIG")
"""The variables that name a config: the server's, and sandctl's."""


# --- values ---


def _wrong(row: Setting, value: object, source: str, rule: str) -> InvalidError:
    shown = str(value)
    shown = shown if len(shown) <= 60 else shown[:60] + "..."
    return InvalidError(f"{row.name} (from {source}) is {shown!r}; it {rule}", field=row.name)


def _parse_text(row: Setting, value: object, source: str) -> str:
    if not isinstance(value, str):
        raise _wrong(row, value, source, "must be text; put it in quotes")
    return value


def _parse_path(row: Setting, value: object, source: str) -> Path:
    text = str(value) if isinstance(value, Path) else _parse_text(row, value, source)
    if not text or "\0" in text:
        raise _wrong(row, value, source, "must be a path")
    return Path(text).expanduser()


def _parse_whole(row: Setting, value: object, source: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong(row, value, source, f"must be a whole number, {row.range_text}")


def _parse_bool(row: Setting, value: object, source: str) -> bool:
    found = value if isinstance(value, bool) else parse_bool(str(value))
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
        return parse_duration(str(value), field=row.name)
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
