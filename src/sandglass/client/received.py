"""
What a consumer is given: messages, one by one or a delivery at a time.

Both faces of the client give the same, and settle it by the same methods. What these answer is
the face's, by its `Settler`: something to await, or nothing when it is done.
"""

from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Generic, Protocol, TypeVar, cast

from google.protobuf.message import DecodeError

from sandglass.client.lease import ACK, DEAD, NACK, RELEASE, Lease
from sandglass.client.message import span_ms
from sandglass.core import limits, offset
from sandglass.errors import InternalError
from sandglass.wire.v1 import broker_pb2

_NOTHING: Final[Iterator[None]] = iter(())

Done = TypeVar("Done", covariant=True)
Moment = TypeVar("Moment", covariant=True)


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


class Settler(Protocol[Done, Moment]):
    """
    How outcomes of one subscription are noted, and waited for.

    Raises, each of them:
        LeaseLostError, ConflictError, InvalidError: see `Lease.settle`.
        SandglassError: the broker refused an earlier outcome of this consumer for good.
    """

    def settle(
        self,
        lease: Lease,
        place: int,
        kind: int,
        delay_ms: int | None,
        reason: str,
        is_waiting: bool,
    ) -> Done:
        """Notes the outcome of one message."""
        ...

    def settle_open(
        self, lease: Lease, kind: int, delay_ms: int | None, reason: str, is_waiting: bool
    ) -> Done:
        """Notes one outcome for all messages that have none."""
        ...

    def extend(self, lease: Lease, lease_ms: int) -> Moment:
        """Keeps the lease; the moment is when it ends."""
        ...


class Leased(Generic[Done, Moment]):
    """
    One message under a lease.

    Settle it: `ack` when it is done, `nack` when it failed, `release` to give it back
    uncounted, `dead` to put it aside. An outcome is noted at once, by any thread, and sent with
    the next frame. With `wait=True` it takes until the broker has made it durable. The end of a
    drain and the closing of the client wait for all answers.

    Raises, each of them:
        LeaseLostError: the message is, or will be, somebody else's; stop working on it.
        ConflictError: it has another outcome already.
        SandglassError: the broker refused an earlier outcome of this consumer for good.
    """

    __slots__ = ("_lease", "_place", "_settler", "_wire")

    def __init__(
        self,
        wire: broker_pb2.Message,
        lease: Lease,
        place: int,
        settler: Settler[Done, Moment],
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
        """The named stream inside the partition; `master` unless it was produced to another."""
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
        """Which attempt of its group this is, from 1."""
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

    def ack(self, *, wait: bool = False) -> Done:
        """It is done: never again for this group."""
        return self._settler.settle(self._lease, self._place, ACK, 0, "", wait)

    def nack(
        self, *, delay: timedelta | None = None, reason: str = "", wait: bool = False
    ) -> Done:
        """
        It failed: a counted attempt.

        Args:
            delay: until it comes again, 0 to 3,650 days; none is as the group's backoff says.
            reason: for whoever looks at its dead letter, up to 1 KiB of UTF-8.

        Raises:
            InvalidError: a delay outside its range, or a reason that is too long.
        """
        return self._settler.settle(
            self._lease, self._place, NACK, _delay_ms(delay), reason, wait
        )

    def release(self, *, wait: bool = False) -> Done:
        """It is given back: due again at once, and no attempt is counted."""
        return self._settler.settle(self._lease, self._place, RELEASE, 0, "", wait)

    def dead(self, reason: str = "", *, wait: bool = False) -> Done:
        """
        It is put to the dead letters at once: no attempt would help.

        Args:
            reason: up to 1 KiB of UTF-8.
        """
        return self._settler.settle(self._lease, self._place, DEAD, 0, reason, wait)

    def extend(self, span: timedelta) -> Moment:
        """
        Keeps the lease of the whole delivery for `span` from now: 1 ms to 12 hours. Less than
        what is left shortens it.

        Returns:
            When it ends, by the broker's clock.

        Raises:
            InvalidError: a span outside its range.
        """
        self._lease.check_open(self._place)
        return self._settler.extend(self._lease, _lease_ms(span))

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name} {self.topic}/{self.partition} {self.offset} attempt {self.attempt}>"


class LeasedBatch(Generic[Done, Moment]):
    """
    A delivery: messages of one partition under one lease, decoded when they are looked at.

    The outcomes are those of `Leased`, for all messages that have none yet.
    """

    __slots__ = ("_lease", "_settler")

    def __init__(self, lease: Lease, settler: Settler[Done, Moment]) -> None:
        self._lease = lease
        self._settler = settler

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
        """Which attempt of its group this is, from 1."""
        return self._lease.attempt

    @property
    def size_bytes(self) -> int:
        """What they take on the wire."""
        return len(self._lease.batch)

    def ack(self, *, wait: bool = False) -> Done:
        """All that are open are done: never again for this group."""
        return self._settler.settle_open(self._lease, ACK, 0, "", wait)

    def nack(
        self, *, delay: timedelta | None = None, reason: str = "", wait: bool = False
    ) -> Done:
        """All that are open failed: a counted attempt of each. See `Leased.nack`."""
        return self._settler.settle_open(self._lease, NACK, _delay_ms(delay), reason, wait)

    def release(self, *, wait: bool = False) -> Done:
        """All that are open are given back, uncounted."""
        return self._settler.settle_open(self._lease, RELEASE, 0, "", wait)

    def dead(self, reason: str = "", *, wait: bool = False) -> Done:
        """All that are open are put to the dead letters. See `Leased.dead`."""
        return self._settler.settle_open(self._lease, DEAD, 0, reason, wait)

    def extend(self, span: timedelta) -> Moment:
        """Keeps the lease for `span` from now, 1 ms to 12 hours, while something is open."""
        self._lease.check_open()
        return self._settler.extend(self._lease, _lease_ms(span))

    def __len__(self) -> int:
        return self._lease.count


class Received(Leased[None, datetime]):
    """A message that `Client` gives: see `Leased`. Its outcomes return when they are noted."""

    __slots__ = ()


class AsyncReceived(Leased[Awaitable[None], Awaitable[datetime]]):
    """
    A message that `AsyncClient` gives: see `Leased`.

    Its outcomes are noted when they are called. Awaiting them costs nothing, and tells nothing
    but what is known already, except with `wait=True`.
    """

    __slots__ = ()


class Batch(LeasedBatch[None, datetime]):
    """A delivery that `Client` gives: see `LeasedBatch`."""

    __slots__ = ("_messages",)

    def __init__(self, lease: Lease, settler: Settler[None, datetime]) -> None:
        super().__init__(lease, settler)
        self._messages: list[Received] | None = None

    @property
    def messages(self) -> list[Received]:
        """All of them, in offset order."""
        if self._messages is None:
            lease, settler = self._lease, self._settler
            wires = enumerate(decode(lease))
            self._messages = [Received(wire, lease, place, settler) for place, wire in wires]
        return self._messages

    def __iter__(self) -> Iterator[Received]:
        return iter(self.messages)


class AsyncBatch(LeasedBatch[Awaitable[None], Awaitable[datetime]]):
    """A delivery that `AsyncClient` gives: see `LeasedBatch`."""

    __slots__ = ("_messages",)

    def __init__(
        self, lease: Lease, settler: Settler[Awaitable[None], Awaitable[datetime]]
    ) -> None:
        super().__init__(lease, settler)
        self._messages: list[AsyncReceived] | None = None

    @property
    def messages(self) -> list[AsyncReceived]:
        """All of them, in offset order."""
        if self._messages is None:
            lease, settler = self._lease, self._settler
            wires = enumerate(decode(lease))
            self._messages = [
                AsyncReceived(wire, lease, place, settler) for place, wire in wires
            ]
        return self._messages

    def __iter__(self) -> Iterator[AsyncReceived]:
        return iter(self.messages)


def decode(lease: Lease) -> list[broker_pb2.Message]:
    """
    The messages of a delivery.

    Raises:
        InternalError: they are none, or of another number: the node has a defect.
    """
    try:
        messages = list(broker_pb2.MessageBatch.FromString(lease.batch).messages)
    except DecodeError as error:
        raise InternalError("the node sent a delivery that cannot be read") from error
    if len(messages) != lease.count:
        raise InternalError(
            f"the node sent {len(messages)} messages in a delivery of {lease.count}"
        )
    return messages


def _delay_ms(delay: timedelta | None) -> int | None:
    if delay is None:
        return None
    return span_ms(delay, field="delay", low=0, high=limits.NACK_DELAY_MS_MAX)


def _lease_ms(span: timedelta) -> int:
    return span_ms(span, field="span", low=1, high=limits.LEASE_MS_MAX)
