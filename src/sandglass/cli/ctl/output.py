"""What goes to stdout: tables for people, JSON for programs, values as they are."""

import asyncio
import base64
import contextlib
import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sandglass.cli.ctl import values
from sandglass.settings import show_duration

if TYPE_CHECKING:
    from sandglass import (
        AsyncReceived,
        Entry,
        Group,
        GroupStatus,
        StoredDeadLetter,
        StoredMessage,
        Topic,
    )


def print_json(value: object) -> None:
    """One document on one line."""
    print(json.dumps(value, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their longest entry; numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *texts, strict=True)]
    is_number = [all(isinstance(row[place], int) for row in rows) for place in _places(widths)]
    for number, row in enumerate([list(headings), *texts]):
        cells = [
            cell.rjust(width) if right and rows else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        print(_bold(line) if number == 0 else line)


async def write(content: bytes) -> None:
    """
    Bytes to stdout, without holding up the loop while the reader is slow. Not for use beside
    `print`: it goes past the buffer of that.

    The thread ends with the process: after Ctrl-C nobody waits for a reader that doesn't read.

    Raises:
        BrokenPipeError: nobody reads any more.
        OSError: it can't be written.
    """
    loop = asyncio.get_running_loop()
    written: asyncio.Future[None] = loop.create_future()

    def done(error: OSError | None) -> None:
        if written.done():
            return
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)

    def write_all() -> None:
        error = _write(sys.stdout.fileno(), content)
        # The loop is closed if nobody waited.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(done, error)

    threading.Thread(target=write_all, daemon=True).start()
    await written


def topic_json(topic: "Topic") -> dict[str, Any]:
    """A topic as JSON has it."""
    return {
        "name": topic.name,
        "kind": topic.kind,
        "partitions": list(topic.partitions),
        "replication_factor": topic.replication_factor,
        "retention": show_duration(topic.retention),
        "ack_timeout": show_duration(topic.ack_timeout),
        "max_deliveries": topic.max_deliveries,
        "backoff": values.show_backoff(topic.backoff),
        "created_at": moment(topic.created_at),
    }


def known_json(group: "Group") -> dict[str, Any]:
    """A group of a topic as JSON has it; `own` are settings that aren't the topic's."""
    return {
        "topic": group.topic,
        "group": group.name,
        "start": moment(group.start) if group.start else None,
        "created_at": moment(group.created_at),
        "ack_timeout": show_duration(group.ack_timeout),
        "max_deliveries": group.max_deliveries,
        "backoff": values.show_backoff(group.backoff),
        "own": sorted(group.own),
    }


def stored_json(stored: "StoredMessage") -> dict[str, Any]:
    """A stored message as JSON has it, with its content if it is there."""
    found: dict[str, Any] = {
        "partition": stored.partition,
        "offset": stored.offset,
        "index": stored.index,
        "due_at": moment(stored.due_at),
        "produced_at": moment(stored.produced_at),
        "size_bytes": stored.size_bytes,
    }
    message = stored.message
    if message is None:
        return found
    found |= _text_or_base64("value", _bytes(message.value))
    if message.key:
        found |= _text_or_base64("key", _bytes(message.key))
    if message.id:
        found["id"] = message.id
    headers = {name: _bytes(value) for name, value in message.headers.items()}
    return found | _headers_json(headers)


def letter_json(letter: "StoredDeadLetter") -> dict[str, Any]:
    """A dead letter as JSON has it."""
    found = stored_json(letter.letter)
    found["died_at"] = found.pop("due_at")
    return found | {
        "group": letter.group,
        "channel": letter.channel,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "original_offset": letter.original_offset,
    }


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def group_json(group: "GroupStatus") -> dict[str, Any]:
    """A group in one partition and channel as JSON has it."""
    return {name: getattr(group, name) for name in type(group).__dataclass_fields__}


def message_json(message: "AsyncReceived") -> dict[str, Any]:
    """
    A message as JSON has it. What `produce --ndjson` reads has the same names here; bytes that
    are no UTF-8 stand in base64 under a name that says so.
    """
    found: dict[str, Any] = {
        "offset": message.offset,
        "index": message.index,
        "partition": message.partition,
        "channel": message.channel,
        "due_at": moment(message.due_at),
        "produced_at": moment(message.produced_at),
        "attempt": message.attempt,
        **_text_or_base64("value", message.value),
    }
    if message.key:
        found |= _text_or_base64("key", message.key)
    if message.id:
        found["id"] = message.id
    found |= _headers_json(message.headers)
    letter = message.dead_letter
    if letter is not None:
        found["dead_letter"] = {
            "group": letter.group,
            "attempts": letter.attempts,
            "reason": letter.reason,
            "offset": letter.offset,
        }
    return found


def entry_json(entry: "Entry") -> dict[str, Any]:
    """An entry of a KV topic as JSON has it."""
    found: dict[str, Any] = {
        **_text_or_base64("key", entry.key),
        **_text_or_base64("value", entry.value),
        "revision": entry.revision,
        "offset": entry.offset,
        "produced_at": moment(entry.produced_at),
    }
    if entry.clustering_key:
        found |= _text_or_base64("clustering_key", entry.clustering_key)
    if entry.id:
        found["id"] = entry.id
    return found | _headers_json(entry.headers)


def key_text(key: bytes, form: str) -> str:
    """
    A key for a table: as `hex`, as `base64`, or as `text`, where what can't be shown as such
    stands in hexadecimal digits behind `hex:`.
    """
    if form == "hex":
        return key.hex()
    if form == "base64":
        return base64.b64encode(key).decode()
    try:
        text = key.decode()
    except UnicodeDecodeError:
        return f"hex:{key.hex()}"
    return text if text.isprintable() else f"hex:{key.hex()}"


def moment(at: datetime) -> str:
    """As RFC 3339 writes it, in UTC and milliseconds."""
    text = at.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def _headers_json(headers: Mapping[str, bytes]) -> dict[str, Any]:
    texts: dict[str, str] = {}
    binaries: dict[str, str] = {}
    for name, value in headers.items():
        try:
            texts[name] = value.decode()
        except UnicodeDecodeError:
            binaries[name] = base64.b64encode(value).decode()
    found = {"headers": texts, "headers_base64": binaries}
    return {name: entries for name, entries in found.items() if entries}


def _text_or_base64(name: str, content: bytes) -> dict[str, str]:
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _write(file: int, content: bytes) -> OSError | None:
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError as error:
        return error
    return None


def _places(widths: Sequence[int]) -> range:
    return range(len(widths))


def _bold(line: str) -> str:
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[1m{line}\x1b[0m" if is_coloured else line
