"""
Requests of HTTP: everything between the bytes of a connection and the broker.

A request goes through the gate, the routes, and a broker over adapters in memory, as it would
on a node. How it is cut out of a connection is h11's business, and stays outside.
"""

import asyncio
import json
import logging
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from fuzz.target import Target, check
from sandglass.adapters.memory_log import MemoryLog
from sandglass.adapters.memory_store import MemoryStore
from sandglass.adapters.system import SystemClock
from sandglass.broker.broker import Broker
from sandglass.broker.node_loop import NodeLoop
from sandglass.core.topic import TopicKind
from sandglass.sandflake import Generator
from sandglass.web import openapi
from sandglass.web.bounds import Bounds
from sandglass.web.gate import Gate
from sandglass.web.hosts import Hosts
from sandglass.web.probes import Probes
from sandglass.web.routes import desks, router, table
from sandglass.web.stream import Streams
from sandglass.wire.convert import slice_body

LIFE_COUNT = 1000
"""Requests that a node answers before another takes its place: what they left behind goes."""

PATIENCE_S = 0.2
"""A client that is told nothing for so long goes away."""

GONE = 499
CODES = frozenset(
    {
        200,
        GONE,
        400,
        403,
        404,
        405,
        408,
        409,
        412,
        413,
        414,
        415,
        416,
        421,
        429,
        431,
        501,
        503,
        505,
    }
)
"""What a node may answer; 500 says that it has a defect."""

BOUNDS = Bounds(wait_s_max=0.01, body_s=1.0, request_s=2.0)


@dataclass(slots=True)
class _Node:
    """One that listens nowhere, and how many requests it has had."""

    gate: Gate
    loop: NodeLoop
    partition: str
    request_count: int = 0

    @property
    def is_fresh(self) -> bool:
        """Whether it has its topics still, and not too much beside them."""
        topics = self.loop.machine.topics
        return {"t", "kv"} <= topics.keys() and self.request_count < LIFE_COUNT


@dataclass(slots=True)
class _Exchange:
    """A request on its way in, and what was answered."""

    body: bytes | None
    code: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    answer: bytes = b""

    async def receive(self) -> dict[str, Any]:
        body, self.body = self.body, None
        if body is None:  # the client waits for its answer, and stays
            await asyncio.Event().wait()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            check(not self.code, "two answers to one request")
            self.code, self.headers = event["status"], dict(event["headers"])
        else:
            self.answer += event.get("body", b"")


async def _started() -> _Node:
    clock = SystemClock()
    loop = NodeLoop(MemoryLog(), MemoryStore(), clock, slice_body)
    ids = Generator(wall_ms=clock.wall_ms, entropy=bytes)
    broker = Broker(loop, ids)
    await loop.start()
    topic = await broker.catalog.create_topic("t", partition_count=1)
    await broker.catalog.create_topic("kv", kind=TopicKind.KV, partition_count=2)
    streams = Streams()

    async def scraped() -> bytes:
        return b""

    gate = Gate(
        router(table(desks(broker, streams, Probes(lambda: "", scraped)))),
        bounds=BOUNDS,
        hosts=Hosts("127.0.0.1"),
        clock=clock,
        counted=lambda _: None,
    )
    return _Node(gate, loop, topic.partitions[0].id)


class _Runner:
    """The event loop of a target, and the node that lives in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._node: _Node | None = None

    def run(self, data: bytes) -> _Exchange:
        return self._loop.run_until_complete(self._ask(data))

    async def _ask(self, data: bytes) -> _Exchange:
        node = self._node
        if node is None or not node.is_fresh:
            if node is not None:
                await node.loop.stop()
            node = self._node = await _started()
        node.request_count += 1
        head, _, body = data.replace(b"{p}", node.partition.encode()).partition(b"\n\n")
        first, *rest = head.split(b"\n")
        method, _, target = first.partition(b" ")
        path, _, query = target.partition(b"?")
        pairs = (line.partition(b":") for line in rest)
        exchange = _Exchange(body)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method.decode("latin-1"),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower().strip(), value.strip()) for name, _, value in pairs],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        scope["headers"].append((b"host", b"localhost"))
        try:
            await asyncio.wait_for(
                node.gate(scope, exchange.receive, exchange.send), PATIENCE_S
            )
        except TimeoutError:
            exchange.code = exchange.code or GONE  # it was asked to wait, and waits
        return exchange


_runner: list[_Runner] = []


def requests(data: bytes) -> None:
    """`METHOD TARGET`, headers, an empty line, the body; `{p}` stands for a partition."""
    if not _runner:
        logging.getLogger("sandglass").addHandler(logging.NullHandler())
        _runner.append(_Runner())
    exchange = _runner[0].run(data)
    check(exchange.code in CODES, f"answered with {exchange.code}")
    if exchange.code >= 400 and exchange.headers.get(b"content-type") == b"application/json":
        shown = json.loads(exchange.answer)
        text = shown["error"] if isinstance(shown["error"], str) else shown["error"]["message"]
        check(text.isprintable() and 0 < len(text) < 2000, "an error that is no line of text")


def _seeds() -> list[bytes]:
    message = b'{"messages":[{"value":"aGk=","consumeIn":"1s","key":"aw=="}]}'
    ours = b'{"messages":[{"value":"aGk="}],"delay":"1m","channel":"c"}'
    put = b'{"messages":[{"key":"aw==","value":"dg=="}]}'
    keys = b'{"keys":[{"key":"aw=="}],"countMax":5}'
    return [
        *_of_all_routes(keys),
        b"GET /topics\n\n",
        b'POST /topics\n\n{"name":"x","numPartitions":1,"replicationFactor":1}',
        b"GET /topics/t\n\n",
        b"DELETE /topics/x\n\n",
        b"GET /topics/t/groups?group=g\n\n",
        b"POST /topics/t\ncontent-type: application/json\n\n" + message,
        b"POST /topics/t/{p}\ncontent-length: 60\n\n" + message,
        b"POST /topics/t/schedule\n\n" + ours,
        b'POST /topics/t/{p}/schedule\n\n{"messages":[{"dueAt":"2027-01-01T09:00:00Z"}]}',
        b"GET /topics/t/{p}/g/c?wait=1ms&channel=c\naccept: text/event-stream\n\n",
        b"GET /topics/t/{p}/g\n\n",
        b'POST /topics/t/{p}/g/ack\n\n{"offsets":["AAAAAAAAAAAAAAAAAAA="]}',
        b'POST /topics/t/{p}/g/nack\n\n{"offsets":[[1,2,3]],"state":{"kind":10}}',
        *(b"POST /topics/kv/kv/%b\n\n" % each + keys for each in (b"get", b"has", b"delete")),
        b"POST /topics/kv/kv/put\n\n" + put,
        b"POST /topics/kv/kv/scan\n\n" + keys,
        b'PUT /topics/kv/kv/a%20key?clusteringKey=%c3%a9\n\n{"value":"dg==","headers":[]}',
        b"GET /topics/kv/kv/a%20key?clusteringKey=%c3%a9&partition=p\n\n",
        b"DELETE /topics/kv/kv/a%20key\norigin: http://localhost\n\n",
        b"GET /livez\nsec-fetch-site: none\n\n",
        b"GET /metrics\n\n",
        b"GET /openapi.json\nauthorization: Bearer x\n\n",
    ]


def _of_all_routes(body: bytes) -> Iterator[bytes]:
    for path, methods in openapi.PATHS.items():
        named = path.replace("{topic}", "t").replace("{partition}", "{p}")
        target = re.sub(r"\{[a-z]\w+\}", "g", named, flags=re.IGNORECASE)
        for method in methods:
            yield f"{method.upper()} {target}\n\n".encode() + body


TARGETS = (Target("http", requests, _seeds, 1024),)
