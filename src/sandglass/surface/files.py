"""
Open files, shared out: each connection is one, and log and view must never find none left.

gRPC may take half of them, HTTP a quarter; the rest is for the node itself.
"""

import resource
from typing import Final

GRPC_PART: Final = 2
HTTP_PART: Final = 4


def connections_within(count: int, file_count: int, *, part: int) -> int:
    """`count` connections, or the `part`-th part of the files, if that is less; 1 at least."""
    return min(count, max(1, file_count // part))


def file_count_max() -> int:
    """Files that this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
