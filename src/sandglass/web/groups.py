"""
Routes of groups: made, set, moved and deleted. How they stand is `Topics.list_groups`.

The settings of a group are a JSON object with what is its own: a field that is null is the
topic's again. Here no unknown field is ignored.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sandglass.broker.broker import Broker
from sandglass.errors import InvalidError
from sandglass.surface.admin import Admin
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.web.answers import answer
from sandglass.web.body import check_known, read_known
from sandglass.wire import gateway
from sandglass.wire.v1 import admin_pb2

TOPIC_SETTINGS: Final = ("retentionMs", "ackTimeoutMs", "maxDeliveries", "backoff")
TOPIC_SHAPE: Final = ("partitionCount", "replicationFactor", "node")
"""What else may be changed of a topic."""
GROUP_SETTINGS: Final = ("ackTimeoutMs", "maxDeliveries", "backoff")

_FIELDS: Final = {
    each.json_name: each.name for each in admin_pb2.GroupSettings.DESCRIPTOR.fields
}


class Groups:
    """Each method answers one route."""

    def __init__(self, broker: Broker, leaders: Leaders = ALONE) -> None:
        self._admin = Admin(broker, leaders)

    async def set_topic(self, request: Request) -> Response:
        """What is given of `TopicChange`, and nothing else; the `Topic`."""
        fields = await read_known(request, *TOPIC_SETTINGS, *TOPIC_SHAPE)
        shape = {name: fields.pop(name) for name in TOPIC_SHAPE if name in fields}
        wire = gateway.to_message(shape, admin_pb2.SetTopicRequest)
        wire.name = request.path_params["topic"]
        wire.settings.CopyFrom(gateway.to_message(fields, admin_pb2.TopicSettings))
        return answer((await self._admin.set_topic(wire)).topic)

    async def create(self, request: Request) -> Response:
        """A name, and if wanted a start and settings; the `Group`."""
        fields = await read_known(request, "name", "start", "settings")
        settings = gateway.object_of(fields, "settings")
        check_known(settings, GROUP_SETTINGS, "settings")
        wire = admin_pb2.CreateGroupRequest(
            topic=request.path_params["topic"],
            group=gateway.text(fields, "name"),
            start=_start_of(fields.get("start"), "start"),
            settings=gateway.to_message(settings, admin_pb2.GroupSettings, place="settings."),
        )
        return answer((await self._admin.create_group(wire)).group)

    async def change(self, request: Request) -> Response:
        """What is given of its settings; null is the topic's again. The `Group`."""
        fields = await read_known(request, *GROUP_SETTINGS)
        wire = admin_pb2.SetGroupRequest(
            **_place(request),
            settings=gateway.to_message(fields, admin_pb2.GroupSettings),
            unset=[_FIELDS[name] for name, value in fields.items() if value is None],
        )
        return answer((await self._admin.set_group(wire)).group)

    async def seek(self, request: Request) -> Response:
        """To a place in all partitions, or to an offset in one; the `Group`."""
        fields = await read_known(request, "to", "partition", "offset")
        is_one = "partition" in fields or "offset" in fields
        if is_one == ("to" in fields):
            raise InvalidError(
                "give `to`, for all partitions, or `partition` and `offset`", field="to"
            )
        place = gateway.to_message(fields, admin_pb2.SeekGroupRequest)
        wire = admin_pb2.SeekGroupRequest(
            **_place(request),
            start=None if is_one else _start_of(fields["to"], "to"),
            partition=place.partition,
            offset=place.offset,
        )
        return answer((await self._admin.seek_group(wire)).group)

    async def delete(self, request: Request) -> Response:
        """With its state; its consumers end."""
        wire = admin_pb2.DeleteGroupRequest(**_place(request))
        return answer(await self._admin.delete_group(wire))


def _place(request: Request) -> dict[str, str]:
    return {"topic": request.path_params["topic"], "group": request.path_params["group"]}


def _start_of(value: object, place: str) -> admin_pb2.GroupStart:
    """`beginning`, `now`, or a moment; the beginning if there is nothing."""
    if value is None or value == "beginning":
        return admin_pb2.GroupStart()
    if value == "now":
        return admin_pb2.GroupStart(now=True)
    try:
        return admin_pb2.GroupStart(at_ms=gateway.due_ms(value, place))
    except InvalidError as error:
        raise InvalidError(
            f"{place} is neither beginning, now, nor a time such as 2027-01-01T09:00:00Z",
            field=place,
        ) from error
