"""What gRPC's clients may cost: the limits of the surface as values, so that tests can shrink
them."""

from dataclasses import dataclass

from sandglass.core import limits
from sandglass.surface.files import GRPC_PART, connections_within


@dataclass(frozen=True, slots=True)
class Bounds:
    """See the constants of the same names in `sandglass.core.limits`."""

    connection_count_max: int = limits.GRPC_CONNECTION_COUNT_MAX
    call_count_max: int = limits.GRPC_CALL_COUNT_MAX
    stream_count_max: int = limits.GRPC_STREAM_COUNT_MAX
    handshake_ms_max: int = limits.GRPC_HANDSHAKE_MS_MAX
    idle_ms_max: int = limits.GRPC_IDLE_MS_MAX

    def options(self, file_count: int) -> list[tuple[str, int]]:
        """For a server in a process that may have so many files open."""
        connection_count = connections_within(
            self.connection_count_max, file_count, part=GRPC_PART
        )
        return [
            ("grpc.max_allowed_incoming_connections", connection_count),
            ("grpc.max_concurrent_streams", self.stream_count_max),
            ("grpc.server_handshake_timeout_ms", self.handshake_ms_max),
            ("grpc.max_connection_idle_ms", self.idle_ms_max),
        ]
