"""
A client's session at this node, for partitions that other nodes lead.

What concerns partitions led here goes its usual way. For the others this node opens sessions of
the same client at their leaders, when they are first needed, with the client's own token, and
marks them so that they are never relayed again. Rules

1. Numbers of partitions and tokens are the same everywhere, and go through as they are; so do
   the client's request ids of outcomes and extensions, since each goes to one node. Ids of
   subscriptions and produces are this node's own.
2. An outcome goes to whoever leads its partition now; while nobody does, it waits.
3. A partition that changes its leader is read there as soon as there is one, and what the
   client holds of it is claimed there; the others of a subscription are not disturbed. A drain
   ends instead, and is asked for anew.
4. When the client breaks off, so does this node, towards the others: all sessions wait for
   their grace. When it comes back, they are resumed before it is greeted, and it is told all
   leases that it holds, wherever they are.
5. A node that is going down is left once it has answered all that it was sent, and nothing of
   what it handed out is held any more; after `MOVE_MS_MAX` at the latest. What it leads still
   is asked for again when it is back. Nothing new is sent to it but outcomes.

Produces are `requests`, subscriptions `parted`, the ways to other nodes `upstream`.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
from collections.abc import Sequence
from typing import Final

from sandglass.broker.broker import Broker
from sandglass.broker.subscription import Session
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import SandglassError
from sandglass.rpc.relaying.links import Dial, Downstream, Links
from sandglass.rpc.relaying.producing import Producing
from sandglass.rpc.relaying.subscribing import Subscribing
from sandglass.rpc.relaying.upstream import Upstream
from sandglass.wire.v1 import broker_pb2 as pb

TICK_S: Final = 0.05
RESUME_S: Final = 1.5
"""How long a client that comes back waits for its sessions elsewhere."""

MOVE_MS_MAX: Final = 2000
"""A node that goes down has so long for its answers: less than it waits for us."""


class Relay:
    """See the head of the file. All calls run in the event loop's thread."""

    def __init__(
        self, broker: Broker, session: Session, dial: Dial, stream: Downstream
    ) -> None:
        self._links = Links(broker, session, self, self._look_soon, dial=dial, stream=stream)
        self._producing = Producing(self._links)
        self._subscribing = Subscribing(self._links)
        self._timer: asyncio.TimerHandle | None = None

    # --- the session's life -------------------------------------------------------------------

    async def attach(self, stream: Downstream, dial: Dial) -> list[pb.OpenLease]:
        """The client has come back; returns what it holds, here and at other nodes."""
        links = self._links
        if links.stream is not None:
            await self.detach(links.stream)
        links.stream, links.dial = stream, dial
        self._subscribing.coming_back()
        for upstream in links.upstreams.values():
            upstream.open()
        waits = [asyncio.create_task(each.settled.wait()) for each in links.upstreams.values()]
        if waits:
            await asyncio.wait(waits, timeout=RESUME_S)
            for wait in waits:
                wait.cancel()
        self._look_soon()
        return self._subscribing.came_back()

    async def detach(self, stream: Downstream) -> None:
        """The client's stream is over; it may come back."""
        if self._links.stream is not stream:
            return
        self._links.stream = None
        self._stop_looking()
        self._producing.away()
        self._subscribing.away()
        await asyncio.gather(*[each.leave() for each in self._links.upstreams.values()])

    async def close(self) -> None:
        """The session ends for good: what it holds is given back everywhere."""
        self._stop_looking()
        await self._links.close()

    def is_of(self, session: Session) -> bool:
        """Is it this session's, and not an earlier one's of the same id?"""
        return self._links.session is session

    # --- the client's items -------------------------------------------------------------------

    def is_own(self, topic: Topic) -> bool:
        """Do its partitions live in this node's own log, and nowhere else?"""
        return self._links.is_own(topic)

    def produce(self, request: pb.ProduceRequest) -> bool:
        """See `Producing.produce`."""
        return self._producing.produce(request)

    def outcomes(self, items: list[pb.Outcome]) -> bool:
        """See `Subscribing.outcomes`."""
        return self._subscribing.outcomes(items)

    def extend(self, item: pb.Extend) -> bool:
        """See `Subscribing.extend`."""
        return self._subscribing.extend(item)

    def subscribe(self, item: pb.Subscribe, topic: Topic, refs: Sequence[PartitionRef]) -> None:
        """See `Subscribing.subscribe`."""
        self._subscribing.subscribe(item, topic, refs)

    def unsubscribe(self, subscription_id: int) -> bool:
        """See `Subscribing.unsubscribe`."""
        return self._subscribing.unsubscribe(subscription_id)

    def grant(self, item: pb.Credit) -> bool:
        """See `Subscribing.grant`."""
        return self._subscribing.grant(item)

    def go_on(self) -> None:
        """The client reads again."""
        self._subscribing.go_on()

    def repeat_grown(self) -> None:
        """See `Subscribing.repeat_grown`."""
        self._subscribing.repeat_grown()

    async def until_room(self) -> None:
        """Waits while a node takes what it is sent more slowly than it comes."""
        for upstream in [*self._links.upstreams.values()]:
            if upstream.is_open and not upstream.has_room.is_set():
                await upstream.has_room.wait()

    # --- what other nodes say -----------------------------------------------------------------

    def opened(self, upstream: Upstream, welcome: pb.Welcome) -> None:
        """See `Owner`."""
        self._subscribing.opened(upstream, welcome)
        self._look()

    def received(self, upstream: Upstream, frame: pb.ServerFrame) -> None:
        """See `Owner`."""
        for outcome in frame.outcomes:
            self._subscribing.settling.settled(upstream, outcome)
        for extend in frame.extends:
            self._subscribing.settling.extended(upstream, extend)
        for subscribed in frame.subscribed:
            self._subscribing.subscribed(subscribed)
        for reply in frame.produces:
            self._producing.answered(upstream, reply)
        for delivery in frame.deliveries:
            self._subscribing.delivered(upstream, delivery)
        for ended in frame.ended:
            self._subscribing.ended(ended)
        upstream.answered()
        if frame.is_draining and upstream.draining_ms is None:
            upstream.draining_ms = self._links.now_ms()
            self._look_soon()

    def broken(self, upstream: Upstream) -> None:
        """See `Owner`."""
        self._producing.broken(upstream)
        self._subscribing.settling.broken(upstream)
        self._look_soon()

    def moved(self, number: int) -> None:
        """Somebody else may lead a partition now."""
        if self._links.stream is None:
            return
        try:
            home = self._links.home(number)
        except SandglassError:
            return  # whoever reads it is told, or its way breaks
        self._producing.moved(number, home)
        self._subscribing.moved(number, home)

    def changed(self, topic: Topic) -> None:
        """A topic may have more partitions, or have them in other logs."""
        if self._links.stream is not None:
            self._producing.changed(topic)
        self._subscribing.changed(topic)

    # --- time ---------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        if self._timer is None and self._links.stream is not None:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._look)

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._stop_looking()
        if self._links.stream is None:
            return
        now_ms = self._links.now_ms()
        self._producing.look(now_ms)
        self._subscribing.look(now_ms)
        self._end_unused(now_ms)
        is_waiting = self._producing.is_waiting or self._subscribing.is_waiting
        ways = self._links.upstreams.values()
        if is_waiting or any(each.draining_ms is not None for each in ways):
            self._look_soon()

    def _end_unused(self, now_ms: int) -> None:
        """
        A node that can't be reached, and of which nothing is wanted, is let go; so is one that
        goes down.
        """
        used = self._subscribing.used()
        for address, upstream in [*self._links.upstreams.items()]:
            is_used = upstream in used
            if upstream.draining_ms is not None:
                is_over = self._is_left(upstream, now_ms - upstream.draining_ms)
            else:
                is_gone = not upstream.is_open and upstream.settled.is_set()
                is_over = is_gone and not (is_used or upstream.outcomes or upstream.produces)
            if is_over and is_used:
                upstream.cut()
            elif is_over:
                del self._links.upstreams[address]
                self._links.spawn(upstream.close())

    def _is_left(self, upstream: Upstream, draining_ms: int) -> bool:
        """Is there nothing more to wait for, or has it been too long?"""
        is_awaited = upstream.is_owed or self._subscribing.is_held(upstream)
        return not is_awaited or draining_ms >= MOVE_MS_MAX
