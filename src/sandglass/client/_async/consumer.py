"""
Consuming: an iterator over what a subscription is given.

Leaving the iterator, by `break`, an error, cancellation or `aclose`, ends the subscription:
messages that were not handed out are given back uncounted, outcomes that were noted are sent.
Message by message, the event loop has its turn now and then, even if nothing is awaited.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from types import TracebackType
from typing import Final, Generic, TypeVar, cast

from sandglass.client._async.connection import Connection, Endpoint, steady_ms
from sandglass.client.events import Changed, Extended, Settled
from sandglass.client.lease import Lease
from sandglass.client.received import Batch, Received, Settler, decode
from sandglass.client.subscription import Subscription
from sandglass.core import offset
from sandglass.errors import LeaseLostError, SandglassError, UnavailableError
from sandglass.wire.v1 import broker_pb2

MESSAGES_A_TURN: Final = 256
"""After so many messages the event loop has a turn: others, heartbeats and Ctrl-C need it."""

Item = TypeVar("Item")

_log = logging.getLogger("sandglass.client")


class Consuming:
    """The consuming half of a client: who waits for what."""

    def __init__(self, connection: Connection, endpoint: Endpoint) -> None:
        self.connection = connection
        self.endpoint = endpoint
        self._waiting: dict[Subscription, asyncio.Future[None]] = {}
        self._errors: dict[Subscription, SandglassError] = {}
        self._flushing: list[tuple[int, asyncio.Future[None]]] = []

    # --- events -------------------------------------------------------------------------------

    def on_changed(self, event: Changed) -> None:
        """A subscription has something new."""
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
            self._errors.setdefault(event.subscription, event.error)
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
            self.check(subscription)
            while subscription.ready and subscription.partitions:
                lease = subscription.ready.popleft()
                if not lease.is_lost and not lease.is_run_out:
                    return lease
            if subscription.is_ended and (subscription.partitions or not subscription.ready):
                return None
            if self._is_overdue(subscription, since_ms):
                raise self.endpoint.unavailable(self.connection.cause)
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
        if self._errors:
            error = self._errors.pop(subscription, None)
            if error is not None:
                raise error
        if subscription.error is not None:
            raise subscription.error

    def leave(self, subscription: Subscription) -> None:
        """Ends a subscription."""
        self.connection.session.leave(subscription)
        self.connection.session.work()

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
        errors, self._errors = self._errors, {}
        for error in errors.values():
            raise error

    def settler(self, subscription: Subscription) -> Settler:
        """What messages of a subscription need."""

        def check() -> None:
            if self._errors:
                self.check(subscription)

        return Settler(wait=self._wait, extend=self._extend, check=check)

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
        return not subscription.partitions and steady_ms() - since_ms >= timeout_ms

    async def _wait(self, lease: Lease) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.connection.session.settling.wait_for(lease, future):
            self.connection.session.work()
            await self._until_answered(future)

    async def _extend(self, lease: Lease, lease_ms: int) -> datetime:
        if lease.is_lost:
            raise LeaseLostError("the lease is gone; it cannot be extended")
        future: asyncio.Future[datetime] = asyncio.get_running_loop().create_future()
        self.connection.session.settling.extend(lease, lease_ms, steady_ms(), future)
        return await self._until_answered(future)

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


class Consumer(Generic[Item]):
    """
    Iterate over it, as often as you like: each time is a subscription of its own.

    As a context manager it makes sure that leaving the block waits for the answers to all
    outcomes; a bare `async for` leaves that to the closing of the client.
    """

    def __init__(
        self, consuming: Consuming, iterate: Callable[[], AsyncGenerator[Item, None]]
    ) -> None:
        self._consuming = consuming
        self._iterate = iterate

    def __aiter__(self) -> AsyncGenerator[Item, None]:
        return self._iterate()

    async def __aenter__(self) -> "Consumer[Item]":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._consuming.flush()
        except UnavailableError:
            if error is None:
                raise


async def messages(
    consuming: Consuming, request: broker_pb2.Subscribe, *, is_extending: bool
) -> AsyncGenerator[Received, None]:
    """One message after the other, until a drain is over."""
    settling = consuming.connection.session.settling
    subscription = consuming.subscribe(request, is_extending=is_extending)
    settler = consuming.settler(subscription)
    turn_count = 0
    try:
        while (lease := await consuming.next(subscription)) is not None:
            settling.begin(lease)
            for place, wire in enumerate(decode(lease)):
                if lease.is_lost or lease.is_run_out:
                    break
                lease.begun_count = place + 1
                yield Received(wire, lease, place, settler)
                turn_count += 1
                if turn_count >= MESSAGES_A_TURN:
                    turn_count = 0
                    await asyncio.sleep(0)
                    consuming.check(subscription)
    finally:
        consuming.leave(subscription)
    await consuming.flush()
    consuming.check(subscription)


async def batches(
    consuming: Consuming, request: broker_pb2.Subscribe, *, is_extending: bool
) -> AsyncGenerator[Batch, None]:
    """One delivery after the other, until a drain is over."""
    settling = consuming.connection.session.settling
    subscription = consuming.subscribe(request, is_extending=is_extending)
    settler = consuming.settler(subscription)
    try:
        while (lease := await consuming.next(subscription)) is not None:
            lease.begun_count = lease.count
            settling.begin(lease)
            yield Batch(lease, settler)
            await asyncio.sleep(0)
    finally:
        consuming.leave(subscription)
    await consuming.flush()
    consuming.check(subscription)


def _answer(future: "asyncio.Future[None]", error: SandglassError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
