"""
Sandglass: a message queue ordered by time.

The names below are loaded when they are first used: `import sandglass.core` doesn't load gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandglass.client._async.admin import AsyncAdmin as AsyncAdmin
    from sandglass.client._async.client import AsyncClient as AsyncClient
    from sandglass.client._async.consumer import AsyncConsumer as AsyncConsumer
    from sandglass.client._async.mux import AsyncMux as AsyncMux
    from sandglass.client._sync.admin import Admin as Admin
    from sandglass.client._sync.answer import Promise as Promise
    from sandglass.client._sync.client import Client as Client
    from sandglass.client._sync.consumer import Consumer as Consumer
    from sandglass.client._sync.mux import Mux as Mux
    from sandglass.client.entry import TlsOptions as TlsOptions
    from sandglass.client.keyvalue import Entry as Entry
    from sandglass.client.message import Message as Message
    from sandglass.client.message import ProduceSummary as ProduceSummary
    from sandglass.client.message import Receipt as Receipt
    from sandglass.client.operating import Backoff as Backoff
    from sandglass.client.operating import ClusterNode as ClusterNode
    from sandglass.client.operating import ClusterPartition as ClusterPartition
    from sandglass.client.operating import ClusterReplica as ClusterReplica
    from sandglass.client.operating import ClusterStatus as ClusterStatus
    from sandglass.client.operating import DeadLetterCount as DeadLetterCount
    from sandglass.client.operating import DeadLetterPage as DeadLetterPage
    from sandglass.client.operating import Group as Group
    from sandglass.client.operating import NodeClock as NodeClock
    from sandglass.client.operating import Pending as Pending
    from sandglass.client.operating import PendingPage as PendingPage
    from sandglass.client.operating import StoredDeadLetter as StoredDeadLetter
    from sandglass.client.operating import StoredMessage as StoredMessage
    from sandglass.client.operating import Taken as Taken
    from sandglass.client.received import AsyncBatch as AsyncBatch
    from sandglass.client.received import AsyncReceived as AsyncReceived
    from sandglass.client.received import Batch as Batch
    from sandglass.client.received import DeadLetter as DeadLetter
    from sandglass.client.received import Received as Received
    from sandglass.client.retry import Retry as Retry
    from sandglass.client.topics import GroupStatus as GroupStatus
    from sandglass.client.topics import PartitionStatus as PartitionStatus
    from sandglass.client.topics import Topic as Topic
    from sandglass.client.topics import TopicStatus as TopicStatus
    from sandglass.core.offset import Offset as Offset
    from sandglass.errors import BusyError as BusyError
    from sandglass.errors import ConflictError as ConflictError
    from sandglass.errors import CorruptError as CorruptError
    from sandglass.errors import DeniedError as DeniedError
    from sandglass.errors import InternalError as InternalError
    from sandglass.errors import InvalidError as InvalidError
    from sandglass.errors import LeaseLostError as LeaseLostError
    from sandglass.errors import NoSpaceError as NoSpaceError
    from sandglass.errors import NotFoundError as NotFoundError
    from sandglass.errors import NotLeaderError as NotLeaderError
    from sandglass.errors import OutOfRangeError as OutOfRangeError
    from sandglass.errors import PreconditionError as PreconditionError
    from sandglass.errors import SandglassError as SandglassError
    from sandglass.errors import UnauthenticatedError as UnauthenticatedError
    from sandglass.errors import UnavailableError as UnavailableError
    from sandglass.errors import UnsupportedError as UnsupportedError

_HOMES = {
    "sandglass.client._async.client": ("AsyncClient",),
    "sandglass.client._async.consumer": ("AsyncConsumer",),
    "sandglass.client._async.mux": ("AsyncMux",),
    "sandglass.client._sync.answer": ("Promise",),
    "sandglass.client._sync.client": ("Client",),
    "sandglass.client._sync.consumer": ("Consumer",),
    "sandglass.client._sync.mux": ("Mux",),
    "sandglass.client.entry": ("TlsOptions",),
    "sandglass.client.keyvalue": ("Entry",),
    "sandglass.client.message": ("Message", "ProduceSummary", "Receipt"),
    "sandglass.client._async.admin": ("AsyncAdmin",),
    "sandglass.client._sync.admin": ("Admin",),
    "sandglass.client.operating": (
        "Backoff",
        "DeadLetterCount",
        "DeadLetterPage",
        "Group",
        "ClusterNode",
        "ClusterPartition",
        "ClusterReplica",
        "ClusterStatus",
        "NodeClock",
        "Pending",
        "PendingPage",
        "StoredDeadLetter",
        "StoredMessage",
        "Taken",
    ),
    "sandglass.client.received": (
        "AsyncBatch",
        "AsyncReceived",
        "Batch",
        "DeadLetter",
        "Received",
    ),
    "sandglass.client.retry": ("Retry",),
    "sandglass.client.topics": ("GroupStatus", "PartitionStatus", "Topic", "TopicStatus"),
    "sandglass.core.offset": ("Offset",),
    "sandglass.errors": (
        "BusyError",
        "ConflictError",
        "CorruptError",
        "DeniedError",
        "InternalError",
        "InvalidError",
        "LeaseLostError",
        "NoSpaceError",
        "NotFoundError",
        "NotLeaderError",
        "OutOfRangeError",
        "PreconditionError",
        "SandglassError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnsupportedError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
