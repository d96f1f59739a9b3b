"""What a session carries for others, and what it tells them."""

from collections.abc import Sequence
from dataclasses import dataclass

from sandglass.client.subscription import Subscription
from sandglass.errors import SandglassError
from sandglass.wire.v1 import broker_pb2


@dataclass(slots=True, eq=False)
class Produce:
    """
    One produce request. `owner` is whoever is told how it ended; the session only carries it.

    `due_ms` and `delay_ms` are the columns of the request: none, one or `count` entries, and
    at most one of them has any. `deadline_ms` is monotonic.
    """

    topic: str
    partition: str
    channel: str
    batch: bytes
    count: int
    deadline_ms: int
    owner: object
    due_ms: Sequence[int] = ()
    delay_ms: Sequence[int] = ()
    request_id: int = 0
    is_sent: bool = False


@dataclass(frozen=True, slots=True)
class Produced:
    """
    A produce was answered, or failed: exactly one of `reply` and `error` is there. One that
    failed and `is_over` is not to be repeated.
    """

    produce: Produce
    reply: broker_pb2.ProduceReply | None = None
    error: SandglassError | None = None
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class Expired:
    """Nobody answered a produce in time. `produce.is_sent` says whether it was sent."""

    produce: Produce


@dataclass(frozen=True, slots=True)
class Settled:
    """An outcome was answered."""

    subscription: Subscription
    waiters: list[object]
    error: SandglassError | None


@dataclass(frozen=True, slots=True)
class Extended:
    """An extension that somebody waits for was answered; `ends_ms` is Unix time."""

    waiter: object
    ends_ms: int
    error: SandglassError | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A subscription became active, got a delivery, or ended."""

    subscription: Subscription


Event = Produced | Expired | Settled | Extended | Changed
