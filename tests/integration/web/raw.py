"""Connections that send what they like: no client library would."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

DEADLINE_S = 60.0


@dataclass
class Raw:
    """A connection to `address`, open while its block lasts."""

    address: str

    async def __aenter__(self) -> "Raw":
        host, _, port = self.address.rpartition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.writer.transport.abort()

    def narrow(self) -> None:
        """Takes little at a time; otherwise the system takes megabytes for a client."""
        connection = self.writer.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    async def send(self, *parts: bytes) -> None:
        """As it is; nothing if the node has ended the connection."""
        self.writer.write(b"".join(parts))
        with suppress(ConnectionError):
            await self.writer.drain()

    async def ask(self, line: str, *headers: str, body: bytes = b"") -> tuple[int, bytes]:
        """A request and its answer; `Host` is set, and the length of a body."""
        lines = [f"{line} HTTP/1.1", "host: localhost", *headers]
        if body:
            lines.append(f"content-length: {len(body)}")
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return await self.answer()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the next answer; 0 if the connection ended instead."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                raw = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, {}
        first, *lines = raw.decode().rstrip().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        code, headers = await self.head()
        async with asyncio.timeout(DEADLINE_S):
            try:
                size_bytes = int(headers.get("content-length", 0))
                return code, await self.reader.readexactly(size_bytes)
            except (asyncio.IncompleteReadError, ConnectionError):
                return code, b""

    async def rest(self) -> bytes:
        """All that comes until the node ends the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""
