"""Clients that mean no good, or can't do better: each is bounded, and others are unharmed."""

import asyncio
import json
from base64 import b64encode
from typing import Any

import httpx
import pytest

from sandglass.broker.node_loop import NodeLoop
from sandglass.core import limits
from sandglass.testing import Broker
from tests.integration.web.raw import DEADLINE_S, Raw

HEAD = limits.HTTP_HEAD_BYTES_MAX
GET = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"


def bound(**values: Any):
    return pytest.mark.parametrize("bounds", [values], ids=["small"])


async def until(condition, what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


def post(path: str, header: str) -> bytes:
    """The head of a request whose body is still to come."""
    return f"POST {path} HTTP/1.1\r\nhost: localhost\r\n{header}\r\n\r\n".encode()


def connections(broker: Broker) -> int:
    assert broker.node is not None
    assert broker.node._web is not None
    return len(broker.node._web.counts.connections)


# --- heads ------------------------------------------------------------------------------------


async def test_a_head_is_as_large_as_the_limit_and_no_larger(broker: Broker) -> None:
    rest = len("/livez") + len("host") + len("localhost") + 4 + len("x-pad") + 4
    for size_bytes, expected in ((HEAD, 200), (HEAD + 1, 431)):
        async with Raw(broker.http_address) as raw:
            code, _ = await raw.ask("GET /livez", "x-pad: " + "a" * (size_bytes - rest))
        assert expected == code


async def test_a_head_has_as_many_lines_as_the_limit_and_no_more(broker: Broker) -> None:
    most = limits.HTTP_HEADER_COUNT_MAX
    for count, expected in ((most, 200), (most + 1, 431)):
        async with Raw(broker.http_address) as raw:
            code, body = await raw.ask("GET /livez", *["x: y"] * (count - 1))
        assert expected == code
        if expected == 431:
            assert f"headers are {most + 1}; the limit is {most}" == json.loads(body)["error"]


async def test_a_path_that_fills_the_head_is_too_long(broker: Broker) -> None:
    async with Raw(broker.http_address) as raw:
        code, _ = await raw.ask("GET /" + "a" * HEAD)

    assert 414 == code


async def test_a_head_without_an_end_is_cut_off_when_it_is_too_large(broker: Broker) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(GET, b"x: ", b"a" * (2 * HEAD))
        code, headers = await raw.head()

    assert 431 == code
    assert "close" == headers["connection"]


@bound(head_s=0.2)
@pytest.mark.parametrize("sent", [b"", b"G", GET, GET + b"x: y\r\n"])
async def test_a_head_that_does_not_come_whole_in_time_ends_the_connection(
    broker: Broker, sent: bytes
) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(sent)
        code, _ = await raw.head()
        rest = await raw.rest()

    assert 408 == code
    assert b"Request Timeout" == rest
    await until(lambda: connections(broker) == 0, "the connection is gone")


@bound(head_s=0.5)
async def test_a_head_that_trickles_gets_no_more_time_for_each_byte(broker: Broker) -> None:
    async with Raw(broker.http_address) as raw:

        async def trickle() -> None:
            while True:
                await raw.send(b"a")
                await asyncio.sleep(0.05)

        await raw.send(GET)
        trickling = asyncio.create_task(trickle())
        code, _ = await raw.head()
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)

    assert 408 == code


@bound(idle_s=0.2, head_s=30.0)
async def test_a_connection_that_is_idle_after_an_answer_is_closed(broker: Broker) -> None:
    async with Raw(broker.http_address) as raw:
        code, body = await raw.ask("GET /livez")
        rest = await raw.rest()

    assert (200, b"ok", b"") == (code, body, rest)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\r\n\r\n\r\n\r\nnothing\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nbad name: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\r\n b\x00\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_the_connection_ends(
    broker: Broker, sent: bytes
) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(sent)
        code, _ = await raw.head()
        await raw.rest()

    assert code in {400, 431, 501, 505}


async def test_a_length_together_with_chunks_is_no_way_to_smuggle_a_request(
    broker: Broker,
) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(
            b"POST /topics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + GET + b"\r\n"
        )
        first, body = await raw.answer()
        rest = await raw.rest()

    assert 400 == first
    assert b"content-length and transfer-encoding" in body
    assert b"" == rest


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "stranger.example"}, 421),
        ({"host": "127.0.0.1.stranger.example:2108"}, 421),
        ({"host": ""}, 421),
        ({"host": "localhost:1"}, 200),
        ({"origin": "http://stranger.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://localhost:2108"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
async def test_a_stranger_s_name_or_page_reaches_nothing(
    http: httpx.AsyncClient, headers: dict[str, str], code: int
) -> None:
    response = await http.get("/topics", headers=headers)

    assert code == response.status_code
    assert "access-control-allow-origin" not in response.headers


async def test_a_browser_that_asks_before_is_told_nothing(http: httpx.AsyncClient) -> None:
    """CORS is off: a preflight is answered like any other wrong method."""
    asks = {"origin": "http://localhost", "access-control-request-method": "DELETE"}

    response = await http.options("/topics/t", headers=asks)

    assert 405 == response.status_code
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/topics/t/kv/%FF", "/topics/t/kv/k?clusteringKey=%C3%28"])
async def test_a_path_that_is_no_text_is_refused(http: httpx.AsyncClient, path: str) -> None:
    """%FF and %FE would both be the key U+FFFD."""
    response = await http.put(path, json={"value": "eA=="})

    assert 400 == response.status_code
    assert "UTF-8" in response.json()["message"]


async def test_a_request_of_http_1_0_without_a_host_is_refused(broker: Broker) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(b"GET /livez HTTP/1.0\r\n\r\n")
        code, _ = await raw.head()

    assert 421 == code


# --- bodies -----------------------------------------------------------------------------------


async def test_a_body_is_as_large_as_the_limit_and_no_larger(
    http: httpx.AsyncClient, path: str
) -> None:
    most = limits.REQUEST_BYTES_MAX
    fits = b'{"messages":[{}],"x":"' + b"a" * (most - 24) + b'"}'
    assert most == len(fits)

    assert 200 == (await http.post(path, content=fits)).status_code
    refused = await http.post(path, content=fits + b" ")

    assert 413 == refused.status_code
    assert f"body is too large; the limit is {most} bytes" == refused.json()["error"]


async def test_a_declared_length_far_beyond_the_limit_is_refused_unread(
    broker: Broker, path: str
) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(post(path, "content-length: 9999999999"))
        code, headers = await raw.head()

    assert 413 == code
    assert "close" == headers["connection"]


@bound(body_bytes_max=1000)
async def test_a_body_in_chunks_is_bounded_like_any_other(
    broker: Broker, http: httpx.AsyncClient, path: str
) -> None:
    async def chunks(size_bytes: int):
        yield b'{"messages":[{}],"x":"'
        yield b"a" * (size_bytes - 24)
        yield b'"}'

    assert 200 == (await http.post(path, content=chunks(1000))).status_code
    assert 413 == (await http.post(path, content=chunks(1001))).status_code


@bound(chunk_count_max=300)
async def test_a_body_may_come_in_as_many_chunks_as_the_limit_and_no_more(
    broker: Broker, path: str
) -> None:
    """Also when one read brings them all."""
    head = post(path, "transfer-encoding: chunked")
    body = b'{"messages":[{}]}'
    for count, expected in ((300, 200), (301, 413)):
        async with Raw(broker.http_address) as raw:
            chunks = [b"1\r\n \r\n"] * (count - 1)
            last = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
            await raw.send(head, *chunks, last)
            code, _ = await raw.head()
        assert expected == code


@bound(body_s=2.0)
async def test_a_body_that_does_not_come_whole_in_time_is_refused(
    broker: Broker, path: str
) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(post(path, "content-length: 100"), b"{")
        code, headers = await raw.head()

    assert 408 == code
    assert "close" == headers["connection"]


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "GZIP", "gzip, identity"])
async def test_a_compressed_body_is_refused(
    http: httpx.AsyncClient, path: str, coding: str
) -> None:
    refused = await http.post(path, content=b"x", headers={"content-encoding": coding})

    assert (415, 3) == (refused.status_code, refused.json()["code"])


async def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(
    broker: Broker, http: httpx.AsyncClient, path: str
) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(post(path, "content-length: 100"), b"{")
    await until(lambda: connections(broker) <= 1, "the connection is gone")

    assert 200 == (await http.get("/topics/t")).status_code


async def test_an_answer_before_the_body_has_come_closes_the_connection(
    broker: Broker,
) -> None:
    """Whatever else is sent there is no request."""
    async with Raw(broker.http_address) as raw:
        await raw.send(
            b"GET /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\nGET /topics"
        )
        code, headers = await raw.head()
        rest = await raw.rest()

    assert 200 == code
    assert "close" == headers["connection"]
    assert b"ok" == rest


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b'{"messages":[{"value":NaN}]}', 400),
        (b'{"messages":[{"channel":"\\ud800"}]}', 400),
        (b'{"messages":' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400),
        (b'{"a":' * 20_000 + b"1" + b"}" * 20_000, 400),
        (b'{"messages":[{"consumeIn":1e400}]}', 400),
        (b'{"messages":[{"consumeIn":"-1s"}]}', 400),
        (b'{"messages":[{"offset":"AAAA"}]}', 400),
        (b'{"messages":{}}', 400),
        (b'{"messages":[1]}', 400),
        (b'{"messages":[{}],"messages":[]}', 400),
        (b'{"nobody":[{"knows":{"it":[]}}],"messages":[{}]}', 200),
    ],
)
async def test_hostile_json_is_refused_with_a_clear_error(
    http: httpx.AsyncClient, path: str, body: bytes, code: int
) -> None:
    response = await http.post(path, content=body)

    assert code == response.status_code, response.text
    if code == 400:
        assert 3 == response.json()["code"]
        assert len(response.text) < 500


async def test_a_value_is_as_large_as_the_limit_and_no_larger(
    http: httpx.AsyncClient, path: str
) -> None:
    for size_bytes, code in ((limits.VALUE_BYTES_MAX, 200), (limits.VALUE_BYTES_MAX + 1, 400)):
        value = b64encode(bytes(size_bytes)).decode()
        response = await http.post(path, json={"messages": [{"value": value}]})
        assert code == response.status_code


# --- connections and time ---------------------------------------------------------------------


@bound(connection_count_max=3)
async def test_as_many_connections_as_the_limit_and_no_more(broker: Broker) -> None:
    async with Raw(broker.http_address) as one, Raw(broker.http_address) as two:
        async with Raw(broker.http_address) as three:
            for raw in (one, two, three):
                assert (200, b"ok") == await raw.ask("GET /livez")
            async with Raw(broker.http_address) as four:
                code, body = await four.answer()
            assert (503, b"too many connections") == (code, body)
            assert (200, b"ok") == await one.ask("GET /livez")
        await until(lambda: connections(broker) <= 2, "there is room again")

        async with Raw(broker.http_address) as again:
            assert (200, b"ok") == await again.ask("GET /livez")


@bound(stall_s=2.0, idle_s=1000.0)
async def test_a_client_that_takes_nothing_is_cut_off_and_gives_back_what_it_did_not_get(
    broker: Broker, http: httpx.AsyncClient, path: str
) -> None:
    value = b64encode(bytes(1000)).decode()
    for _ in range(10):
        body = {"messages": [{"value": value}] * 1000}
        assert 200 == (await http.post(path, json=body)).status_code
    async with Raw(broker.http_address) as raw:
        raw.narrow()
        await raw.send(f"GET {path}/g/stuck HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        await until(lambda: connections(broker) == 2, "it is there")
        await until(lambda: connections(broker) == 1, "it is cut off")

    lines = (await http.get(f"{path}/g/other", params={"wait": "20s"})).text.splitlines()

    assert len(lines) > 100


@bound(request_s=2.0)
async def test_a_request_that_takes_too_long_is_answered_with_an_unknown_result(
    http: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(NodeLoop, "produce", lambda *_: None)

        response = await http.post(path, json={"messages": [{}]})

    assert (503, 14) == (response.status_code, response.json()["code"])
    assert "unknown" == response.headers["sandglass-result"]


async def test_a_defect_is_answered_without_a_word_of_it(
    broker: Broker,
    http: httpx.AsyncClient,
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert broker.node is not None
    catalog = broker.node.broker.catalog

    def broken(_: str) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(catalog, "topic", broken)

    response = await http.get("/topics/t")

    assert (500, 13) == (response.status_code, response.json()["code"])
    assert "secret" not in response.text
    assert "a secret" in caplog.text
