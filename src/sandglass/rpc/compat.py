"""The compatible services, BrokerService and InternalService, as gRPC serves them."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import grpc

from sandglass.broker.broker import Broker
from sandglass.core import limits
from sandglass.rpc import calls
from sandglass.surface.compat import BrokerService
from sandglass.surface.internal import InternalService
from sandglass.surface.keyvalue import CompatibleKeyValue
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.wire.compat import sandglass_pb2 as pb

BROKER_SERVICE = pb.DESCRIPTOR.services_by_name["BrokerService"]
INTERNAL_SERVICE = pb.DESCRIPTOR.services_by_name["InternalService"]


def handlers(broker: Broker, leaders: Leaders = ALONE) -> list[grpc.GenericRpcHandler]:
    """Both services, for a server."""
    service = BrokerService(broker, leaders)
    return [
        calls.serviced(
            BROKER_SERVICE,
            {
                "CreateTopic": calls.unary(pb.TopicConfig.FromString, service.create_topic),
                "GetTopic": calls.unary(pb.GetTopicParams.FromString, service.get_topic),
                "Produce": calls.unary(
                    bytes, service.produce, bytes_max=limits.REQUEST_BYTES_MAX
                ),
                "FetchFrom": calls.stream(pb.FetchFromRequest.FromString, service.fetch_from),
                "FetchRange": calls.stream(
                    pb.FetchRangeRequest.FromString, service.fetch_range
                ),
                "ConsumeFromGroup": calls.stream(
                    pb.ConsumeFromGroupRequest.FromString, service.consume
                ),
                "Acknowledge": calls.unary(pb.MarkRequest.FromString, service.acknowledge),
                "NotAcknowledge": calls.unary(
                    pb.MarkRequest.FromString, service.not_acknowledge
                ),
            },
        ),
        calls.serviced(INTERNAL_SERVICE, _internal_handlers(broker, leaders)),
    ]


def _internal_handlers(
    broker: Broker, leaders: Leaders
) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
    service, by_key = InternalService(broker, leaders), CompatibleKeyValue(broker, leaders)
    return {
        "EndOfLog": calls.unary(pb.EndOfLogRequest.FromString, service.end_of_log),
        "FetchFromSync": calls.stream(
            pb.FetchFromSyncRequest.FromString, service.fetch_from_sync
        ),
        "GetMarkStateMessage": calls.unary(
            pb.GetMarkRequest.FromString, service.get_mark_state_message
        ),
        "GetByKey": calls.unary(pb.GetRequest.FromString, by_key.get_by_key),
        "HasKey": calls.unary(pb.GetRequest.FromString, by_key.has_key),
        "LastOffset": calls.unary(pb.LastOffsetRequest.FromString, service.last_offset),
        "Mark": calls.unary(pb.MarkRequest.FromString, service.mark),
    }
