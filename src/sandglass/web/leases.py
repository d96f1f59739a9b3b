"""
Routes of consuming by leases: what is ready of all partitions in one answer, with a token for
each delivery, and outcomes of every kind under these tokens.

They are the unary calls of the v1 Broker. A client that goes away while it waits is given
nothing; one that goes away later keeps its leases until they end.
"""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from sandglass.broker.broker import Broker
from sandglass.core.message import channel_to_read
from sandglass.core.topic import Topic
from sandglass.surface.consume import Consuming
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.web.answers import JSON_TYPE, ClientGoneError, answer
from sandglass.web.body import read_json
from sandglass.wire import convert, gateway
from sandglass.wire.v1 import broker_pb2

Result = TypeVar("Result")


class Leases:
    """Each method answers one route."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._consuming = Consuming(broker, leaders)

    async def consume(self, request: Request) -> Response:
        """`ConsumeRequest`; `Deliveries`."""
        fields = await read_json(request) | request.path_params
        wire = gateway.to_message(fields, broker_pb2.ConsumeRequest)
        request.state.deadline.reschedule(None)
        async with request.state.held():
            reply = await _while_connected(request, self._consuming.consume(wire))
        channel = channel_to_read(wire.channel)
        topic = self._broker.catalog.topic(wire.topic)
        shown = [await _shown(topic, each, channel) for each in reply.deliveries]
        return Response(f'{{"deliveries":[{",".join(shown)}]}}', media_type=JSON_TYPE)

    async def settle(self, request: Request) -> Response:
        """`SettleRequest`; `SettleReply`."""
        fields = await read_json(request) | request.path_params
        wire = gateway.to_message(fields, broker_pb2.SettleRequest)
        return answer(await self._consuming.settle(wire))

    async def extend(self, request: Request) -> Response:
        """`ExtendLeasesRequest`; `ExtendLeasesReply`."""
        fields = await read_json(request) | request.path_params
        wire = gateway.to_message(fields, broker_pb2.ExtendLeasesRequest)
        return answer(await self._consuming.extend_leases(wire))


async def _while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """
    Raises:
        ClientGoneError: the client went away, and the work was cancelled.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.create_task(work, name="consume")
    watching = asyncio.create_task(watch(), name="consume-watch")
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait([working, watching])


async def _shown(topic: Topic, delivery: broker_pb2.Delivery, channel: str) -> str:
    """A delivery as JSON, with a breath for others after each row."""
    place = delivery.partition_number
    head: dict[str, Any] = {
        "partition": topic.partitions[place].id,
        "partitionNumber": place,
        "token": str(delivery.token),
        "attempt": delivery.attempt,
        "leaseMs": str(delivery.lease_ms),
    }
    if delivery.HasField("dead_letter"):
        origin = delivery.dead_letter
        head["deadLetter"] = {
            "group": origin.group,
            "attempts": origin.attempts,
            "reason": origin.reason,
        }
    messages: list[str] = []
    for piece in convert.slices_of(delivery):
        messages += gateway.message_objects(piece, channel)
        await asyncio.sleep(0)
    return f'{json.dumps(head)[:-1]},"messages":[{",".join(messages)}]}}'
