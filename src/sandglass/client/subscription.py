"""
A subscription as the client sees it: what was delivered, what is still open, and its credit.

The client counts what the broker may still send (`available`), as far as it knows, and what it
holds open. Room is what is left of the whole credit; it is granted in steps of a quarter, so
that a message settled isn't a frame each, or at once if the consumer waits with nothing on the
way. `available` may fall below 0: the broker hands out a message larger than the bytes left.

After a break nobody knows which grants and deliveries arrived. A subscription that holds
nothing is then replaced by a new one, whose credit is known. One that holds something takes
`available` as 0, grants anew, perhaps too much for once, never too little, and is replaced as
soon as it holds nothing: it `is_unsure` until then.
"""

from collections import deque
from dataclasses import dataclass

from sandglass.client.lease import Lease
from sandglass.errors import SandglassError
from sandglass.wire.v1 import broker_pb2


@dataclass(slots=True)
class Credit:
    """One kind of credit, in messages or in bytes."""

    limit: int
    available: int = 0
    open: int = 0

    def used(self, amount: int) -> None:
        """A delivery took this much."""
        self.open += amount
        self.available -= amount

    @property
    def room(self) -> int:
        """What may be granted."""
        return max(0, self.limit - self.open - self.available)

    def is_worth_granting(self, *, is_waiting: bool) -> bool:
        """Whether there is room for a quarter, or any at all if nothing else will come."""
        if is_waiting and self.available <= 0:
            return self.room > 0
        return self.room >= max(1, self.limit // 4)


class Subscription:
    """
    One subscription, from its request to its end, over however many connections.

    Args:
        request: what to ask for; its id changes when it is asked anew.
        is_extending: whether leases are kept while the consumer is there.

    `trouble` is why no node takes it just now, since `troubled_ms`; it is asked for again.
    `ready` holds deliveries that nobody has begun on; `leases` all that have open messages, by
    (partition number, token). While it `is_claiming`, they wait to be leased anew, `claims` as
    they were asked for; no outcome is sent meanwhile. One that `is_moving` leaves a node, to be
    asked for at the next. One that `is_left` gets no more messages;
    if it `is_finishing`, what its consumer has begun on stays leased.
    """

    def __init__(self, request: broker_pb2.Subscribe, *, is_extending: bool) -> None:
        self.request = request
        self.is_extending = is_extending
        self.partitions: list[str] = []
        self.ready: deque[Lease] = deque()
        self.leases: dict[tuple[int, int], Lease] = {}
        self.count_credit = Credit(request.credit_count)
        self.bytes_credit = Credit(request.credit_bytes)
        self.retry_ms: int | None = None
        self.claims: list[Lease] = []
        self.is_claiming = False
        self.is_asked = False
        self.is_active = False
        self.is_waiting = False
        self.is_unsure = False
        self.is_moving = False
        self.is_left = False
        self.is_finishing = False
        self.is_ended = False
        self.is_drained = False
        self.trouble: SandglassError | None = None
        self.troubled_ms = 0
        self.error: SandglassError | None = None

    @property
    def id(self) -> int:
        """Unique in the session."""
        return self.request.subscription_id

    @property
    def is_kept(self) -> bool:
        """Whether its leases are extended."""
        return self.is_extending and (self.is_finishing or not self.is_left)

    def asked(self) -> None:
        """It is being asked for with its whole credit, less what is still open."""
        self.is_asked = True
        self.is_active = self.is_moving = False
        self.retry_ms = None
        self.request.credit_count = max(1, self.count_credit.limit - self.count_credit.open)
        self.request.credit_bytes = max(1, self.bytes_credit.limit - self.bytes_credit.open)
        self.count_credit.available = self.request.credit_count
        self.is_unsure = False
        self.bytes_credit.available = self.request.credit_bytes

    def delivered(self, lease: Lease) -> None:
        """A delivery has come."""
        self.leases[lease.partition_number, lease.token] = lease
        self.ready.append(lease)
        self.count_credit.used(lease.count)
        self.bytes_credit.used(len(lease.batch))

    def settled(self, lease: Lease, *, is_over: bool = False) -> None:
        """Counts what was taken of a lease since the last time; all of it if `is_over`."""
        count = lease.count if is_over else lease.taken_count
        count = max(count, lease.credited_count)
        size_bytes = len(lease.batch) * count // lease.count if lease.count else 0
        self.count_credit.open -= count - lease.credited_count
        self.bytes_credit.open -= size_bytes - lease.credited_bytes
        lease.credited_count = count
        lease.credited_bytes = size_bytes
        if count == lease.count:
            self.leases.pop((lease.partition_number, lease.token), None)

    def grant(self) -> broker_pb2.Credit | None:
        """Room to grant now, if it is worth a message."""
        if self.is_left or self.is_ended or not self.is_active:
            return None
        count, size_bytes = self.count_credit, self.bytes_credit
        is_waiting = self.is_waiting and not self.ready
        if not any(
            each.is_worth_granting(is_waiting=is_waiting) for each in (count, size_bytes)
        ):
            return None
        grant = broker_pb2.Credit(
            subscription_id=self.id, count=count.room, bytes=size_bytes.room
        )
        count.available += count.room
        size_bytes.available += size_bytes.room
        return grant

    @property
    def is_replaceable(self) -> bool:
        """Whether another subscription may take the place of this one unnoticed."""
        is_idle = not self.count_credit.open and not self.leases
        return self.is_active and not self.is_left and not self.is_ended and is_idle

    def forget_grants(self) -> None:
        """After a break: grant anew, since nobody knows which grants arrived."""
        self.is_unsure = True
        self.count_credit.available = 0
        self.bytes_credit.available = 0

    def lose_leases(self) -> None:
        """All that was held is somebody else's."""
        for lease in list(self.leases.values()):
            lease.is_lost = True
            lease.take()
            self.settled(lease, is_over=True)
        self.ready.clear()
