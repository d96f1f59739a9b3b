"""
The engine's client, for large messages: what it sends is not copied, and it reads as much at a
time as there is.

The client as it comes joins head, body and end of each message, twice, and reads 32 KiB at a
time: of the CPU that a leader spends on a log entry that was a seventh.
"""

import time
from typing import Any, Final

from nats.aio.client import Client, Srv
from nats.aio.transport import TcpTransport

READ_BYTES: Final = 512 * 1024

WHOLE_BYTES: Final = 8 * 1024
"""What is smaller may as well be copied."""

_END: Final = b"\r\n"


class WideTransport(TcpTransport):
    """Reads what there is."""

    async def read(self, buffer_size: int) -> bytes:
        """Whatever has arrived, up to `READ_BYTES`."""
        del buffer_size
        assert self._io_reader is not None
        return await self._io_reader.read(READ_BYTES)


class WideClient(Client):
    """A client of one engine, or of several one after the other."""

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
