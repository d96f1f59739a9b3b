"""
What a network can do to a node: each attack is a function of a target, and leaves when it is
done. `scale` 1 is the whole attack; a tenth of it has the same shape.

An attack says itself what it must meet with: it asserts that it was refused, bounded, or let
go. That others are unharmed is the caller's to see.
"""

import asyncio
import random
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from sandglass.core import limits
from sandglass.testing.process import NodeProcess
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import broker_pb2 as pb
from tests.fault import http2
from tests.fault.http2 import Http2, call_headers, frame, literal

PRODUCE: Final = "/sandglass.v1.Broker/Produce"
SESSION: Final = "/sandglass.v1.Broker/Session"
GROUP: Final = "/sandglass.BrokerService/ConsumeFromGroup"
FETCH: Final = "/sandglass.BrokerService/FetchFrom"

WAIT_S: Final = 60.0
EXHAUSTED: Final = b"8"


@dataclass(frozen=True)
class Target:
    """A node, and how hard to hit it. `partition` is of topic `large`, with large messages."""

    node: NodeProcess
    partition: str
    scale: float

    @property
    def pause_s(self) -> float:
        """How long an attack that only has to be borne lasts."""
        return 2.0 if self.scale == 1 else 0.2

    def count(self, whole: int) -> int:
        return max(1, int(whole * self.scale))


Attack = Callable[[Target], Coroutine[Any, Any, None]]


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)


# --- connections ------------------------------------------------------------------------------


@asynccontextmanager
async def crowd(port: int, count: int, hello: bytes) -> AsyncIterator[list[socket.socket]]:
    """Many connections that have said `hello` and nothing more."""
    opened: list[socket.socket] = []
    try:
        for number in range(count):
            one = socket.socket()
            opened.append(one)
            one.setblocking(False)
            with suppress(OSError):
                await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
                one.send(hello)
            if number % 50 == 0:
                await asyncio.sleep(0)
        yield opened
    finally:
        for one in opened:
            one.close()


def said(one: socket.socket) -> bytes | None:
    """What has come on a connection; nothing at its end, None while it is open and silent."""
    try:
        return one.recv(1 << 16)
    except BlockingIOError:
        return None
    except OSError:
        return b""


async def many_connections(target: Target) -> None:
    """To gRPC, with all of HTTP/2's politeness: as many are let in as may be."""
    hello = http2.PREFACE + frame(http2.SETTINGS, 0, 0)
    async with crowd(target.node.grpc_port, target.count(10_000), hello) as opened:
        await asyncio.sleep(0.2)
        assert target.node.is_running
        assert opened


async def many_silent_connections(target: Target) -> None:
    """To HTTP: beyond the limit each is told, and closed."""
    count = target.count(10_000)
    refused = 0
    async with crowd(target.node.http_port, count, b"") as opened:
        left = set(opened)
        deadline = time.monotonic() + WAIT_S
        while len(left) > limits.HTTP_CONNECTION_COUNT_MAX:
            assert time.monotonic() < deadline, f"{len(left)} are still there"
            await asyncio.sleep(0.01)
            for one in [*left]:
                answer = said(one)
                if answer is not None:
                    left.discard(one)
                    refused += answer.startswith(b"HTTP/1.1 503")
    if count > limits.HTTP_CONNECTION_COUNT_MAX:
        assert refused


async def half_closed(target: Target) -> None:
    """Connections whose client will say nothing more, and doesn't go."""
    hello = http2.PREFACE + frame(http2.SETTINGS, 0, 0)
    for port, said_first in (
        (target.node.grpc_port, hello),
        (target.node.http_port, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"),
    ):
        async with crowd(port, target.count(300), said_first) as opened:
            for one in opened:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_WR)
            await until(
                lambda opened=opened: all(said(one) == b"" for one in opened), "the end of all"
            )


async def garbage(target: Target) -> None:
    """Bytes that mean nothing: at once, after the preface, and instead of an HTTP request."""
    chance = random.Random(4)
    hello = http2.PREFACE + frame(http2.SETTINGS, 0, 0)
    for number in range(target.count(300)):
        port = (target.node.grpc_port, target.node.http_port)[number % 2]
        raw = chance.randbytes(chance.choice((1, 9, 100, 20_000)))
        async with crowd(port, 1, (hello if number % 4 == 0 else b"") + raw):
            await asyncio.sleep(0)


# --- HTTP/2 -----------------------------------------------------------------------------------


async def many_streams(target: Target) -> None:
    """Sessions on one connection that say hello; those beyond the limit are refused."""
    count = target.count(10_000)
    hello = http2.message(pb.ClientFrame(hello=pb.Hello()).SerializeToString())
    headers = call_headers(SESSION)
    async with Http2(target.node.address) as attacker:
        attacker.write(frame(http2.WINDOW_UPDATE, 0, 0, (1 << 30).to_bytes(4, "big")))
        for _ in range(count):
            stream = attacker.next_stream()
            attacker.write(
                frame(http2.HEADERS, http2.END_HEADERS, stream, headers),
                frame(http2.DATA, 0, stream, hello),
            )
            await attacker.flush()
        taken = min(count, limits.GRPC_STREAM_COUNT_MAX)
        await until(lambda: attacker.seen[http2.HEADERS] >= taken, "the sessions")
        await until(lambda: attacker.seen[http2.RST_STREAM] >= count - taken, "the refusals")


async def rapid_reset(target: Target) -> None:
    """Calls that are begun and taken back at once."""
    headers = call_headers(PRODUCE)
    reset = http2.CANCEL.to_bytes(4, "big")
    async with Http2(target.node.address) as attacker:
        for _ in range(target.count(2000)):
            streams = [attacker.next_stream() for _ in range(50)]
            attacker.write(
                *(
                    frame(http2.HEADERS, http2.END_HEADERS, stream, headers)
                    + frame(http2.RST_STREAM, 0, stream, reset)
                    for stream in streams
                )
            )
            if not await attacker.flush():
                return


async def ping_flood(target: Target) -> None:
    """The connection is told that this is too much, or just ended."""
    async with Http2(target.node.address) as attacker:
        for _ in range(target.count(2000)):
            attacker.write(*[frame(http2.PING, 0, 0, b"12345678")] * 100)
            if not await attacker.flush():
                break
        await until(
            lambda: attacker.ended.is_set() or b"too_many_pings" in attacker.goodbye, "the end"
        )


async def settings_flood(target: Target) -> None:
    """Settings, each of which has to be acknowledged."""
    changed = frame(http2.SETTINGS, 0, 0, b"\0\4\0\0\xff\xff")
    async with Http2(target.node.address) as attacker:
        for _ in range(target.count(5000)):
            attacker.write(*[changed] * 100)
            if not await attacker.flush():
                return


async def deaf_settings_flood(target: Target) -> None:
    """The same from a client that reads nothing: the node may not pile up what it answers."""
    changed = frame(http2.SETTINGS, 0, 0, b"\0\4\0\0\xff\xff")
    async with Http2(target.node.address, is_deaf=True) as attacker:
        with suppress(TimeoutError):
            async with asyncio.timeout(target.pause_s):
                while await attacker.flush():
                    attacker.write(*[changed] * 100)


async def header_bomb(target: Target) -> None:
    """Headers that name one large entry of the table a thousand times each: 46 MB in 12 KB."""
    large = literal(b"x-large", b"a" * 3900, is_indexed=True)
    begin = call_headers(PRODUCE)
    flags = http2.END_HEADERS | http2.END_STREAM
    count = target.count(1000)
    async with Http2(target.node.address) as attacker:
        for number in range(count):
            block = begin + (large if number == 0 else b"") + b"\xbe" * 12_000
            attacker.write(frame(http2.HEADERS, flags, attacker.next_stream(), block))
            await attacker.flush()
            await until(
                lambda number=number: attacker.seen[http2.HEADERS] > number - 200, "an answer"
            )
        await until(lambda: attacker.statuses[EXHAUSTED] > 0, "the refusals")


async def continuation_flood(target: Target) -> None:
    """Headers without an end, in large pieces and in empty ones."""
    for piece in (b"y" * 16_000, b""):
        async with Http2(target.node.address) as attacker:
            attacker.write(frame(http2.HEADERS, 0, 1, call_headers(PRODUCE)))
            for number in range(target.count(20_000)):
                block = literal(b"x-%d" % number, piece) if piece else b""
                attacker.write(frame(http2.CONTINUATION, 0, 1, block))
                if not await attacker.flush():
                    break


async def compressed_bomb(target: Target) -> None:
    """A request that inflates to a thousand times its size."""
    # In a thread: it takes seconds, in which the witness has to go on.
    bomb = await asyncio.to_thread(_bomb, target.count(3000))
    async with Http2(target.node.address) as attacker:
        stream = attacker.next_stream()
        headers = call_headers(PRODUCE, (b"grpc-encoding", b"gzip"))
        attacker.write(frame(http2.HEADERS, http2.END_HEADERS, stream, headers))
        await attacker.send_message(stream, http2.message(bomb, is_compressed=True))
        attacker.write(frame(http2.DATA, http2.END_STREAM, stream))
        await until(lambda: attacker.statuses[EXHAUSTED] == 1, "the refusal")


def _bomb(count: int) -> bytes:
    """So many MiB of zeros, packed."""
    packer, zeros = zlib.compressobj(wbits=31), bytes(1 << 20)
    return b"".join(packer.compress(zeros) for _ in range(count)) + packer.flush()


# --- readers that don't read ------------------------------------------------------------------


async def deaf_readers(
    target: Target, path: str, bodies: Callable[[int], bytes], *, is_ended: bool = True
) -> None:
    """Calls whose answers nobody takes: no window is ever opened beyond the first."""
    async with AsyncExitStack() as stack:
        count, each = target.count(10_000), limits.GRPC_STREAM_COUNT_MAX
        for first in range(0, count, each):
            attacker = await stack.enter_async_context(Http2(target.node.address))
            for number in range(first, min(first + each, count)):
                attacker.call(path, http2.message(bodies(number)), is_ended=is_ended)
                if number % 20 == 0:
                    await attacker.flush()
                    await asyncio.sleep(0)
        await asyncio.sleep(target.pause_s)


async def deaf_fetches(target: Target) -> None:
    """FetchFrom of large messages."""
    request = compat.FetchFromRequest(topic="large", partition=target.partition)
    raw = request.SerializeToString()
    await deaf_readers(target, FETCH, lambda _: raw)


async def deaf_groups(target: Target) -> None:
    """ConsumeFromGroup, each of a group of its own."""

    def body(number: int) -> bytes:
        return compat.ConsumeFromGroupRequest(
            topic="large", partition=target.partition, consumerGroupName=f"deaf-{number}"
        ).SerializeToString()

    await deaf_readers(target, GROUP, body)


async def deaf_sessions(target: Target) -> None:
    """Sessions with credit for all there is, each of a group of its own."""

    def body(number: int) -> bytes:
        wanted = pb.Subscribe(
            subscription_id=1,
            topic="large",
            group=f"session-{number}",
            consumer="c",
            credit_count=limits.CREDIT_COUNT_MAX,
            credit_bytes=limits.CREDIT_BYTES_MAX,
        )
        frame = pb.ClientFrame(hello=pb.Hello(), subscribes=[wanted])
        return frame.SerializeToString()

    await deaf_readers(target, SESSION, body, is_ended=False)


async def deaf_calls(target: Target) -> None:
    """Unary calls with large replies."""
    request = pb.FetchRequest(topic="large", partition=target.partition)
    raw = request.SerializeToString()
    await deaf_readers(target, "/sandglass.v1.Broker/Fetch", lambda _: raw)


# --- slow HTTP --------------------------------------------------------------------------------


async def slow_http(target: Target) -> None:
    """A byte now and then, of heads and of bodies; and answers that nobody reads."""
    begun = (
        b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx: ",
        b"POST /topics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{",
        b"POST /topics HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    async with AsyncExitStack() as stack:
        crowds = [
            await stack.enter_async_context(
                crowd(target.node.http_port, target.count(300), said_first)
            )
            for said_first in begun
        ]
        for _ in range(target.count(200)):
            for opened in crowds:
                for one in opened:
                    with suppress(OSError):
                        one.send(b"a")
            await asyncio.sleep(0.05)


async def pipelined_http(target: Target) -> None:
    """Requests upon requests, of which no answer is read; and two that hide another."""
    asks = b"GET /topics HTTP/1.1\r\nhost: localhost\r\n\r\n" * 1000
    hidden = (
        b"POST /topics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /topics HTTP/1.1\r\nhost: localhost\r\n\r\n"
    )
    async with crowd(target.node.http_port, target.count(100), b"") as opened:
        for one in opened:
            with suppress(OSError):
                one.send(asks)
        async with crowd(target.node.http_port, 20, hidden) as smugglers:
            for one in smugglers:
                heard: list[bytes] = []

                def is_over(one: socket.socket = one, heard: list[bytes] = heard) -> bool:
                    answer = said(one)
                    heard.append(answer or b"")
                    return answer == b""

                await until(is_over, "the end of the connection")
                assert b"".join(heard).count(b"HTTP/1.1 ") <= 1, "a second answer"


ATTACKS: Final[tuple[Attack, ...]] = (
    many_connections,
    many_silent_connections,
    half_closed,
    garbage,
    many_streams,
    rapid_reset,
    ping_flood,
    settings_flood,
    deaf_settings_flood,
    header_bomb,
    continuation_flood,
    compressed_bomb,
    deaf_fetches,
    deaf_groups,
    deaf_sessions,
    deaf_calls,
    slow_http,
    pipelined_http,
)
