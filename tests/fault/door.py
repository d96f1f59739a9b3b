"""Opens a way into the network namespace that it runs in: SOCKET leads to HOST:PORT."""

import asyncio
import sys
from contextlib import suppress


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carries what comes from one end to the other."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


async def join(
    ours: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    theirs: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Carries both ways until one end is gone."""
    with suppress(OSError):
        await asyncio.gather(pump(ours[0], theirs[1]), pump(theirs[0], ours[1]))


async def main(path: str, host: str, port: str) -> None:
    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inside = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.transport.abort()
            return
        await join((reader, writer), inside)

    server = await asyncio.start_unix_server(enter, path)
    print("open", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
