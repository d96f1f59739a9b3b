"""
HTTP/2 by hand: frames that no library would send, and a count of what comes back.

Only what attackers need: no flow control of our own, no Huffman codes, no dynamic table.
"""

import asyncio
import ssl
import struct
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8, 0x9,
)  # fmt: skip
ACK = END_STREAM = 0x1
END_HEADERS: Final = 0x4
CANCEL: Final = 8
INITIAL_WINDOW_SIZE: Final = 4

_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def literal(name: bytes, value: bytes, *, is_indexed: bool = False) -> bytes:
    """A header as it is; `is_indexed` asks the other side to keep it in its table."""
    first = 0x40 if is_indexed else 0x00
    return bytes((first,)) + _string(name) + _string(value)


def _string(raw: bytes) -> bytes:
    return _integer(len(raw), 7) + raw


def _integer(value: int, bits: int) -> bytes:
    most = (1 << bits) - 1
    if value < most:
        return bytes((value,))
    parts = [most]
    value -= most
    while value >= 128:
        parts.append(value % 128 + 128)
        value //= 128
    return bytes([*parts, value])


def call_headers(path: str, *more: tuple[bytes, bytes]) -> bytes:
    """The headers that begin a gRPC call."""
    pairs = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]
    return b"".join(literal(name, value) for name, value in pairs)


def message(raw: bytes, *, is_compressed: bool = False) -> bytes:
    """A gRPC message, in front of which stand its length and whether it is compressed."""
    return struct.pack(">BI", is_compressed, len(raw)) + raw


class Http2:
    """
    A connection. What comes is counted by kind; `ended` is set when the other side closes it.

    `is_deaf` reads nothing at all.
    """

    def __init__(
        self, address: str, *, tls: ssl.SSLContext | None = None, is_deaf: bool = False
    ) -> None:
        self._place = address.rsplit(":", 1)
        self._tls = tls
        self._is_deaf = is_deaf
        self._next_stream = 1
        self._reading: asyncio.Task[None] | None = None
        self.seen: Counter[int] = Counter()
        self.statuses: Counter[bytes] = Counter()
        """`grpc-status` values that came uncompressed: what refuses a call comes so."""
        self.goodbye = b""
        """What the last GOAWAY said."""
        self.ended = asyncio.Event()
        self._windows: dict[int, int] = {0: 65_535}
        """Bytes that may be sent yet, by stream; 0 is the connection."""
        self._first_window = 65_535
        """With which a stream begins: the other side's settings change it, for all of them."""
        self._reset: set[int] = set()
        self._moved = asyncio.Event()

    async def __aenter__(self) -> "Http2":
        host, port = self._place
        self._reader, self._writer = await asyncio.open_connection(
            host, int(port), ssl=self._tls, limit=1 << 20
        )
        self.write(PREFACE, frame(SETTINGS, 0, 0))
        if not self._is_deaf:
            self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.transport.abort()

    def write(self, *frames: bytes) -> None:
        """Sends, and doesn't wait for anything; into nothing, if the other side has gone."""
        self._writer.write(b"".join(frames))

    async def flush(self) -> bool:
        """Waits until most of it has left; false if the other side has gone."""
        try:
            await self._writer.drain()
        except OSError:
            return False
        return not self.ended.is_set()

    def call(self, path: str, *bodies: bytes, is_ended: bool = True) -> int:
        """Begins a call, with messages if there are some, and perhaps ends its request then."""
        stream = self.next_stream()
        flags = END_HEADERS
        self.write(frame(HEADERS, flags, stream, call_headers(path)))
        for body in bodies:
            raw = memoryview(body)
            for first in range(0, len(raw), 16_384):
                self.write(frame(DATA, 0, stream, bytes(raw[first : first + 16_384])))
        if is_ended:
            self.write(frame(DATA, END_STREAM, stream))
        return stream

    async def send_message(self, stream: int, raw: bytes) -> bool:
        """A large body, as the other side has room for it; false if it wants no more."""
        first = 0
        while first < len(raw):
            if self.ended.is_set() or stream in self._reset:
                return False
            window = self._windows.setdefault(stream, self._first_window)
            room = min(self._windows[0], window, 16_384)
            if room <= 0:
                self._moved.clear()
                await self._moved.wait()
                continue
            part = raw[first : first + room]
            first += len(part)
            self._windows[0] -= len(part)
            self._windows[stream] -= len(part)
            self.write(frame(DATA, 0, stream, part))
        return await self.flush()

    def next_stream(self) -> int:
        """The number of a stream that is to be opened."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        return stream

    async def _read(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                high, low, kind, flags, stream = _HEAD.unpack(head)
                payload = await self._reader.readexactly(high << 8 | low)
                self._take(kind, flags, stream, payload)
        self.ended.set()
        self._moved.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.seen[kind] += 1
        if kind == GOAWAY:
            self.goodbye = payload[8:]
        elif kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
            self.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._reset.add(stream)
            self._moved.set()
        elif kind == WINDOW_UPDATE:
            room = self._windows.get(stream, self._first_window)
            self._windows[stream] = room + int.from_bytes(payload, "big")
            self._moved.set()
        elif kind == HEADERS:
            place = payload.find(b"grpc-status")
            if place >= 0:
                size = payload[place + 11] & 0x7F
                self.statuses[payload[place + 12 : place + 12 + size]] += 1

    def _take_settings(self, payload: bytes) -> None:
        for name, value in _SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW_SIZE:
                more, self._first_window = value - self._first_window, value
                for stream in self._windows:
                    self._windows[stream] += more if stream else 0
                self._moved.set()
