"""
Messages of a group as a stream: a line of JSON each, or server-sent events.

    {"result": {...}}

The stream is a drain: it ends when what was ready is sent, or, with `wait`, after the first
messages that become ready in that time. A client that goes away is noticed at once; what had
not been sent is given back then. What had been sent, and perhaps never arrived, is due again
when its lease ends: nobody can tell the two apart.

A node that goes down ends its streams with an error, so that nobody takes the end for "there is
nothing more".
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from sandglass.broker.outgoing import Flow
from sandglass.core import limits
from sandglass.errors import InvalidError, SandglassError, UnavailableError
from sandglass.settings import parse_duration
from sandglass.surface.following import Draining, Handed
from sandglass.web.answers import JSON_TYPE, stream_error
from sandglass.wire import gateway

EVENTS_TYPE: Final = "text/event-stream"
RECONNECT_MS: Final = 1000
"""Browsers come back after so long when a stream has ended."""

PIECE_BYTES: Final = 64 * 1024
"""What is sent at a time; after each the loop goes on to others."""


Held = Callable[[], AbstractAsyncContextManager[None]]
"""What a stream runs in: it ends when the caller's token is revoked."""


class Streams:
    """All that are open."""

    def __init__(self) -> None:
        self._open: set[MessageStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, stream: "MessageStream") -> Callable[[], None]:
        """Keeps a stream in mind until what it returns is called."""
        self._open.add(stream)
        return lambda: self._open.discard(stream)

    def stop(self) -> None:
        """The node is going down: all end."""
        for stream in [*self._open]:
            stream.stop()


class MessageStream:
    """An ASGI application that answers one request."""

    def __init__(
        self,
        drain: Draining,
        flow: Flow,
        channel: str,
        streams: Streams,
        *,
        is_events: bool,
        wait_s: float,
    ) -> None:
        self._drain = drain
        self._flow = flow
        self._channel = channel
        self._streams = streams
        self._is_events = is_events
        self._wait_s = wait_s
        self._held: Held = nullcontext
        self._sent_count = 0
        """Of the delivery in hand."""
        self._is_gone = False
        self._is_stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything, and lets go of what is left."""
        closed = self._streams.opened(self)
        self._held = scope["state"].get("held", nullcontext)
        watching = asyncio.create_task(self._watch(receive), name="stream-watch")
        try:
            kind = EVENTS_TYPE if self._is_events else JSON_TYPE
            headers = [(b"content-type", kind.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if self._is_events:
                await _send(send, f"retry: {RECONNECT_MS}\n\n")
            await self._send_all(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watching.cancel()
            self._drain.close(handed_on_count=self._sent_count)
            self._flow.close()
            closed()

    def stop(self) -> None:
        """The node is going down."""
        self._is_stopping = True
        self._drain.stop()

    async def _send_all(self, send: Send) -> None:
        error: SandglassError | None = None
        try:
            async with self._held():
                await self._send_messages(send)
        except SandglassError as caught:
            error = caught
        if self._is_stopping:
            error = UnavailableError("the node is stopping")
        if error is not None and not self._is_gone:
            await _send(send, self._error(error))

    async def _send_messages(self, send: Send) -> None:
        delivery = await self._drain.next()
        if delivery is None and self._wait_s and not self._is_over:
            delivery = await self._drain.first(self._wait_s)
        while delivery is not None and not self._is_over:
            await self._send_delivery(delivery, send)
            if self._is_over:
                return
            delivery = await self._drain.next()
            self._sent_count = 0

    async def _send_delivery(self, delivery: Handed, send: Send) -> None:
        self._sent_count = 0
        count = size_bytes = 0
        all_count = sum(piece.count for piece in delivery.slices)
        lines: list[str] = []
        for piece in delivery.slices:
            for shown in gateway.message_objects(piece, self._channel):
                lines.append(self._line(shown))
                size_bytes += len(shown)
                count += 1
                if size_bytes >= PIECE_BYTES or count == all_count:
                    await _send(send, "".join(lines))
                    if self._is_over:
                        return
                    self._sent_count = count
                    size_bytes = 0
                    lines.clear()

    @property
    def _is_over(self) -> bool:
        return self._is_gone or self._is_stopping

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        self._drain.stop()

    def _line(self, shown: str) -> str:
        return (
            f'data: {{"result":{shown}}}\n\n' if self._is_events else f'{{"result":{shown}}}\n'
        )

    def _error(self, error: SandglassError) -> str:
        shown = json.dumps(stream_error(error), separators=(",", ":"))
        return f"event: error\ndata: {shown}\n\n" if self._is_events else f"{shown}\n"


def wait_s_of(request: Request) -> float:
    """
    How long the request may wait for its first message.

    Raises:
        InvalidError: no length of time, or too long.
    """
    given = request.query_params.get("wait", "")
    if not given:
        return 0.0
    bounds: Any = request.state.bounds
    wait_s = parse_duration(given[:40], field="wait").total_seconds()
    if wait_s > bounds.wait_s_max:
        raise InvalidError(
            f"wait is {wait_s:g} s; it must be 0 to {limits.HTTP_WAIT_MS_MAX // 1000}",
            field="wait",
        )
    return wait_s


def is_for_events(request: Request) -> bool:
    """Whether the client asks for server-sent events."""
    return EVENTS_TYPE in request.headers.get("accept", "").lower()


async def _send(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
    await asyncio.sleep(0)
