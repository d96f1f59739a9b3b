"""
The connection under a session: one stream at a time, to one address after the other.

One task runs for as long as the client lives. It opens the stream, greets, reads frames for the
session and writes what the session wants to send; when the stream breaks it goes to the next
address, after a pause that grows while nobody answers. A node that says that it is going down
is left for the next address once it has answered everything, after `MOVE_S_MAX` at the latest.
While nobody has ever served it, what waits for a node fails when there is none (`Absence`).
Frames are cut when the stream can take one, so that whatever was asked for meanwhile shares it.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from threading import get_ident
from typing import Final, cast

import grpc
import grpc.aio

from sandglass.client import failure, forking
from sandglass.client.absence import Absence
from sandglass.client.entry import Entry, metadata_of
from sandglass.client.events import Event
from sandglass.client.message import span_ms
from sandglass.client.session import Session
from sandglass.core import limits
from sandglass.errors import (
    DeniedError,
    InvalidError,
    SandglassError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from sandglass.wire.v1 import broker_pb2

ADDRESS_DEFAULT: Final = "127.0.0.1:7170"
PORT_DEFAULT: Final = 7170
TIMEOUT_DEFAULT: Final = timedelta(seconds=10)
SESSION_METHOD: Final = "/sandglass.v1.Broker/Session"
BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 2.0
SOON_S_MAX: Final = 0.3
"""While something is held: a node that begins anew waits for us, but not for long. And while
what is asked for isn't to wait for a node."""

WELCOME_S_MAX: Final = 5.0
"""A node that takes the connection and doesn't greet within this is passed over."""

GOODBYE_S_MAX: Final = 2.0

MOVE_S_MAX: Final = 2.0
"""A node that goes down has so long for its answers, before it is left without them."""

_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_send_message_length", limits.REQUEST_BYTES_MAX + limits.FRAME_BYTES_MAX),
    ("grpc.max_receive_message_length", limits.REQUEST_BYTES_MAX + limits.FRAME_BYTES_MAX),
    # Servers refuse pings more often than every five minutes. With keepalive on, the system
    # also gives up on sent bytes that nobody confirms for the timeout: heartbeats see to that.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Two clients in one process don't share a connection, nor the fate of one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)

_log = logging.getLogger("sandglass.client")

Stream = grpc.aio.StreamStreamCall[bytes, broker_pb2.ServerFrame]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to go and how: `host:port` of some nodes, and what they want to see."""

    addresses: tuple[str, ...]
    entry: Entry
    timeout_ms: int
    absence: Absence

    def open(self, address: str) -> grpc.aio.Channel:
        """
        A channel to one node. Nothing is connected yet.

        Raises:
            SandglassError: a file for TLS isn't in order.
        """
        forking.note_use()
        credentials = self.entry.credentials()
        options = [*_OPTIONS, *self.entry.channel_options(host_of(address))]
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, credentials, options=options)

    @property
    def greeting_s(self) -> float:
        """How long an address may take to answer, so that all have their turn within a call."""
        timeout_s = self.timeout_ms / 1000
        others_count = len(self.addresses) - 1
        return min(WELCOME_S_MAX, timeout_s / (others_count + 2) if others_count else timeout_s)

    def cause_of(self, error: BaseException) -> str:
        """In a few words, why a connection failed: for people."""
        cause = failure.cause_of(error)
        return cause + self.entry.hint if cause == failure.CLOSED else cause

    def unavailable(self, cause: str, *, is_result_unknown: bool = False) -> UnavailableError:
        """The error of a call that nobody answered in time."""
        within = f" within {self.timeout_ms / 1000:g} s"
        return UnavailableError(
            f"no Sandglass node answered at {self._names}{within}: {cause}",
            is_result_unknown=is_result_unknown,
        )

    def nobody(self, cause: str) -> UnavailableError:
        """The error of a call for which nobody is there, nor waited for."""
        return UnavailableError(f"no Sandglass node answered at {self._names}: {cause}")

    @property
    def _names(self) -> str:
        return ", ".join(self.addresses)


def endpoint_of(
    addresses: tuple[str, ...], entry: Entry, timeout: timedelta | None
) -> Endpoint:
    """
    As `AsyncClient` is told.

    Raises:
        InvalidError: the timeout is none.
    """
    is_waiting = timeout is not None
    span = timeout if is_waiting else TIMEOUT_DEFAULT
    timeout_ms = span_ms(span, field="timeout", low=1, high=24 * 3600 * 1000)
    absence = Absence(addresses, is_waiting=is_waiting)
    return Endpoint(addresses, entry, timeout_ms, absence)


def address_of(text: str) -> str:
    """
    An address as somebody gave it, with its port.

    Raises:
        InvalidError: it is none.
    """
    if not isinstance(text, str) or not text or "/" in text:  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        raise InvalidError(f"address {text!r} is not host:port", field="address")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return f"{text}:{PORT_DEFAULT}"
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InvalidError(f"address {text!r} is not host:port", field="address")
    return text


def host_of(address: str) -> str:
    """The host of `host:port`, an IPv6 one without its brackets."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def steady_ms() -> int:
    """Monotonic milliseconds: the session's time."""
    return time.monotonic_ns() // 1_000_000


class Connection:
    """
    Runs a session over streams.

    Args:
        on_event: told what follows from what came, in the order it came.
        before_frame: called before a frame is cut: the last moment to add to it.
        after_turn: called when a frame was read, and now and then.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        client_name: str,
        on_event: Callable[[Event], None],
        before_frame: Callable[[], None],
        after_turn: Callable[[], None],
    ) -> None:
        self.session = Session(client_name=client_name, on_work=self._work)
        self.cause = "no connection yet"
        self._endpoint = endpoint
        self._on_event = on_event
        self._before_frame = before_frame
        self._after_turn = after_turn
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._is_woken = False
        self._timer: asyncio.TimerHandle | None = None
        self._stream: Stream | None = None
        self._shown = ""
        self._turn = 0
        self._is_cut = False
        self._move_until_s: float | None = None
        """While it is to leave its node."""
        self._is_closing = False

    @property
    def is_seeking(self) -> bool:
        """Whether it was started, and no node serves it at the moment."""
        return self._task is not None and not self.session.is_open

    def start(self) -> None:
        """Begins to connect. May be called again."""
        if self._task is None and not self._is_closing:
            self._loop = asyncio.get_running_loop()
            self._thread = get_ident()
            self._task = self._loop.create_task(self._run(), name="sandglass-client")
            self._arm()

    async def close(self) -> None:
        """Says goodbye and ends."""
        self._is_closing = True
        task, self._task = self._task, None
        if task is None:
            return
        if self.session.is_open:
            self.session.goodbye()
            await asyncio.wait({task}, timeout=GOODBYE_S_MAX)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if self._timer is not None:
            self._timer.cancel()

    # --- the task -----------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            address = self._endpoint.addresses[self._turn % len(self._endpoint.addresses)]
            was_open = has_moved = False
            try:
                was_open = await self._serve(address)
                has_moved = self.session.has_moved
                self.cause = f"{address} ended the session"
            except (grpc.aio.AioRpcError, TimeoutError, SandglassError) as error:
                self.cause = self._endpoint.cause_of(error)
                was_open = self.session.is_open
                self._fail_if_refused(error)
                if self._endpoint.absence.is_hopeless(address, error):
                    self._fail_waiting(self._endpoint.nobody(self.cause))
            except Exception as error:  # noqa: BLE001 - the top of the task
                _log.exception("the session with %s failed", address)
                self.cause = f"a defect of the client: {error!r}"
                was_open = self.session.is_open
            self._emit(self.session.broken(steady_ms(), cause=self.cause))
            if self._is_closing:
                return
            if has_moved:
                _log.info("%s is going down: the session goes on elsewhere", address)
            elif was_open:
                _log.warning("the session with %s broke: %s", address, self.cause)
            if was_open:
                failures = 0
            self._turn += 1
            if has_moved and was_open:
                continue
            failures += 1
            pause_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(failures - 1, 10))
            if self.session.is_holding or not self._endpoint.absence.is_waiting:
                pause_s = min(pause_s, SOON_S_MAX)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _serve(self, address: str) -> bool:
        """Serves one stream until it ends. Returns whether it was ever greeted."""
        self._shown = self._endpoint.entry.current_token()
        channel = self._endpoint.open(address)
        stream = _opened(channel, self._shown)
        self._stream, self._is_cut, self._move_until_s = stream, False, None
        try:
            async with asyncio.timeout(self._endpoint.greeting_s):
                await self._write_frame(stream, self.session.hello())
                welcome = await stream.read()
            if not self._take(welcome):
                return False
            self._endpoint.absence.served()
            await self._read_and_write(stream)
            return True
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        except asyncio.CancelledError:
            # gRPC raises this too, when the call was cancelled by ourselves.
            task = asyncio.current_task()
            if self._is_cut and task is not None and not task.cancelling():
                raise TimeoutError from None
            raise
        finally:
            self._stream = None
            stream.cancel()
            await channel.close(None)

    async def _read_and_write(self, stream: Stream) -> None:
        async with asyncio.TaskGroup() as group:
            writer = group.create_task(self._write(stream))
            try:
                while self._take(await stream.read()):
                    pass
            finally:
                writer.cancel()

    async def _write(self, stream: Stream) -> None:
        while True:
            await self._kick.wait()
            self._kick.clear()
            self._before_frame()
            while (frame := self.session.next_frame(steady_ms())) is not None:
                if not await self._write_frame(stream, frame):
                    return
                self._before_frame()
            if self._is_closing:
                await stream.done_writing()
                return

    async def _write_frame(self, stream: Stream, frame: bytes) -> bool:
        """False if the stream is over; the reader is told why."""
        try:
            await stream.write(frame)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        return True

    def _take(self, frame: object) -> bool:
        """Hands a frame to the session; false at the end of the stream, or once it is left."""
        if frame is grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType] - not in its stubs
            return False
        parsed = cast("broker_pb2.ServerFrame", frame)
        self._emit(self.session.received(parsed, steady_ms()))
        if parsed.is_draining and len(self._endpoint.addresses) > 1:
            self.session.move_on()
            self._move_until_s = asyncio.get_running_loop().time() + MOVE_S_MAX
        self._arm()
        self._after_turn()
        return not self.session.has_moved

    def _fail_if_refused(self, error: Exception) -> None:
        """Nobody gets better by waiting for a node that refuses us; unless we changed."""
        if not isinstance(error, grpc.aio.AioRpcError):
            return
        refusal = failure.from_rpc(error)
        if isinstance(refusal, UnauthenticatedError):
            if self._endpoint.entry.has_other_token(self._shown):
                return
        elif isinstance(refusal, DeniedError):
            if self.session.forget():
                return  # the session was opened under another name: then a new one
        elif not isinstance(refusal, UnsupportedError):
            return
        # What is refused here was never sent, whatever became of the stream.
        refusal.is_result_unknown = False
        self._fail_waiting(refusal)

    def _fail_waiting(self, error: SandglassError) -> None:
        self._before_frame()  # what waits for a frame is refused as well
        self._emit(self.session.refused(error))

    # --- time and work ------------------------------------------------------------------------

    def _work(self) -> None:
        if self._loop is None or get_ident() == self._thread:
            self._kick.set()
        elif not self._is_woken:
            # Another thread has noted an outcome: the loop is woken once, however many follow.
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the loop is closed, and all is over
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._is_woken = False
        self._kick.set()

    def _emit(self, events: list[Event]) -> None:
        for event in events:
            self._on_event(event)

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        when_s = loop.time() + self.session.tick_ms / 1000
        if self._timer is not None:
            if not self._timer.cancelled() and self._timer.when() <= when_s:
                return
            self._timer.cancel()
        self._timer = loop.call_at(when_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now_ms = steady_ms()
        self._emit(self.session.tick(now_ms))
        until_s = self._move_until_s
        is_late = until_s is not None and asyncio.get_running_loop().time() >= until_s
        is_over = is_late or self.session.is_silent(now_ms)
        if is_over and self._stream is not None and not self._is_cut:
            self._is_cut = True
            self._stream.cancel()
        self._after_turn()
        if self._task is not None:
            self._arm()


def _opened(channel: grpc.aio.Channel, token: str) -> Stream:
    """A stream on which nothing was sent yet."""
    # The stubs ask for an iterator of requests; without one, `write` sends them.
    open_stream = cast(
        "Callable[..., Stream]",
        channel.stream_stream(  # pyright: ignore[reportUnknownMemberType] - stubs
            SESSION_METHOD,
            request_serializer=None,
            response_deserializer=broker_pb2.ServerFrame.FromString,
        ),
    )
    return open_stream(metadata=metadata_of(token))
