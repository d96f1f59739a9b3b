"""The calls of the v1 Admin service that may go on to other nodes."""

from typing import Final

from sandglass.surface.leaders import call_of
from sandglass.wire.v1 import admin_pb2

_SERVICE: Final = admin_pb2.DESCRIPTOR.services_by_name["Admin"]

SHOW_TOPIC: Final = call_of(_SERVICE, "ShowTopic", admin_pb2.ShowTopicReply.FromString)
LIST_GROUPS: Final = call_of(_SERVICE, "ListGroups", admin_pb2.ListGroupsReply.FromString)
CREATE_GROUP: Final = call_of(
    _SERVICE, "CreateGroup", admin_pb2.CreateGroupReply.FromString, is_change=True
)
SEEK_GROUP: Final = call_of(
    _SERVICE, "SeekGroup", admin_pb2.SeekGroupReply.FromString, is_change=True
)
DELETE_GROUP: Final = call_of(
    _SERVICE, "DeleteGroup", admin_pb2.DeleteGroupReply.FromString, is_change=True
)
LIST_DEAD: Final = call_of(
    _SERVICE, "ListDeadLetters", admin_pb2.ListDeadLettersReply.FromString
)
COUNT_DEAD: Final = call_of(
    _SERVICE, "CountDeadLetters", admin_pb2.CountDeadLettersReply.FromString
)
REDRIVE_DEAD: Final = call_of(
    _SERVICE, "RedriveDeadLetters", admin_pb2.TakeDeadLettersReply.FromString, is_change=True
)
PURGE_DEAD: Final = call_of(
    _SERVICE, "PurgeDeadLetters", admin_pb2.TakeDeadLettersReply.FromString, is_change=True
)
COUNT_PENDING: Final = call_of(_SERVICE, "CountPending", admin_pb2.CountPendingReply.FromString)
LIST_PENDING: Final = call_of(_SERVICE, "ListPending", admin_pb2.ListPendingReply.FromString)
SET_TOPIC: Final = call_of(
    _SERVICE, "SetTopic", admin_pb2.SetTopicReply.FromString, is_change=True
)
DELETE_TOPIC: Final = call_of(
    _SERVICE, "DeleteTopic", admin_pb2.DeleteTopicReply.FromString, is_change=True
)
SET_GROUP: Final = call_of(
    _SERVICE, "SetGroup", admin_pb2.SetGroupReply.FromString, is_change=True
)
SHOW_CLUSTER: Final = call_of(_SERVICE, "ShowCluster", admin_pb2.ShowClusterReply.FromString)
