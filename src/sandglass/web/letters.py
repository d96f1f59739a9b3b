"""
Routes of what operators look at: dead letters, which can be taken too, and what is pending.

What is taken here is gone or comes again, so no unknown field is ignored.
"""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from sandglass.broker.broker import Broker
from sandglass.errors import InvalidError
from sandglass.surface.admin import Admin
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.web.answers import answer, paged
from sandglass.web.body import check_known, read_known, read_page
from sandglass.wire import gateway
from sandglass.wire.v1 import admin_pb2, broker_pb2

FILTER: Final = ("group", "channel", "reason")
PAGE: Final = ("pageSize", "pageToken", "messages")


class Letters:
    """Each method answers one route."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._admin = Admin(broker, leaders)

    async def list_dead(self, request: Request) -> Response:
        """A page of dead letters, in the order of their death."""
        query = _query(request, *FILTER, *PAGE, "newest")
        reply = await self._admin.list_dead_letters(
            admin_pb2.ListDeadLettersRequest(
                topic=request.path_params["topic"],
                filter=_filter_of(query),
                is_newest_first=_flag(query, "newest"),
                **_page_of(query),
            )
        )
        letters: list[dict[str, Any]] = []
        for each in reply.letters:
            shown = gateway.to_fields(each)
            letters.append({**shown, "letter": _stored(each.letter)})
        return answer(_paged("letters", letters, reply.next_page_token))

    async def count_dead(self, request: Request) -> Response:
        """All of them, and by group."""
        query = _query(request, *FILTER)
        wire = admin_pb2.CountDeadLettersRequest(
            topic=request.path_params["topic"], filter=_filter_of(query)
        )
        return answer(await self._admin.count_dead_letters(wire))

    async def redrive(self, request: Request) -> Response:
        """Back to the groups that gave them up."""
        return answer(await self._admin.redrive_dead_letters(await _taking(request)))

    async def purge(self, request: Request) -> Response:
        """Away with them."""
        return answer(await self._admin.purge_dead_letters(await _taking(request)))

    async def list_pending(self, request: Request) -> Response:
        """A page of what comes due next."""
        query = _query(request, "channel", "from", "to", *PAGE)
        reply = await self._admin.list_pending(
            admin_pb2.ListPendingRequest(**_span(request, query), **_page_of(query))
        )
        messages = [_stored(each) for each in reply.messages]
        return answer(_paged("messages", messages, reply.next_page_token))

    async def count_pending(self, request: Request) -> Response:
        """A lower bound where there is too much to count."""
        query = _query(request, "channel", "from", "to")
        wire = admin_pb2.CountPendingRequest(**_span(request, query))
        return answer(await self._admin.count_pending(wire))


async def _taking(request: Request) -> admin_pb2.TakeDeadLettersRequest:
    fields = await read_known(request, *FILTER, "places", "limit", "beforeMs")
    wanted = gateway.to_message(fields, admin_pb2.DeadLetterFilter)
    wire = gateway.to_message(fields, admin_pb2.TakeDeadLettersRequest)
    wire.topic = request.path_params["topic"]
    wire.filter.CopyFrom(wanted)
    return wire


def _query(request: Request, *names: str) -> dict[str, str]:
    return check_known(dict(request.query_params), names, "the query")


def _filter_of(query: dict[str, str]) -> admin_pb2.DeadLetterFilter:
    return admin_pb2.DeadLetterFilter(**{name: query.get(name, "") for name in FILTER})


def _page_of(query: dict[str, str]) -> dict[str, Any]:
    size, token = read_page(query)
    return {
        "page_size": size,
        "page_token": token,
        "with_messages": _flag(query, "messages"),
    }


def _span(request: Request, query: dict[str, str]) -> dict[str, Any]:
    """Topic, channel, and moments between which messages are due."""
    span: dict[str, Any] = {
        f"{name}_ms": gateway.due_ms(query[name], name)
        for name in ("from", "to")
        if name in query
    }
    return {
        "topic": request.path_params["topic"],
        "channel": query.get("channel", ""),
        **span,
    }


def _flag(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in {"true", "false"}:
        raise InvalidError(f"{name} is neither true nor false", field=name)
    return value == "true"


def _stored(wire: admin_pb2.StoredMessage) -> dict[str, Any]:
    """With the message itself, if it was asked for, in place of its bytes."""
    shown = gateway.to_fields(wire)
    if wire.message:
        shown["message"] = gateway.to_fields(broker_pb2.Message.FromString(wire.message))
    return shown


def _paged(name: str, listed: list[dict[str, Any]], token: bytes) -> dict[str, Any]:
    return paged({name: listed} if listed else {}, token)
