"""
Consuming in a thread: an iterator over what a subscription is given.

The loop lays deliveries down as they come, and the iterator takes them from there: only when
there is none does it wait for the loop. Messages are decoded, and outcomes noted, in the
caller's thread; the loop is woken by the first outcome and takes all that follow with it.
"""

from collections.abc import Callable, Generator
from datetime import datetime
from types import TracebackType
from typing import Generic, TypeVar

from sandglass.client._async.consumer import Consuming, Subscriptions
from sandglass.client._sync.thread import LoopThread
from sandglass.client.lease import Lease
from sandglass.client.received import Batch, Received, decode
from sandglass.client.subscription import Subscription
from sandglass.errors import UnavailableError

Item = TypeVar("Item")


class Desk:
    """
    What the iterators and messages of one `consume` need.

    `owner` is kept alive: a client isn't closed for having been forgotten while somebody
    consumes from it. `check` raises in a process that was forked off.
    """

    def __init__(
        self,
        owner: object,
        thread: LoopThread,
        subscriptions: Subscriptions,
        check: Callable[[], None],
    ) -> None:
        self.owner = owner
        self.thread = thread
        self.subscriptions = subscriptions
        self.check = check

    @property
    def consuming(self) -> Consuming:
        """The consuming half of the client, which is the loop's."""
        return self.subscriptions.consuming

    def begin(self) -> Subscription | None:
        """See `Subscriptions`."""
        self.check()
        return self.thread.call(self._begin())

    def next(self, subscription: Subscription) -> Lease | None:
        """The next delivery; None at the end."""
        self.check()
        lease = self.consuming.pop(subscription)
        return lease or self.thread.call(self.consuming.next(subscription))

    def begun(self, lease: Lease) -> None:
        """The first message of a delivery was handed out."""
        self.consuming.connection.session.settling.begin(lease)

    def end(self, subscription: Subscription) -> None:
        """See `Subscriptions`."""
        self.thread.post(self.subscriptions.end, subscription)

    def finish(self, subscription: Subscription) -> None:
        """See `Subscriptions`."""
        self.thread.call(self.subscriptions.finish(subscription))

    async def _begin(self) -> Subscription | None:
        return self.subscriptions.begin()


class ThreadSettler:
    """See `Settler`."""

    __slots__ = ("_consuming", "_desk", "_subscription")

    def __init__(self, desk: Desk, subscription: Subscription) -> None:
        self._desk = desk
        self._consuming = desk.consuming
        self._subscription = subscription

    def settle(
        self,
        lease: Lease,
        place: int,
        kind: int,
        delay_ms: int | None,
        reason: str,
        is_waiting: bool,
    ) -> None:
        """See `Settler`."""
        self._desk.check()
        lease.settle(place, kind, delay_ms, reason)
        if is_waiting or self._consuming.errors:
            self._look(lease, is_waiting)

    def settle_open(
        self, lease: Lease, kind: int, delay_ms: int | None, reason: str, is_waiting: bool
    ) -> None:
        """See `Settler`."""
        self._desk.check()
        lease.settle_open(kind, delay_ms, reason)
        if is_waiting or self._consuming.errors:
            self._look(lease, is_waiting)

    def extend(self, lease: Lease, lease_ms: int) -> datetime:
        """See `Settler`."""
        self._desk.check()
        return self._desk.thread.call(self._consuming.extend(lease, lease_ms))

    def _look(self, lease: Lease, is_waiting: bool) -> None:
        self._consuming.check(self._subscription)
        if is_waiting:
            self._desk.thread.call(self._consuming.wait(lease))


class Consumer(Generic[Item]):
    """
    Iterate over it, as often as you like: each time is a subscription of its own, for one
    thread at a time. Several threads iterate over it each for itself.

    As a context manager it makes sure that leaving the block waits for the answers to all
    outcomes; a bare `for` leaves that to the closing of the client.
    """

    def __init__(
        self, desk: Desk, iterate: Callable[[Desk], Generator[Item, None, None]]
    ) -> None:
        self._desk = desk
        self._iterate = iterate

    def __iter__(self) -> Generator[Item, None, None]:
        return self._iterate(self._desk)

    def stop(self) -> None:
        """
        Ends each iteration after the message in hand, and those to come before their first.

        What was not handed out is given back, uncounted. What is in your hands stays leased to
        you until you have settled it, or the client is closed. Any thread may call this.
        """
        self._desk.check()
        self._desk.thread.post(self._desk.subscriptions.stop)

    def __enter__(self) -> "Consumer[Item]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._desk.thread.call(self._desk.consuming.flush())
        except UnavailableError:
            if error is None:
                raise


def messages(desk: Desk) -> Generator[Received, None, None]:
    """One message after the other, until a drain is over."""
    subscription = desk.begin()
    if subscription is None:
        return
    settler = ThreadSettler(desk, subscription)
    check = desk.check
    try:
        while (lease := desk.next(subscription)) is not None:
            if lease.begin(0):
                desk.begun(lease)
            for place, wire in enumerate(decode(lease)):
                if not lease.begin(place):
                    break
                yield Received(wire, lease, place, settler)
                check()
    finally:
        desk.end(subscription)
    desk.finish(subscription)


def batches(desk: Desk) -> Generator[Batch, None, None]:
    """One delivery after the other, until a drain is over."""
    subscription = desk.begin()
    if subscription is None:
        return
    settler = ThreadSettler(desk, subscription)
    try:
        while (lease := desk.next(subscription)) is not None:
            if lease.begin(lease.count - 1):
                desk.begun(lease)
                yield Batch(lease, settler)
    finally:
        desk.end(subscription)
    desk.finish(subscription)
