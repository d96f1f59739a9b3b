"""One message in and out over each surface, so that a table of limits is held against all."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio
import httpx

from sandglass import AsyncClient, Client, InvalidError
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.compat.sandglass_pb2_grpc import BrokerServiceStub
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, Wire


@dataclass(frozen=True)
class Parts:
    """All that a producer may put into a message."""

    key: bytes = b""
    clustering_key: bytes = b""
    id: str = ""
    headers: tuple[tuple[str, bytes], ...] = ()
    value: bytes = b""

    def message(self) -> pb.Message:
        headers = [pb.Header(name=name, value=value) for name, value in self.headers]
        return pb.Message(
            key=self.key,
            clustering_key=self.clustering_key,
            id=self.id,
            headers=headers,
            value=self.value,
        )

    @classmethod
    def of(cls, message: pb.Message) -> "Parts":
        headers = tuple((each.name, each.value) for each in message.headers)
        return cls(message.key, message.clustering_key, message.id, headers, message.value)


class Refused(Exception):
    """What a surface answered instead, with the name of its code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text[:300]}")
        self.code = code
        self.text = text


@asynccontextmanager
async def told_apart() -> AsyncIterator[None]:
    """Makes a refusal of gRPC one of ours."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise Refused(error.code().name, error.details() or "") from error


class Surface(Protocol):
    """Made for a topic of one partition."""

    async def produce(self, *messages: Parts) -> None:
        """All in one request. Raises `Refused`."""
        ...

    async def take(self) -> list[Parts]:
        """What was produced, from the beginning, and whole."""
        ...


@dataclass
class Place:
    """Where a surface works: a node, by its addresses, and a topic on it."""

    wire: Wire
    address: str
    http_address: str
    topic: str
    partition: str


class Calls:
    """A call for each thing, of our protocol."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.broker = place.wire.broker

    async def produce(self, *messages: Parts) -> None:
        batch = pb.MessageBatch(messages=[each.message() for each in messages])
        raw, count = batch.SerializeToString(), len(messages)
        async with told_apart():
            await self.broker.Produce(
                pb.ProduceRequest(topic=self.place.topic, batch=raw, count=count)
            )

    async def take(self) -> list[Parts]:
        found: list[Parts] = []
        request = pb.FetchRequest(topic=self.place.topic, partition=self.place.partition)
        while True:
            reply = await self.broker.Fetch(request)
            for part in reply.fetched:
                found += map(Parts.of, pb.MessageBatch.FromString(part.batch).messages)
            if reply.is_end:
                return found
            request.first = reply.next


class Sessions:
    """Frames of a session."""

    def __init__(self, place: Place, session: RawSession) -> None:
        self.place = place
        self.session = session

    async def produce(self, *messages: Parts) -> None:
        batch = pb.MessageBatch(messages=[each.message() for each in messages])
        raw, count = batch.SerializeToString(), len(messages)
        topic = self.place.topic
        request = pb.ProduceRequest(request_id=1, topic=topic, batch=raw, count=count)
        await self.session.send(produces=[request])
        error = (await self.session.take(pb.ProduceReply)).error
        if error.code:
            raise Refused(code_name(error.code), error.message)

    async def take(self) -> list[Parts]:
        found: list[Parts] = []
        await self.session.subscribe(
            self.place.topic, credit_count=100_000, credit_bytes=64 << 20, is_drain=True
        )
        while not isinstance(
            item := await self.session.take((pb.Delivery, pb.SubscriptionEnded)),
            pb.SubscriptionEnded,
        ):
            found += map(Parts.of, pb.MessageBatch.FromString(item.batch).messages)
        return found


class Compatible:
    """The protocol of the first Sandglass."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.stub: Any = BrokerServiceStub(place.wire.channel)

    async def produce(self, *messages: Parts) -> None:
        wires = [
            compat.Message(key=each.key, clusteringKey=each.clustering_key, value=each.value)
            for each in messages
        ]
        async with told_apart():
            await self.stub.Produce(
                compat.ProduceMessageRequest(topic=self.place.topic, messages=wires)
            )

    async def take(self) -> list[Parts]:
        request = compat.FetchFromRequest(
            topic=self.place.topic, partition=self.place.partition
        )
        return [
            Parts(each.key, each.clusteringKey, value=each.value)
            async for each in self.stub.FetchFrom(request)
        ]


class Http:
    """JSON."""

    def __init__(self, place: Place, http: httpx.AsyncClient) -> None:
        self.topic = place.topic
        self.http = http

    async def produce(self, *messages: Parts) -> None:
        body = {"dueAt": "1970-01-01T00:00:00Z", "messages": [*map(_json_of, messages)]}
        await self.ask("POST", "/t/schedule", json=body)

    async def take(self) -> list[Parts]:
        found: list[Parts] = []
        names = {"group": "g", "consumer": "c"}
        while taken := await self.ask("POST", "/t/consume", json=names):
            if not taken.get("deliveries"):
                break
            for delivery in taken["deliveries"]:
                found += map(_parts_of, delivery["messages"])
        return found

    async def ask(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        """Of a path below `/topics`, in which `t` is the topic. Raises `Refused`."""
        path = path.replace("/t/", f"/{self.topic}/")
        answer = await self.http.request(method, f"/topics{path}", **fields)
        if answer.status_code != 200:
            raise Refused(code_name(answer.json()["code"]), answer.json()["error"])
        return answer.json()


class AsyncLibrary:
    """`AsyncClient`, which refuses before it sends."""

    def __init__(self, place: Place, client: AsyncClient) -> None:
        self.place = place
        self.client = client

    async def produce(self, *messages: Parts) -> None:
        try:
            for each in messages:
                await self.client.produce(self.place.topic, each.value, **_named(each))
        except InvalidError as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from error

    async def take(self) -> list[Parts]:
        return [
            Parts(each.key, each.clustering_key, each.id, (*each.headers.items(),), each.value)
            async for each in self.client.consume(self.place.topic, group="g", drain=True)
        ]


class Library:
    """`Client`, for threads."""

    def __init__(self, place: Place, client: Client) -> None:
        self.place = place
        self.client = client

    async def produce(self, *messages: Parts) -> None:
        try:
            for each in messages:
                await asyncio.to_thread(
                    self.client.produce, self.place.topic, each.value, **_named(each)
                )
        except InvalidError as error:
            raise Refused("INVALID_ARGUMENT", str(error)) from error

    async def take(self) -> list[Parts]:
        return await asyncio.to_thread(self._take)

    def _take(self) -> list[Parts]:
        return [
            Parts(each.key, each.clustering_key, each.id, (*each.headers.items(),), each.value)
            for each in self.client.consume(self.place.topic, group="g", drain=True)
        ]


@asynccontextmanager
async def _calls(place: Place) -> AsyncIterator[Surface]:
    yield Calls(place)


@asynccontextmanager
async def _sessions(place: Place) -> AsyncIterator[Surface]:
    yield Sessions(place, await place.wire.session())


@asynccontextmanager
async def _compatible(place: Place) -> AsyncIterator[Surface]:
    yield Compatible(place)


@asynccontextmanager
async def _http(place: Place) -> AsyncIterator[Surface]:
    base = f"http://{place.http_address}"
    async with httpx.AsyncClient(base_url=base, timeout=60) as http:
        yield Http(place, http)


@asynccontextmanager
async def _async_library(place: Place) -> AsyncIterator[Surface]:
    async with AsyncClient(place.address) as client:
        yield AsyncLibrary(place, client)


@asynccontextmanager
async def _library(place: Place) -> AsyncIterator[Surface]:
    client = Client(place.address)
    try:
        yield Library(place, client)
    finally:
        await asyncio.to_thread(client.close)


SURFACES: dict[str, Callable[[Place], AbstractAsyncContextManager[Surface]]] = {
    "calls": _calls,
    "session": _sessions,
    "compatible": _compatible,
    "http": _http,
    "async_client": _async_library,
    "client": _library,
}
PARTS_MISSING = {"compatible": {"id", "headers"}}
"""What messages of a surface don't have."""


async def refusal_of(call: Awaitable[object]) -> Refused:
    """What a call of gRPC, or of a surface, is refused with; fails if it is not."""
    try:
        async with told_apart():
            await call
    except Refused as refused:
        return refused
    raise AssertionError("it was taken")


def code_name(code: int) -> str:
    """The name of a code of gRPC."""
    return next(each.name for each in grpc.StatusCode if each.value[0] == code)


def _named(parts: Parts) -> dict[str, Any]:
    return {
        "key": parts.key,
        "clustering_key": parts.clustering_key,
        "id": parts.id,
        "headers": dict(parts.headers),
    }


def _json_of(parts: Parts) -> dict[str, Any]:
    return {
        "key": b64encode(parts.key).decode(),
        "clusteringKey": b64encode(parts.clustering_key).decode(),
        "id": parts.id,
        "headers": [
            {"name": name, "value": b64encode(value).decode()} for name, value in parts.headers
        ],
        "value": b64encode(parts.value).decode(),
    }


def _parts_of(fields: dict[str, Any]) -> Parts:
    return Parts(
        b64decode(fields.get("key", "")),
        b64decode(fields.get("clusteringKey", "")),
        fields.get("id", ""),
        tuple(
            (each["name"], b64decode(each.get("value", "")))
            for each in fields.get("headers", ())
        ),
        b64decode(fields.get("value", "")),
    )
