"""
Outcomes and extensions on their way, and the keeping of leases.

Rules
1. An outcome stays until it is answered, and is sent again after a break if the session goes
   on. The second answer may then be that the lease is lost, which says nothing: it is taken as
   done.
2. A lease is extended when a third of it has passed, while its subscription is extending and
   read, or was left to be finished. An extension says how far the consumer has got: what it had
   not begun on isn't counted as an attempt, should it die. So one also goes out soon after a
   consumer has begun on a delivery and holds a message of it. It never makes a lease end
   sooner.
3. Of a lease that nobody keeps, only the credit is taken back when it has run out. The node
   takes an outcome under it until it gives the message away.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sandglass.client import encode
from sandglass.client.events import Event, Extended, Settled
from sandglass.client.failure import from_wire
from sandglass.client.lease import Lease
from sandglass.client.subscription import Subscription
from sandglass.errors import LeaseLostError, NotFoundError, UnavailableError
from sandglass.wire.v1 import broker_pb2

REPORT_INTERVAL_MS: Final = 100
"""How often, at most, a lease says how far its consumer has got."""

_OUTCOME_TAG: Final = encode.tag(broker_pb2.ClientFrame.OUTCOMES_FIELD_NUMBER)
_EXTEND_TAG: Final = encode.tag(broker_pb2.ClientFrame.EXTENDS_FIELD_NUMBER)


@dataclass(slots=True, eq=False)
class _SentOutcome:
    lease: Lease
    raw: bytes
    waiters: list[object]
    is_repeated: bool = False


class Settling:
    """
    See the head of the file. `note` and `begin` may be called by any thread.

    Args:
        next_id: gives the session's next request id.
        on_work: called when there is something to send.

    `outcomes` and `extends` are items that wait for a frame, encoded. `lost_count` counts
    outcomes that didn't count, since their lease was lost.
    """

    def __init__(self, *, next_id: Callable[[], int], on_work: Callable[[], None]) -> None:
        self._next_id = next_id
        self._on_work = on_work
        self.outcomes: deque[bytes] = deque()
        self.extends: deque[bytes] = deque()
        self.lost_count = 0
        # Other threads add to these.
        self._noted: deque[Lease] = deque()
        self._begun: deque[Lease] = deque()
        self._unanswered: dict[int, _SentOutcome] = {}
        self._extending: dict[int, tuple[Lease, object | None]] = {}

    @property
    def is_owed(self) -> bool:
        """Whether an answer is missing."""
        return bool(self._unanswered or self._extending)

    # --- what users do ------------------------------------------------------------------------

    def note(self, lease: Lease) -> None:
        """An outcome was noted in a lease."""
        self._noted.append(lease)
        self._on_work()

    def begin(self, lease: Lease) -> None:
        """The consumer begins on a delivery."""
        self._begun.append(lease)
        self._on_work()

    def extend(self, lease: Lease, lease_ms: int, now_ms: int, waiter: object | None) -> None:
        """Keeps a lease for `lease_ms` from now; an `Extended` event tells `waiter`."""
        request_id = self._next_id()
        extend = broker_pb2.Extend(
            request_id=request_id,
            subscription_id=lease.subscription.id,
            partition_number=lease.partition_number,
            token=lease.token,
            lease_ms=lease_ms,
            begun_count=lease.begun_count,
        )
        lease.ends_ms = now_ms + lease_ms
        lease.reported_count = lease.begun_count
        lease.reported_ms = now_ms
        self._extending[request_id] = (lease, waiter)
        self.extends.append(encode.with_length(_EXTEND_TAG, extend.SerializeToString()))
        self._on_work()

    def wait_for(self, lease: Lease, waiter: object) -> bool:
        """
        Tells `waiter` when what was noted in a lease is answered, by a `Settled` event.

        False if nothing of it is unanswered: then nobody will be told.
        """
        if lease.is_noted:
            lease.waiters.append(waiter)
            return True
        unanswered = reversed(self._unanswered.values())
        last = next((each for each in unanswered if each.lease is lease), None)
        if last is None:
            return False
        last.waiters.append(waiter)
        return True

    def is_passed(self, request_id: int) -> bool:
        """Whether every outcome up to this id was answered."""
        first = next(iter(self._unanswered), None)
        return first is None or first > request_id

    def release_unknown(self, subscription_id: int, partition_number: int, token: int) -> None:
        """Gives back a delivery that nobody here waits for."""
        outcome = broker_pb2.Outcome(
            subscription_id=subscription_id,
            partition_number=partition_number,
            token=token,
            kind=broker_pb2.OUTCOME_RELEASE,
        )
        self.outcomes.append(encode.with_length(_OUTCOME_TAG, outcome.SerializeToString()))
        self._on_work()

    # --- out ----------------------------------------------------------------------------------

    def collect(self, now_ms: int) -> list[Subscription]:
        """Turns what was noted into items. Returns the subscriptions that settled something."""
        while self._begun:
            self.report_begun(self._begun.popleft(), now_ms)
        subscriptions: list[Subscription] = []
        while self._noted:
            lease = self._noted.popleft()
            self._collect_outcomes(lease)
            subscriptions.append(lease.subscription)
        return subscriptions

    def report_begun(self, lease: Lease, now_ms: int) -> None:
        """Says how far the consumer has got, if it holds a message the node thinks unread."""
        if lease.begun_count <= lease.reported_count or lease.is_lost:
            return
        if lease.reported_count and now_ms - lease.reported_ms < REPORT_INTERVAL_MS:
            return
        if lease.outcomes.find(0, lease.reported_count, lease.begun_count) >= 0:
            self.extend(lease, _extension_ms(lease, now_ms), now_ms, None)

    def keep(self, subscription: Subscription, now_ms: int) -> None:
        """Extends the leases of a subscription that want it, or lets them run out."""
        is_kept = subscription.is_kept
        for lease in list(subscription.leases.values()):
            if not lease.open_count:
                continue
            if is_kept and now_ms >= lease.ends_ms - 2 * lease.lease_ms // 3:
                self.extend(lease, _extension_ms(lease, now_ms), now_ms, None)
            elif now_ms >= lease.ends_ms:
                lease.is_run_out = True
                subscription.settled(lease, is_over=True)
            else:
                self.report_begun(lease, now_ms)

    # --- in -----------------------------------------------------------------------------------

    def outcome_answered(self, reply: broker_pb2.OutcomeReply, events: list[Event]) -> None:
        """An outcome counts, or doesn't."""
        outcome = self._unanswered.pop(reply.request_id, None)
        if outcome is None:
            return
        error = from_wire(reply.error) if reply.HasField("error") else None
        if isinstance(error, NotFoundError):
            # The node has forgotten the subscription, and its leases with it.
            error = LeaseLostError(error.message)
        if isinstance(error, LeaseLostError):
            if outcome.is_repeated:
                error = None
            else:
                self.lost_count += 1
                lose(outcome.lease)
        events.append(Settled(outcome.lease.subscription, outcome.waiters, error))

    def extend_answered(self, reply: broker_pb2.ExtendReply, events: list[Event]) -> None:
        """A lease is kept, or lost."""
        known = self._extending.pop(reply.request_id, None)
        if known is None:
            return
        lease, waiter = known
        error = from_wire(reply.error) if reply.HasField("error") else None
        if isinstance(error, LeaseLostError) and lease.open_count:
            lose(lease)
        if waiter is not None:
            events.append(Extended(waiter, reply.lease_ends_ms, error))

    # --- breaks -------------------------------------------------------------------------------

    def broken(self, events: list[Event]) -> None:
        """The connection is gone. Extensions are forgotten, outcomes wait."""
        extending, self._extending = self._extending, {}
        self.extends.clear()
        for lease, waiter in extending.values():
            lease.reported_count = 0
            if waiter is not None:
                error = UnavailableError("the connection broke", is_result_unknown=True)
                events.append(Extended(waiter, 0, error))

    def resumed(self, held: set[tuple[int, int, int]], known: Iterable[Subscription]) -> None:
        """
        The session goes on. Sends again what is unanswered, and agrees on who holds what.

        Args:
            held: the leases the node knows: subscription id, partition number, token.
            known: the subscriptions of the session.
        """
        for outcome in self._unanswered.values():
            outcome.is_repeated = True
        self.outcomes = deque(outcome.raw for outcome in self._unanswered.values())
        # One with an outcome on its way may be held or not: the answer will say.
        names = {_name(outcome.lease) for outcome in self._unanswered.values()}
        for subscription in known:
            for lease in list(subscription.leases.values()):
                names.add(_name(lease))
                if _name(lease) not in held and lease.open_count:
                    lose(lease)
        for name in sorted(held - names):
            self.release_unknown(*name)

    def lost_all(self, events: list[Event]) -> None:
        """The session is gone, and every lease with it."""
        unanswered, self._unanswered = self._unanswered, {}
        self._begun.clear()
        self.outcomes.clear()
        self.extends.clear()
        ends = [(outcome.lease, outcome.waiters) for outcome in unanswered.values()]
        while self._noted:
            lease = self._noted.popleft()
            ends.append((lease, lease.waiters))
            lease.waiters = []
            lease.take()
        for lease, waiters in ends:
            self.lost_count += 1
            error = LeaseLostError(
                "the session ended before the outcome was answered", is_result_unknown=True
            )
            events.append(Settled(lease.subscription, waiters, error))

    # --- private ------------------------------------------------------------------------------

    def _collect_outcomes(self, lease: Lease) -> None:
        waiters, lease.waiters = lease.waiters, []
        noted = lease.take()
        for each in noted:
            request_id = self._next_id()
            outcome = broker_pb2.Outcome(
                request_id=request_id,
                subscription_id=lease.subscription.id,
                partition_number=lease.partition_number,
                token=lease.token,
                kind=each.kind,  # pyright: ignore[reportArgumentType] - an enum is an int
                places=() if each.places == [0, lease.count] else each.places,
                delay_ms=each.delay_ms,
                reason=each.reason,
            )
            raw = encode.with_length(_OUTCOME_TAG, outcome.SerializeToString())
            self.outcomes.append(raw)
            # Answers come in order: who waits is told by the last one.
            told = waiters if each is noted[-1] else []
            self._unanswered[request_id] = _SentOutcome(lease, raw, told)
        lease.subscription.settled(lease)


def lose(lease: Lease) -> None:
    """A lease is somebody else's: outcomes under it raise from now on."""
    lease.is_lost = True
    lease.subscription.settled(lease, is_over=True)


def _extension_ms(lease: Lease, now_ms: int) -> int:
    """How long a lease shall last from now: never less than what is left of it."""
    left_ms = max(1, lease.ends_ms - now_ms)
    if lease.subscription.is_kept:
        return max(lease.lease_ms, left_ms)
    return left_ms


def _name(lease: Lease) -> tuple[int, int, int]:
    return lease.subscription.id, lease.partition_number, lease.token
