"""Decoders of texts: JSON, configs, token files, lengths of time, ids, arguments."""

import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.target import Target, check, text_of
from sandglass import sandflake
from sandglass.cli import config
from sandglass.cli.ctl import given, ndjson, values
from sandglass.core import limits, offset
from sandglass.errors import InvalidError
from sandglass.security import tokens
from sandglass.settings import CtlSettings, Settings, parse_duration, show_duration, table
from sandglass.web.hosts import Hosts, host_of
from sandglass.wire import gateway
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import admin_pb2, broker_pb2, keyvalue_pb2

# --- JSON over HTTP ---------------------------------------------------------------------------

_KINDS: tuple[Any, ...] = (
    *(compat.TopicConfig, compat.ProduceMessageRequest, compat.Message, compat.MarkRequest),
    *(compat.ConsumeFromGroupRequest, broker_pb2.Message, broker_pb2.ProduceRequest),
    *(keyvalue_pb2.GetRequest, keyvalue_pb2.ScanRequest, keyvalue_pb2.PutRequest),
    *(admin_pb2.CreateTopicRequest, admin_pb2.CreateGroupRequest),
)


def json_body(data: bytes) -> None:
    """The first byte says which message the rest is; what is taken comes back the same."""
    kind = _KINDS[data[0] % len(_KINDS)] if data else _KINDS[0]
    fields = _tried(gateway.parse, data[1:])
    found = None if fields is None else _tried(gateway.to_message, fields, kind)
    if found is None:
        return
    again = gateway.to_message(
        gateway.parse(json.dumps(gateway.to_fields(found)).encode()), kind
    )
    check(found == again, "a message is another after it was shown")


def _json_seeds() -> Sequence[bytes]:
    topic = {"name": "t", "kind": "KVKind", "numPartitions": 3, "storageDriver": 1}
    message = {"value": "aGk=", "key": "_-8", "consumeIn": "1.5s", "channel": "c", "index": "7"}
    stamped = {"producedAt": "2027-01-01T09:00:00Z", "offset": [0] * 14, "consumeIn": 15}
    produce = {"topic": "t", "messages": [message, stamped]}
    mark = {"offsets": ["AAAAAAAAAAAAAAAAAAA=", [1] * 14], "state": {"kind": "Acknowledged"}}
    ours = {"headers": [{"name": "h", "value": "dg"}], "id": "i", "clustering_key": "YQ=="}
    due = {"batch": "CgA=", "count": 1, "dueMs": ["5", 6, 7.0], "delayMs": []}
    keys = {"keys": [{"key": "aw", "clusteringKey": "Yw"}], "first": {"key": "a2s="}}
    settings = {"settings": {"backoff": {"delaysMs": [1], "factor": 2}, "maxDeliveries": 3}}
    listed = (topic, produce, message, mark, topic, ours, due, keys, keys, produce, settings)
    bodies = [json.dumps(each).encode() for each in listed]
    return [bytes([place]) + body for place, body in enumerate(bodies)]


def hosts(data: bytes) -> None:
    """Host and Origin of a request; a name that is known is so without its port."""
    node = Hosts("127.0.0.1", ["node.example"])
    host, _, origin = text_of(data).partition("\n")
    if node.is_known(host):
        check(node.is_known(host_of(host)), "a host is another without its port")
    if node.is_own_page(origin, "") and origin:
        check(node.is_known(origin.partition("://")[2]), "a stranger's page is let in")


# --- what an operator writes ------------------------------------------------------------------


def token_file(data: bytes) -> None:
    """What is taken of it is still there after a token was added and removed again."""
    found = _tried(tokens.parse_tokens, data, source="f")
    if found is None:
        return
    digest = tokens.digest_of("another")
    name = "a" * limits.NAME_LENGTH_MAX
    if digest in found or name in found.values() or len(found) >= limits.TOKEN_COUNT_MAX:
        return
    more = tokens.with_token(data, name, digest, source="f")
    check({**found, digest: name} == tokens.parse_tokens(more, source="f"), "tokens changed")
    again = tokens.without_token(more, name, source="f")
    check(found == tokens.parse_tokens(again, source="f"), "tokens changed")


def _token_seeds() -> Sequence[bytes]:
    content = b"# who may\n\n"
    for name in ("mailer", "board.2"):
        content = tokens.with_token(content, name, tokens.digest_of(name), source="f")
    return [content]


def config_file(data: bytes) -> None:
    """The first byte says its form and whose it is; the rest is the file."""
    form = data[0] if data else 0
    path = _folder() / f"c.{('yaml', 'toml', 'json')[form % 3]}"
    path.write_bytes(data[1:])
    kind: type[Any] = CtlSettings if form & 0x80 else Settings
    loaded = _tried(config.load, kind, flags={}, environ={}, config=str(path))
    if loaded is not None:
        for row in table(kind):
            check(isinstance(getattr(loaded.settings, row.name), row.kind | None), row.name)


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="sandglass-fuzz-"))


def _config_seeds() -> Sequence[bytes]:
    yaml = (
        b"name: node\nhttp_port: 0x10\ninitial_peers: [a, &b b, *b]\nsession_grace: 1s\n"
        b"verbose: yes\ndata: ~/x\ntoken_file: !!str f\n? stop_grace\n: 2s\n"
    )
    toml = b'name = "node"\nhttp_port = 1\ninitial_peers = ["a"]\nsession_grace = "1s"\n'
    js = b'{"name": "node", "http_port": 1, "initial_peers": ["a"], "verbose": true}'
    ours = b"addrs: a:1,b:2\ntimeout: 1h30m\ntls: true\n"
    odd = b"a: !!int ''\nb: !!timestamp 2001-01-01\nc: !!bool x\nd: 1:30\ne: .inf\n<<: {}\n"
    return [b"\0" + yaml, b"\1" + toml, b"\2" + js, b"\x81" + ours, b"\0" + odd]


def durations(data: bytes) -> None:
    """What is taken is shown in a form that is taken for the same."""
    length = _tried(parse_duration, text_of(data), field="f")
    if length is not None:
        check(length == parse_duration(show_duration(length), field="f"), "another length")


# --- ids and offsets --------------------------------------------------------------------------


def sandflakes(data: bytes) -> None:
    """The text form, bare and quoted."""
    text = text_of(data)
    for parse in (sandflake.Sandflake.parse, sandflake.Sandflake.from_json):
        try:
            found = parse(text)
        except sandflake.SandflakeError:
            continue
        check(found == sandflake.Sandflake.parse(str(found)), "another id")
        check(str(found)[:25] == text.strip().strip('"')[:25], "shown as another id")
        _tried_time(found)


def _tried_time(found: sandflake.Sandflake) -> None:
    try:
        _ = found.time
    except sandflake.SandflakeError:
        check(found.time_ms > limits.DUE_MS_MAX, "an id without a time")


def offsets(data: bytes) -> None:
    """28 hex digits."""
    text = text_of(data)
    found = _tried(offset.from_text, text)
    if found is not None:
        check(offset.to_text(found) == text.lower(), "shown as another offset")


# --- what a command is given ------------------------------------------------------------------


def arguments(data: bytes) -> None:
    """The first byte says what the rest is."""
    kind, text = data[:1], text_of(data[1:])
    match kind:
        case b"b":
            backoff = _tried(values.backoff_of, text)
            if backoff is not None:
                _tried(values.backoff_of, values.show_backoff(backoff))
        case b"m":
            _tried(values.moment_of, text, field="f")
            _tried(ndjson.parse_moment, text, field="f")
        case b"a":
            _tried(values.before_of, text, field="f")
        case b"k":
            for is_hex, is_base64 in ((True, False), (False, True), (False, False)):
                _tried(given.key_bytes, text, "f", is_hex=is_hex, is_base64=is_base64)
        case _:
            _tried(given.headers_of, text.split("\n"))


def lines(data: bytes) -> None:
    """A line of JSON that is to be a message."""
    entry = _tried(ndjson.parse_line, data)
    if entry is not None:
        message = entry.message
        check(message.delay is None or message.delay >= timedelta(0), "a delay before now")


def _line_seeds() -> Sequence[bytes]:
    found = (
        {"value": "v", "key": "k", "at": "2027-01-01T09:00:00+02:00", "headers": {"a": "b"}},
        {"value_base64": "dg==", "key_base64": "aw==", "delay": "1h", "id": "i"},
        {"value": "", "channel": "c", "headers_base64": {"a": "dg=="}, "offset": "0" * 28},
    )
    return [json.dumps(each).encode() for each in found]


def _tried(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What a decoder returns; None if it refuses in the way that it documents."""
    try:
        return call(*args, **more)
    except InvalidError as error:
        check(len(error.message) < 20_000, "an error that shows too much")
        return None


_HOSTS = (b"[::1]:80\nhttp://localhost:1", b"node.example.\nnull", b"127.0.0.1")
_DURATIONS = (b"1h30m", b"250ms", b"1.5d7us", "2µs".encode())
_SANDFLAKES = (b"0" * 26, b'"' + b"Z" * 26 + b'"')
_OFFSETS = (b"01636b9e40c00000000000000007",)
_ARGUMENTS = (
    *(b"b1s,5s*2..10m~20%", b"m2027-01-01T09:00:00Z", b"a7d", b"k6b6b", b"kaw=="),
    b"hname=value\nother=",
)

TARGETS = (
    Target("json", json_body, _json_seeds),
    Target("hosts", hosts, lambda: _HOSTS, 128),
    Target("tokens", token_file, _token_seeds, 1024),
    Target("config", config_file, _config_seeds, 1024),
    Target("duration", durations, lambda: _DURATIONS, 512),
    Target("sandflake", sandflakes, lambda: _SANDFLAKES, 256),
    Target("offset", offsets, lambda: _OFFSETS, 64),
    Target("arguments", arguments, lambda: _ARGUMENTS),
    Target("lines", lines, _line_seeds, 1024),
)
