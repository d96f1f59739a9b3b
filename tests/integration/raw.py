"""A session by hand: frames out, items in, over a real connection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc.aio

from sandglass.testing import Broker
from sandglass.wire.v1 import admin_pb2, admin_pb2_grpc, broker_pb2, broker_pb2_grpc

DEADLINE_S = 60
HEARTBEAT_S = 2.0


def batch(*values: bytes) -> bytes:
    """A serialized `MessageBatch` of these values."""
    messages = [broker_pb2.Message(value=value) for value in values]
    return broker_pb2.MessageBatch(messages=messages).SerializeToString()


def values_of(delivery: broker_pb2.Delivery) -> list[bytes]:
    """The values in a delivery."""
    parsed = broker_pb2.MessageBatch.FromString(delivery.batch)
    return [message.value for message in parsed.messages]


def claim_of(delivery: broker_pb2.Delivery, **fields: Any) -> broker_pb2.Claim:
    """What a session says that holds a delivery."""
    return broker_pb2.Claim(
        partition_number=delivery.partition_number,
        token=delivery.token,
        attempt=delivery.attempt,
        releases=delivery.releases,
        generation=delivery.generation,
        run_due_ms=delivery.run_due_ms,
        run_first_index=delivery.run_first_index,
        run_count=delivery.run_count,
        **fields,
    )


class RawSession:
    """
    Collects every item that comes; `take` waits for one, with a deadline.
    """

    def __init__(self, channel: grpc.aio.Channel, *, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        stub: Any = broker_pb2_grpc.BrokerStub(channel)
        self.call: Any = stub.Session()
        self.welcome = broker_pb2.Welcome()
        self.frames: list[broker_pb2.ServerFrame] = []
        self.items: list[Any] = []
        self.error: BaseException | None = None
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None

    async def hello(self, session_id: str = "") -> broker_pb2.Welcome:
        """Opens the session, or comes back to one."""
        hello = broker_pb2.Hello(session_id=session_id, client_name="raw")
        await self.send(hello=hello)
        self.listen()
        self.welcome = await self.take(broker_pb2.Welcome)
        return self.welcome

    def listen(self) -> None:
        """Reads from now on, and tells the node that it lives; `hello` does so by itself."""
        self._reader = asyncio.create_task(self._read())
        self._beating = asyncio.create_task(self._beat(self._reader))

    async def send(self, **fields: Any) -> None:
        """Sends one frame."""
        async with self._writing:
            await self.call.write(broker_pb2.ClientFrame(**fields))

    async def subscribe(
        self, topic: str, group: str = "g", *, is_goodbye: bool = False, **fields: Any
    ) -> None:
        """Subscribes with credit for 100 messages, unless `fields` say otherwise."""
        item = {
            "subscription_id": 1,
            "topic": topic,
            "group": group,
            "consumer": "c",
            "credit_count": 100,
            "credit_bytes": 1 << 20,
            **fields,
        }
        await self.send(subscribes=[broker_pb2.Subscribe(**item)], is_goodbye=is_goodbye)

    async def outcome(
        self, delivery: broker_pb2.Delivery, kind: int, **fields: Any
    ) -> broker_pb2.OutcomeReply:
        """Sends an outcome and waits for its answer."""
        item = broker_pb2.Outcome(
            request_id=fields.pop("request_id", 77),
            subscription_id=delivery.subscription_id,
            partition_number=delivery.partition_number,
            token=delivery.token,
            kind=kind,  # pyright: ignore[reportArgumentType]
            **fields,
        )
        await self.send(outcomes=[item])
        return await self.take(broker_pb2.OutcomeReply)

    async def ack(self, delivery: broker_pb2.Delivery) -> broker_pb2.OutcomeReply:
        """Settles a whole delivery."""
        return await self.outcome(delivery, broker_pb2.OUTCOME_ACK)

    async def take(
        self,
        kind: type[Any] | tuple[type[Any], ...],
        check: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        """The next item of a kind, or of some kinds, taken out; fails after a deadline."""
        async with asyncio.timeout(self.deadline_s):
            while True:
                for item in self.items:
                    if isinstance(item, kind) and check(item):
                        self.items.remove(item)
                        return item
                self._changed.clear()
                if self._reader is not None and self._reader.done():
                    raise EOFError("the session has ended") from self.error
                await self._changed.wait()

    async def delivery(self) -> broker_pb2.Delivery:
        """The next delivery."""
        return await self.take(broker_pb2.Delivery)

    def has(self, kind: type[Any]) -> bool:
        """Has an item of this kind come that nobody took?"""
        return any(isinstance(item, kind) for item in self.items)

    async def ended(self) -> None:
        """Waits until the broker has ended the stream."""
        assert self._reader is not None
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait([self._reader])

    def cut(self) -> None:
        """Breaks the connection without a word."""
        self.call.cancel()

    async def _beat(self, reader: asyncio.Task[None]) -> None:
        """Otherwise a node breaks a session that waits for long, as on a busy machine."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while not reader.done():
                await asyncio.wait([reader], timeout=HEARTBEAT_S)
                if not reader.done():
                    await self.send()

    async def _read(self) -> None:
        try:
            while frame := await self.call.read():
                self.frames.append(frame)
                if frame.HasField("welcome"):
                    self.items.append(frame.welcome)
                for field in ("outcomes", "extends", "subscribed", "produces", "deliveries"):
                    self.items.extend(getattr(frame, field))
                self.items.extend(frame.ended)
                self._changed.set()
        except (asyncio.CancelledError, grpc.aio.AioRpcError) as error:
            self.error = error
        finally:
            self._changed.set()


class Wire:
    """A channel to a broker, with what tests ask of it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.admin: Any = admin_pb2_grpc.AdminStub(channel)
        self.broker: Any = broker_pb2_grpc.BrokerStub(channel)

    async def create(self, name: str, **fields: Any) -> admin_pb2.Topic:
        """Creates a topic."""
        reply = await self.admin.CreateTopic(admin_pb2.CreateTopicRequest(name=name, **fields))
        return reply.topic

    async def produce(self, topic: str, *values: bytes, **fields: Any) -> Any:
        """Produces values in one request."""
        request = broker_pb2.ProduceRequest(
            topic=topic, batch=batch(*values), count=len(values), **fields
        )
        return await self.broker.Produce(request)

    async def session(self, session_id: str = "") -> RawSession:
        """Opens a session."""
        session = RawSession(self.channel)
        await session.hello(session_id)
        return session

    async def group(self, topic: str) -> Any:
        """The status of the topic's one group."""
        reply = await self.admin.ListGroups(admin_pb2.ListGroupsRequest(topic=topic))
        assert len(reply.groups) == 1
        return reply.groups[0]


@asynccontextmanager
async def wire(broker: Broker) -> AsyncIterator[Wire]:
    """Connects to a broker."""
    options = [("grpc.max_receive_message_length", 8 << 20)]
    async with grpc.aio.insecure_channel(broker.address, options=options) as channel:
        yield Wire(channel)
