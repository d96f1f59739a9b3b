"""
Outcomes and extensions on their way, and the keeping of leases.

Rules
1. An outcome stays until it is answered, and is sent again after a break if the session goes
   on, or if the node couldn't take it just then. If the first one may have been taken, the
   second answer may be that the lease is lost: the first one ended it, and it is taken as done.
2. A lease is extended when a third of it has passed, while its subscription is extending and
   read, or was left to be finished. An extension says how far the consumer has got: what it had
   not begun on isn't counted as an attempt, should it die. So one also goes out soon after a
   consumer has begun on a delivery and holds a message of it. It never makes a lease end
   sooner.
3. Of a lease that nobody keeps, only the credit is taken back when it has run out. The node
   takes an outcome under it until it gives the message away.
4. What a subscription that has to be asked for anew holds is claimed: all that is open, or has
   an outcome that wasn't answered. Outcomes wait for what is granted, and go out under the new
   tokens. Of a claim that wasn't too late, what isn't granted has been settled.
5. What is granted under the token that it had before is unsure: it may only be held as it was,
   since its leader is gone and has no successor yet. The claim may come too late for that one,
   so that after a repeated outcome a lost lease says nothing: the result is unknown.
6. So it is if the lease may have run out before, or the node knows nothing of the subscription:
   what a claim found settled may have become a dead letter, then.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from sandglass.client import encode
from sandglass.client.events import Event, Extended, Settled
from sandglass.client.failure import from_wire
from sandglass.client.lease import Lease, Noted, check_claimed
from sandglass.client.subscription import Subscription
from sandglass.core import limits
from sandglass.errors import (
    BusyError,
    LeaseLostError,
    NotFoundError,
    NotLeaderError,
    SandglassError,
    UnavailableError,
)
from sandglass.wire.v1 import broker_pb2

REPORT_INTERVAL_MS: Final = 100
"""How often, at most, a lease says how far its consumer has got."""

CLAIM_BYTES_MAX: Final = limits.FRAME_BYTES_MAX * 3 // 4
"""The claims of one subscription: what is beyond them is due again. The rest of its frame is
for names and partitions."""

_OUTCOME_TAG: Final = encode.tag(broker_pb2.ClientFrame.OUTCOMES_FIELD_NUMBER)
_EXTEND_TAG: Final = encode.tag(broker_pb2.ClientFrame.EXTENDS_FIELD_NUMBER)


@dataclass(slots=True, eq=False)
class _SentOutcome:
    """One that is unanswered. If it `is_repeated`, it may have been taken before."""

    request_id: int
    lease: Lease
    noted: Noted
    raw: bytes
    waiters: list[object]
    is_repeated: bool = False

    def verdict(self, lost: LeaseLostError, now_ms: int) -> LeaseLostError | None:
        """What became of it, if the answer is that its lease is lost: see rules 1, 5 and 6."""
        if not self.is_repeated:
            return lost
        has_run_out = now_ms >= self.lease.ends_ms
        if has_run_out or self.lease.is_unsure or lost.is_result_unknown:
            return LeaseLostError(lost.message, is_result_unknown=True)
        return None


class Settling:
    """
    See the head of the file. `note` and `begin` may be called by any thread.

    Args:
        next_id: gives the session's next request id.
        on_work: called when there is something to send.

    `outcomes` and `extends` are items that wait for a frame, encoded.
    """

    def __init__(self, *, next_id: Callable[[], int], on_work: Callable[[], None]) -> None:
        self._next_id = next_id
        self._on_work = on_work
        self.outcomes: deque[bytes] = deque()
        self.extends: deque[bytes] = deque()
        # Other threads add to these.
        self._noted: deque[Lease] = deque()
        self._begun: deque[Lease] = deque()
        self._unanswered: dict[int, _SentOutcome] = {}
        self._again: list[_SentOutcome] = []
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

        Raises:
            LeaseLostError: it was answered before anybody waited, and came too late.
        """
        if lease.refusal is not None:
            refusal, lease.refusal = lease.refusal, None
            raise refusal
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
        later: list[Lease] = []
        while self._noted:
            lease = self._noted.popleft()
            if lease.subscription.is_claiming and not lease.is_lost:
                later.append(lease)
                continue
            self._collect_outcomes(lease)
            subscriptions.append(lease.subscription)
        self._noted.extend(later)
        return subscriptions

    def repeat(self) -> None:
        """Outcomes that a node couldn't take are sent again; those of claims wait for them."""
        again, self._again = self._again, []
        for outcome in again:
            if not outcome.lease.subscription.is_claiming:
                self.outcomes.append(outcome.raw)

    def report_begun(self, lease: Lease, now_ms: int) -> None:
        """Says how far the consumer has got, if it holds a message the node thinks unread."""
        if lease.begun_count <= lease.reported_count or lease.is_lost:
            return
        if lease.subscription.is_claiming:
            return
        if lease.reported_count and now_ms - lease.reported_ms < REPORT_INTERVAL_MS:
            return
        if lease.outcomes.find(0, lease.reported_count, lease.begun_count) >= 0:
            self.extend(lease, _extension_ms(lease, now_ms), now_ms, None)

    def keep(self, subscription: Subscription, now_ms: int) -> None:
        """Extends the leases of a subscription that want it, or lets them run out."""
        if subscription.is_claiming:
            return
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

    def outcome_answered(
        self, reply: broker_pb2.OutcomeReply, now_ms: int, events: list[Event]
    ) -> None:
        """An outcome counts, or doesn't."""
        outcome = self._unanswered.pop(reply.request_id, None)
        if outcome is None:
            return
        error = from_wire(reply.error) if reply.HasField("error") else None
        is_claiming = outcome.lease.subscription.is_claiming
        if is_passing(error) or (is_claiming and error is not None):
            outcome.is_repeated |= error is not None and error.is_result_unknown
            self._unanswered[reply.request_id] = outcome
            self._again.append(outcome)
            return
        if isinstance(error, NotFoundError):
            # The node has forgotten the subscription, and its leases with it.
            error = LeaseLostError(error.message, is_result_unknown=outcome.is_repeated)
        if isinstance(error, LeaseLostError):
            error = outcome.verdict(error, now_ms)
            if error is not None:
                lose(outcome.lease)
                if not outcome.waiters:
                    outcome.lease.refusal = error
        events.append(Settled(outcome.lease.subscription, outcome.waiters, error))

    def extend_answered(self, reply: broker_pb2.ExtendReply, events: list[Event]) -> None:
        """A lease is kept, or lost."""
        known = self._extending.pop(reply.request_id, None)
        if known is None:
            return
        lease, waiter = known
        error = from_wire(reply.error) if reply.HasField("error") else None
        is_claiming = lease.subscription.is_claiming
        if isinstance(error, LeaseLostError) and lease.open_count and not is_claiming:
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
        self._again.clear()
        self.outcomes = deque(
            outcome.raw
            for outcome in self._unanswered.values()
            if not outcome.lease.subscription.is_claiming
        )
        # One with an outcome on its way may be held or not: the answer will say.
        names = {_name(outcome.lease) for outcome in self._unanswered.values()}
        for subscription in known:
            if subscription.is_claiming:  # it is asked for once more, and claims once more
                names |= {each for each in held if each[0] == subscription.id}
                continue
            for lease in list(subscription.leases.values()):
                names.add(_name(lease))
                if _name(lease) not in held and lease.open_count:
                    lose(lease)
                elif lease.is_run_out:
                    lease.release_unbegun()
        for name in sorted(held - names):
            self.release_unknown(*name)

    # --- claims -------------------------------------------------------------------------------

    def suspend(self, subscription: Subscription) -> None:
        """A subscription will be asked for anew: what it holds is to be claimed."""
        held = self._held(subscription)
        subscription.is_claiming = bool(held)
        subscription.is_active = False
        mine = {each.raw for each in self._unanswered.values() if each.lease in held}
        self.outcomes = deque(raw for raw in self.outcomes if raw not in mine)

    def owing(self) -> list[Subscription]:
        """Subscriptions with outcomes that were not answered."""
        leases = [outcome.lease for outcome in self._unanswered.values()]
        return [lease.subscription for lease in (*leases, *list(self._noted))]

    def tokens(self, known: Iterable[Subscription]) -> set[tuple[int, int]]:
        """Of all that these hold, with the number of each one's partition."""
        leases = [lease for subscription in known for lease in self._held(subscription)]
        return {(lease.partition_number, lease.token) for lease in leases}

    def forget_sent(self) -> None:
        """The session is another one: nothing that waits for a frame is of use to it."""
        self._begun.clear()
        self._again.clear()
        self.outcomes.clear()
        self.extends.clear()

    def claim(self, subscription: Subscription) -> list[broker_pb2.Claim]:
        """What a subscription that is asked for anew claims, the oldest first, in bounds."""
        subscription.claims = []
        found: list[broker_pb2.Claim] = []
        size_bytes = 0
        for lease, sent in self._held(subscription).items():
            places = lease.unresolved(sent)
            claim = _claim_of(lease, places)
            size_bytes += claim.ByteSize()
            if size_bytes > CLAIM_BYTES_MAX or len(found) == limits.CLAIM_COUNT_MAX:
                break
            if places:
                subscription.claims.append(lease)
                found.append(claim)
        return found

    def claimed(
        self,
        subscription: Subscription,
        replies: Sequence[broker_pb2.Claimed],
        now_ms: int,
        events: list[Event],
    ) -> None:
        """A subscription has begun anew, and holds what the node has granted."""
        known = dict(zip(subscription.claims, replies, strict=False))
        for lease, claimed in known.items():
            check_claimed(claimed, lease)
        late = broker_pb2.Claimed(is_late=True)
        for lease in list(self._held(subscription)):
            self._renew(lease, known.get(lease, late), now_ms, events)
        subscription.claims, subscription.is_claiming = [], False

    def expire(self, subscription: Subscription, now_ms: int, events: list[Event]) -> None:
        """Without a node: a lease that is over is given up, with the outcomes under it."""
        for lease in list(self._held(subscription)):
            if now_ms > lease.ends_ms:
                self._give_up(lease, events)

    def lose_unbegun(self, subscription: Subscription) -> None:
        """What nobody has begun on is begun on no more: it may be somebody else's."""
        for lease in subscription.leases.values():
            lease.is_run_out = True

    def _held(self, subscription: Subscription) -> dict[Lease, list[list[int]]]:
        """Its leases that aren't over, with the places of outcomes on their way."""
        held: dict[Lease, list[list[int]]] = {
            lease: [] for lease in subscription.leases.values()
        }
        for outcome in self._unanswered.values():
            if outcome.lease.subscription is subscription and not outcome.lease.is_lost:
                held.setdefault(outcome.lease, []).append(outcome.noted.places)
        for lease in list(self._noted):
            if lease.subscription is subscription and not lease.is_lost:
                held.setdefault(lease, [])
        return held

    def _renew(
        self, lease: Lease, claimed: broker_pb2.Claimed, now_ms: int, events: list[Event]
    ) -> None:
        subscription = lease.subscription
        has_run_out = not claimed.token and now_ms >= lease.ends_ms
        if claimed.is_late or has_run_out:
            self._give_up(lease, events)
            return
        subscription.leases.pop((lease.partition_number, lease.token), None)
        lease.is_unsure = claimed.token == lease.token
        if not claimed.token:
            lease.is_lost = True
            subscription.settled(lease, is_over=True)
            events += self._untold(lease)
        else:
            lease.renew(claimed.token, claimed.places, ends_ms=now_ms + claimed.lease_ms)
            if lease.open_count or lease.is_noted:
                subscription.leases[lease.partition_number, lease.token] = lease
            else:
                subscription.settled(lease, is_over=True)
        for outcome in self._unanswered_of(lease):
            places = _common(outcome.noted.places, claimed.places)
            if places:
                outcome.is_repeated = lease.is_unsure
                self._send(replace(outcome.noted, places=places), outcome)
            else:
                del self._unanswered[outcome.request_id]
                events.append(Settled(subscription, outcome.waiters, None))

    def _give_up(self, lease: Lease, events: list[Event]) -> None:
        """A lease is somebody else's, as far as anybody knows."""
        lose(lease)
        events += self._untold(lease)
        for outcome in self._unanswered_of(lease):
            del self._unanswered[outcome.request_id]
            events.append(self._lost(lease, outcome.waiters))

    def _untold(self, lease: Lease) -> list[Event]:
        """What was noted in a lease that is lost was never sent."""
        waiters, lease.waiters = lease.waiters, []
        return [self._lost(lease, waiters)] if lease.take() or waiters else []

    def _lost(self, lease: Lease, waiters: list[object]) -> Settled:
        error = LeaseLostError(
            "the session ended before the outcome was answered", is_result_unknown=True
        )
        if not waiters:
            lease.refusal = error
        return Settled(lease.subscription, waiters, error)

    def _unanswered_of(self, lease: Lease) -> list[_SentOutcome]:
        return [each for each in self._unanswered.values() if each.lease is lease]

    # --- private ------------------------------------------------------------------------------

    def _collect_outcomes(self, lease: Lease) -> None:
        waiters, lease.waiters = lease.waiters, []
        noted = lease.take()
        for each in noted:
            request_id = self._next_id()
            # Answers come in order: who waits is told by the last one.
            told = waiters if each is noted[-1] else []
            self._send(each, _SentOutcome(request_id, lease, each, b"", told))
        lease.subscription.settled(lease)

    def _send(self, noted: Noted, outcome: _SentOutcome) -> None:
        lease = outcome.lease
        wire = broker_pb2.Outcome(
            request_id=outcome.request_id,
            subscription_id=lease.subscription.id,
            partition_number=lease.partition_number,
            token=lease.token,
            kind=noted.kind,  # pyright: ignore[reportArgumentType] - an enum is an int
            places=() if noted.places == [0, lease.count] else noted.places,
            delay_ms=noted.delay_ms,
            reason=noted.reason,
        )
        outcome.raw = encode.with_length(_OUTCOME_TAG, wire.SerializeToString())
        outcome.noted = noted
        self.outcomes.append(outcome.raw)
        self._unanswered[outcome.request_id] = outcome


def is_passing(error: SandglassError | None) -> bool:
    """Will it be better in a moment, perhaps with another node?"""
    return isinstance(error, BusyError | UnavailableError | NotLeaderError)


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


def _claim_of(lease: Lease, places: list[int]) -> broker_pb2.Claim:
    starts = lease.run_starts
    return broker_pb2.Claim(
        partition_number=lease.partition_number,
        token=lease.token,
        attempt=lease.attempt,
        releases=lease.releases,
        generation=lease.generation,
        run_due_ms=lease.run_due_ms,
        run_first_index=lease.run_first_index,
        run_count=[end - first for first, end in pairwise(starts)],
        places=() if places == [0, lease.count] else places,
        begun_count=lease.begun_count,
    )


def _common(some: Sequence[int], others: Sequence[int]) -> list[int]:
    """What two lists of pairs (first, count) have in common."""
    found: list[int] = []
    for first, count in zip(some[::2], some[1::2], strict=True):
        for other, other_count in zip(others[::2], others[1::2], strict=True):
            low, high = max(first, other), min(first + count, other + other_count)
            if low < high:
                found += (low, high - low)
    return found


def _name(lease: Lease) -> tuple[int, int, int]:
    return lease.subscription.id, lease.partition_number, lease.token
