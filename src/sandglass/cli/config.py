"""
Settings from their sources: flags, environment, a config (file or URL), and defaults.

Rules
1. The strongest source wins: flag, environment, config, default. Each value is checked where it
   comes from, and an error names that source.
2. An unknown key of a config is refused with the nearest known one. An unknown variable only
   earns a note when it looks like a slip: others may put `SANDGLASS_...` into an environment.
"""

import difflib
import importlib
import json
import re
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit, urlunsplit

from sandglass.errors import InvalidError, NotFoundError
from sandglass.settings import (
    CTL_PREFIX,
    HIDDEN,
    SERVER_PREFIX,
    CtlSettings,
    Setting,
    Settings,
    parse,
    table,
)

SERVER_CONFIG_ENV: Final = "SANDGLASS_CONFIG"
CTL_CONFIG_ENV: Final = "SANDCTL_CONFIG"
"""The variables that name a config: the server's, and sandctl's."""

CONFIG_BYTES_MAX: Final = 1024 * 1024
"""Of a file or a fetched page: a config is a page of text."""

CONFIG_FETCH_S: Final = 10.0
"""A start that waits longer for its config had better fail, and say so."""

_URL: Final = re.compile(r"https?://", re.IGNORECASE)

SUFFIXES: Final = ("yaml", "yml", "toml", "json")

Values = TypeVar("Values")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from: `flag`, `environment`, `file` or `default`, and which."""

    kind: str
    name: str = ""


DEFAULT: Final = Source("default")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[Values]):
    """
    Settings, and what a start should say about them: the config that was read (empty if none),
    and notes, a line each; and by name the sources of those that don't have their default.
    """

    settings: Values
    config: str
    notes: tuple[str, ...]
    sources: Mapping[str, Source]


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
    sources: dict[str, Source] = {}
    place = shown_place(config)
    if config:
        values |= _from_file(rows, read_config(config), place)
        sources |= dict.fromkeys(values, Source("file", place))
    for row in rows:
        env = next((each for each in row.envs if environ.get(each)), "")
        if env:
            values[row.name] = parse(row, environ[env], source=f"the variable {env}")
            sources[row.name] = Source("environment", env)
        given = flags.get(row.name)
        if given is not None:
            values[row.name] = parse(row, given, source=f"--{row.name}")
            sources[row.name] = Source("flag", f"--{row.name}")
    return Loaded(kind(**values), place, _slips(rows, environ), sources)


def shown_place(config: str) -> str:
    """A config's path or URL for people: what of a URL may hold a secret is left out."""
    if not _URL.match(config):
        return config
    try:
        parts = urlsplit(config)
    except ValueError:
        return "of an address that is none"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query=HIDDEN if parts.query else ""))


def read_config(config: str) -> dict[str, object]:
    """
    The keys of a config, from a path or an http(s) URL; YAML, TOML or JSON by its suffix, and
    YAML without one.

    Raises:
        InvalidError: too large, or not of that form.
        NotFoundError: it isn't there, or can't be read.
    """
    place = shown_place(config)
    if _URL.match(config):
        content, suffix = _fetched(config)
    else:
        path = Path(config).expanduser()
        try:
            with path.open("rb") as file:
                content = file.read(CONFIG_BYTES_MAX + 1)
        except OSError as error:
            raise NotFoundError(
                f"config {place} can't be read: {error.strerror or error}", field="config"
            ) from error
        suffix = path.suffix
    if len(content) > CONFIG_BYTES_MAX:
        raise InvalidError(
            f"config {place} is larger than {CONFIG_BYTES_MAX} bytes", field="config"
        )
    try:
        found = _decoded(content, suffix.lstrip(".").lower())
    except (ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InvalidError(
            f"config {place} can't be understood: {reason}", field="config"
        ) from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidError(f"config {place} holds no keys", field="config")
    return {str(key): value for key, value in found.items()}


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

    place = shown_place(url)
    if "@" in url.partition("?")[0]:
        raise InvalidError(f"config {place}: an address has no user and no password here")
    end_s = time.monotonic() + CONFIG_FETCH_S
    content = b""
    try:
        with urllib.request.urlopen(url, timeout=CONFIG_FETCH_S) as answer:
            form = str(answer.headers.get_content_subtype())
            # In pieces, so that the limit on time holds for one that trickles, too.
            while len(content) <= CONFIG_BYTES_MAX and (piece := answer.read1(65_536)):
                content += piece
                if time.monotonic() > end_s:
                    raise TimeoutError(f"not all of it came within {CONFIG_FETCH_S:g} s")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise NotFoundError(
            f"config {place} can't be read: {reason}", field="config"
        ) from error
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
        # Its own text quotes the line, and whatever secret is in it.
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{getattr(error, 'problem', 'no YAML')}{line}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # From what makes a value of a text; some of these quote it.
        raise ValueError("a value is not what its form or tag says") from error


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
    """Notes on variables with our prefixes that are one slip away from a setting's."""
    ours = {
        SERVER_CONFIG_ENV,
        CTL_CONFIG_ENV,
        *(env for kind in (Settings, CtlSettings) for env in _envs(kind)),
    }
    prefixes = (SERVER_PREFIX, CTL_PREFIX)
    wanted = [env for row in rows for env in row.envs if env.startswith(prefixes)]
    notes: list[str] = []
    for name in sorted(environ):
        if name.startswith(prefixes) and name not in ours:
            close = difflib.get_close_matches(name, wanted, n=1, cutoff=0.9)
            if close:
                notes.append(f"the variable {name} sets nothing; did you mean {close[0]}?")
    return tuple(notes)


def _envs(kind: type[Any]) -> list[str]:
    return [env for row in table(kind) for env in row.envs]
