"""Messages from lines of JSON, and the lines from a file or a pipe."""

import asyncio
import base64
import binascii
import contextlib
import difflib
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sandglass.core import limits
from sandglass.errors import InvalidError
from sandglass.settings import parse_duration

if TYPE_CHECKING:
    from sandglass import Message

READ_BYTES: Final = 1024 * 1024
READS_AHEAD: Final = 4

LINE_BYTES_MAX: Final = 16 * limits.VALUE_BYTES_MAX
"""A value of the largest size, each byte of it escaped, and room for the rest."""

KEYS: Final = (
    "value",
    "value_base64",
    "key",
    "key_base64",
    "at",
    "delay",
    "headers",
    "headers_base64",
    "id",
    "channel",
)
IGNORED: Final = frozenset(
    {"offset", "index", "partition", "due_at", "produced_at", "attempt", "dead_letter"}
)
"""What `consume --json` prints beside these: so that its output can be produced again."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a line says. `channel` is None if it doesn't say."""

    message: "Message"
    channel: str | None


def parse_line(line: bytes) -> Entry:
    """
    A line: an object with `value` or `value_base64`, and, if it likes, `key`, `at`, `delay`,
    `headers`, `id`, `channel`.

    Raises:
        InvalidError: it is no such thing; the message says why.
    """
    from sandglass import Message
    from sandglass.client.encode import encode_message

    try:
        found: Any = json.loads(line)
    except RecursionError:
        raise InvalidError("not JSON that can be read: nested too deeply") from None
    except ValueError as error:
        raise InvalidError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidError("not an object with a value")
    for key in found:
        if key not in KEYS and key not in IGNORED:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)
            raise InvalidError(f"unknown key {key!r}; the nearest is {near[0]!r}", field=key)
    value = _bytes(found, "value")
    if value is None:
        raise InvalidError("no value", field="value")
    at = _text(found, "at")
    delay = _text(found, "delay")
    if at and delay:
        raise InvalidError("at and delay are both given; give one", field="at")
    channel = _text(found, "channel")
    if channel:
        limits.check_name(channel, field="channel")
    key, headers, id_ = _bytes(found, "key") or b"", _headers(found), _text(found, "id") or ""
    # Here, where the line is known: the client would only say which field it is.
    encode_message(value, key, headers=headers, id=id_)
    message = Message(
        value,
        key=key,
        headers=headers,
        id=id_,
        delay=parse_duration(delay, field="delay") if delay else None,
        due_at=parse_moment(at, field="at") if at else None,
    )
    return Entry(message, channel)


def shown_name(source: str) -> str:
    """What errors call a source."""
    return "stdin" if source == "-" else source


def parse_moment(text: str, *, field: str) -> datetime:
    """
    A moment as RFC 3339 writes it: `2027-01-01T09:00:00Z`, `2027-01-01T09:00:00+02:00`.

    Raises:
        InvalidError: no such moment, or no time zone.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError(
            f"{field} is {text!r}; it must be a moment such as 2027-01-01T09:00:00Z",
            field=field,
        ) from None
    if at.utcoffset() is None:
        raise InvalidError(
            f"{field} is {text!r}, without a time zone; add Z, or an offset such as +02:00",
            field=field,
        )
    return at


async def read_lines(source: str) -> AsyncGenerator[list[tuple[int, bytes]], None]:
    """
    The lines of a file, or of stdin for `-`, with their numbers: what there is at a time.

    Empty lines are left out. A thread reads, because a pipe may keep us waiting; it ends with
    the process, so that nobody has to wait for the pipe.

    Raises:
        OSError: it can't be read.
        InvalidError: a line is too long.
    """
    file = os.dup(sys.stdin.fileno()) if source == "-" else os.open(source, os.O_RDONLY)
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    room = threading.Semaphore(READS_AHEAD)
    loop = asyncio.get_running_loop()

    def put(item: bytes | OSError) -> None:
        loop.call_soon_threadsafe(chunks.put_nowait, item)

    threading.Thread(target=_read, args=(file, room, put), daemon=True).start()
    number = 0
    rest = b""
    is_ended = False
    while not is_ended:
        chunk = await chunks.get()
        room.release()
        if isinstance(chunk, OSError):
            raise OSError(chunk.errno, chunk.strerror, shown_name(source)) from chunk
        is_ended = not chunk
        *lines, rest = (rest + chunk).split(b"\n")
        if is_ended:
            lines.append(rest)
        if len(rest) > LINE_BYTES_MAX:
            raise InvalidError(
                f"{shown_name(source)} line {number + len(lines) + 1} is longer than"
                f" {LINE_BYTES_MAX} bytes"
            )
        numbered = list(enumerate(lines, number + 1))
        number += len(lines)
        yield [(place, line) for place, line in numbered if line.strip()]


def _read(file: int, room: threading.Semaphore, put: Callable[[bytes | OSError], None]) -> None:
    """Reads to the end, or until the loop has ended and nobody wants more."""
    is_ended = False
    with contextlib.suppress(RuntimeError):
        while not is_ended:
            room.acquire()
            try:
                chunk = os.read(file, READ_BYTES)
            except OSError as error:
                chunk = error
            put(chunk)
            is_ended = not chunk or isinstance(chunk, OSError)
    os.close(file)


def _text(found: dict[str, Any], key: str) -> str | None:
    text = found.get(key)
    if text is not None and not isinstance(text, str):
        raise InvalidError(f"{key} is {json.dumps(text)[:40]}; it must be text", field=key)
    return text


def _bytes(found: dict[str, Any], key: str) -> bytes | None:
    text, encoded = _text(found, key), _text(found, f"{key}_base64")
    if text is not None and encoded is not None:
        raise InvalidError(f"{key} and {key}_base64 are both given; give one", field=key)
    if encoded is not None:
        return _decoded(encoded, f"{key}_base64")
    try:
        return None if text is None else text.encode()
    except UnicodeEncodeError:
        raise InvalidError(
            f"{key} has half a character (a lone surrogate)", field=key
        ) from None


def _headers(found: dict[str, Any]) -> dict[str, bytes | str]:
    headers: dict[str, bytes | str] = {}
    for key in ("headers", "headers_base64"):
        entries = found.get(key) or {}
        if not isinstance(entries, dict) or not all(
            isinstance(value, str) for value in entries.values()
        ):
            raise InvalidError(f"{key} must be an object of texts", field=key)
        for name, value in entries.items():
            headers[name] = value if key == "headers" else _decoded(value, key)
    return headers


def _decoded(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidError(f"{field} is not base64", field=field) from None
