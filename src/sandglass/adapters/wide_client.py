"""
The engine's client, for large messages: what it sends is not copied, it reads as much at a time
as there is, and puts a message together once.

The client as it comes joins head, body and end of each message that it sends, twice, which was
a seventh of the CPU that a leader spends on a log entry. It reads 32 KiB at a time, and each
byte goes through three buffers more until its message is whole.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

Value = TypeVar("Value")

READ_BYTES: Final = 512 * 1024

WHOLE_BYTES: Final = 8 * 1024
"""What is smaller may as well be copied."""

LINE_BYTES_MAX: Final = 64 * 1024
"""Of what isn't a message; the longest names all engines of a cluster."""

_END: Final = b"\r\n"


class WideTransport(TcpTransport):
    """Reads what there is."""

    async def read(self, buffer_size: int) -> bytes:
        """Whatever has arrived, up to `READ_BYTES`."""
        del buffer_size
        assert self._io_reader is not None
        return await self._io_reader.read(READ_BYTES)


class WideParser(Parser):
    """
    Reads what the engine sends: a message's bytes stay in the pieces in which they came until
    all are there. All that is no message is left to the client's own parser, line by line.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._client = client

    def reset(self) -> None:
        """Begins anew, with the first line of a connection."""
        super().reset()
        self._line = b""
        """What has come of a line without its end."""
        self._pieces: list[bytes | memoryview] = []
        self._left_bytes = 0
        """Of the message that is being read, with its end; 0 between two."""

    async def parse(self, data: bytes = b"") -> None:
        """
        Takes what has come next.

        Raises:
            ProtocolError: it is not what an engine sends.
        """
        data, self._line = self._line + data if self._line else data, b""
        view, at = memoryview(data), 0
        while at < len(data):
            if self._left_bytes:
                piece = view[at : at + self._left_bytes]
                self._pieces.append(piece)
                self._left_bytes -= len(piece)
                at += len(piece)
                if not self._left_bytes:
                    await self._end_message()
                continue
            end = data.find(_END, at) + len(_END)
            if end < len(_END):
                self._line = data[at:]
                if len(self._line) > LINE_BYTES_MAX:
                    raise ProtocolError("nats: a line without an end")
                return
            line, at = data[at:end], end
            if line.startswith((b"MSG ", b"HMSG ")):
                self._begin_message(line.split())
            else:
                await super().parse(line)

    def _begin_message(self, parts: list[bytes]) -> None:
        try:
            kind, subject, number, *replies, size = parts
            self.header_needed = int(replies.pop()) if kind == b"HMSG" else 0
            self.needed = int(size)
            (reply,) = replies or (b"",)
            self.msg_arg = {"sid": int(number), "subject": subject, "reply": reply}
        except (ValueError, IndexError) as error:
            raise ProtocolError("nats: malformed MSG") from error
        if not 0 <= self.header_needed <= self.needed:
            raise ProtocolError("nats: malformed MSG")
        self._left_bytes = self.needed + len(_END)

    async def _end_message(self) -> None:
        pieces, self._pieces = self._pieces, []
        header = _cut_head(pieces, self.header_needed)
        _cut_end(pieces, len(_END))
        body = b"".join(pieces)
        await self._client._process_msg(**self.msg_arg, data=body, headers=header)


def _cut_head(pieces: list[bytes | memoryview], size_bytes: int) -> bytes:
    """Takes so many bytes from the front."""
    if len(pieces[0]) < size_bytes:
        pieces[:] = [b"".join(pieces)]
    head, pieces[0] = pieces[0][:size_bytes], pieces[0][size_bytes:]
    return bytes(head)


def _cut_end(pieces: list[bytes | memoryview], size_bytes: int) -> None:
    """Drops so many bytes from the end."""
    while len(pieces[-1]) < size_bytes:
        size_bytes -= len(pieces.pop())
    pieces[-1] = pieces[-1][: len(pieces[-1]) - size_bytes]


async def heeded(work: Awaitable[Value]) -> Value:
    """
    Awaits what may lose a cancellation: one that comes together with the answer is lost by
    `asyncio.wait_for` before Python 3.12, and so by the library. Whoever has cancelled a task
    and waits for its end would wait for ever.

    Raises:
        CancelledError: the task was cancelled meanwhile.
    """
    task = asyncio.current_task()
    assert task is not None
    before_count = task.cancelling()
    try:
        return await work
    finally:
        if task.cancelling() > before_count:
            raise asyncio.CancelledError


class WideClient(Client):
    """A client of one engine, or of several one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = WideParser(self)

    async def request(self, *args: Any, **options: Any) -> Msg:
        """See `Client.request`; who cancels it is heeded."""
        return await heeded(super().request(*args, **options))

    async def publish(self, *args: Any, **options: Any) -> None:
        """See `Client.publish`; who cancels it is heeded."""
        await heeded(super().publish(*args, **options))

    async def _connect_to_server(self, s: Srv) -> None:
        s.last_attempt = time.monotonic()
        transport = self._transport
        if not isinstance(transport, WideTransport):
            transport = self._transport = WideTransport()
        await transport.connect(s.uri, READ_BYTES, self.options["connect_timeout"])

    async def _send_publish(
        self,
        subject: str,
        reply: str,
        payload: bytes,
        payload_size: int,
        headers: dict[str, Any] | None,
    ) -> None:
        if payload_size < WHOLE_BYTES or not headers:
            await super()._send_publish(subject, reply, payload, payload_size, headers)
            return
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"NATS/1.0\r\n{lines}\r\n".encode()
        size = f"{len(head)} {len(head) + payload_size}"
        pieces = [f"HPUB {subject} {reply} {size}\r\n".encode() + head, payload, _END]
        # All at once: what others send must not come between.
        self._pending += pieces
        self._pending_data_size += sum(map(len, pieces))
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += payload_size
        await self._send_command(b"")  # if that is too much, it is waited for
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()
