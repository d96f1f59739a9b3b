"""
Routes of KV topics.

A key in the path is UTF-8 and one segment; for any other bytes there are the five calls of the
v1 service as `POST`, whose keys are base64.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from sandglass.broker.broker import Broker
from sandglass.errors import NotFoundError
from sandglass.surface.keyvalue import KeyValue
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.web.answers import answer
from sandglass.web.body import read_json
from sandglass.web.topics import read_all
from sandglass.wire import gateway
from sandglass.wire.v1 import broker_pb2
from sandglass.wire.v1 import keyvalue_pb2 as pb


class Keys:
    """Each method answers one route."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._service = KeyValue(broker, leaders)

    async def show(self, request: Request) -> Response:
        """The entry under the key of the path."""
        wire = pb.GetRequest(keys=[_key(request)], **_place(request))
        raw = await self._service.get(wire)
        entry = pb.GetReply.FromString(raw.SerializeToString()).entries[0]
        if not entry.revision:
            raise NotFoundError(
                f"ErrKeyNotFound: topic '{wire.topic}' holds nothing under this key",
                field="key",
            )
        return answer(entry)

    async def store(self, request: Request) -> Response:
        """Puts a message under the key of the path; its body is a v1 `Message`."""
        message = gateway.to_message(await read_json(request), broker_pb2.Message)
        key = _key(request)
        message.key, message.clustering_key = key.key, key.clustering_key
        wire = pb.PutRequest(messages=[message], **_place(request))
        reply = await self._service.put(wire.SerializeToString())
        return answer({"revision": str(reply.placed[0].first_index)})

    async def remove(self, request: Request) -> Response:
        """Deletes what stands under the key of the path."""
        wire = pb.DeleteRequest(keys=[_key(request)], **_place(request))
        reply = await self._service.delete(wire)
        return answer({"existed": reply.existed[0], "revision": str(reply.revisions[0])})

    async def get(self, request: Request) -> Response:
        """`GetRequest`; `GetReply`."""
        wire = gateway.to_message(await _fields(request), pb.GetRequest)
        raw = await self._service.get(wire)
        return answer(pb.GetReply.FromString(raw.SerializeToString()))

    async def has(self, request: Request) -> Response:
        """`HasRequest`; `HasReply`."""
        wire = gateway.to_message(await _fields(request), pb.HasRequest)
        return answer(await self._service.has(wire))

    async def put(self, request: Request) -> Response:
        """`PutRequest`; `PutReply`."""
        fields = await _fields(request)
        listed = gateway.objects(fields, "messages")
        wire = gateway.to_message(fields, pb.PutRequest)
        wire.messages.extend(await read_all(listed, broker_pb2.Message))
        return answer(await self._service.put(wire.SerializeToString()))

    async def delete(self, request: Request) -> Response:
        """`DeleteRequest`; `DeleteReply`."""
        wire = gateway.to_message(await _fields(request), pb.DeleteRequest)
        return answer(await self._service.delete(wire))

    async def scan(self, request: Request) -> Response:
        """`ScanRequest`; `ScanReply`."""
        wire = gateway.to_message(await _fields(request), pb.ScanRequest)
        raw = await self._service.scan(wire)
        return answer(pb.ScanReply.FromString(raw.SerializeToString()))


async def _fields(request: Request) -> gateway.Fields:
    return await read_json(request) | request.path_params


def _place(request: Request) -> dict[str, Any]:
    query = request.query_params
    return {
        "topic": request.path_params["topic"],
        "partition": query.get("partition", ""),
        "channel": query.get("channel", ""),
    }


def _key(request: Request) -> pb.Key:
    """Of the path and the query, as the UTF-8 that they stand for."""
    clustering_key = request.query_params.get("clusteringKey", "")
    return pb.Key(
        key=request.path_params["key"].encode(), clustering_key=clustering_key.encode()
    )
