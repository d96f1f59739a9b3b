"""The v1 Admin service, as gRPC serves it."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import grpc

from sandglass.broker.broker import Broker
from sandglass.rpc import calls
from sandglass.surface.admin import Admin
from sandglass.wire.v1 import admin_pb2

SERVICE = admin_pb2.DESCRIPTOR.services_by_name["Admin"]


def handler(broker: Broker) -> grpc.GenericRpcHandler:
    """The service, for a server."""
    admin = Admin(broker)
    return calls.serviced(
        SERVICE,
        {
            "CreateTopic": calls.unary(
                admin_pb2.CreateTopicRequest.FromString, admin.create_topic
            ),
            "ListTopics": calls.unary(
                admin_pb2.ListTopicsRequest.FromString, admin.list_topics
            ),
            "ShowTopic": calls.unary(admin_pb2.ShowTopicRequest.FromString, admin.show_topic),
            "DeleteTopic": calls.unary(
                admin_pb2.DeleteTopicRequest.FromString, admin.delete_topic
            ),
            "ListGroups": calls.unary(
                admin_pb2.ListGroupsRequest.FromString, admin.list_groups
            ),
        },
    )
