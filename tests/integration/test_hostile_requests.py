"""
Requests of every type of both protocols, as hostile as Hypothesis makes them, sent to a real
node as calls, in sessions, and over HTTP. The node refuses with a status that is documented and
a text for people, goes on, and harms nobody: what a witness produces meanwhile comes once, and
all of it.

A few of them, always the same, in `make test`; `make fuzz` tries many, and others each time.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandglass import AsyncClient
from sandglass.testing import Broker
from sandglass.web import openapi
from sandglass.wire import status
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import admin_pb2, broker_pb2, keyvalue_pb2
from tests.integration.hostile import Known, hostile, tagged
from tests.integration.raw import batch

CALL_S = 2.0
"""How long is waited for an answer: some are asked to wait for longer."""

END_S = 60

DOCUMENTED = {
    *("INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "ABORTED"),
    *("RESOURCE_EXHAUSTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
}
WAITING = {"DEADLINE_EXCEEDED"}
"""Of a call that was asked to wait for longer than this test does."""

METHODS = [
    method
    for file in (compat, admin_pb2, broker_pb2, keyvalue_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.client_streaming
]
SESSION = "/sandglass.v1.Broker/Session"
CUT = "Internal error from Core"
"""What gRPC's client says by itself when the stream ended while it was writing."""

FRAME: Any = broker_pb2.ClientFrame.DESCRIPTOR
CODES = {200, 400, 404, 405, 409, 412, 413, 415, 416, 429, 501}

attacks = settings(
    settings.default,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    max_examples=1000 if settings.get_current_profile_name() == "fuzz" else 60,
)


@dataclass
class Node:
    """A node, and a witness that goes on working there."""

    runner: asyncio.Runner
    broker: Broker
    channel: grpc.aio.Channel
    client: AsyncClient
    http: httpx.AsyncClient
    known: Known
    sent: list[bytes] = field(default_factory=list[bytes])

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """One attack, and a message of the witness after it."""
        self.runner.run(work)
        value = b"%d" % len(self.sent)
        self.sent.append(value)
        self.runner.run(self._produce(value))

    async def _produce(self, value: bytes) -> None:
        await self.client.produce("witness", value)

    async def witnessed(self) -> list[bytes]:
        """What comes of it to a group that reads all."""
        found: list[bytes] = []
        async with asyncio.timeout(END_S):
            async for message in self.client.consume("witness", group="judge", drain=True):
                found.append(message.value)
                await message.ack()
        return found


@contextmanager
def attacked(caplog: pytest.LogCaptureFixture) -> Iterator[Node]:
    """A node under attack; at the end it must be whole, and its witness unharmed."""
    with asyncio.Runner() as runner:
        context = opened(runner)
        node = runner.run(context.__aenter__())
        try:
            yield node
            assert node.sent == runner.run(node.witnessed())
        finally:
            runner.run(context.__aexit__(None, None, None))
    defects = [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "ERROR" and record.name.startswith("sandglass")
    ]
    assert [] == defects


@asynccontextmanager
async def opened(runner: asyncio.Runner) -> AsyncIterator[Node]:
    async with (
        Broker(session_grace_ms=100) as broker,
        grpc.aio.insecure_channel(broker.address) as channel,
        AsyncClient(broker.address) as client,
        httpx.AsyncClient(base_url=f"http://{broker.http_address}", timeout=60) as http,
    ):
        await client.create_topic("witness")
        topic = await client.create_topic("t", partitions=2)
        await client.create_topic("kv", kind="kv")
        await client.produce_many("t", [b"x"] * 20)
        texts = (
            "t",
            "t",
            "kv",
            "g",
            "",
            "master",
            "__death_letter",
            *topic.partitions,
            "_",
            "\n",
        )
        raws = (batch(b"one"), batch(b"one", b"two"), bytes(6) + b"\1" * 8, b"k")
        yield Node(runner, broker, channel, client, http, Known(texts, raws))


def test_calls(caplog: pytest.LogCaptureFixture) -> None:
    with attacked(caplog) as node:

        @attacks
        @given(st.data())
        def attack(data: st.DataObject) -> None:
            method = data.draw(st.sampled_from(METHODS))
            raw = data.draw(hostile(method.input_type, node.known), label="request")
            node.run(call(node, method, raw))

        attack()


async def call(node: Node, method: Any, raw: bytes) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.server_streaming:
            async for _ in node.channel.unary_stream(path, None, None)(
                bytes(raw), timeout=CALL_S
            ):
                pass
        else:
            await node.channel.unary_unary(path, None, None)(bytes(raw), timeout=CALL_S)
    except grpc.aio.AioRpcError as error:
        judge(error, DOCUMENTED | WAITING)


def judge(error: grpc.aio.AioRpcError, allowed: set[str]) -> None:
    text = error.details() or ""
    assert error.code().name in allowed, text
    assert text.isprintable()
    assert text
    if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
        assert status.from_rpc_error(error).field or "request is not a" in text, text


def test_sessions(caplog: pytest.LogCaptureFixture) -> None:
    with attacked(caplog) as node:
        frame = hostile(FRAME, node.known)

        @attacks
        @given(st.lists(frame, max_size=4), st.booleans())
        def attack(frames: list[bytes], is_greeting: bool) -> None:
            greeting = tagged(1, 2, b"")
            node.run(session(node, [greeting, *frames] if is_greeting else frames))

        attack()


async def session(node: Node, frames: list[bytes]) -> None:
    """Sends them, says goodbye, and reads to the end; errors of items are no defects either."""
    opened: Any = node.channel.stream_stream(SESSION, None, None)
    stream = opened(timeout=END_S)
    goodbye = broker_pb2.ClientFrame(is_goodbye=True).SerializeToString()
    try:
        for frame in [*frames, goodbye]:
            await stream.write(bytes(frame))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass  # it has ended already; reading says how
    try:
        async for raw in stream:
            answered = broker_pb2.ServerFrame.FromString(raw)
            for items in (answered.outcomes, answered.extends, answered.produces):
                assert all(item.error.reason != "INTERNAL" for item in items)
    except grpc.aio.AioRpcError as error:
        if error.details() != CUT:
            judge(error, DOCUMENTED)


def test_http(caplog: pytest.LogCaptureFixture) -> None:
    routes = [(path, method) for path, methods in openapi.PATHS.items() for method in methods]
    with attacked(caplog) as node:

        @attacks
        @given(st.data())
        def attack(data: st.DataObject) -> None:
            path, method = data.draw(st.sampled_from(routes), label="route")
            names = st.sampled_from([each for each in node.known.texts if each.isalnum()])
            target = "/".join(
                data.draw(names) if part.startswith("{") else part for part in path.split("/")
            )
            body = data.draw(bodies(node.known), label="body")
            query = data.draw(st.sampled_from(("", "?wait=1ms", "?wait=-", "?channel=%ff")))
            node.run(ask(node, method.upper(), target + query, body))

        attack()


def bodies(known: Known) -> st.SearchStrategy[bytes]:
    """JSON of the fields that there are, with values that they don't want; or none at all."""
    descriptors = [
        kind
        for file in (compat, admin_pb2, broker_pb2, keyvalue_pb2)
        for kind in file.DESCRIPTOR.message_types_by_name.values()
    ]
    names = sorted({each.json_name for kind in descriptors for each in kind.fields})
    leaves = st.one_of(
        st.none() | st.booleans() | st.integers(-5, 2**64) | st.floats(allow_nan=False),
        st.sampled_from([*known.texts, "AAAA", "1.5s", "2027-01-01T09:00:00Z", "\ud800"]),
    )
    deep: Callable[[Any], Any] = lambda inner: (  # noqa: E731
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=4)
    )
    values = st.recursive(leaves, deep, max_leaves=12)
    fields = st.dictionaries(st.sampled_from(names), values, max_size=5)
    return fields.map(lambda found: json.dumps(found).encode()) | st.binary(max_size=20)


async def ask(node: Node, method: str, target: str, body: bytes) -> None:
    within = httpx.Timeout(END_S, read=CALL_S)
    try:
        answer = await node.http.request(method, target, content=body, timeout=within)
    except httpx.ReadTimeout:
        return  # it was asked to wait
    assert answer.status_code in CODES, answer.text
    if answer.status_code >= 400 and answer.headers["content-type"] == "application/json":
        error = answer.json()["error"]
        text = error if isinstance(error, str) else error["message"]
        assert text
        assert text.isprintable()
