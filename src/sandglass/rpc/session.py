"""
`sandglass.v1.Broker/Session`: frames in, frames out.

What a client sends is taken item by item and handed to the broker; what comes back is gathered
(`sandglass.rpc.outbox`) and leaves in one frame a pass of the event loop, so that a frame costs
what many items share. A reader and a writer run side by side; neither waits for a partition.

Whatever a client sends, it can't take more than its share:

1. Items are taken in slices, with a pass of the event loop for the others between them.
2. While a frame of answers waits behind the one being written, nothing more is read.
3. While `limits.OUTBOX_BYTES_MAX` of deliveries wait, the session's subscriptions have no
   credit. Nor have all sessions of a connection whose share of the node's room is used up,
   until there is room again: `sandglass.broker.outgoing`.
4. At the end the write that is under way is waited for: gRPC can't end a call over it. A client
   that doesn't read is given `END_S`; after that nothing is left of the session but that write.

The session's state is the broker's (`sandglass.broker.subscription`): this file is its wire.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, TypeVar

import grpc

from sandglass.broker.broker import Broker
from sandglass.broker.subscription import Session, Subscription
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.message import Placed
from sandglass.errors import (
    ConflictError,
    InternalError,
    InvalidError,
    NotFoundError,
    SandglassError,
)
from sandglass.rpc import calls
from sandglass.rpc.outbox import Outbox
from sandglass.rpc.outcomes import alike, all_places
from sandglass.rpc.relaying.links import OnOutcome
from sandglass.rpc.relaying.relay import Relay
from sandglass.rpc.relaying.relays import Relays
from sandglass.surface.claims import claimed_to_wire, claims_of
from sandglass.surface.consume import (
    delivery_to_wire,
    ending_of,
    partition_at,
    partitions_of,
)
from sandglass.surface.produce import produce_nowait
from sandglass.wire import convert, status
from sandglass.wire.frame import parse_frame
from sandglass.wire.v1 import broker_pb2 as pb

logger = logging.getLogger(__name__)

HEARTBEAT_MS: Final = 5000
SILENCE_FACTOR: Final = 3

SLICE_COUNT: Final = 250
"""Items of a client that are taken before others have the loop: about a millisecond."""

END_S: Final = 2.0

Item = TypeVar("Item")


class SessionStream:
    """One connection of a session. A `Receiver` for its subscriptions while it lasts."""

    def __init__(
        self,
        broker: Broker,
        context: calls.Context,
        connection: str,
        crowded: Callable[[str], bool],
        *,
        owner: str,
        relays: Relays | None = None,
    ) -> None:
        self.broker = broker
        self._relays = relays
        self._relay: Relay | None = None
        self._connection = connection
        self._is_crowded = crowded
        self.context = context
        self.owner = owner
        self.session: Session | None = None
        self.attachment = 0
        self._flow = broker.outgoing.flow(connection)
        self._outbox = Outbox(self._flow)
        self.is_holding = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard = True
        self._taken_count = 0
        self._is_taken_over = asyncio.Event()
        self._is_over = False
        self._is_draining = False

    async def run(self) -> None:
        """
        Serves the stream until the client ends it, breaks it, falls silent, or goes on over
        another one.

        Raises:
            SandglassError: what the client has to be told at the end.
        """
        reader = asyncio.create_task(self._read(), name="session-read")
        writer = asyncio.create_task(self._write(), name="session-write")
        watch = asyncio.create_task(self._watch(), name="session-watch")
        taken = asyncio.create_task(self._is_taken_over.wait(), name="session-taken")
        parts = (reader, writer, watch, taken)
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_over = True
            listening = (reader, watch, taken, *self._tasks)
            for task in listening:
                task.cancel()
            # A broken stream comes to its end for the reader, and then cancels this wherever it
            # has got to: that the client has gone is told before anything is waited for.
            leaving = self._leave()
            try:
                await asyncio.gather(*listening, return_exceptions=True)
                await asyncio.shield(leaving)
                await self._end_writing(writer)
            finally:
                writer.cancel()
                self._flow.close()
        for task in parts:
            error = None if task.cancelled() else task.exception()
            if isinstance(error, SandglassError):
                raise error
            if error is not None and not isinstance(error, grpc.RpcError):
                logger.warning("a session ended: %r", error)
        if self._is_taken_over.is_set():
            raise ConflictError("the session goes on over another connection")

    def _leave(self) -> asyncio.Future[None]:
        """The client has gone, here and at other nodes: done once these are told."""
        if self.session is not None:
            self.broker.consumers.detach(self.session, self.attachment)
            if self._relay is not None:
                assert self._relays is not None
                return self._relays.left(self._relay, self, self.session)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def _end_writing(self, writer: asyncio.Task[None]) -> None:
        self._outbox.drop_deliveries()
        try:
            done, _ = await asyncio.wait({writer}, timeout=END_S)
            if not done:
                # It ends with the connection, and takes room until then.
                await asyncio.wait({writer})
        finally:
            writer.cancel()
        if not done or writer.cancelled():
            # No status can be sent over a write that is under way, or has failed.
            raise asyncio.CancelledError("the caller takes nothing, or has gone")

    # --- in -----------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            raw = await self.context.read()
            if raw is grpc.aio.EOF:  # pyright: ignore[reportAttributeAccessIssue]  # not in the stubs
                return
            self._heard = True
            frame = parse_frame(raw)
            if self.session is None:
                await self._hello(frame)
            elif frame.HasField("hello"):
                raise InvalidError("a session has one hello, in its first frame", field="hello")
            await self._take(frame)
            if frame.is_goodbye:
                return
            if self._outbox.is_full:
                await self._let_others()
            if self._relay is not None:
                await self._relay.until_room()

    async def _hello(self, frame: pb.ClientFrame) -> None:
        if not frame.HasField("hello"):
            raise InvalidError("the first frame of a session has a hello", field="hello")
        session, is_resumed = self.broker.consumers.open_session(
            frame.hello.session_id,
            frame.hello.client_name,
            owner=self.owner,
            connection=frame.hello.connection,
            on_taken_over=self._is_taken_over.set,
        )
        self.session, self.attachment = session, session.attachment
        theirs: list[pb.OpenLease] = []
        if self._relays is not None:
            self._relay, theirs = await self._relays.joined(session, self, self.context)
        # From here to the welcome nobody else has a turn: what is handed out before is listed
        # in it, and what comes after goes behind it.
        leases = [*self._taken_over(session), *theirs] if is_resumed else theirs
        welcome = pb.Welcome(
            session_id=session.id,
            is_resumed=is_resumed,
            session_grace_ms=self.broker.consumers.session_grace_ms,
            heartbeat_ms=HEARTBEAT_MS,
            node_name=self.broker.node_name,
        )
        self._outbox.welcome(welcome, leases)
        if self._is_draining:
            self._outbox.drain()
        self._repeat_grown(session)

    def _repeat_grown(self, session: Session) -> None:
        """The client may have missed that its subscriptions have got more partitions."""
        for subscription in session.subscriptions.values():
            if subscription.is_grown and subscription.id >= 0:
                self.tell_grown(subscription)
        if self._relay is not None:
            self._relay.repeat_grown()

    def tell_grown(self, subscription: Subscription) -> None:
        """A subscription reads more partitions from here on."""
        ids = [ref.id for ref in subscription.topic.partitions]
        self.answer(pb.Subscribed(subscription_id=subscription.id, partitions=ids))

    def _taken_over(self, session: Session) -> list[pb.OpenLease]:
        """This stream receives for the session from now on; what that holds."""
        for subscription in session.subscriptions.values():
            if subscription.id < 0:
                continue
            subscription.receiver = self
            if subscription.on_moved is not None:
                subscription.on_moved = self._moved
                for number in sorted(subscription.moved):  # nobody may have been told
                    self._moved(subscription, number, self.broker.loops.whereabouts(number))
        return [
            pb.OpenLease(
                subscription_id=subscription.id,
                partition_number=subscription.places[number],
                token=token,
            )
            for subscription, number, token in self.broker.consumers.open_leases(session)
            if subscription.id >= 0
        ]

    async def _take(self, frame: pb.ClientFrame) -> None:
        for items in alike(frame.outcomes):
            self._take_outcomes(items)
            await self._took(len(items))
        await self._take_each(frame.extends, self._take_extend)
        await self._take_each(frame.credits, self._take_credit)
        await self._take_each(frame.subscribes, self._take_subscribe)
        await self._take_each(frame.unsubscribes, self._take_unsubscribe)
        await self._take_each(frame.produces, self._take_produce)
        if frame.is_goodbye and self.session is not None:
            self.broker.consumers.close_session(self.session, is_goodbye=True)

    async def _take_each(self, items: Iterable[Item], take: Callable[[Item], None]) -> None:
        for item in items:
            take(item)
            await self._took(1)

    async def _took(self, count: int) -> None:
        self._taken_count += count
        if self._taken_count >= SLICE_COUNT:
            await self._let_others()

    async def _let_others(self) -> None:
        """Others have the loop; and this client has to read its answers before it goes on."""
        self._taken_count = 0
        await asyncio.sleep(0)
        self._heard = True
        await self._outbox.until_room()

    def _take_outcomes(self, items: list[pb.Outcome]) -> None:
        """Outcomes that are `alike`: if they can't be settled together, each is by itself."""
        if self._relay is None or not self._relay.outcomes(items):
            self.settle(items, items[0].subscription_id, self._answer_outcome)

    def _answer_outcome(self, item: pb.Outcome, error: SandglassError | None) -> None:
        if item.request_id or error is not None:
            reply = pb.OutcomeReply(request_id=item.request_id, error=_error(error))
            self._outbox.frame_for(reply).outcomes.append(reply)

    def settle(
        self, items: list[pb.Outcome], subscription_id: int, answered: OnOutcome
    ) -> None:
        """Outcomes that are `alike`, for a subscription of this node."""
        item = items[0]

        def done(error: SandglassError | None) -> None:
            for each in items:
                answered(each, error)

        try:
            subscription, partition = self._held(subscription_id, item.partition_number)
            self.broker.outcomes.settle(
                subscription,
                partition,
                item.token,
                all_places(items),
                ending_of(item),
                done,
                delay_ms=item.delay_ms if item.HasField("delay_ms") else None,
                reason=item.reason,
                answer_count=len(items),
            )
        except SandglassError as error:
            if len(items) == 1:
                done(error)
                return
            for each in items:
                self.settle([each], subscription_id, answered)

    def _take_extend(self, item: pb.Extend) -> None:
        if self._relay is None or not self._relay.extend(item):
            self.extend(item, item.subscription_id)

    def extend(self, item: pb.Extend, subscription_id: int) -> None:
        """An extension for a subscription of this node."""
        reply = pb.ExtendReply(request_id=item.request_id, token=item.token)
        try:
            subscription, partition = self._held(subscription_id, item.partition_number)
            reply.lease_ends_ms = self.broker.outcomes.extend(
                subscription,
                partition,
                item.token,
                lease_ms=item.lease_ms,
                begun_count=item.begun_count,
            )
        except SandglassError as error:
            reply.error.CopyFrom(status.to_wire(error))
        if item.request_id or reply.HasField("error"):
            self._outbox.frame_for(reply).extends.append(reply)

    def _take_credit(self, item: pb.Credit) -> None:
        assert self.session is not None
        if self._relay is not None and self._relay.grant(item):
            return
        subscription = self.session.subscriptions.get(item.subscription_id)
        if subscription is None:
            return  # it ended while the credit was on its way
        try:
            self.broker.consumers.grant(subscription, item.count, item.bytes)
        except SandglassError as error:
            self.broker.consumers.unsubscribe(self.session, subscription)
            self.ended(subscription, error)

    def _take_subscribe(self, item: pb.Subscribe) -> None:
        task = asyncio.create_task(_logged(partial(self._subscribe, item)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _subscribe(self, item: pb.Subscribe) -> None:
        assert self.session is not None
        reply = pb.Subscribed(subscription_id=item.subscription_id)
        try:
            topic = self.broker.catalog.topic(item.topic)
            refs = partitions_of(self.broker, topic, item.partitions)
            if self._relay is not None and not self._relay.is_own(topic):
                self._relay.subscribe(item, topic, refs)
                return
            subscription = await self.broker.consumers.subscribe(
                self.session,
                self,
                subscription_id=item.subscription_id,
                topic=topic,
                refs=refs,
                channel=item.channel,
                group=item.group,
                consumer=item.consumer,
                credit_count=item.credit_count,
                credit_bytes=item.credit_bytes,
                ack_timeout_ms=item.ack_timeout_ms,
                is_from_now=item.start == pb.START_NOW,
                is_drain=item.is_drain,
                on_moved=self._moved if item.is_part else None,
                on_grown=None if item.partitions or item.is_drain else _tell_grown,
                claims=claims_of(topic, item),
                has_more_claims=item.has_more_claims,
                reader=item.reader,
                reader_connection=item.reader_connection,
            )
            reply.claims.extend(claimed_to_wire(subscription))
            if self._is_crowded(self._connection):
                self.hold()
            reply.partitions.extend(ref.id for ref in topic.partitions)
        except SandglassError as error:
            reply.error.CopyFrom(status.to_wire(error))
        self._outbox.frame_for(reply).subscribed.append(reply)

    def _moved(self, subscription: Subscription, number: int, error: SandglassError) -> None:
        """A partition of a part is led elsewhere now."""
        ended = pb.SubscriptionEnded(subscription_id=subscription.id, error=_error(error))
        ended.partition_numbers.append(subscription.places[number])
        self.tell_ended(ended)

    def _take_unsubscribe(self, item: pb.Unsubscribe) -> None:
        assert self.session is not None
        if self._relay is not None and self._relay.unsubscribe(item.subscription_id):
            return
        subscription = self.session.subscriptions.get(item.subscription_id)
        if subscription is not None:
            self.broker.consumers.unsubscribe(self.session, subscription)
            self.ended(subscription, None)

    def _take_produce(self, request: pb.ProduceRequest) -> None:
        request_id = request.request_id

        def answered(placed: list[Placed], error: SandglassError | None) -> None:
            reply = pb.ProduceReply(request_id=request_id, error=_error(error))
            if error is None:
                reply.placed.extend(map(convert.placed_to_wire, placed))
            self._outbox.frame_for(reply).produces.append(reply)

        try:
            if self._relay is None or not self._relay.produce(request):
                produce_nowait(self.broker, request, answered)
        except SandglassError as error:
            answered([], error)

    def _held(self, subscription_id: int, place: int) -> tuple[Subscription, int]:
        assert self.session is not None
        subscription = self.session.subscriptions.get(subscription_id)
        if subscription is None:
            raise NotFoundError(
                f"the session has no subscription {subscription_id}", field="subscription_id"
            )
        return subscription, partition_at(subscription.topic, place).number

    # --- out ----------------------------------------------------------------------------------

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """See `Receiver`."""
        wire = delivery_to_wire(
            delivery,
            subscription_id=subscription.id,
            place=subscription.places[delivery.partition],
        )
        self.pass_on(wire)

    def pass_on(self, wire: pb.Delivery) -> None:
        """A delivery goes to the client."""
        self._outbox.deliver(wire)
        if self._has_enough or self._is_crowded(self._connection):
            self.hold()

    def hold(self) -> None:
        """Nothing more is handed out."""
        if self.session is not None:
            self.is_holding = True
            self.broker.consumers.hold(self.session)

    def go_on(self) -> None:
        """Something is again, if its client takes what there is."""
        if self.is_holding and not self._has_enough:
            self._go_on()

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        """See `Receiver`."""
        if self.session is not None and error is not None:
            self.session.subscriptions.pop(subscription.id, None)
        self.tell_ended(
            pb.SubscriptionEnded(subscription_id=subscription.id, error=_error(error))
        )

    def tell_ended(self, ended: pb.SubscriptionEnded) -> None:
        """The client is told, after the deliveries before it."""
        self._outbox.end(ended)

    def answer(
        self, reply: pb.OutcomeReply | pb.ExtendReply | pb.ProduceReply | pb.Subscribed
    ) -> None:
        """An answer that comes from another node."""
        self._outbox.answer(reply)

    def drain(self) -> None:
        """The node is going down: the client is told to come back elsewhere."""
        self._is_draining = True
        if self.session is not None:
            self._outbox.drain()

    async def _write(self) -> None:
        while not self._is_over:
            await self._outbox.until_frame()
            while (frame := self._outbox.next_frame()) is not None:
                await calls.write(self.context, frame.SerializeToString())
                self._outbox.written()
                if self.is_holding and not self._is_crowded(self._connection):
                    self.go_on()

    @property
    def _has_enough(self) -> bool:
        """There is more than its client can take soon."""
        most = limits.OUTBOX_BYTES_MAX
        return self._outbox.holds_more_than(most // 2 if self.is_holding else most)

    def _go_on(self) -> None:
        self.is_holding = False
        if self.session is not None and not self._is_over:
            self.broker.consumers.go_on(self.session)
            if self._relay is not None:
                self._relay.go_on()

    async def _watch(self) -> None:
        """Breaks a session that is silent for too long."""
        while self._heard:
            self._heard = False
            await asyncio.sleep(SILENCE_FACTOR * HEARTBEAT_MS / 1000)


def _tell_grown(subscription: Subscription) -> None:
    stream = subscription.receiver  # of the connection that its session has now
    assert isinstance(stream, SessionStream)
    stream.tell_grown(subscription)


def _error(error: SandglassError | None) -> pb.Error | None:
    return None if error is None else status.to_wire(error)


async def _logged(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except asyncio.CancelledError:
        raise
    except Exception as error:
        logger.exception("an item of a session failed")
        raise InternalError("an item of the session failed; see the node's log") from error
