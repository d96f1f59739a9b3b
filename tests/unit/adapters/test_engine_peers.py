"""What is said of peers whose engines don't come to this one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sandglass.adapters.engine_peers import (
    LINE_BYTES_MAX,
    PeerSeen,
    group_of,
    look_at,
    why_apart,
)
from sandglass.testing.engines import free_ports

HELLO = b'INFO {"server_id":"S2","server_name":"b","cluster":"sandglass-1"}\r\n'
B = PeerSeen("b:1", id="S2", name="b", group="sandglass-1")


@asynccontextmanager
async def listener(line: bytes) -> AsyncIterator[str]:
    """Something that says a line to whoever comes; its address."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_engine_says_who_it_is() -> None:
    async with listener(HELLO) as address:
        (seen,) = await look_at([address])

    assert seen == PeerSeen(address, id="S2", name="b", group="sandglass-1")
    assert group_of([PeerSeen("a:1", "nobody answers"), seen]) == "sandglass-1"


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b'INFO {"server_id":"S2","server_name":"b"}\r\n',
        b'INFO {"server_id":"S2","server_name":"b","cluster":"theirs"}\r\n',
        b"INFO [1]\r\n",
        b"INFO {\r\n",
        b"INFO " + b"x" * 2 * LINE_BYTES_MAX,
    ],
)
async def test_whoever_else_answers_is_no_engine_of_ours(line: bytes) -> None:
    async with listener(line) as address:
        (seen,) = await look_at([address])

    assert group_of([seen]) == ""
    assert address in seen.trouble


async def test_nobody_is_said_to_be_nobody() -> None:
    (port,) = free_ports(1)
    addresses = [f"127.0.0.1:{port}", f"{'x' * 70}.invalid:1"]

    seen = await look_at(addresses)

    assert [each.trouble for each in seen] == [f"nobody answers at {at}" for at in addresses]


def apart(*seen: PeerSeen, met: tuple[str, ...] = ()) -> str:
    return why_apart(seen, own_id="S1", name="a", group="sandglass-1", met=met)


def test_nothing_is_said_of_engines_that_have_met() -> None:
    assert apart(B, met=("b",)) == ""


def test_each_reason_has_its_words() -> None:
    assert "node b, at b:1, and this one don't take each other's secret" in apart(B)
    assert apart(PeerSeen("a:1", id="S1", name="a", group="g")) == "a:1 is this node itself"
    twin = PeerSeen("b:1", id="S2", name="a", group="sandglass-1")
    assert "the node at b:1 is named a as well" in apart(twin)
    other = PeerSeen("b:1", id="S2", name="b", group="sandglass-2")
    assert "node b, at b:1, is of another cluster, or both have founded one" in apart(other)
    assert apart(PeerSeen("b:1", "nobody answers at b:1"), B, met=("b",)) == (
        "nobody answers at b:1"
    )
