"""
Consuming: an iterator over what a subscription is given.

Leaving the iterator, by `break`, an error, cancellation or `aclose`, ends the subscription:
messages that were not handed out are given back uncounted, outcomes that were noted are sent.
Message by message, the event loop has its turn now and then, even if nothing is awaited.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Final, Generic, TypeVar, cast

from sandglass.client._async.connection import Connection, Endpoint, steady_ms
from sandglass.client.events import Changed, Extended, Settled
from sandglass.client.lease import Lease
from sandglass.client.received import NOTED, AsyncBatch, AsyncReceived, decode
from sandglass.client.subscription import Subscription
from sandglass.core import offset
from sandglass.errors import LeaseLostError, SandglassError, UnavailableError
from sandglass.wire.v1 import broker_pb2

MESSAGES_A_TURN: Final = 256
"""After so many messages the event loop has a turn: others, heartbeats and Ctrl-C need it."""

Item = TypeVar("Item")

_log = logging.getLogger("sandglass.client")


class Consuming:
    """
    The consuming half of a client: who waits for what.

    `errors` are refusals of outcomes that nobody has been told of.
    """

    def __init__(self, connection: Connection, endpoint: Endpoint) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self._waiting: dict[Subscription, asyncio.Future[None]] = {}
        self.errors: dict[Subscription, SandglassError] = {}
        self._told: dict[Subscription, str] = {}
        """What was last logged of those that wait for a node."""
        self._flushing: list[tuple[int, asyncio.Future[None]]] = []

    # --- events -------------------------------------------------------------------------------

    def on_changed(self, event: Changed) -> None:
        """A subscription has something new."""
        trouble = event.subscription.trouble
        if trouble is None:
            self._told.pop(event.subscription, None)
        elif self._told.get(event.subscription) != trouble.message:
            self._told[event.subscription] = trouble.message
            topic = event.subscription.request.topic
            _log.warning("consuming %s waits: %s", topic, trouble.message)
        self._wake(event.subscription)

    def on_settled(self, event: Settled) -> None:
        """
        An outcome was answered. If nobody waits, a lost lease is no error: the message comes
        again, or has been settled by somebody else. Anything else is raised when the consumer
        is next used.
        """
        for each in event.waiters:
            _answer(cast("asyncio.Future[None]", each), event.error)
        if event.error is None or event.waiters:
            return
        if isinstance(event.error, LeaseLostError):
            _log.warning("an outcome came too late: %s", event.error)
        else:
            self.errors.setdefault(event.subscription, event.error)
            self._wake(event.subscription)

    def on_extended(self, event: Extended) -> None:
        """An extension was answered."""
        future = cast("asyncio.Future[datetime]", event.waiter)
        if future.done():
            return
        if event.error is not None:
            future.set_exception(event.error)
        else:
            future.set_result(offset.to_datetime(event.ends_ms))

    def after_turn(self) -> None:
        """Something may have been answered, or be overdue."""
        settling = self.connection.session.settling
        passed = [each for each in self._flushing if settling.is_passed(each[0])]
        for each in passed:
            self._flushing.remove(each)
            _answer(each[1], None)
        is_away = self.connection.session.broken_ms is not None
        if is_away or not self.connection.session.is_open:
            for subscription in list(self._waiting):
                if subscription.request.is_drain or not subscription.partitions:
                    self._wake(subscription)

    # --- for consumers ------------------------------------------------------------------------

    def subscribe(self, request: broker_pb2.Subscribe, *, is_extending: bool) -> Subscription:
        """Begins a subscription."""
        self.connection.start()
        fresh = broker_pb2.Subscribe()
        fresh.CopyFrom(request)
        return self.connection.session.subscribe(fresh, is_extending=is_extending)

    def pop(self, subscription: Subscription) -> Lease | None:
        """
        A delivery that is here and nobody has begun on. Any thread may call this.

        Raises:
            SandglassError: the subscription ended by an error, or an outcome was refused.
        """
        self.check(subscription)
        while subscription.partitions:
            try:
                lease = subscription.ready.popleft()
            except IndexError:
                return None
            if not lease.is_lost and not lease.is_run_out:
                return lease
        return None

    async def next(self, subscription: Subscription) -> Lease | None:
        """
        The next delivery; None at the end.

        Raises:
            SandglassError: the subscription ended by an error.
            UnavailableError: nobody answered in time. A subscription that has begun, and isn't
                to be drained, waits for as long as it takes.
        """
        since_ms = steady_ms()
        while True:
            lease = self.pop(subscription)
            if lease is not None:
                return lease
            if subscription.is_left or (
                subscription.is_ended and (subscription.partitions or not subscription.ready)
            ):
                return None
            if self._is_overdue(subscription, since_ms):
                trouble = subscription.trouble
                raise trouble or self.endpoint.unavailable(self.connection.cause)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[subscription] = future
            subscription.is_waiting = True
            self.connection.session.work()
            try:
                await future
            finally:
                subscription.is_waiting = False
                self._waiting.pop(subscription, None)

    def check(self, subscription: Subscription) -> None:
        """
        Raises:
            SandglassError: the subscription ended by an error, or an outcome was refused.
        """
        if self.errors:
            error = self.errors.pop(subscription, None)
            if error is not None:
                raise error
        if subscription.error is not None:
            raise subscription.error

    def leave(self, subscription: Subscription, *, is_finishing: bool = False) -> None:
        """Ends a subscription; see `Session.leave`. Whoever waits for it is woken."""
        self._told.pop(subscription, None)
        self.connection.session.leave(subscription, is_finishing=is_finishing)
        self.connection.session.work()
        self._wake(subscription)

    async def flush(self) -> None:
        """
        Waits until all outcomes noted so far are answered.

        Raises:
            UnavailableError: they aren't in time; the results are unknown.
        """
        session = self.connection.session
        barrier = session.barrier(steady_ms())
        if session.settling.is_passed(barrier):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushing.append((barrier, future))
        await self._until_answered(future)

    def raise_refused(self) -> None:
        """
        Raises:
            SandglassError: an outcome was refused, and nobody has been told.
        """
        errors, self.errors = self.errors, {}
        for error in errors.values():
            raise error

    async def wait(self, lease: Lease) -> None:
        """
        Waits until what was noted of a lease is answered.

        Raises:
            LeaseLostError: it came too late.
            UnavailableError: there is no answer in time; the result is unknown.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.connection.session.settling.wait_for(lease, future):
            self.connection.session.work()
            await self._until_answered(future)

    async def extend(self, lease: Lease, lease_ms: int) -> datetime:
        """See `Leased.extend`."""
        if lease.is_lost:
            raise LeaseLostError("the lease is gone; it cannot be extended")
        future: asyncio.Future[datetime] = asyncio.get_running_loop().create_future()
        self.connection.session.settling.extend(lease, lease_ms, steady_ms(), future)
        return await self._until_answered(future)

    # --- private ------------------------------------------------------------------------------

    def _wake(self, subscription: Subscription) -> None:
        future = self._waiting.get(subscription)
        if future is not None and not future.done():
            future.set_result(None)

    def _is_overdue(self, subscription: Subscription, since_ms: int) -> bool:
        timeout_ms = self.endpoint.timeout_ms
        session = self.connection.session
        if session.broken_ms is not None and subscription.request.is_drain:
            return steady_ms() - max(since_ms, session.broken_ms) >= timeout_ms
        if subscription.trouble is not None and subscription.request.is_drain:
            return steady_ms() - max(since_ms, subscription.troubled_ms) >= timeout_ms
        return not subscription.partitions and steady_ms() - since_ms >= timeout_ms

    async def _until_answered(self, future: "asyncio.Future[Item]") -> Item:
        try:
            async with asyncio.timeout(self.endpoint.timeout_ms / 1000):
                return await future
        except TimeoutError as error:
            raise self.endpoint.unavailable(
                self.connection.cause
                if not self.connection.session.is_open
                else "outcomes were sent and not answered",
                is_result_unknown=True,
            ) from error


class AsyncSettler:
    """See `Settler`."""

    __slots__ = ("_consuming", "_subscription")

    def __init__(self, consuming: Consuming, subscription: Subscription) -> None:
        self._consuming = consuming
        self._subscription = subscription

    def settle(
        self,
        lease: Lease,
        place: int,
        kind: int,
        delay_ms: int | None,
        reason: str,
        is_waiting: bool,
    ) -> Awaitable[None]:
        """See `Settler`."""
        lease.settle(place, kind, delay_ms, reason)
        if self._consuming.errors:
            self._consuming.check(self._subscription)
        return self._consuming.wait(lease) if is_waiting else NOTED

    def settle_open(
        self, lease: Lease, kind: int, delay_ms: int | None, reason: str, is_waiting: bool
    ) -> Awaitable[None]:
        """See `Settler`."""
        lease.settle_open(kind, delay_ms, reason)
        if self._consuming.errors:
            self._consuming.check(self._subscription)
        return self._consuming.wait(lease) if is_waiting else NOTED

    def extend(self, lease: Lease, lease_ms: int) -> Awaitable[datetime]:
        """See `Settler`."""
        return self._consuming.extend(lease, lease_ms)


class Subscriptions:
    """
    The subscriptions of one `consume`, each of them an iteration.

    Invariant: `_open` holds those that are read.
    """

    def __init__(
        self, consuming: Consuming, request: broker_pb2.Subscribe, *, is_extending: bool
    ) -> None:
        self.consuming = consuming
        self._request = request
        self._is_extending = is_extending
        self._open: set[Subscription] = set()
        self._is_stopped = False

    def begin(self) -> Subscription | None:
        """One more; None once they are stopped."""
        if self._is_stopped:
            return None
        subscription = self.consuming.subscribe(self._request, is_extending=self._is_extending)
        self._open.add(subscription)
        return subscription

    def end(self, subscription: Subscription) -> None:
        """Its iteration is left."""
        self._open.discard(subscription)
        self.consuming.leave(subscription)

    async def finish(self, subscription: Subscription) -> None:
        """
        Its iteration has come to its end: unless it was stopped, waits for all answers.

        Raises:
            UnavailableError: they aren't there in time; the results are unknown.
            SandglassError: an outcome was refused.
        """
        if not self._is_stopped:
            await self.consuming.flush()
            self.consuming.check(subscription)

    def stop(self) -> None:
        """See `AsyncConsumer.stop`."""
        self._is_stopped = True
        for subscription in self._open:
            self.consuming.leave(subscription, is_finishing=True)


class AsyncConsumer(Generic[Item]):
    """
    Iterate over it, as often as you like: each time is a subscription of its own.

    As a context manager it makes sure that leaving the block waits for the answers to all
    outcomes; a bare `async for` leaves that to the closing of the client.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        iterate: Callable[[Subscriptions], AsyncGenerator[Item, None]],
    ) -> None:
        self.subscriptions = subscriptions
        self._iterate = iterate

    def __aiter__(self) -> AsyncGenerator[Item, None]:
        return self._iterate(self.subscriptions)

    def stop(self) -> None:
        """
        Ends each iteration after the message in hand, and those to come before their first.

        What was not handed out is given back, uncounted. What is in your hands stays leased to
        you until you have settled it, or the client is closed.
        """
        self.subscriptions.stop()

    async def __aenter__(self) -> "AsyncConsumer[Item]":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.subscriptions.consuming.flush()
        except UnavailableError:
            if error is None:
                raise


async def messages(subscriptions: Subscriptions) -> AsyncGenerator[AsyncReceived, None]:
    """One message after the other, until a drain is over."""
    subscription = subscriptions.begin()
    if subscription is None:
        return
    consuming = subscriptions.consuming
    settling = consuming.connection.session.settling
    settler = AsyncSettler(consuming, subscription)
    turn_count = 0
    try:
        while (lease := await consuming.next(subscription)) is not None:
            settling.begin(lease)
            for place, wire in enumerate(decode(lease)):
                # As `Lease.begin`: no other thread ends this iteration.
                if lease.is_lost or lease.is_run_out or lease.outcomes[place]:
                    break
                lease.begun_count = place + 1
                yield AsyncReceived(wire, lease, place, settler)
                turn_count += 1
                if turn_count >= MESSAGES_A_TURN:
                    turn_count = 0
                    await asyncio.sleep(0)
                    consuming.check(subscription)
    finally:
        subscriptions.end(subscription)
    await subscriptions.finish(subscription)


async def batches(subscriptions: Subscriptions) -> AsyncGenerator[AsyncBatch, None]:
    """One delivery after the other, until a drain is over."""
    subscription = subscriptions.begin()
    if subscription is None:
        return
    consuming = subscriptions.consuming
    settling = consuming.connection.session.settling
    settler = AsyncSettler(consuming, subscription)
    try:
        while (lease := await consuming.next(subscription)) is not None:
            if lease.begin(lease.count - 1):
                settling.begin(lease)
                yield AsyncBatch(lease, settler)
                await asyncio.sleep(0)
    finally:
        subscriptions.end(subscription)
    await subscriptions.finish(subscription)


def _answer(future: "asyncio.Future[None]", error: SandglassError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
