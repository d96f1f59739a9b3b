"""
Forks: gRPC, once in use, doesn't survive one, and its process has to be told from the others.

gRPC's own handlers of forks are switched off, unless the environment says otherwise: where an
asyncio client is in use they do nothing but start threads in the child, which crash it (seen
with grpcio 1.85: one child in four). Without them a child that leaves gRPC alone lives on.
"""

import os
from typing import Final

from sandglass.errors import PreconditionError

# gRPC looks at this when it is imported, so this module comes first in its package. A program
# that imports gRPC before Sandglass has to set it by itself.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

_users: Final[set[int]] = set()
"""Processes in which gRPC was used: this one, or those from which it was forked off."""


def note_use() -> None:
    """gRPC is being used in this process."""
    _users.add(os.getpid())


def check_process() -> None:
    """
    Raises:
        PreconditionError: gRPC was in use already when this process was forked off. Its threads
            are missing here: a call would hang, or end the process.
    """
    if _users and os.getpid() not in _users:
        raise PreconditionError(
            f"gRPC was in use in process {min(_users)} when this one was forked off, and can't"
            " be used here: fork before the first call of any client, or start the process"
            " anew (multiprocessing calls that spawn)"
        )
