"""What one client may cost: the limits of the HTTP surface as values, so that tests can shrink
them."""

from dataclasses import dataclass, replace

from sandglass.core import limits
from sandglass.surface.files import HTTP_PART, connections_within


@dataclass(frozen=True, slots=True)
class Bounds:
    """See the constants of the same names in `sandglass.core.limits`; times in seconds."""

    connection_count_max: int = limits.HTTP_CONNECTION_COUNT_MAX
    head_bytes_max: int = limits.HTTP_HEAD_BYTES_MAX
    header_count_max: int = limits.HTTP_HEADER_COUNT_MAX
    body_bytes_max: int = limits.REQUEST_BYTES_MAX
    chunk_count_max: int = limits.HTTP_CHUNK_COUNT_MAX
    head_s: float = limits.HTTP_HEAD_MS_MAX / 1000
    body_s: float = limits.HTTP_BODY_MS_MAX / 1000
    idle_s: float = limits.HTTP_IDLE_MS_MAX / 1000
    stall_s: float = limits.HTTP_STALL_MS_MAX / 1000
    request_s: float = limits.HTTP_REQUEST_MS_MAX / 1000
    wait_s_max: float = limits.HTTP_WAIT_MS_MAX / 1000


def fitting(bounds: Bounds, file_count: int) -> Bounds:
    """Such that connections leave most of the files to gRPC, log and view."""
    most = bounds.connection_count_max
    connection_count = connections_within(most, file_count, part=HTTP_PART)
    return replace(bounds, connection_count_max=connection_count)
