"""
A connection: uvicorn's HTTP/1.1 over h11, with bounds where it has none.

1. More connections than allowed: the newest is told 503, and closed.
2. The head of a request has `head_s`, from the connection's begin or from its first byte on,
   however it trickles in.
3. A client that takes nothing of its answer for `stall_s` is cut off, and so is one that
   doesn't let its connection be closed.
4. A read may bring thousands of tiny chunks: a few are parsed in a pass of the loop, so that
   others have their turn, and a body may have `chunk_count_max` of them.

The rest (size of the head, body, time of the whole request) is the gate's: `web.gate`.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sandglass.web.bounds import Bounds

PASS_EVENT_COUNT: Final = 128
"""Pieces of bodies that are parsed before others have their turn."""

CLOSE_S: Final = 5.0
"""How long a connection may take to send what it still has, once it is to be closed."""

_log = logging.getLogger("sandglass.web.protocol")
# uvicorn warns of each bad request: whoever likes could fill the log. The metrics count them.
_log.setLevel(logging.ERROR)


class Connection(H11Protocol):
    """One client's connection. `refused` is called for each that finds no room."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        bounds: Bounds,
        refused: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(config, state, {}, _loop=asyncio.get_running_loop())
        self.logger = _log
        self.access_log = False
        self.timeout_keep_alive = bounds.idle_s
        self.conn = _Paced(bounds)
        self._bounds = bounds
        self._refused = refused
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Takes it, or says that there is no room."""
        super().connection_made(transport)
        if len(self.connections) > self._bounds.connection_count_max:
            self._refused()
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections")
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left of it."""
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes, a whole head or none."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._is_idle():
            self._await_head()

    def handle_events(self) -> None:
        """What the bytes so far mean; of a body in pieces, some of it."""
        if self.transport.is_closing():
            return
        self.conn.begin_pass()
        super().handle_events()
        if not self._is_idle():
            self._head_came()
        if self.conn.is_cut:
            self.flow.pause_reading()
            self.loop.call_soon(self._go_on)

    def pause_writing(self) -> None:
        """The client doesn't keep up."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self._bounds.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def on_response_complete(self) -> None:
        """The next request may come, or the end."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close_soon()

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        super().timeout_keep_alive_handler()
        self._close_soon()

    def shutdown(self) -> None:
        """The node goes down: after the request that runs, if one does."""
        super().shutdown()
        if self.transport.is_closing():
            self._close_soon()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP, or too much of it."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        self._answer(HTTPStatus(status), HTTPStatus(status).phrase)

    def _answer(self, status: HTTPStatus, text: str) -> None:
        """An answer of our own, and the end of the connection."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers = [("content-type", "text/plain; charset=utf-8"), ("connection", "close")]
            headers.append(("content-length", str(len(text))))
            parts = (
                h11.Response(status_code=status, headers=headers, reason=status.phrase),
                h11.Data(data=text.encode("ascii")),
                h11.EndOfMessage(),
            )
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        if not self._is_idle():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()
        self._close_soon()

    def _is_idle(self) -> bool:
        """No request is being answered, as far as its head has come."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(self._bounds.head_s, self._too_slow)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._answer(HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_TIMEOUT.phrase)

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self.handle_events()

    def _close_soon(self) -> None:
        self.loop.call_later(CLOSE_S, self.transport.abort)


class _Paced(h11.Connection):
    """Hands out so many pieces of a body in a pass, and then says that it needs more data."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=bounds.head_bytes_max)
        self.is_cut = False
        self._left_count = PASS_EVENT_COUNT
        self._chunk_count = 0
        self._chunk_count_max = bounds.chunk_count_max

    def begin_pass(self) -> None:
        """Some more may be handed out."""
        self.is_cut = False
        self._left_count = PASS_EVENT_COUNT

    def next_event(self) -> Any:
        """As h11 has it."""
        if not self._left_count:
            self.is_cut = True
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._left_count -= 1
            self._chunk_count += event.chunk_start
            if self._chunk_count > self._chunk_count_max:
                raise h11.RemoteProtocolError("too many chunks", error_status_hint=413)
        elif isinstance(event, h11.Request):
            self._chunk_count = 0
        return event
