"""The v1 Admin service, as gRPC serves it."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import re

import grpc

from sandglass.broker.broker import Broker
from sandglass.rpc import calls
from sandglass.surface.admin import Admin
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.wire.v1 import admin_pb2

_CAPITAL = re.compile(r"(?<!^)([A-Z])")

SERVICE = admin_pb2.DESCRIPTOR.services_by_name["Admin"]


def handler(broker: Broker, leaders: Leaders = ALONE) -> grpc.GenericRpcHandler:
    """The service, for a server."""
    admin = Admin(broker, leaders)
    return calls.serviced(
        SERVICE,
        {
            method.name: calls.unary(
                getattr(admin_pb2, method.input_type.name).FromString,
                getattr(admin, _CAPITAL.sub(r"_\1", method.name).lower()),
            )
            for method in SERVICE.methods
        },
    )
