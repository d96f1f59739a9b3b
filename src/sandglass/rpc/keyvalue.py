"""The v1 KeyValue service, as gRPC serves it."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import grpc

from sandglass.broker.broker import Broker
from sandglass.core import limits
from sandglass.rpc import calls
from sandglass.surface.keyvalue import KeyValue
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.wire.v1 import keyvalue_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["KeyValue"]


def handler(broker: Broker, leaders: Leaders = ALONE) -> grpc.GenericRpcHandler:
    """The service, for a server."""
    service = KeyValue(broker, leaders)
    return calls.serviced(
        SERVICE,
        {
            "Get": calls.unary(pb.GetRequest.FromString, service.get),
            "Has": calls.unary(pb.HasRequest.FromString, service.has),
            "Put": calls.unary(bytes, service.put, bytes_max=limits.REQUEST_BYTES_MAX),
            "Delete": calls.unary(pb.DeleteRequest.FromString, service.delete),
            "Scan": calls.unary(pb.ScanRequest.FromString, service.scan),
        },
    )
