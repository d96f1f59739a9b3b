"""An operator's own engine: what it must be, and that nobody else is shown the password."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sandglass.cluster.engines import GivenConfig
from sandglass.cluster.given_engine import PAYLOAD_BYTES_MIN, GivenEngine, check_server
from sandglass.errors import PreconditionError, UnavailableError
from tests.certificates import Authority

GOOD = {
    "server_id": "S",
    "version": "2.12.0",
    "jetstream": True,
    "cluster": "theirs",
    "max_payload": PAYLOAD_BYTES_MIN,
    "headers": True,
}


class Server:
    """Says what a test wants, and keeps what it is told."""

    def __init__(self, info: dict[str, Any], answer: bytes) -> None:
        self.info, self.answer = info, answer
        self.heard = b""
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO " + json.dumps(self.info).encode() + b"\r\n")
        try:
            while line := await reader.readline():
                self.heard += line
                if line.startswith(b"PING"):
                    writer.write(self.answer)
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def listening(answer: bytes = b"PONG\r\n", **info: Any) -> AsyncIterator[Server]:
    found = Server(GOOD | info, answer)
    async with await asyncio.start_server(found.serve, "127.0.0.1", 0) as listener:
        found.port = listener.sockets[0].getsockname()[1]
        yield found


def engine(server: Server, *, scheme: str = "nats", **config: Any) -> GivenEngine:
    url = f"{scheme}://127.0.0.1:{server.port}"
    return GivenEngine("node1", GivenConfig((url,), "user", "the password", **config))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "2.11.9"}, r"is nats-server 2\.11\.9; 2\.12 or newer is needed"),
        ({"version": "none"}, r"2\.12 or newer is needed"),
        ({"jetstream": False}, "switch JetStream on"),
        ({"cluster": ""}, "stands alone: replicas need a cluster of three"),
        ({"max_payload": PAYLOAD_BYTES_MIN - 1}, "set max_payload to 8MB"),
    ],
)
def test_one_that_will_not_do_is_refused(change: dict[str, Any], said: str) -> None:
    check_server(GOOD, "nats://a:4222")

    with pytest.raises(
        PreconditionError, match=f"the engine at nats://a:4222 .*{said}"
    ) as caught:
        check_server(GOOD | change, "nats://a:4222")
    assert caught.value.field == "engine_url"


async def test_it_is_connected_to_with_what_the_file_holds() -> None:
    async with listening() as server:
        connection = await engine(server).connect()
        await connection.close()

    assert b'"user": "user"' in server.heard
    assert b'"pass": "the password"' in server.heard


async def test_one_that_will_not_do_is_left_again() -> None:
    async with listening(max_payload=1024 * 1024) as server:
        with pytest.raises(PreconditionError, match="takes 1048576 bytes a message"):
            await engine(server).connect()


async def test_one_that_refuses_the_password_is_said_to() -> None:
    async with listening(b"-ERR 'Authorization Violation'\r\n") as server:
        with pytest.raises(PreconditionError, match="see engine_credentials_file"):
            await engine(server).connect()


async def test_without_tls_nobody_is_shown_the_password(tmp_path: Path) -> None:
    """Whoever stands between may say that there is none."""
    authority = Authority(tmp_path)
    async with listening() as server:
        with pytest.raises(UnavailableError, match="it offers no TLS"):
            await engine(server, scheme="tls", ca=authority.file).connect()

    assert b"CONNECT" not in server.heard


async def test_the_password_is_in_no_log_and_no_repr(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with listening() as server:
            given = engine(server)
            await given.open()
            connection = await given.connect()
            said = f"{connection!r} {given.config!r}"
            await connection.close()

    assert "it is not known whether it syncs" in caplog.text
    assert given.durability == "unknown"
    assert "the password" not in caplog.text + said
