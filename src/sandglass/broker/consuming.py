"""
Consuming: subscriptions with their credit, sessions with their grace, and drains.

Deliveries come from the node loop's dispatch and go to whoever is attached. What is refused is
refused here.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from itertools import count
from typing import Any, Final

from sandglass.broker import claiming
from sandglass.broker.drain import Drain
from sandglass.broker.give_back import give_back
from sandglass.broker.groups import Groups, check_kind
from sandglass.broker.loops import Loops
from sandglass.broker.outcomes import Outcomes
from sandglass.broker.ready_list import ReadyList
from sandglass.broker.subscription import (
    OnGrown,
    OnMoved,
    Receiver,
    Session,
    Subscription,
)
from sandglass.core import limits
from sandglass.core.claim import Claim
from sandglass.core.dispatch import Delivery
from sandglass.core.group import Group
from sandglass.core.lease import Consumer
from sandglass.core.membership import admit_group
from sandglass.core.message import Slice, channel_to_read
from sandglass.core.partition import Partition
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    NotFoundError,
    SandglassError,
    UnavailableError,
)
from sandglass.sandflake import Generator

ASIDE_ID: Final = -1 << 40
"""Below all ids that somebody gives a subscription."""


class Consumers:
    """All calls run in the event loop's thread. `session_grace_ms`: how long a session that
    broke may stay away."""

    def __init__(
        self,
        loops: Loops,
        groups: Groups,
        outcomes: Outcomes,
        ids: Generator,
        *,
        session_grace_ms: int,
    ) -> None:
        self.loops = loops
        self.groups = groups
        self.outcomes = outcomes
        self.ids = ids
        self.session_grace_ms = session_grace_ms
        self.sessions: dict[str, Session] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._drains: dict[int, Subscription] = {}
        self._readers = claiming.Readers()
        self._ready_list = ReadyList(self._subscriptions, loops.ready)
        self._fed: set[int] = set()
        """Groups of the partition whose turn it is that have handed something out."""
        self._consumer_keys = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        loops.on_deliveries = self._deliver
        loops.on_dispatched = self._dispatched
        loops.on_stopped = self._stopped
        loops.on_lost = self._lost
        loops.on_changed.append(self._changed)

    @property
    def reading_count(self) -> int:
        """Subscriptions that may be given something."""
        return len(self._subscriptions)

    async def subscribe(
        self,
        session: Session | None,
        receiver: Receiver,
        *,
        subscription_id: int,
        topic: Topic,
        refs: Sequence[PartitionRef],
        channel: str,
        group: str,
        consumer: str,
        credit_count: int,
        credit_bytes: int,
        ack_timeout_ms: int = 0,
        is_from_now: bool = False,
        is_drain: bool = False,
        on_moved: OnMoved | None = None,
        on_grown: OnGrown | None = None,
        claims: Sequence[tuple[int, Claim]] = (),
        has_more_claims: bool = False,
        reader: str = "",
        reader_connection: int = 0,
    ) -> Subscription:
        """
        A consumer of a group begins; the group is made where there is none. What its session
        claims, each with the number of its partition, is leased to it first. `reader` is the id
        of the session that it is for, if not for this one, over one of that one's connections.

        Raises:
            InvalidError: a name, credit or time outside its limits; a claim that is none.
            ConflictError: the session has a subscription of this id; or the one that it is for
                came by another way since.
            PreconditionError: groups don't read a KV topic.
        """
        check_kind(topic)
        channel = channel_to_read(channel)
        _check_names(group, consumer, reader)
        _check_credit(credit_count, credit_bytes)
        if ack_timeout_ms:
            low, high = limits.ACK_TIMEOUT_MS_MIN, limits.LEASE_MS_MAX
            limits.check_range(ack_timeout_ms, field="ack_timeout_ms", low=low, high=high)
        key = next(self._consumer_keys)
        subscription = Subscription(
            subscription_id,
            topic,
            [*dict.fromkeys(refs)],
            channel,
            group,
            consumer,
            Consumer(key, credit_count, credit_bytes, ack_timeout_ms),
            receiver,
            on_moved=on_moved,
            on_grown=on_grown,
            session=session,
        )
        if session is not None:
            subscription.reader = reader or session.id
            self._join(session, subscription, reader_connection or session.connection)
        try:
            await self._make_groups(subscription, subscription.refs, is_from_now=is_from_now)
            if session is not None:
                await self._attach(session, subscription, claims, has_more=has_more_claims)
            if is_drain:
                await self._plan_drain(subscription)
            _check_is_there(subscription)
            self._begin(subscription)
        except BaseException:
            self._forget(subscription)
            if session is not None:
                self._set_aside(session, subscription)
            raise
        return subscription

    async def _attach(
        self,
        session: Session,
        subscription: Subscription,
        claims: Sequence[tuple[int, Claim]],
        *,
        has_more: bool,
    ) -> None:
        await claiming.come_back(
            self.loops, self._readers, session, subscription, claims, has_more=has_more
        )
        await claiming.attach(self.loops, session, subscription)

    def _set_aside(self, session: Session, subscription: Subscription) -> None:
        """One that did not come about may have claimed already: it keeps that, as if left."""
        if session.subscriptions.pop(subscription.id, None) is None:
            return
        subscription.id = ASIDE_ID - subscription.consumer.key
        subscription.is_left = True
        session.subscriptions[subscription.id] = subscription
        self._drop_left(session)

    def _join(self, session: Session, subscription: Subscription, connection: int) -> None:
        if session.is_closed:
            raise UnavailableError("the session has ended")
        if subscription.id in session.subscriptions:
            raise ConflictError(
                f"subscription {subscription.id} exists already", field="subscription_id"
            )
        self._drop_left(session)
        if len(session.subscriptions) >= limits.SUBSCRIPTION_COUNT_MAX:
            raise BusyError(
                f"a session has at most {limits.SUBSCRIPTION_COUNT_MAX} subscriptions",
                field="subscription_id",
            )
        self._readers.join(session, subscription.reader, connection)
        session.subscriptions[subscription.id] = subscription
        for other in self._readers.others(session, subscription.reader):
            # The client is here now; what it doesn't claim of that is due after the grace.
            self.detach(other, other.attachment)

    async def _make_groups(
        self, subscription: Subscription, refs: Sequence[PartitionRef], *, is_from_now: bool
    ) -> None:
        start, wait = self.groups.join(
            subscription.topic, subscription.group, is_from_now=is_from_now
        )
        waits = [] if wait is None else [wait]
        for ref in refs:
            loop = self.loops.of(ref.number)
            record = admit_group(
                loop.partition(ref.number),
                subscription.channel,
                subscription.group,
                start=start,
                moment=loop.moment(),
                view=loop.view,
            )
            if record is not None:
                waits.append(loop.commit(record))
        if waits:
            await asyncio.gather(*waits)
        for ref in refs:
            loop = self.loops.of(ref.number)
            creating = loop.partition(ref.number).groups.creating
            while (subscription.channel, subscription.group) in creating:
                await loop.commit(loop.machine.record([], loop.moment()))
            subscription.groups[ref.number] = loop.partition(ref.number).group(
                subscription.channel, subscription.group, loop.view
            )

    async def _plan_drain(self, subscription: Subscription) -> None:
        await self.loops.freshen([ref.number for ref in subscription.refs])
        targets: dict[int, int] = {}
        for ref in subscription.refs:
            # Not beyond what is promised: a turn might never come there.
            loop = self.loops.of(ref.number)
            promised = loop.promised(loop.moment())
            targets[ref.number] = loop.partition(ref.number).readable(promised)
            subscription.groups[ref.number].scanned_to = 0
        subscription.drain_targets = targets

    def _begin(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.consumer.key] = subscription
        if subscription.drain_targets is not None:
            self._drains[subscription.consumer.key] = subscription
        self._read(subscription, subscription.refs)
        self._grow_soon(subscription)

    def _read(self, subscription: Subscription, refs: Sequence[PartitionRef]) -> None:
        for ref in refs:
            partition = self.loops.partition(ref.number)
            partition.add_consumer(subscription.groups[ref.number], subscription.consumer)
            self.loops.ready(ref.number)

    def _changed(self, topic: Topic) -> None:
        for subscription in [*self._subscriptions.values()]:
            if subscription.topic.name == topic.name:
                self._grow_soon(subscription)

    def _grow_soon(self, subscription: Subscription) -> None:
        """Who reads all partitions of a topic reads those too that it has got meanwhile."""
        topic = self.loops.topic(subscription.topic.name)
        if topic is not None and subscription.is_outgrown_by(topic):
            self._spawn(self._grow(subscription, topic))

    async def _grow(self, subscription: Subscription, topic: Topic) -> None:
        assert subscription.on_grown is not None
        refs = subscription.grow(topic)
        try:
            await self._make_groups(subscription, refs, is_from_now=False)
            if subscription.session is not None:
                await claiming.attach(self.loops, subscription.session, subscription)
            if not subscription.is_closed:
                # Told before anything comes of them.
                subscription.on_grown(subscription)
                self._read(subscription, refs)
        except SandglassError as error:
            self._end(subscription, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def grant(self, subscription: Subscription, credit_count: int, credit_bytes: int) -> None:
        """
        More room at the consumer.

        Raises:
            InvalidError: more than a subscription may have.
        """
        consumer = subscription.consumer
        held = subscription.held_credit
        left, left_bytes = held or (consumer.credit_count, consumer.credit_bytes)
        _check_credit(max(0, left) + credit_count, max(0, left_bytes) + credit_bytes)
        if held is not None:
            subscription.held_credit = (left + credit_count, left_bytes + credit_bytes)
            return
        consumer.credit_count += credit_count
        consumer.credit_bytes += credit_bytes
        self._offer(subscription)

    def _offer(self, subscription: Subscription) -> None:
        """It may have credit again."""
        self._ready_list.offer(subscription)
        # A drain that had used up its credit may be over: only a turn finds out.
        for number in subscription.drain_targets or ():
            self.loops.ready(number)

    async def drain(
        self, topic: Topic, partition: PartitionRef, channel: str, group: str, consumer: str
    ) -> AsyncIterator[list[Slice]]:
        """What is ready for a group, then the end; see `sandglass.broker.drain`."""
        drain = await self.open_drain(topic, partition, channel, group, consumer)
        try:
            while (delivery := await drain.next()) is not None:
                yield delivery.slices
        finally:
            drain.close()

    async def open_drain(
        self, topic: Topic, partition: PartitionRef, channel: str, group: str, consumer: str
    ) -> Drain:
        """
        As `drain`, for a call that knows how much it has handed on.

        Raises:
            SandglassError: as `subscribe`.
        """
        drain = Drain(self, topic, partition, channel, group, consumer)
        await drain.begin()
        return drain

    def leave(self, subscription: Subscription) -> None:
        """A consumer without a session takes nothing more; its leases stand."""
        self._forget(subscription)

    def unsubscribe(self, session: Session, subscription: Subscription) -> None:
        """The consumer ends; what it holds stays leased until its outcome, its time, or the
        session's end."""
        self._forget(subscription)
        subscription.is_left = True
        self._drop_left(session)

    def _drop_left(self, session: Session) -> None:
        """Subscriptions that were left are kept only for the leases that they hold."""
        if not any(subscription.is_left for subscription in session.subscriptions.values()):
            return
        holding = {subscription.id for subscription, _, _ in self.open_leases(session)}
        for subscription in [*session.subscriptions.values()]:
            if subscription.is_left and subscription.id not in holding:
                del session.subscriptions[subscription.id]
        claiming.detach(self.loops, self._readers, session)

    def _forget(self, subscription: Subscription) -> None:
        subscription.is_closed = True
        self._subscriptions.pop(subscription.consumer.key, None)
        self._drains.pop(subscription.consumer.key, None)
        for number in subscription.groups:
            self._leave(subscription, number)

    def _leave(self, subscription: Subscription, number: int) -> None:
        loop = self.loops.of_any(number)
        if loop is not None and number in loop.machine.refs and loop.failure is None:
            partition = loop.machine.partition(number, loop.view)
            partition.remove_consumer(subscription.groups[number], subscription.consumer)

    def end_topic(self, topic: Topic) -> None:
        """A topic is deleted: its consumers are told."""
        error = NotFoundError(
            f"ErrTopicNotFound: topic '{topic.name}' was deleted", field="topic"
        )
        for subscription in [*self._subscriptions.values()]:
            if subscription.topic.partitions[0] == topic.partitions[0]:
                self._end(subscription, error)
        self._ready_list.deleted(ref.number for ref in topic.partitions)

    def end_group(self, topic: str, group: str, error: SandglassError) -> None:
        """As `end_topic`, for the consumers of a group."""
        for subscription in [*self._subscriptions.values()]:
            if (subscription.topic.name, subscription.group) == (topic, group):
                self._end(subscription, error)

    def _end(self, subscription: Subscription, error: SandglassError) -> None:
        self._forget(subscription)
        subscription.receiver.ended(subscription, error)

    # --- sessions -----------------------------------------------------------------------------

    def open_session(
        self,
        session_id: str,
        client_name: str,
        *,
        owner: str = "",
        connection: int = 0,
        on_taken_over: Callable[[], None] = lambda: None,
    ) -> tuple[Session, bool]:
        """
        A session, and whether it is the one that was asked for, within its grace. One that is
        not known here begins anew under its own id: what it held elsewhere, or before this node
        began, it claims by that.

        Args:
            owner: who comes, by the name of the token.
            connection: which of the session's it is, if its client counts them.
            on_taken_over: called when the session goes on over another connection.

        Raises:
            DeniedError: somebody else opened it. A new session may be asked for.
        """
        session = self.sessions.get(session_id) if session_id else None
        if session is not None and not session.is_closed:
            if session.owner != owner:
                raise DeniedError(
                    f"session {session_id} was opened with another's token: {owner!r} can't go"
                    " on with it",
                    field="hello.session_id",
                )
            if session.is_attached:
                session.on_taken_over()
            session.is_attached = True
            session.attachment += 1
            session.connection = connection
            session.on_taken_over = on_taken_over
            self.go_on(session)
            return session, True
        is_id = limits.NAME_PATTERN.match(session_id) is not None
        new_id = session_id if is_id else str(self.ids.next())
        session = Session(
            new_id, client_name[:200], owner, on_taken_over, connection=connection
        )
        self.sessions[session.id] = session
        return session, False

    def hold(self, session: Session) -> None:
        """Nothing is handed out to the session until it goes on."""
        for subscription in session.subscriptions.values():
            subscription.hold()

    def go_on(self, session: Session) -> None:
        """Its credit holds again."""
        for subscription in session.subscriptions.values():
            subscription.go_on()
            self._offer(subscription)

    def open_leases(self, session: Session) -> list[tuple[Subscription, int, int]]:
        """(subscription, partition number, token) of all that the session holds."""
        of_key = {each.consumer.key: each for each in session.subscriptions.values()}
        return [
            (of_key[lease.consumer], group.partition, lease.token)
            for group in _groups_of(session)
            for lease in group.leases.values()
            if lease.consumer in of_key
        ]

    def detach(self, session: Session, attachment: int) -> None:
        """A session's connection broke: it has its grace to come back."""
        if session.is_closed or session.attachment != attachment or not session.is_attached:
            return
        session.is_attached = False
        self.hold(session)
        asyncio.get_running_loop().call_later(
            self.session_grace_ms / 1000, self._grace_over, session, attachment
        )

    def _grace_over(self, session: Session, attachment: int) -> None:
        if not session.is_attached and session.attachment == attachment:
            self.close_session(session, is_goodbye=False)

    def close_session(self, session: Session, *, is_goodbye: bool) -> None:
        """
        Ends a session. What it holds is given back: uncounted after a goodbye; otherwise what
        had been begun counts an attempt.
        """
        if session.is_closed:
            return
        session.is_closed = True
        self.sessions.pop(session.id, None)
        subscriptions = session.subscriptions.values()
        groups = _groups_of(session)
        keys = {subscription.consumer.key for subscription in subscriptions}
        claiming.detach(self.loops, self._readers, session)
        self._readers.leave(session)
        for subscription in subscriptions:
            self._forget(subscription)
        if any(group.leases for group in groups):
            self._spawn(give_back(self.loops, groups, keys, is_goodbye=is_goodbye))

    # --- what the loop tells ------------------------------------------------------------------

    def _deliver(self, deliveries: list[Delivery]) -> None:
        counts, wall_ms = self.loops.own.stats, self.loops.own.clock.wall_ms()
        for delivery in deliveries:
            self._fed.add(delivery.group.number)
            counts.handed_out(delivery.partition, delivery.lease.count)
            if not delivery.lease.is_retry and delivery.slices[0].origin is None:
                counts.came(wall_ms, delivery.slices)
            subscription = self._subscriptions.get(delivery.consumer.key)
            if subscription is not None:
                subscription.receiver.deliver(subscription, delivery)

    def _dispatched(self, partition: Partition) -> None:
        self._ready_list.dispatched(partition, self._fed)
        self._fed.clear()
        if not self._drains:
            return
        for subscription in [*self._drains.values()]:
            targets = subscription.drain_targets
            target = targets.get(partition.number) if targets else None
            if targets is None or target is None:
                continue
            group: Group = subscription.groups[partition.number]
            if subscription.consumer.has_credit and group.is_drained(target):
                del targets[partition.number]
            if not targets:
                self._forget(subscription)
                subscription.receiver.ended(subscription, None)

    def _stopped(self, number: int, error: SandglassError) -> None:
        """Nothing more comes of a partition: drains of it end, and who waits for it alone."""
        self._ready_list.stopped(number)
        for subscription in [*self._subscriptions.values()]:
            if number not in subscription.groups:
                continue
            is_last = not any(map(self.loops.working, subscription.groups))
            if is_last or subscription.drain_targets is not None:
                self._forget(subscription)
                subscription.receiver.ended(subscription, error)

    def _lost(self, number: int, error: SandglassError) -> None:
        """A partition is led elsewhere now: who reads it has to go there."""
        self._ready_list.stopped(number)
        for subscription in [*self._subscriptions.values()]:
            if number not in subscription.groups:
                continue
            if subscription.on_moved is None or subscription.drain_targets is not None:
                self._end(subscription, error)
            else:
                self._leave(subscription, number)
                subscription.drop(number)
                subscription.on_moved(subscription, number, error)

    async def stop(self) -> None:
        """Waits for what is being given back."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)


def _groups_of(session: Session) -> list[Group]:
    """Those that the session reads, each once."""
    return [
        *{
            (number, group.number): group
            for subscription in session.subscriptions.values()
            for number, group in subscription.groups.items()
        }.values()
    ]


def _check_names(group: str, consumer: str, reader: str) -> None:
    limits.check_name(group, field="group")
    limits.check_name(consumer, field="consumer")
    if reader:
        limits.check_name(reader, field="reader")


def _check_is_there(subscription: Subscription) -> None:
    """Neither its session nor its group has ended since it began."""
    if subscription.is_closed:
        raise UnavailableError("the session has ended")
    if any(part.is_dropped for part in subscription.groups.values()):
        raise NotFoundError(
            f"group '{subscription.group}' of topic '{subscription.topic.name}' was deleted",
            field="group",
        )


def _check_credit(credit_count: int, credit_bytes: int) -> None:
    limits.check_range(credit_count, field="credit_count", low=0, high=limits.CREDIT_COUNT_MAX)
    limits.check_range(credit_bytes, field="credit_bytes", low=0, high=limits.CREDIT_BYTES_MAX)
