"""
A session without a connection: what to send, and what follows from what was received.

The session owns request ids, what is unanswered, subscriptions with their credit and leases,
and survives its connections. It does no I/O and reads no clock: the shell hands it frames and
the time (`now_ms`, monotonic), sends what `next_frame` gives, and acts on the events it returns.

Rules
1. Everything waits in a queue of its kind, already encoded; a frame takes from the queues in the
   order of their kinds, up to 1 MiB, or one larger item alone.
2. An outcome stays until it is answered, and is sent again after a break if the session goes
   on. The second answer may then be that the lease is lost, which says nothing: it is taken as
   done.
3. A produce that was sent when the connection broke has an unknown result; it isn't sent again.
   One that wasn't sent waits for the next connection.
4. A lease is extended when a third of it has passed, while its subscription is extending and
   read. An extension says how far the consumer has got: what it had not begun on isn't counted
   as an attempt, should it die.
5. When the session is gone, so is every lease: the node said so, or its grace has passed
   without a connection.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sandglass.client import encode
from sandglass.client.failure import from_wire
from sandglass.client.lease import RELEASE, Lease
from sandglass.client.subscription import Subscription
from sandglass.core import limits
from sandglass.errors import (
    BusyError,
    LeaseLostError,
    NotLeaderError,
    SandglassError,
    UnavailableError,
)
from sandglass.wire.v1 import broker_pb2

SILENCE_MS_MIN: Final = 5000
"""A node that owes an answer and says nothing for so long, or for three heartbeats, is gone."""

REPORT_INTERVAL_MS: Final = 100
"""How often, at most, a lease says how far its consumer has got."""

RETRY_MS: Final = 200
"""Before a subscription that a node couldn't take is asked for again."""

TICK_MS_MAX: Final = 1000
TICK_MS_BUSY: Final = 100

_OUTCOME_TAG: Final = encode.tag(broker_pb2.ClientFrame.OUTCOMES_FIELD_NUMBER)
_EXTEND_TAG: Final = encode.tag(broker_pb2.ClientFrame.EXTENDS_FIELD_NUMBER)
_CREDIT_TAG: Final = encode.tag(broker_pb2.ClientFrame.CREDITS_FIELD_NUMBER)
_SUBSCRIBE_TAG: Final = encode.tag(broker_pb2.ClientFrame.SUBSCRIBES_FIELD_NUMBER)
_UNSUBSCRIBE_TAG: Final = encode.tag(broker_pb2.ClientFrame.UNSUBSCRIBES_FIELD_NUMBER)
_PRODUCE_TAG: Final = encode.tag(broker_pb2.ClientFrame.PRODUCES_FIELD_NUMBER)
_BATCH_TAG: Final = encode.tag(broker_pb2.ProduceRequest.BATCH_FIELD_NUMBER)


@dataclass(slots=True, eq=False)
class Produce:
    """
    One produce request. `owner` is whoever is told how it ended; the session only carries it.

    `due_ms` and `delay_ms` are the columns of the request: none, one or `count` entries, and
    at most one of them has any.
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


@dataclass(slots=True, eq=False)
class SentOutcome:
    """An outcome on its way, and who waits for its answer."""

    lease: Lease
    raw: bytes
    waiters: list[object]
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Produced:
    """A produce was answered, or failed: exactly one of `reply` and `error` is there."""

    produce: Produce
    reply: broker_pb2.ProduceReply | None = None
    error: SandglassError | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """Nobody answered a produce in time."""

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


@dataclass(slots=True)
class _Queues:
    """Items that wait for a frame, encoded, by kind."""

    outcomes: deque[bytes] = field(default_factory=deque[bytes])
    extends: deque[bytes] = field(default_factory=deque[bytes])
    credits: deque[bytes] = field(default_factory=deque[bytes])
    subscribes: deque[bytes] = field(default_factory=deque[bytes])
    unsubscribes: deque[bytes] = field(default_factory=deque[bytes])


class Session:
    """
    See the head of the file.

    Args:
        client_name: shown to operators.
        on_work: called when there is something to send; it may be called often.
    """

    def __init__(self, *, client_name: str, on_work: Callable[[], None]) -> None:
        self._client_name = client_name
        self._on_work = on_work
        self.session_id = ""
        self.is_open = False
        self.heartbeat_ms = 1000
        self.grace_ms = limits.SESSION_GRACE_MS_DEFAULT
        self.is_node_draining = False
        self.lost_count = 0
        self._last_id = 0
        self._queues = _Queues()
        self._unsent: deque[Produce] = deque()
        self._produces: dict[int, Produce] = {}
        self._outcomes: dict[int, SentOutcome] = {}
        self._extends: dict[int, tuple[Lease, object | None]] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._noted: list[Lease] = []
        self._sent_ms = 0
        self._received_ms = 0
        self._broken_ms: int | None = None
        self._is_goodbye = False
        self._is_beating = False

    # --- connections --------------------------------------------------------------------------

    def hello(self) -> bytes:
        """The first frame of a connection."""
        hello = broker_pb2.Hello(session_id=self.session_id, client_name=self._client_name)
        return broker_pb2.ClientFrame(hello=hello).SerializeToString()

    def broken(self, now_ms: int, *, cause: str) -> list[Event]:
        """The connection is gone. Produces that were sent have an unknown result."""
        if self.is_open or self._broken_ms is None:
            self._broken_ms = now_ms
        self.is_open = False
        self.is_node_draining = False
        events: list[Event] = []
        for produce in self._produces.values():
            error = UnavailableError(
                f"the connection broke while {produce.count} messages to {produce.topic} were"
                f" on their way: {cause}",
                is_result_unknown=True,
            )
            events.append(Produced(produce, error=error))
        self._produces.clear()
        for _, waiter in self._extends.values():
            if waiter is not None:
                error = UnavailableError("the connection broke", is_result_unknown=True)
                events.append(Extended(waiter, 0, error))
        self._extends.clear()
        self._queues.extends.clear()
        self._queues.credits.clear()
        return events

    def received(self, frame: broker_pb2.ServerFrame, now_ms: int) -> list[Event]:
        """What follows from a frame of the node."""
        self._received_ms = now_ms
        events: list[Event] = []
        if frame.HasField("welcome"):
            self._welcome(frame.welcome, now_ms, events)
        for outcome_reply in frame.outcomes:
            self._outcome_answered(outcome_reply, events)
        for extend_reply in frame.extends:
            self._extend_answered(extend_reply, now_ms, events)
        for subscribed in frame.subscribed:
            self._subscribed(subscribed, now_ms, events)
        for reply in frame.produces:
            produce = self._produces.pop(reply.request_id, None)
            if produce is None:
                continue
            if reply.HasField("error"):
                events.append(Produced(produce, error=from_wire(reply.error)))
            else:
                events.append(Produced(produce, reply=reply))
        for delivery in frame.deliveries:
            self._delivered(delivery, now_ms, events)
        for ended in frame.ended:
            self._subscription_ended(ended, now_ms, events)
        if frame.is_draining:
            self.is_node_draining = True
        return events

    def next_frame(self, now_ms: int) -> bytes | None:
        """The next frame to send, or None. What it holds counts as sent."""
        if not self.is_open:
            return None
        self._collect(now_ms)
        parts: list[bytes] = []
        size_bytes = 0
        queues = self._queues
        for queue in (
            queues.outcomes,
            queues.extends,
            queues.credits,
            queues.subscribes,
            queues.unsubscribes,
        ):
            while queue:
                size_bytes += len(queue[0])
                if parts and size_bytes > limits.FRAME_BYTES_MAX:
                    return self._cut(parts, now_ms)
                parts.append(queue.popleft())
        while self._unsent:
            raw = _encode_produce(self._unsent[0])
            size_bytes += len(raw)
            if parts and size_bytes > limits.FRAME_BYTES_MAX:
                return self._cut(parts, now_ms)
            produce = self._unsent.popleft()
            produce.is_sent = True
            self._produces[produce.request_id] = produce
            parts.append(raw)
        if self._is_goodbye:
            self._is_goodbye = False
            parts.append(broker_pb2.ClientFrame(is_goodbye=True).SerializeToString())
        if not parts and not self._is_beating:
            return None
        return self._cut(parts, now_ms)

    def goodbye(self) -> None:
        """The session ends with the next frame; the node takes back what it holds."""
        self._is_goodbye = True
        self._on_work()

    # --- what users ask for -------------------------------------------------------------------

    def produce(self, produce: Produce) -> None:
        """Queues a request."""
        produce.request_id = self._next_id()
        produce.is_sent = False
        self._unsent.append(produce)
        self._on_work()

    def subscribe(self, request: broker_pb2.Subscribe, *, is_extending: bool) -> Subscription:
        """Begins a subscription; `credit_count` and `credit_bytes` of the request are all of it."""
        subscription = Subscription(request, is_extending=is_extending)
        if self.is_open:
            self._ask(subscription)
        else:
            # It is asked for with the next connection.
            request.subscription_id = self._next_id()
            self._subscriptions[subscription.id] = subscription
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """
        Ends a subscription: what nobody has begun on is released, what was handed to the user
        keeps its lease until it is settled, or the lease runs out.
        """
        if subscription.is_left:
            return
        subscription.is_left = True
        subscription.ready.clear()
        for lease in list(subscription.leases.values()):
            if not lease.is_lost:
                lease.settle_open(lease.begun_count, RELEASE)
        if not subscription.is_ended:
            unsubscribe = broker_pb2.Unsubscribe(subscription_id=subscription.id)
            self._queue_unsubscribe(unsubscribe)
        else:
            self._forget_left(subscription)

    def extend(self, lease: Lease, lease_ms: int, now_ms: int, waiter: object) -> None:
        """Keeps a lease for `lease_ms` from now; an `Extended` event tells `waiter`."""
        self._queue_extend(lease, lease_ms, now_ms, waiter)
        self._on_work()

    def wait_for(self, lease: Lease, waiter: object) -> bool:
        """
        Tells `waiter` when what has been noted of this lease is answered.

        False if nothing of it is unanswered, and nobody will be told.
        """
        if lease.is_noted:
            lease.waiters.append(waiter)
            return True
        last = next(
            (each for each in reversed(self._outcomes.values()) if each.lease is lease), None
        )
        if last is None:
            return False
        last.waiters.append(waiter)
        return True

    def barrier(self, now_ms: int) -> int:
        """A mark: all that was noted up to now has a request id of at most this."""
        self._collect(now_ms)
        self._on_work()
        return self._last_id

    def is_passed(self, barrier: int) -> bool:
        """Whether everything up to a mark was answered."""
        first = next(iter(self._outcomes), None)
        return first is None or first > barrier

    def work(self) -> None:
        """Something changed that may be worth a frame."""
        self._on_work()

    # --- time ---------------------------------------------------------------------------------

    @property
    def tick_ms(self) -> int:
        """How long the shell may wait before it calls `tick` again."""
        tick_ms = min(TICK_MS_MAX, max(1, self.heartbeat_ms // 4))
        if self._produces or self._unsent or self._broken_ms is not None:
            tick_ms = min(tick_ms, TICK_MS_BUSY)
        for subscription in self._subscriptions.values():
            if subscription.retry_ms is not None:
                tick_ms = min(tick_ms, TICK_MS_BUSY)
            for lease in subscription.leases.values():
                tick_ms = min(tick_ms, TICK_MS_BUSY, max(1, lease.lease_ms // 10))
        return tick_ms

    def tick(self, now_ms: int) -> list[Event]:
        """What time brings: deadlines, extensions, heartbeats, and the end of a grace."""
        events: list[Event] = []
        self._expire(now_ms, events)
        if not self.is_open:
            if self._broken_ms is not None and now_ms - self._broken_ms > self.grace_ms:
                self._lose_all(events)
            return events
        for subscription in list(self._subscriptions.values()):
            if subscription.retry_ms is not None and now_ms >= subscription.retry_ms:
                self._ask(subscription)
            self._keep_leases(subscription, now_ms)
        if now_ms - self._sent_ms >= self.heartbeat_ms:
            self._is_beating = True
        self._on_work()
        return events

    def is_silent(self, now_ms: int) -> bool:
        """Whether the node owes an answer and has said nothing for too long."""
        owes = bool(self._produces or self._outcomes or self._extends)
        silence_ms = max(SILENCE_MS_MIN, 3 * self.heartbeat_ms)
        since_ms = max(self._received_ms, self._owed_since_ms) if owes else now_ms
        return self.is_open and now_ms - since_ms > silence_ms

    # --- private ------------------------------------------------------------------------------

    _owed_since_ms = 0

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _cut(self, parts: list[bytes], now_ms: int) -> bytes:
        if not (self._produces or self._outcomes or self._extends):
            self._owed_since_ms = now_ms
        self._sent_ms = now_ms
        self._is_beating = False
        return b"".join(parts)

    def _welcome(self, welcome: broker_pb2.Welcome, now_ms: int, events: list[Event]) -> None:
        self.is_open = True
        self._broken_ms = None
        self.session_id = welcome.session_id
        self.grace_ms = welcome.session_grace_ms
        self.heartbeat_ms = max(1, welcome.heartbeat_ms or self.heartbeat_ms)
        self._owed_since_ms = self._sent_ms = now_ms
        if welcome.is_resumed:
            self._resume(welcome)
        else:
            self._lose_all(events)
            self._queues = _Queues()
        for subscription in list(self._subscriptions.values()):
            if subscription.is_ended or subscription.is_active:
                continue
            if not subscription.is_left and subscription.retry_ms is None:
                self._ask(subscription)
        self._on_work()

    def _resume(self, welcome: broker_pb2.Welcome) -> None:
        queues = self._queues
        for outcome in self._outcomes.values():
            outcome.is_repeated = True
        queues.outcomes = deque(outcome.raw for outcome in self._outcomes.values())
        held = {
            (lease.subscription_id, lease.partition_number, lease.token)
            for lease in welcome.open_leases
        }
        # Those with an outcome on its way may be held or not; their answer will say.
        known = {
            (each.lease.subscription.id, each.lease.partition_number, each.lease.token)
            for each in self._outcomes.values()
        }
        queues.subscribes.clear()
        queues.unsubscribes.clear()
        for subscription in list(self._subscriptions.values()):
            subscription.forget_grants()
            for place, lease in list(subscription.leases.items()):
                name = (subscription.id, *place)
                known.add(name)
                lease.reported_count = 0
                if name not in held and lease.open_count:
                    self._lose(lease)
            if subscription.is_left and not subscription.is_ended:
                self._queue_unsubscribe(broker_pb2.Unsubscribe(subscription_id=subscription.id))
            elif not subscription.is_active and not subscription.is_ended:
                # Nobody knows whether it was asked for: ask under another id.
                self._queue_unsubscribe(broker_pb2.Unsubscribe(subscription_id=subscription.id))
        for subscription_id, partition_number, token in sorted(held - known):
            self._queue_release(subscription_id, partition_number, token)

    def _lose_all(self, events: list[Event]) -> None:
        for subscription in list(self._subscriptions.values()):
            subscription.lose_leases()
            subscription.is_active = False
            if subscription.is_left:
                del self._subscriptions[subscription.id]
        self._noted.clear()
        outcomes, self._outcomes = self._outcomes, {}
        self._queues.outcomes.clear()
        for outcome in outcomes.values():
            error = LeaseLostError(
                "the session ended before the outcome was answered", is_result_unknown=True
            )
            self.lost_count += 1
            events.append(Settled(outcome.lease.subscription, outcome.waiters, error))

    def _lose(self, lease: Lease) -> None:
        lease.is_lost = True
        lease.subscription.settled(lease, is_over=True)

    def _ask(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.id, None)
        subscription.request.subscription_id = self._next_id()
        self._subscriptions[subscription.id] = subscription
        subscription.asked()
        raw = subscription.request.SerializeToString()
        self._queues.subscribes.append(encode.with_length(_SUBSCRIBE_TAG, raw))
        self._on_work()

    def _queue_unsubscribe(self, unsubscribe: broker_pb2.Unsubscribe) -> None:
        raw = unsubscribe.SerializeToString()
        self._queues.unsubscribes.append(encode.with_length(_UNSUBSCRIBE_TAG, raw))
        self._on_work()

    def _queue_release(self, subscription_id: int, partition_number: int, token: int) -> None:
        outcome = broker_pb2.Outcome(
            subscription_id=subscription_id,
            partition_number=partition_number,
            token=token,
            kind=broker_pb2.OUTCOME_RELEASE,
        )
        raw = encode.with_length(_OUTCOME_TAG, outcome.SerializeToString())
        self._queues.outcomes.append(raw)

    def _queue_extend(
        self, lease: Lease, lease_ms: int, now_ms: int, waiter: object | None
    ) -> None:
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
        self._extends[request_id] = (lease, waiter)
        raw = extend.SerializeToString()
        self._queues.extends.append(encode.with_length(_EXTEND_TAG, raw))

    def _note(self, lease: Lease) -> None:
        self._noted.append(lease)
        self._on_work()

    def _collect(self, now_ms: int) -> None:
        """Turns what was noted into outcomes, and room into credit."""
        if self._noted:
            noted, self._noted = self._noted, []
            for lease in noted:
                self._collect_outcomes(lease)
        if not self.is_open:
            return
        for subscription in self._subscriptions.values():
            for lease in subscription.leases.values():
                self._report_begun(lease, now_ms)
            grant = subscription.grant()
            if grant is not None:
                raw = grant.SerializeToString()
                self._queues.credits.append(encode.with_length(_CREDIT_TAG, raw))

    def _collect_outcomes(self, lease: Lease) -> None:
        waiters, lease.waiters = lease.waiters, []
        for noted in lease.take():
            request_id = self._next_id()
            is_all = noted.places == [0, lease.count]
            outcome = broker_pb2.Outcome(
                request_id=request_id,
                subscription_id=lease.subscription.id,
                partition_number=lease.partition_number,
                token=lease.token,
                kind=noted.kind,  # pyright: ignore[reportArgumentType] - an enum is an int
                places=() if is_all else noted.places,
                delay_ms=noted.delay_ms,
                reason=noted.reason,
            )
            raw = encode.with_length(_OUTCOME_TAG, outcome.SerializeToString())
            self._queues.outcomes.append(raw)
            self._outcomes[request_id] = SentOutcome(lease, raw, waiters)
        lease.subscription.settled(lease)
        self._forget_left(lease.subscription)

    def _report_begun(self, lease: Lease, now_ms: int) -> None:
        """Says how far the consumer has got, if it holds a message that the node thinks unread."""
        if lease.begun_count <= lease.reported_count or lease.is_lost:
            return
        if lease.reported_count and now_ms - lease.reported_ms < REPORT_INTERVAL_MS:
            return
        begun = lease.outcomes.find(0, lease.reported_count, lease.begun_count)
        if begun >= 0:
            self._queue_extend(lease, self._extension_of(lease, now_ms), now_ms, None)

    def _extension_of(self, lease: Lease, now_ms: int) -> int:
        """How long a lease shall last from now: never less than what is left of it."""
        left_ms = max(1, lease.ends_ms - now_ms)
        subscription = lease.subscription
        if subscription.is_extending and not subscription.is_left:
            return max(lease.lease_ms, left_ms)
        return left_ms

    def _keep_leases(self, subscription: Subscription, now_ms: int) -> None:
        is_kept = subscription.is_extending and not subscription.is_left
        for lease in list(subscription.leases.values()):
            if lease.is_lost or not lease.open_count:
                continue
            if not is_kept:
                if now_ms >= lease.ends_ms:
                    # Not `is_lost`: the node takes an outcome until it gives the message away.
                    subscription.settled(lease, is_over=True)
                    self._forget_left(subscription)
            elif now_ms >= lease.ends_ms - 2 * lease.lease_ms // 3:
                lease_ms = self._extension_of(lease, now_ms)
                self._queue_extend(lease, lease_ms, now_ms, None)

    def _outcome_answered(self, reply: broker_pb2.OutcomeReply, events: list[Event]) -> None:
        outcome = self._outcomes.pop(reply.request_id, None)
        if outcome is None:
            return
        error = from_wire(reply.error) if reply.HasField("error") else None
        if isinstance(error, LeaseLostError):
            if outcome.is_repeated:
                error = None
            else:
                self.lost_count += 1
                self._lose(outcome.lease)
        events.append(Settled(outcome.lease.subscription, outcome.waiters, error))

    def _extend_answered(
        self, reply: broker_pb2.ExtendReply, now_ms: int, events: list[Event]
    ) -> None:
        known = self._extends.pop(reply.request_id, None)
        if known is None:
            return
        lease, waiter = known
        error = from_wire(reply.error) if reply.HasField("error") else None
        if isinstance(error, LeaseLostError) and lease.open_count:
            self._lose(lease)
        if waiter is not None:
            events.append(Extended(waiter, reply.lease_ends_ms, error))

    def _subscribed(
        self, subscribed: broker_pb2.Subscribed, now_ms: int, events: list[Event]
    ) -> None:
        subscription = self._subscriptions.get(subscribed.subscription_id)
        if subscription is None:
            return
        if subscribed.HasField("error"):
            self._end(subscription, from_wire(subscribed.error), now_ms, events)
            return
        subscription.partitions = list(subscribed.partitions)
        subscription.is_active = True
        events.append(Changed(subscription))

    def _subscription_ended(
        self, ended: broker_pb2.SubscriptionEnded, now_ms: int, events: list[Event]
    ) -> None:
        subscription = self._subscriptions.get(ended.subscription_id)
        if subscription is not None:
            error = from_wire(ended.error) if ended.HasField("error") else None
            self._end(subscription, error, now_ms, events)

    def _end(
        self,
        subscription: Subscription,
        error: SandglassError | None,
        now_ms: int,
        events: list[Event],
    ) -> None:
        subscription.is_active = False
        if (
            isinstance(error, BusyError | UnavailableError | NotLeaderError)
            and not subscription.is_left
        ):
            subscription.lose_leases()
            subscription.retry_ms = now_ms + (error.retry_after_ms or RETRY_MS)
            return
        subscription.is_ended = True
        subscription.error = error
        self._forget_left(subscription)
        events.append(Changed(subscription))

    def _delivered(
        self, delivery: broker_pb2.Delivery, now_ms: int, events: list[Event]
    ) -> None:
        subscription = self._subscriptions.get(delivery.subscription_id)
        if subscription is None or subscription.is_left:
            self._queue_release(
                delivery.subscription_id, delivery.partition_number, delivery.token
            )
            self._on_work()
            return
        lease = Lease(delivery, subscription=subscription, now_ms=now_ms, on_noted=self._note)
        subscription.delivered(lease)
        subscription.ready.append(lease)
        events.append(Changed(subscription))

    def _forget_left(self, subscription: Subscription) -> None:
        """Drops a subscription that is over, once nothing of it is open."""
        if subscription.is_left and subscription.is_ended and not subscription.leases:
            self._subscriptions.pop(subscription.id, None)

    def _expire(self, now_ms: int, events: list[Event]) -> None:
        expired = [each for each in self._unsent if each.deadline_ms <= now_ms]
        for produce in expired:
            self._unsent.remove(produce)
        late = [each for each in self._produces.values() if each.deadline_ms <= now_ms]
        for produce in late:
            del self._produces[produce.request_id]
        events += [Expired(produce) for produce in (*expired, *late)]


def _encode_produce(produce: Produce) -> bytes:
    head = broker_pb2.ProduceRequest(
        request_id=produce.request_id,
        topic=produce.topic,
        partition=produce.partition,
        channel=produce.channel,
        count=produce.count,
        due_ms=produce.due_ms,
        delay_ms=produce.delay_ms,
    ).SerializeToString()
    batch = produce.batch
    batch_head = _BATCH_TAG + encode.varint(len(batch))
    size_bytes = len(head) + len(batch_head) + len(batch)
    return b"".join((_PRODUCE_TAG, encode.varint(size_bytes), head, batch_head, batch))
