"""What the engine sends is read as the client's own parser reads it; who cancels is heeded."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from sandglass.adapters.wide_client import LINE_BYTES_MAX, WideParser, heeded


@dataclass
class Client:
    """Notes what a parser tells its client."""

    told: list[Any] = field(default_factory=list[Any])

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None
    ) -> None:
        self.told.append((sid, subject, reply, data, headers or None))

    async def _process_ping(self) -> None:
        self.told.append("ping")

    async def _process_pong(self) -> None:
        self.told.append("pong")

    async def _process_err(self, said: str) -> None:
        self.told.append(said)

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.told.append(info)


def run(parsing: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """What a coroutine comes to that waits for nothing."""
    with pytest.raises(StopIteration) as ended:
        parsing.send(None)
    return ended.value.value


def told_by(kind: type[Parser], pieces: list[bytes]) -> list[Any]:
    async def parse() -> list[Any]:
        client = Client()
        parser = kind(client)
        for piece in pieces:
            await parser.parse(piece)
        return client.told

    return run(parse())


def message(reply: bytes, header: bytes, body: bytes) -> bytes:
    names = b"log.1 7" + (b" " + reply if reply else b"")
    if header:
        return b"HMSG %b %d %d\r\n%b%b\r\n" % (
            names,
            len(header),
            len(header) + len(body),
            header,
            body,
        )
    return b"MSG %b %d\r\n%b\r\n" % (names, len(body), body)


MESSAGES = st.builds(
    message,
    st.sampled_from([b"", b"$JS.ACK.one.two.1.2.3.4.5"]),
    st.sampled_from([b"", b"NATS/1.0\r\nNats-Msg-Id: a\r\n\r\n"]),
    st.one_of(
        st.binary(max_size=40), st.sampled_from([b"\r\n", b"PING\r\n", b"MSG a 1 0\r\n"])
    ),
)
OTHERS = st.sampled_from(
    [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Slow Consumer'\r\n", b'INFO {"a": 1}\r\n']
)


@given(
    sent=st.lists(st.one_of(MESSAGES, OTHERS), max_size=8).map(b"".join),
    cuts=st.lists(st.integers(0, 400), max_size=20),
)
def test_however_it_is_cut_it_is_what_the_clients_own_parser_reads(
    sent: bytes, cuts: list[int]
) -> None:
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    pieces = [sent[low:high] for low, high in pairwise(places)]

    assert told_by(WideParser, pieces) == told_by(Parser, [sent])


def test_byte_by_byte_a_message_with_a_header_comes_whole() -> None:
    sent = message(b"to.me", b"NATS/1.0\r\n\r\n", b"body") * 2

    told = told_by(WideParser, [sent[at : at + 1] for at in range(len(sent))])

    assert told == [(7, b"log.1", b"to.me", b"body", b"NATS/1.0\r\n\r\n")] * 2


def test_what_was_begun_is_forgotten_with_the_connection() -> None:
    async def parse() -> list[Any]:
        client = Client()
        parser = WideParser(cast(Any, client))
        await parser.parse(b"PING\r\nMSG a 1 100\r\nsome of it")
        parser.reset()
        await parser.parse(b"PI")
        parser.reset()
        await parser.parse(b"PONG\r\n")
        return client.told

    assert run(parse()) == ["ping", "pong"]


@pytest.mark.parametrize(
    "sent",
    [
        b"MSG a 1 x\r\n",
        b"MSG a x 1\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 b c 1\r\n",
        b"HMSG a 1 5\r\n",
        b"HMSG a 1 6 5\r\n",
        b"WHAT is this\r\n",
        b"INFO " + b"x" * LINE_BYTES_MAX,
    ],
)
def test_what_no_engine_sends_is_refused(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        told_by(WideParser, [sent])


def test_a_line_that_names_many_engines_is_read() -> None:
    sent = b'INFO {"a": "' + b"x" * (LINE_BYTES_MAX - 100) + b'"}\r\n'

    (info,) = told_by(WideParser, [sent[:50_000], sent[50_000:]])

    assert len(info["a"]) == LINE_BYTES_MAX - 100


async def answered(future: "asyncio.Future[str]") -> str:
    """As a library does that loses a cancellation which comes with the answer."""
    with suppress(asyncio.CancelledError):
        await future
    return future.result()


async def test_a_cancellation_that_comes_with_the_answer_is_heeded() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(heeded(answered(future)))
    await asyncio.sleep(0)

    future.set_result("answer")
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_an_answer_without_a_cancellation_is_an_answer() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result("answer")

    assert "answer" == await heeded(answered(future))


async def test_who_was_cancelled_before_may_still_ask_while_it_cleans_up() -> None:
    future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    future.set_result("answer")
    found: list[str] = []

    async def clean() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            found.append(await heeded(answered(future)))

    task = asyncio.create_task(clean())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert found == ["answer"]
