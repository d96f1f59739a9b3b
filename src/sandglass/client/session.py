"""
A session without a connection: what to send, and what follows from what was received.

The session owns request ids, what is unanswered, and the subscriptions, and survives its
connections. It does no I/O and reads no clock: the shell hands it frames and time (`now_ms`,
monotonic), sends what `next_frame` gives, and acts on the events it returns. How outcomes and
leases are kept stands in `settling`, credit in `subscription`.

Rules
1. Everything waits in a queue of its kind, already encoded; a frame takes from the queues in
   the order of their kinds, up to 1 MiB, or one larger item alone.
2. A produce that was sent when the connection broke has an unknown result; it isn't sent again.
   One that wasn't sent waits for the next connection.
3. A session that a node doesn't know, or a subscription that its node gave up, is asked for
   anew and claims what it holds. After the grace without a connection nothing more is begun on;
   what was begun is held until its lease is over.
4. A node that was left for another one, and is come back to within its grace, knows the session
   as it was then: nothing goes on there. All is asked for anew, and what is there from before
   is given back.
5. One that is to move on sends no more produces and leaves its subscriptions; once all that it
   waits for is there, nothing is lost by the change. The next node is asked for all of it anew.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from sandglass.client import encode
from sandglass.client.events import Changed, Event, Expired, Produce, Produced
from sandglass.client.failure import from_wire
from sandglass.client.lease import Lease, check_delivery
from sandglass.client.settling import Settling, is_passing
from sandglass.client.subscription import Subscription
from sandglass.core import limits
from sandglass.errors import SandglassError, UnavailableError
from sandglass.wire.v1 import broker_pb2

SILENCE_MS_MIN: Final = 5000
"""A node that owes an answer and says nothing for so long, or for three heartbeats, is gone."""

RETRY_MS: Final = 200
"""Before a subscription that a node couldn't take is asked for again."""

TICK_MS_MAX: Final = 1000
TICK_MS_BUSY: Final = 100

_CREDIT_TAG: Final = encode.tag(broker_pb2.ClientFrame.CREDITS_FIELD_NUMBER)
_SUBSCRIBE_TAG: Final = encode.tag(broker_pb2.ClientFrame.SUBSCRIBES_FIELD_NUMBER)
_UNSUBSCRIBE_TAG: Final = encode.tag(broker_pb2.ClientFrame.UNSUBSCRIBES_FIELD_NUMBER)
_PRODUCE_TAG: Final = encode.tag(broker_pb2.ClientFrame.PRODUCES_FIELD_NUMBER)
_BATCH_TAG: Final = encode.tag(broker_pb2.ProduceRequest.BATCH_FIELD_NUMBER)


class Session:
    """
    See the head of the file.

    Args:
        client_name: shown to operators.
        on_work: called when there is something to send; it may be called often, and by any
            thread that notes an outcome.
    """

    def __init__(self, *, client_name: str, on_work: Callable[[], None]) -> None:
        self._client_name = client_name
        self._on_work = on_work
        self.session_id = ""
        self._connection_count = 0
        self._node_name = ""
        """Of the node that greeted last."""
        self.is_open = False
        self.heartbeat_ms = 1000
        self.grace_ms = limits.SESSION_GRACE_MS_DEFAULT
        self.broken_ms: int | None = None
        self.settling = Settling(next_id=self._next_id, on_work=on_work)
        self._last_id = 0
        self._credits: deque[bytes] = deque()
        self._subscribes: deque[bytes] = deque()
        self._unsubscribes: deque[bytes] = deque()
        self._unsent: deque[Produce] = deque()
        self._produces: dict[int, Produce] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._sent_ms = 0
        self._heard_ms = 0
        self._is_goodbye = False
        self._is_moving = False
        self._is_beating = False
        self._coming: broker_pb2.Welcome | None = None
        """A welcome whose leases have not all come yet."""

    # --- connections --------------------------------------------------------------------------

    def hello(self) -> bytes:
        """The first frame of a connection."""
        self._connection_count += 1
        hello = broker_pb2.Hello(
            session_id=self.session_id,
            client_name=self._client_name,
            connection=self._connection_count,
        )
        return broker_pb2.ClientFrame(hello=hello).SerializeToString()

    def forget(self) -> bool:
        """The next hello asks for a new session. False if the last one did so already."""
        had_one, self.session_id = bool(self.session_id), ""
        return had_one

    def broken(self, now_ms: int, *, cause: str) -> list[Event]:
        """The connection is gone, or didn't come about."""
        if self.broken_ms is None:
            self.broken_ms = now_ms
        self.is_open = self._is_moving = False
        self._coming = None
        events: list[Event] = []
        produces, self._produces = self._produces, {}
        for produce in produces.values():
            error = UnavailableError(
                f"the connection broke while {produce.count} messages to {produce.topic} were"
                f" on their way: {cause}",
                is_result_unknown=True,
            )
            events.append(Produced(produce, error=error))
        self.settling.broken(events)
        self._credits.clear()
        return events

    def refused(self, error: SandglassError) -> list[Event]:
        """No node will have us: whatever waits for a connection fails."""
        events: list[Event] = [
            Produced(produce, error=error, is_over=True) for produce in self._unsent
        ]
        self._unsent.clear()
        for subscription in list(self._subscriptions.values()):
            subscription.lose_leases()
            subscription.is_active, subscription.is_ended = False, True
            subscription.error = error
            del self._subscriptions[subscription.id]
            events.append(Changed(subscription))
        return events

    def received(self, frame: broker_pb2.ServerFrame, now_ms: int) -> list[Event]:
        """
        What follows from a frame of the node.

        Raises:
            InternalError: no node of ours sends such a frame; the connection is of no use.
        """
        self._heard_ms = now_ms
        events: list[Event] = []
        if frame.HasField("welcome"):
            self._coming = frame.welcome
        if self._coming is not None:
            self._coming.open_leases.extend(frame.open_leases)
            if len(self._coming.open_leases) < self._coming.open_lease_count:
                return events  # what is missing is no lease to be given up
            self._welcome(self._coming, now_ms)
            self._coming = None
        for ended in frame.ended:
            # What is refused because of it is not lost: it is claimed.
            self._suspend_if_passing(ended)
        for outcome in frame.outcomes:
            self.settling.outcome_answered(outcome, now_ms, events)
        for extend in frame.extends:
            self.settling.extend_answered(extend, events)
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
            error = from_wire(ended.error) if ended.HasField("error") else None
            self._end(ended.subscription_id, error, now_ms, events)
        return events

    def next_frame(self, now_ms: int) -> bytes | None:
        """The next frame to send, or None. What it holds counts as sent."""
        if not self.is_open:
            return None
        self._collect(now_ms)
        settling = self.settling
        parts: list[bytes] = []
        size_bytes = 0
        for queue in (
            settling.outcomes,
            settling.extends,
            self._credits,
            self._subscribes,
            self._unsubscribes,
        ):
            while queue:
                size_bytes += len(queue[0])
                if parts and size_bytes > limits.FRAME_BYTES_MAX:
                    return self._cut(parts, now_ms)
                parts.append(queue.popleft())
        while self._unsent and not self._is_moving:
            raw = _encode_produce(self._unsent[0])
            size_bytes += len(raw)
            if parts and size_bytes > limits.FRAME_BYTES_MAX:
                return self._cut(parts, now_ms)
            produce = self._unsent.popleft()
            produce.is_sent = True
            self._produces[produce.request_id] = produce
            parts.append(raw)
        if self._is_goodbye and (not parts or size_bytes < limits.FRAME_BYTES_MAX // 2):
            self._is_goodbye = False
            parts.append(broker_pb2.ClientFrame(is_goodbye=True).SerializeToString())
        return self._cut(parts, now_ms) if parts or self._is_beating else None

    def goodbye(self) -> None:
        """The session ends with the next frame; the node takes back what it holds."""
        self._is_goodbye = True
        self._on_work()

    def move_on(self) -> None:
        """The node is going down, and there is another one: see `has_moved`."""
        if self._is_moving or not self.is_open:
            return
        self._is_moving = True
        for subscription in self._subscriptions.values():
            if subscription.is_active and not (subscription.is_left or subscription.is_ended):
                subscription.is_moving = True
                self._unsubscribe(subscription.id)
        self._on_work()

    @property
    def has_moved(self) -> bool:
        """Whether it is moving on, and waits for nothing that the node owes it."""
        is_owed = bool(self._produces) or self.settling.is_owed
        return (
            self._is_moving
            and not is_owed
            and not any(each.is_moving for each in self._subscriptions.values())
        )

    # --- what users ask for -------------------------------------------------------------------

    def produce(self, produce: Produce) -> None:
        """Queues a request."""
        produce.request_id = self._next_id()
        produce.is_sent = False
        self._unsent.append(produce)
        self._on_work()

    def subscribe(self, request: broker_pb2.Subscribe, *, is_extending: bool) -> Subscription:
        """Begins a subscription; the credit in the request is all that it ever holds."""
        subscription = Subscription(request, is_extending=is_extending)
        request.subscription_id = self._next_id()
        self._subscriptions[subscription.id] = subscription
        if self.is_open:
            self._ask(subscription)
        self._on_work()
        return subscription

    def leave(self, subscription: Subscription, *, is_finishing: bool = False) -> None:
        """
        Ends a subscription: what nobody has begun on is released, what was handed to the user
        keeps its lease until it is settled, or the lease runs out; with `is_finishing` the
        lease is kept for as long as it takes.
        """
        if subscription.is_left:
            return
        subscription.is_finishing = is_finishing
        subscription.is_left = True
        subscription.ready.clear()
        for lease in list(subscription.leases.values()):
            lease.release_unbegun()
        if subscription.is_active:
            self._unsubscribe(subscription.id)
        elif not subscription.is_asked:
            subscription.is_ended = True
        self._forget_left(subscription)

    def barrier(self, now_ms: int) -> int:
        """A mark: what was noted up to now has request ids of at most this."""
        self._collect(now_ms)
        self._on_work()
        return self._last_id

    def work(self) -> None:
        """Something changed that may be worth a frame."""
        self._on_work()

    # --- time ---------------------------------------------------------------------------------

    @property
    def tick_ms(self) -> int:
        """How long the shell may wait before it calls `tick` again."""
        tick_ms = min(TICK_MS_MAX, max(1, self.heartbeat_ms // 4))
        if self._produces or self._unsent or self.broken_ms is not None:
            tick_ms = min(tick_ms, TICK_MS_BUSY)
        for subscription in self._subscriptions.values():
            if subscription.retry_ms is not None or subscription.leases:
                tick_ms = min(tick_ms, TICK_MS_BUSY)
            for lease in subscription.leases.values():
                tick_ms = min(tick_ms, max(1, lease.lease_ms // 10))
        return tick_ms

    def tick(self, now_ms: int) -> list[Event]:
        """What time brings: deadlines, extensions, heartbeats, and the end of a grace."""
        events: list[Event] = []
        self._expire(now_ms, events)
        if not self.is_open:
            if self.broken_ms is not None and now_ms - self.broken_ms > self.grace_ms:
                self._lose_late(now_ms, events)
            return events
        due = [
            each
            for each in self._subscriptions.values()
            if each.retry_ms is not None and now_ms >= each.retry_ms
        ]
        self._ask_all(due)
        self.settling.repeat()
        for subscription in list(self._subscriptions.values()):
            if subscription.is_claiming:
                self.settling.expire(subscription, now_ms, events)
            self.settling.keep(subscription, now_ms)
            self._forget_left(subscription)
        if now_ms - self._sent_ms >= self.heartbeat_ms:
            self._is_beating = True
        self._on_work()
        return events

    @property
    def is_holding(self) -> bool:
        """Whether somebody here holds what another may be given, if we are away for long."""
        return any(each.leases for each in self._all()) or self.settling.is_owed

    def is_silent(self, now_ms: int) -> bool:
        """Whether the node owes an answer and is silent for too long. Ask at each tick."""
        if not (self._produces or self.settling.is_owed):
            self._heard_ms = now_ms
        silence_ms = max(SILENCE_MS_MIN, 3 * self.heartbeat_ms)
        return self.is_open and now_ms - self._heard_ms > silence_ms

    # --- private ------------------------------------------------------------------------------

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _collect(self, now_ms: int) -> None:
        for subscription in self.settling.collect(now_ms):
            self._forget_left(subscription)
        for subscription in list(self._subscriptions.values()):
            if subscription.is_unsure and subscription.is_replaceable:
                self._replace(subscription)
            grant = subscription.grant()
            if grant is not None:
                raw = grant.SerializeToString()
                self._credits.append(encode.with_length(_CREDIT_TAG, raw))

    def _cut(self, parts: list[bytes], now_ms: int) -> bytes:
        self._sent_ms = now_ms
        self._is_beating = False
        return b"".join(parts)

    def _welcome(self, welcome: broker_pb2.Welcome, now_ms: int) -> None:
        self.is_open = True
        self.broken_ms = None
        self.session_id = welcome.session_id
        self.grace_ms = welcome.session_grace_ms
        self.heartbeat_ms = welcome.heartbeat_ms or self.heartbeat_ms
        self._sent_ms = now_ms
        self._subscribes.clear()
        self._unsubscribes.clear()
        was_elsewhere = self._node_name not in {"", welcome.node_name}
        self._node_name = welcome.node_name
        if welcome.is_resumed and not was_elsewhere:
            self._resume(welcome)
        else:
            self._suspend_all()
            self._leave_behind(welcome)
        self._ask_all(
            [
                each
                for each in self._subscriptions.values()
                if each.is_claiming or not (each.is_active or each.is_left or each.is_ended)
            ]
        )
        self._on_work()

    def _resume(self, welcome: broker_pb2.Welcome) -> None:
        held = {
            (each.subscription_id, each.partition_number, each.token)
            for each in welcome.open_leases
        }
        self.settling.resumed(held, self._subscriptions.values())
        for subscription in list(self._subscriptions.values()):
            subscription.forget_grants()
            if subscription.is_moving:
                self.settling.suspend(subscription)
            if subscription.is_claiming:
                self._unsubscribe(subscription.id)
                continue
            is_unclear = subscription.is_left or not subscription.is_active
            if is_unclear and subscription.is_asked and not subscription.is_ended:
                # The node may or may not have it. If we want it, we ask under another id.
                self._unsubscribe(subscription.id)

    def _suspend_all(self) -> None:
        self.settling.forget_sent()
        for subscription in self._all():
            self._subscriptions[subscription.id] = subscription
            self.settling.suspend(subscription)
            if subscription.is_left and not subscription.is_claiming:
                del self._subscriptions[subscription.id]

    def _leave_behind(self, welcome: broker_pb2.Welcome) -> None:
        """What the node has of the session from before it was at another one."""
        mine = self.settling.tokens(self._all())
        for lease in welcome.open_leases:
            if (lease.partition_number, lease.token) not in mine:
                name = (lease.subscription_id, lease.partition_number, lease.token)
                self.settling.release_unknown(*name)
        for subscription_id in {each.subscription_id for each in welcome.open_leases}:
            self._unsubscribe(subscription_id)

    def _suspend_if_passing(self, ended: broker_pb2.SubscriptionEnded) -> None:
        subscription = self._subscriptions.get(ended.subscription_id)
        error = from_wire(ended.error) if ended.HasField("error") else None
        if subscription is not None and is_passing(error):
            self.settling.suspend(subscription)

    def _all(self) -> list[Subscription]:
        """Also those that are over, but for an outcome that wasn't answered."""
        return list(dict.fromkeys((*self._subscriptions.values(), *self.settling.owing())))

    def _lose_late(self, now_ms: int, events: list[Event]) -> None:
        for subscription in self._all():
            self.settling.lose_unbegun(subscription)
            self.settling.expire(subscription, now_ms, events)

    def _ask_all(self, subscriptions: list[Subscription]) -> None:
        """Of those that claim something of one group, all but the last say so."""
        for place, subscription in enumerate(subscriptions):
            later = subscriptions[place + 1 :]
            has_more = any(
                each.is_claiming and _group(each) == _group(subscription) for each in later
            )
            self._ask(subscription, has_more=has_more)

    def _ask(self, subscription: Subscription, *, has_more: bool = False) -> None:
        del self._subscriptions[subscription.id]
        subscription.request.subscription_id = self._next_id()
        self._subscriptions[subscription.id] = subscription
        subscription.asked()
        request = broker_pb2.Subscribe()
        request.CopyFrom(subscription.request)
        if subscription.is_left or subscription.is_ended:
            # Only to settle what it holds.
            request.is_drain, request.credit_count, request.credit_bytes = False, 0, 0
        if subscription.is_claiming:
            request.claims.extend(self.settling.claim(subscription))
        request.has_more_claims = has_more
        raw = request.SerializeToString()
        self._subscribes.append(encode.with_length(_SUBSCRIBE_TAG, raw))
        self._on_work()

    def _replace(self, subscription: Subscription) -> None:
        self._unsubscribe(subscription.id)
        self._ask(subscription)

    def _unsubscribe(self, subscription_id: int) -> None:
        unsubscribe = broker_pb2.Unsubscribe(subscription_id=subscription_id)
        raw = unsubscribe.SerializeToString()
        self._unsubscribes.append(encode.with_length(_UNSUBSCRIBE_TAG, raw))
        self._on_work()

    def _subscribed(
        self, subscribed: broker_pb2.Subscribed, now_ms: int, events: list[Event]
    ) -> None:
        subscription = self._subscriptions.get(subscribed.subscription_id)
        if subscription is None:
            return
        if subscribed.HasField("error"):
            error = from_wire(subscribed.error)
            self._end(subscribed.subscription_id, error, now_ms, events)
            return
        if subscription.is_claiming:
            self.settling.claimed(subscription, subscribed.claims, now_ms, events)
        subscription.partitions = list(subscribed.partitions)
        subscription.trouble = None
        subscription.is_active = not subscription.is_ended
        if subscription.is_left or subscription.is_ended:
            self._unsubscribe(subscription.id)
        events.append(Changed(subscription))

    def _end(
        self,
        subscription_id: int,
        error: SandglassError | None,
        now_ms: int,
        events: list[Event],
    ) -> None:
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            return
        subscription.is_active = False
        if subscription.is_moving and error is None and not subscription.is_left:
            subscription.is_moving = False
            self.settling.suspend(subscription)
            return
        subscription.is_moving = False
        if error is not None and is_passing(error):
            self.settling.suspend(subscription)
            if subscription.is_claiming or not subscription.is_left:
                subscription.retry_ms = now_ms + (error.retry_after_ms or RETRY_MS)
                if subscription.trouble is None:
                    subscription.troubled_ms = now_ms
                subscription.trouble = error
                events.append(Changed(subscription))
                return
        if subscription.is_claiming:
            self.settling.claimed(subscription, (), now_ms, events)
        subscription.is_ended = True
        subscription.is_drained = error is None and not subscription.is_left
        subscription.error = error
        self._forget_left(subscription)
        events.append(Changed(subscription))

    def _delivered(
        self, delivery: broker_pb2.Delivery, now_ms: int, events: list[Event]
    ) -> None:
        subscription = self._subscriptions.get(delivery.subscription_id)
        if subscription is None or subscription.is_left:
            self.settling.release_unknown(
                delivery.subscription_id, delivery.partition_number, delivery.token
            )
            if subscription is None:
                self._unsubscribe(delivery.subscription_id)
            return
        check_delivery(delivery, len(subscription.partitions))
        lease = Lease(
            delivery, subscription=subscription, now_ms=now_ms, on_noted=self.settling.note
        )
        subscription.delivered(lease)
        events.append(Changed(subscription))

    def _forget_left(self, subscription: Subscription) -> None:
        """Drops a subscription that is over, once nothing of it is open."""
        if subscription.is_claiming:
            return
        if subscription.is_left and subscription.is_ended and not subscription.leases:
            known = self._subscriptions.pop(subscription.id, None)
            if known is not None and subscription.is_drained:
                # The node keeps it for the outcomes of what it handed out.
                self._unsubscribe(subscription.id)

    def _expire(self, now_ms: int, events: list[Event]) -> None:
        expired = [each for each in self._unsent if each.deadline_ms <= now_ms]
        for produce in expired:
            self._unsent.remove(produce)
        late = [each for each in self._produces.values() if each.deadline_ms <= now_ms]
        for produce in late:
            del self._produces[produce.request_id]
        events += [Expired(produce) for produce in (*expired, *late)]


def _group(subscription: Subscription) -> tuple[str, str, str]:
    request = subscription.request
    return request.topic, request.channel, request.group


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
