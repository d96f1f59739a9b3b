"""Consuming streams: clients that vanish, nodes that stop, tokens that are revoked."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandglass.security.tokens import add_token, remove_token
from sandglass.testing import Broker
from sandglass.testing.process import NodeProcess
from tests.certificates import Authority
from tests.integration.web.raw import DEADLINE_S, Raw

TOKEN = "sg_" + "a" * 43


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.01)
    assert await condition(), what


def metric(text: str, line: str) -> float:
    """The value of a line of metrics; 0 where there is none."""
    found = [each for each in text.splitlines() if each.startswith(f"{line} ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


async def metrics(http: httpx.AsyncClient) -> str:
    response = await http.get("/metrics")
    assert 200 == response.status_code
    return response.text


async def streams(http: httpx.AsyncClient) -> float:
    return metric(await metrics(http), "sandglass_http_streams")


async def produce(http: httpx.AsyncClient, path: str, *sizes: int) -> None:
    for size in sizes:
        body = {"messages": [{"value": "YWFh" * (size // 3)}]}
        assert 200 == (await http.post(path, json=body)).status_code


async def test_a_waiting_client_that_vanishes_is_noticed_at_once(
    broker: Broker, http: httpx.AsyncClient, path: str
) -> None:
    async with Raw(broker.http_address) as raw:
        await raw.send(f"GET {path}/g/c?wait=60s HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert 200 == (await raw.head())[0]

    async def is_gone() -> bool:
        text = await metrics(http)
        return not (
            metric(text, "sandglass_http_streams") or metric(text, "sandglass_subscriptions")
        )

    await until(is_gone, "stream and subscription are gone")
    await produce(http, path, 3)
    lines = (await http.get(f"{path}/g/other")).text.splitlines()

    assert 1 == len(lines)


async def test_what_a_vanished_client_was_not_sent_is_given_back_at_once(
    broker: Broker, http: httpx.AsyncClient, path: str
) -> None:
    """It is sent what the buffers between hold: some megabytes of twelve."""
    await produce(http, path, *[300_000] * 40)
    async with Raw(broker.http_address) as raw:
        raw.narrow()
        await raw.send(f"GET {path}/g/c HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        assert 200 == (await raw.head())[0]

        seen: list[float] = []

        async def is_stuck() -> bool:
            line = 'sandglass_delivered_messages_total{topic="t"}'
            seen.append(metric(await metrics(http), line))
            return seen[-1] > 0 and len(seen) > 20 and len({*seen[-20:]}) == 1

        await until(is_stuck, "it is leased as much as it may be")

    async def has_released() -> bool:
        line = 'sandglass_outcomes_total{kind="release",topic="t"}'
        return metric(await metrics(http), line) > 0

    await until(has_released, "the rest is given back")
    again = (await http.get(f"{path}/g/other", params={"wait": "20s"})).text.splitlines()

    text = await metrics(http)
    released = metric(text, 'sandglass_outcomes_total{kind="release",topic="t"}')
    assert 0 < released <= len(again) < 40
    assert 0 == metric(text, 'sandglass_outcomes_total{kind="timeout",topic="t"}')


async def test_a_stream_ends_with_an_error_when_its_topic_is_deleted(
    http: httpx.AsyncClient, path: str
) -> None:
    async with http.stream("GET", f"{path}/g/c", params={"wait": "60s"}) as stream:
        assert 200 == stream.status_code
        assert 200 == (await http.delete("/topics/t")).status_code
        lines = [line async for line in stream.aiter_lines()]

    error = json.loads(lines[-1])["error"]
    assert (5, 404) == (error["grpc_code"], error["http_code"])


async def test_an_error_among_server_sent_events_is_an_event_of_its_own(
    http: httpx.AsyncClient, path: str
) -> None:
    accept = {"accept": "text/event-stream"}
    async with http.stream("GET", f"{path}/g/c?wait=60s", headers=accept) as stream:
        assert 200 == (await http.delete("/topics/t")).status_code
        text = (await stream.aread()).decode()

    assert "retry: 1000\n\nevent: error\ndata: {" in text


async def test_a_node_that_stops_ends_its_streams_and_exits_in_time(tmp_path: Path) -> None:
    async with NodeProcess(tmp_path / "data") as node:
        url = f"http://127.0.0.1:{node.http_port}"
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            config = {"name": "t", "numPartitions": 1, "replicationFactor": 1}
            assert 200 == (await http.post("/topics", json=config)).status_code
            partition = (await http.get("/topics/t")).json()["partitions"][0]
            path = f"/topics/t/{partition}/g/c"
            async with Raw(f"127.0.0.1:{node.http_port}") as idle:
                assert (200, b"ok") == await idle.ask("GET /livez")
                async with http.stream("GET", path, params={"wait": "60s"}) as stream:
                    assert 200 == stream.status_code
                    node.terminate()
                    lines = [line async for line in stream.aiter_lines()]
                assert b"" == await idle.rest()

        assert 0 == await node.wait()
        assert "Traceback" not in node.stderr

    error = json.loads(lines[-1])["error"]
    assert (14, 503, "the node is stopping") == (
        error["grpc_code"],
        error["http_code"],
        error["message"],
    )


async def test_a_node_that_drains_answers_its_probes_and_nothing_else(
    broker: Broker, http: httpx.AsyncClient
) -> None:
    assert broker.node is not None
    assert broker.node._web is not None

    broker.node._web.drain()

    ready, live = await http.get("/readyz"), await http.get("/livez")
    refused = await http.get("/topics")
    assert (503, "the node is stopping") == (ready.status_code, ready.text)
    assert 200 == live.status_code
    assert (503, 14) == (refused.status_code, refused.json()["code"])
    assert "1" == refused.headers["retry-after"]


async def test_a_node_that_has_failed_is_not_ready(
    broker: Broker, http: httpx.AsyncClient
) -> None:
    assert broker.node is not None
    broker.node.failure = OSError("a disk")

    ready = await http.get("/readyz")

    broker.node.failure = None
    assert (503, "the node has failed") == (ready.status_code, ready.text)


async def test_the_names_of_a_node_are_a_setting(tmp_path: Path) -> None:
    flags = ["--http_hosts=queue.example", "--advertise_addr=other.example"]
    async with NodeProcess(tmp_path / "data", flags=flags) as node:
        url = f"http://127.0.0.1:{node.http_port}/livez"
        async with httpx.AsyncClient(timeout=60) as http:
            for host, code in (
                ("queue.example", 200),
                ("other.example:99", 200),
                ("stranger.example", 421),
            ):
                assert code == (await http.get(url, headers={"host": host})).status_code


async def test_connections_never_take_the_files_that_the_node_needs(tmp_path: Path) -> None:
    few = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128));"
        " runpy.run_module('sandglass.cli.server', run_name='__main__')"
    )
    config = b'{"name":"t","numPartitions":1,"replicationFactor":1}'
    async with NodeProcess(tmp_path / "data", command=("-c", few)) as node:
        address = f"127.0.0.1:{node.http_port}"
        async with Raw(address) as first, AsyncExitStack() as held:
            assert 200 == (await first.ask("POST /topics", body=config))[0]
            codes: set[int] = set()
            for _ in range(100):
                raw = await held.enter_async_context(Raw(address))
                codes.add((await raw.ask("GET /livez"))[0])
                body = b'{"messages":[{"value":"YWFh"}]}'
                assert 200 == (await first.ask("POST /topics/t", body=body))[0]

    assert 200 in codes
    assert codes & {0, 503}, "there was no room for all"


async def test_two_nodes_cannot_have_one_http_port(broker: Broker, tmp_path: Path) -> None:
    assert broker.node is not None
    flags = [f"--http_port={broker.node.http_port}"]
    node = NodeProcess(tmp_path / "data", flags=flags)
    node.spawn()

    assert 1 == await node.wait()
    assert (
        f"port {broker.node.http_port} on 127.0.0.1 is in use; stop what listens there, or"
        " choose another with --http_port"
    ) in node.stderr


# --- tokens and TLS ---------------------------------------------------------------------------


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    add_token(path, "me", TOKEN)
    return path


async def test_without_a_token_only_the_probes_answer(tmp_path: Path, token_file: Path) -> None:
    flags = [f"--token_file={token_file}"]
    async with NodeProcess(tmp_path / "data", flags=flags) as node:
        url = f"http://127.0.0.1:{node.http_port}"
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            for path in ("/livez", "/readyz"):
                assert 200 == (await http.get(path)).status_code
            others: list[tuple[str, str]] = [
                ("GET", "/topics"),
                ("POST", "/topics"),
                ("GET", "/metrics"),
                ("GET", "/docs"),
                ("GET", "/openapi.json"),
                ("GET", "/nothing"),
                ("GET", "/livez/"),
                ("GET", "//livez"),
            ]
            for sent in ({}, {"authorization": "Bearer sg_wrong"}, {"authorization": TOKEN}):
                for method, path in others:
                    refused = await http.request(method, path, headers=sent)
                    assert (401, 16) == (refused.status_code, refused.json()["code"])
                    assert "Bearer" == refused.headers["www-authenticate"]
                    assert TOKEN not in refused.text
            allowed = await http.get("/topics", headers={"authorization": f"Bearer {TOKEN}"})
            assert 200 == allowed.status_code


async def test_a_stream_ends_when_its_token_is_revoked(
    tmp_path: Path, token_file: Path
) -> None:
    flags = [f"--token_file={token_file}"]
    sent: dict[str, Any] = {"authorization": f"Bearer {TOKEN}"}
    async with NodeProcess(tmp_path / "data", flags=flags) as node:
        url = f"http://127.0.0.1:{node.http_port}"
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=sent) as http:
            config = {"name": "t", "numPartitions": 1, "replicationFactor": 1}
            assert 200 == (await http.post("/topics", json=config)).status_code
            partition = (await http.get("/topics/t")).json()["partitions"][0]
            path = f"/topics/t/{partition}/g/c"
            async with http.stream("GET", path, params={"wait": "60s"}) as stream:
                assert 200 == stream.status_code
                remove_token(token_file, "me")
                lines = [line async for line in stream.aiter_lines()]
            assert 401 == (await http.get("/topics")).status_code

    error = json.loads(lines[-1])["error"]
    assert (16, 401) == (error["grpc_code"], error["http_code"])


async def test_a_call_that_waits_ends_when_its_token_is_revoked(
    tmp_path: Path, token_file: Path
) -> None:
    flags = [f"--token_file={token_file}"]
    sent: dict[str, Any] = {"authorization": f"Bearer {TOKEN}"}
    async with NodeProcess(tmp_path / "data", flags=flags) as node:
        url = f"http://127.0.0.1:{node.http_port}"
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=sent) as http:
            config = {"name": "t", "numPartitions": 1, "replicationFactor": 1}
            assert 200 == (await http.post("/topics", json=config)).status_code
            body = {"group": "g", "consumer": "c", "waitMs": 60_000}
            waiting = asyncio.create_task(http.post("/topics/t/consume", json=body))
            async with asyncio.timeout(DEADLINE_S):
                while not (await http.get("/topics/t/groups")).json().get("groups"):
                    await asyncio.sleep(0.01)
            remove_token(token_file, "me")

            assert 401 == (await waiting).status_code


async def test_a_node_that_stops_lets_go_of_calls_that_wait(broker: Broker) -> None:
    url = f"http://{broker.http_address}"
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        config = {"name": "t", "numPartitions": 1, "replicationFactor": 1}
        assert 200 == (await http.post("/topics", json=config)).status_code
        body = {"group": "g", "consumer": "c", "waitMs": 60_000}
        waiting = asyncio.create_task(http.post("/topics/t/consume", json=body))
        async with asyncio.timeout(DEADLINE_S):
            while not (await http.get("/topics/t/groups")).json().get("groups"):
                await asyncio.sleep(0.01)

        await broker.stop()

        assert {"deliveries": []} == (await waiting).json()


async def test_with_a_certificate_it_speaks_https_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue()
    flags = [f"--tls_cert_file={pair.certificate}", f"--tls_key_file={pair.key}"]
    async with NodeProcess(tmp_path / "data", flags=flags) as node:
        trusting = ssl.create_default_context(cafile=str(authority.file))
        url = f"https://localhost:{node.http_port}"
        async with httpx.AsyncClient(base_url=url, verify=trusting, timeout=60) as http:
            assert "ok" == (await http.get("/livez")).text
        async with Raw(f"127.0.0.1:{node.http_port}") as raw:
            await raw.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"HTTP" not in await raw.rest()
