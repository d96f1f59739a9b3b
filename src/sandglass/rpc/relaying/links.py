"""What the parts of a relay share: the client's stream, and the ways to other nodes."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Final, Protocol, TypeAlias

from sandglass.broker.broker import Broker
from sandglass.broker.loops import is_replicated
from sandglass.broker.subscription import Session
from sandglass.core.topic import Topic
from sandglass.errors import NotLeaderError, SandglassError
from sandglass.rpc.relaying.upstream import Owner, Upstream
from sandglass.wire.v1 import broker_pb2 as pb

HERE: Final = ""
"""The address of this node."""

Reply: TypeAlias = pb.OutcomeReply | pb.ExtendReply | pb.ProduceReply | pb.Subscribed
OnOutcome: TypeAlias = Callable[[pb.Outcome, SandglassError | None], None]
"""Told what became of each outcome, whether an answer is wanted or not."""
Dial: TypeAlias = Callable[[str], Any]
"""Opens a stream to the session of the node at an address."""


class Downstream(Protocol):
    """The client's stream, as a relay needs it."""

    @property
    def is_holding(self) -> bool:
        """The client reads too slowly."""
        ...

    def pass_on(self, wire: pb.Delivery) -> None:
        """A delivery to the client."""
        ...

    def answer(self, reply: Reply) -> None:
        """An answer to the client."""
        ...

    def tell_ended(self, ended: pb.SubscriptionEnded) -> None:
        """To the client, after the deliveries before it."""
        ...

    def settle(
        self, items: list[pb.Outcome], subscription_id: int, answered: OnOutcome
    ) -> None:
        """Outcomes that say the same of one delivery, for a subscription of this node."""
        ...

    def extend(self, item: pb.Extend, subscription_id: int) -> None:
        """An extension for a subscription of this node."""
        ...


class Links:
    """
    `stream` is None while the client is away. `look_soon` is called when something waits that
    may go on in a moment.
    """

    def __init__(
        self,
        broker: Broker,
        session: Session,
        owner: Owner,
        look_soon: Callable[[], None],
        *,
        dial: Dial,
        stream: Downstream,
    ) -> None:
        self.broker = broker
        self.session = session
        self.look_soon = look_soon
        self.dial = dial
        self.stream: Downstream | None = stream
        self.upstreams: dict[str, Upstream] = {}
        self.ids = count(1)
        """Of subscriptions and produces, at whichever node."""
        self._owner = owner
        self._tasks: set[asyncio.Task[Any]] = set()

    def now_ms(self) -> int:
        """Monotonic."""
        return self.broker.loop.clock.monotonic_ms()

    def is_own(self, topic: Topic) -> bool:
        """Do its partitions live in this node's own log, and nowhere else?"""
        number = topic.partitions[0].number
        return not is_replicated(number) and self.broker.loops.is_here(number)

    def home(self, number: int) -> str:
        """
        The address of the node that leads a partition; `HERE` for this one.

        Raises:
            SandglassError: nobody leads it just now.
        """
        if self.broker.loops.is_here(number):
            return HERE
        error = self.broker.loops.whereabouts(number)
        if isinstance(error, NotLeaderError) and error.leader:
            return error.leader
        raise error

    def upstream(self, address: str) -> Upstream:
        """The way to a node, which may not be open yet."""
        upstream = self.upstreams.get(address)
        if upstream is None:
            name = self.session.client_name
            upstream = Upstream(address, lambda: self.dial(address), name, self._owner)
            self.upstreams[address] = upstream
            upstream.open()
        return upstream

    def answer(self, reply: Reply) -> None:
        """To the client, if it is there."""
        if self.stream is not None:
            self.stream.answer(reply)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something beside, until the session ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Says goodbye everywhere."""
        self.stream = None
        for task in self._tasks:
            task.cancel()
        upstreams, self.upstreams = self.upstreams, {}
        await asyncio.gather(*[each.close() for each in upstreams.values()])
