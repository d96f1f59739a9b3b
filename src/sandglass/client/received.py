"""What a consumer is given: messages, one by one or a delivery at a time."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast

from sandglass.client.lease import ACK, DEAD, NACK, RELEASE, Lease
from sandglass.client.message import span_ms
from sandglass.core import limits, offset
from sandglass.wire.v1 import broker_pb2

_NOTHING: Final[Iterator[None]] = iter(())


class Noted:
    """Awaiting this costs nothing: the outcome is noted, and goes out with the next frame."""

    __slots__ = ()

    def __await__(self) -> Iterator[None]:
        return _NOTHING


NOTED: Final = cast("Awaitable[None]", Noted())


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a dead letter was: its group, counted attempts, why it died, and where it stood."""

    group: str
    attempts: int
    reason: str
    offset: str


@dataclass(frozen=True, slots=True)
class Settler:
    """What messages need from their client."""

    wait: Callable[[Lease], Awaitable[None]]
    extend: Callable[[Lease, int], Awaitable[datetime]]
    check: Callable[[], None]


class Received:
    """
    One message under a lease.

    Settle it: `ack` when it is done, `nack` when it failed, `release` to give it back
    uncounted, `dead` to put it aside. An outcome is noted at once and sent with the next frame;
    awaiting it costs nothing, and tells nothing but what is known already. With `wait=True`
    awaiting takes until the broker has made it durable. The end of a drain and the closing of
    the client wait for all answers.

    Raises, each of them:
        LeaseLostError: the message is, or will be, somebody else's; stop working on it.
        ConflictError: it has another outcome already.
        SandglassError: the broker refused an earlier outcome of this consumer for good.
    """

    __slots__ = ("_lease", "_place", "_settler", "_wire")

    def __init__(
        self, wire: broker_pb2.Message, lease: Lease, place: int, settler: Settler
    ) -> None:
        self._wire = wire
        self._lease = lease
        self._place = place
        self._settler = settler

    @property
    def value(self) -> bytes:
        """What was produced."""
        return self._wire.value

    @property
    def key(self) -> bytes:
        """Empty if there is none."""
        return self._wire.key

    @property
    def clustering_key(self) -> bytes:
        """Empty if there is none."""
        return self._wire.clustering_key

    @property
    def headers(self) -> Mapping[str, bytes]:
        """By name; of a repeated one the last."""
        return {header.name: header.value for header in self._wire.headers}

    @property
    def id(self) -> str:
        """The producer's own name for it; empty if there is none."""
        return self._wire.id

    @property
    def topic(self) -> str:
        """Where it was produced to."""
        return self._lease.subscription.request.topic

    @property
    def channel(self) -> str:
        """As above."""
        return self._lease.subscription.request.channel or "master"

    @property
    def partition(self) -> str:
        """The partition's id."""
        return self._lease.partition

    @property
    def offset(self) -> str:
        """Its place in the partition, 28 hex digits that sort by time."""
        return offset.to_text(self._lease.offset_of(self._place))

    @property
    def index(self) -> int:
        """Its place in the partition's order of production, from 1."""
        return self._lease.index_of(self._place)

    @property
    def due_at(self) -> datetime:
        """When it was due."""
        lease = self._lease
        return offset.to_datetime(lease.run_due_ms[lease.run_of(self._place)])

    @property
    def produced_at(self) -> datetime:
        """When the broker took it, by the broker's clock."""
        lease = self._lease
        return offset.to_datetime(lease.run_produced_ms[lease.run_of(self._place)])

    @property
    def attempt(self) -> int:
        """1 the first time."""
        return self._lease.attempt

    @property
    def dead_letter(self) -> DeadLetter | None:
        """Of a message of the dead-letter channel: what it was."""
        lease = self._lease
        letter = lease.dead_letter
        if letter is None:
            return None
        run = lease.run_of(self._place)
        first = offset.from_bytes(letter.run_offset[run])
        return DeadLetter(
            group=letter.group,
            attempts=letter.attempts,
            reason=letter.reason,
            offset=offset.to_text(first + self._place - lease.run_starts[run]),
        )

    @property
    def is_settled(self) -> bool:
        """Whether it has an outcome."""
        return bool(self._lease.outcomes[self._place])

    def ack(self, *, wait: bool = False) -> Awaitable[None]:
        """It is done: never again for this group."""
        return self._settle(ACK, wait)

    def nack(
        self, *, delay: timedelta | None = None, reason: str = "", wait: bool = False
    ) -> Awaitable[None]:
        """
        It failed: a counted attempt.

        Args:
            delay: until it comes again; none is at once.
            reason: for whoever looks at its dead letter, up to 1 KiB.
        """
        return self._settle(NACK, wait, delay_ms=_delay_ms(delay), reason=reason)

    def release(self, *, wait: bool = False) -> Awaitable[None]:
        """It is given back: due again at once, and no attempt is counted."""
        return self._settle(RELEASE, wait)

    def dead(self, reason: str = "", *, wait: bool = False) -> Awaitable[None]:
        """It is put to the dead letters, with a reason of up to 1 KiB."""
        return self._settle(DEAD, wait, reason=reason)

    def extend(self, span: timedelta) -> Awaitable[datetime]:
        """
        Keeps the lease for `span` from now, up to 12 hours; that of the whole delivery.

        Returns:
            When it ends, by the broker's clock.
        """
        return _extend(self._lease, self._settler, span)

    def _settle(
        self, kind: int, wait: bool, *, delay_ms: int = 0, reason: str = ""
    ) -> Awaitable[None]:
        lease = self._lease
        lease.settle(self._place, kind, delay_ms=delay_ms, reason=reason)
        self._settler.check()
        return self._settler.wait(lease) if wait else NOTED

    def __repr__(self) -> str:
        return f"<Received {self.topic}/{self.partition} {self.offset} attempt {self.attempt}>"


class Batch:
    """
    A delivery: messages of one partition under one lease, decoded when they are looked at.

    The outcomes are those of `Received`, for all messages that have none yet.
    """

    __slots__ = ("_lease", "_messages", "_settler")

    def __init__(self, lease: Lease, settler: Settler) -> None:
        self._lease = lease
        self._settler = settler
        self._messages: list[Received] | None = None

    @property
    def messages(self) -> list[Received]:
        """All of them, in offset order."""
        if self._messages is None:
            lease, settler = self._lease, self._settler
            self._messages = [
                Received(wire, lease, place, settler)
                for place, wire in enumerate(decode(lease))
            ]
        return self._messages

    @property
    def values(self) -> list[bytes]:
        """Their values, without making objects of them."""
        return [wire.value for wire in decode(self._lease)]

    @property
    def topic(self) -> str:
        """Where they were produced to."""
        return self._lease.subscription.request.topic

    @property
    def partition(self) -> str:
        """The partition's id."""
        return self._lease.partition

    @property
    def attempt(self) -> int:
        """1 the first time."""
        return self._lease.attempt

    @property
    def size_bytes(self) -> int:
        """What they take on the wire."""
        return len(self._lease.batch)

    def ack(self, *, wait: bool = False) -> Awaitable[None]:
        """All are done."""
        return self._settle(ACK, wait)

    def nack(
        self, *, delay: timedelta | None = None, reason: str = "", wait: bool = False
    ) -> Awaitable[None]:
        """All failed."""
        return self._settle(NACK, wait, delay_ms=_delay_ms(delay), reason=reason)

    def release(self, *, wait: bool = False) -> Awaitable[None]:
        """All are given back, uncounted."""
        return self._settle(RELEASE, wait)

    def dead(self, reason: str = "", *, wait: bool = False) -> Awaitable[None]:
        """All are put to the dead letters."""
        return self._settle(DEAD, wait, reason=reason)

    def extend(self, span: timedelta) -> Awaitable[datetime]:
        """Keeps the lease for `span` from now, up to 12 hours."""
        return _extend(self._lease, self._settler, span)

    def _settle(
        self, kind: int, wait: bool, *, delay_ms: int = 0, reason: str = ""
    ) -> Awaitable[None]:
        lease = self._lease
        lease.settle_open(0, kind, delay_ms=delay_ms, reason=reason)
        self._settler.check()
        return self._settler.wait(lease) if wait else NOTED

    def __len__(self) -> int:
        return self._lease.count

    def __iter__(self) -> Iterator[Received]:
        return iter(self.messages)


def decode(lease: Lease) -> list[broker_pb2.Message]:
    """The messages of a delivery."""
    return list(broker_pb2.MessageBatch.FromString(lease.batch).messages)


def _delay_ms(delay: timedelta | None) -> int:
    if delay is None:
        return 0
    return span_ms(delay, field="delay", low=0, high=limits.NACK_DELAY_MS_MAX)


def _extend(lease: Lease, settler: Settler, span: timedelta) -> Awaitable[datetime]:
    lease_ms = span_ms(span, field="span", low=1, high=limits.LEASE_MS_MAX)
    return settler.extend(lease, lease_ms)
