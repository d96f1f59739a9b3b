"""
Many messages into few requests, each within the bounds of one. Pure.

Plain `bytes` go the short way: nothing is done for each of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, TypeVar, cast

from sandglass.client import encode
from sandglass.client.batching import BATCH_BYTES_MAX, Route
from sandglass.client.events import Produce
from sandglass.client.message import Message, moment_ms, span_ms
from sandglass.core import limits
from sandglass.errors import InvalidError

Value = bytes | str

Answer = TypeVar("Answer", contravariant=True)


class Sink(Protocol[Answer]):
    """Who is told how a request ended: a future, of any kind."""

    def done(self) -> bool:
        """Whether it was told, or has gone away."""
        ...

    def set_result(self, result: Answer, /) -> None:
        """It went well."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """It failed."""
        ...


@dataclass(slots=True, eq=False)
class Bulk:
    """The owner of a request made here: `sink` is told how many went to which partition."""

    route: Route
    sink: Sink[dict[str, int]]


@dataclass(slots=True)
class _Times:
    """A column of times in the making; see `OpenBatch`."""

    times: list[int] = field(default_factory=list[int])
    is_timed: bool = False
    is_delay: bool = False


def requests_of(chunk: list[Value | Message], route: Route, now_ms: int) -> Iterator[Produce]:
    """
    A chunk of messages as requests that nobody owns yet.

    Args:
        now_ms: Unix ms; it bounds delays.

    Raises:
        InvalidError: a message is wrong. Requests before it were given.
    """
    if set(map(type, chunk)) == {bytes}:
        values = cast("list[bytes]", chunk)
        for first, end in _cuts(list(map(len, values))):
            batch = encode.encode_values(values[first:end])
            yield _request(batch, end - first, route, _Times())
        return
    parts: list[bytes] = []
    column = _Times()
    size_bytes = 0
    for each in chunk:
        message = each if isinstance(each, Message) else Message(each)
        time_ms, is_delay = time_of(message, now_ms)
        part = encode_one(message)
        is_mixed = bool(time_ms) and column.is_timed and column.is_delay is not is_delay
        if parts and (is_mixed or size_bytes + len(part) > BATCH_BYTES_MAX):
            yield _request(b"".join(parts), len(parts), route, column)
            parts, column, size_bytes = [], _Times(), 0
        parts.append(part)
        column.times.append(time_ms)
        if time_ms:
            column.is_timed, column.is_delay = True, is_delay
        size_bytes += len(part)
    yield _request(b"".join(parts), len(parts), route, column)


def time_of(message: Message, now_ms: int) -> tuple[int, bool]:
    """
    When a message is due: Unix ms, or ms from now and True; 0 is now.

    Raises:
        InvalidError: delay and due time are both given, or out of bounds.
    """
    if message.delay is not None:
        if message.due_at is not None:
            raise InvalidError("delay and due_at are both given; give one", field="delay")
        high = limits.DUE_MS_MAX - now_ms
        return span_ms(message.delay, field="delay", low=0, high=high), True
    if message.due_at is not None:
        return moment_ms(message.due_at, field="due_at"), False
    return 0, False


def encode_one(message: Message) -> bytes:
    """
    A batch of one message.

    Raises:
        InvalidError: a field is too large or of another type.
    """
    if type(message.value) is bytes and not (
        message.key or message.clustering_key or message.headers or message.id
    ):
        return encode.encode_value(message.value)
    return encode.encode_message(
        message.value, message.key, message.clustering_key, message.headers, message.id
    )


def route_of(topic: str, *, partition: str, channel: str) -> Route:
    """
    Where messages go.

    Raises:
        InvalidError: one of them is no text.
    """
    return (
        checked_text(topic, "topic"),
        checked_text(partition, "partition"),
        checked_text(channel, "channel"),
    )


def checked_text(text: str, field: str) -> str:
    """
    The text itself.

    Raises:
        InvalidError: it isn't one, or UTF-8 cannot hold it.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        raise InvalidError(f"{field} is {type(text).__name__}; give a str", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"{field} is text that UTF-8 cannot hold", field=field) from error
    return text


def check_several(messages: object) -> None:
    """
    Raises:
        InvalidError: one message, or nothing that could be gone through.
    """
    if isinstance(messages, str | bytes | Message):
        raise InvalidError("messages is one message; give several", field="messages")
    if not isinstance(messages, Iterable):
        raise InvalidError(
            f"messages is {type(messages).__name__}; give several that can be gone through",
            field="messages",
        )


def _request(batch: bytes, count: int, route: Route, column: _Times) -> Produce:
    topic, partition, channel = route
    times: list[int] = []
    if column.is_timed:
        is_one = min(column.times) == max(column.times)
        times = column.times[:1] if is_one else column.times
    return Produce(
        topic=topic,
        partition=partition,
        channel=channel,
        batch=batch,
        count=count,
        deadline_ms=0,
        owner=None,
        due_ms=() if column.is_delay else times,
        delay_ms=times if column.is_delay else (),
    )


def _cuts(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Ranges `[first, end)` of values that fit into a request; a larger one is alone."""
    if sum(sizes) + 16 * len(sizes) <= BATCH_BYTES_MAX:
        yield 0, len(sizes)
        return
    first = 0
    start_bytes = 0
    ends = list(accumulate(size + 16 for size in sizes))
    for place, end_bytes in enumerate(ends):
        if place > first and end_bytes - start_bytes > BATCH_BYTES_MAX:
            yield first, place
            first = place
            start_bytes = ends[place - 1]
    yield first, len(sizes)
