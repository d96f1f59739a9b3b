"""Routes of topics and messages: JSON to the messages of the protocols, and to their calls."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final, TypeVar

from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sandglass.broker.broker import Broker
from sandglass.core.message import Placed
from sandglass.errors import InvalidError, SandglassError
from sandglass.settings import parse_duration
from sandglass.surface.admin import Admin
from sandglass.surface.compat import BrokerService
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.surface.pacing import drain_room
from sandglass.surface.producing import Producing
from sandglass.web.answers import answer, answer_list, stream_error
from sandglass.web.body import read_json, read_page
from sandglass.web.stream import MessageStream, Streams, is_for_events, wait_s_of
from sandglass.wire import convert, gateway, status
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import admin_pb2, broker_pb2

READ_COUNT: Final = 500
"""Messages of a body that are read before others have the loop: some 3 ms."""

Made = TypeVar("Made", bound=Message)


class Topics:
    """Each method answers one route."""

    def __init__(self, broker: Broker, streams: Streams, leaders: Leaders = ALONE) -> None:
        self._broker = broker
        self._service = BrokerService(broker, leaders)
        self._producing = Producing(broker, leaders)
        self._admin = Admin(broker, leaders)
        self._streams = streams

    async def list_topics(self, request: Request) -> Response:
        """All topics, by name."""
        found = admin_pb2.ListTopicsReply()
        wanted = admin_pb2.ListTopicsRequest()
        while True:
            page = await self._admin.list_topics(wanted)
            found.topics.extend(page.topics)
            if not page.next_page_token:
                return await answer_list(found)
            wanted.page_token = page.next_page_token
            await asyncio.sleep(0)

    async def create_topic(self, request: Request) -> Response:
        """`TopicConfig`; `TopicReply`."""
        config = gateway.to_message(await read_json(request), compat.TopicConfig)
        return answer(await self._service.create_topic(config))

    async def show_topic(self, request: Request) -> Response:
        """`GetTopicReply`."""
        params = compat.GetTopicParams(name=request.path_params["topic"])
        return answer(await self._service.get_topic(params))

    async def delete_topic(self, request: Request) -> Response:
        """With its messages and groups."""
        params = admin_pb2.DeleteTopicRequest(name=request.path_params["topic"])
        return answer(await self._admin.delete_topic(params))

    async def list_groups(self, request: Request) -> Response:
        """A page of how the groups of a topic stand, or one of them."""
        query = request.query_params
        size, token = read_page(query)
        params = admin_pb2.ListGroupsRequest(
            topic=request.path_params["topic"],
            group=query.get("group", ""),
            page_size=size,
            page_token=token,
        )
        page = await self._admin.list_groups(params)
        token = page.next_page_token
        page.ClearField("next_page_token")
        return await answer_list(page, token=token)

    async def produce(self, request: Request) -> Response:
        """`ProduceMessageRequest`, its topic from the path; `ProduceResponse`."""
        fields = await read_json(request)
        fields |= request.path_params
        listed = gateway.objects(fields, "messages")
        wire = gateway.to_message(fields, compat.ProduceMessageRequest)
        wire.messages.extend(await read_all(listed, compat.Message))
        return answer(await self._service.produce(wire.SerializeToString()))

    async def schedule(self, request: Request) -> Response:
        """Messages with `dueAt` or `delay`, for all of them or each; `ProduceResponse`."""
        fields = await read_json(request)
        listed = gateway.objects(fields, "messages")
        dues, delays = _times(fields, listed)
        messages = await read_all(listed, broker_pb2.Message)
        reply = await self._producing.produce(
            broker_pb2.ProduceRequest(
                topic=request.path_params["topic"],
                partition=request.path_params.get("partition", ""),
                channel=gateway.text(fields, "channel"),
                batch=broker_pb2.MessageBatch(messages=messages).SerializeToString(),
                count=len(messages),
                due_ms=dues,
                delay_ms=delays,
            )
        )
        placed = map(convert.placed_from_wire, reply.placed)
        return answer(compat.ProduceResponse(offsets=_in_order(placed, len(messages))))

    async def consume(self, request: Request) -> "MessageStream | StreamRefused":
        """A stream of messages; see `web.stream`."""
        try:
            return await self._open_stream(request)
        except SandglassError as error:
            return StreamRefused(error)

    async def _open_stream(self, request: Request) -> MessageStream:
        given = {**request.query_params, **request.path_params}
        names = given.keys() & compat.ConsumeFromGroupRequest.DESCRIPTOR.fields_by_name.keys()
        wire = gateway.to_message(
            {name: given[name] for name in names}, compat.ConsumeFromGroupRequest
        )
        wait_s = wait_s_of(request)
        request.state.deadline.reschedule(None)
        flow = await drain_room(self._broker.outgoing)
        try:
            drain, channel = await self._service.open_drain(wire)
        except BaseException:
            flow.close()
            raise
        return MessageStream(
            drain,
            flow,
            channel,
            self._streams,
            is_events=is_for_events(request),
            wait_s=wait_s,
        )

    async def ack(self, request: Request) -> Response:
        """`MarkRequest`, its place from the path; `MarkResponse`."""
        return answer(await self._service.acknowledge(await _mark(request)))

    async def nack(self, request: Request) -> Response:
        """As `ack`."""
        return answer(await self._service.not_acknowledge(await _mark(request)))


class StreamRefused:
    """A stream that never began: the status says why, in the form of a stream's error."""

    def __init__(self, error: SandglassError) -> None:
        self._response = answer(stream_error(error), status.http_status_of(error))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers."""
        await self._response(scope, receive, send)


async def read_all(listed: list[gateway.Fields], kind: type[Made]) -> list[Made]:
    """Messages of the protocol, with a breath for others now and then."""
    found: list[Made] = []
    for first in range(0, len(listed), READ_COUNT):
        found += [
            gateway.to_message(each, kind, place=f"messages[{place}].")
            for place, each in enumerate(listed[first : first + READ_COUNT], first)
        ]
        await asyncio.sleep(0)
    return found


async def _mark(request: Request) -> compat.MarkRequest:
    fields = await read_json(request)
    return gateway.to_message(fields | request.path_params, compat.MarkRequest)


def _times(
    fields: gateway.Fields, listed: list[gateway.Fields]
) -> tuple[Sequence[int], Sequence[int]]:
    """(due times, delays) in ms: none, one for all, or one each."""
    dues = _column("dueAt", gateway.due_ms, fields, listed)
    delays = _column("delay", _delay_ms, fields, listed)
    if dues and delays:
        raise InvalidError("dueAt and delay are both given; give one kind", field="delay")
    if listed and not dues and not delays:
        raise InvalidError(
            "dueAt and delay are both missing; give one, for all messages or for each",
            field="dueAt",
        )
    return dues, delays


def _column(
    name: str,
    read: Callable[[object, str], int],
    fields: gateway.Fields,
    listed: list[gateway.Fields],
) -> list[int]:
    common = None if fields.get(name) is None else read(fields[name], name)
    if all(each.get(name) is None for each in listed):
        return [] if common is None else [common]
    column: list[int] = []
    for place, each in enumerate(listed):
        own = each.get(name)
        if own is not None:
            column.append(read(own, f"messages[{place}].{name}"))
        elif common is not None:
            column.append(common)
        else:
            raise InvalidError(
                f"messages[{place}].{name} is missing, and there is none for all",
                field=f"messages[{place}].{name}",
            )
    return column


def _delay_ms(value: object, place: str) -> int:
    """Whole nanoseconds, or a text such as `90s` or `1h30m`; rounded up: never early."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidError(
            f"{place} is neither a length of time such as 90s nor whole nanoseconds",
            field=place,
        )
    if isinstance(value, int):
        return -(-value // 1_000_000)
    length = parse_duration(value[:40], field=place)
    return -(-length // timedelta(milliseconds=1))


def _in_order(placed: Iterable[Placed], count: int) -> list[bytes]:
    """The offset of each message of the request."""
    offsets = [b""] * count
    for atom in placed:
        places = atom.request_places or range(count)
        for place, each in zip(places, convert.offsets_of(atom), strict=True):
            offsets[place] = each
    return offsets
