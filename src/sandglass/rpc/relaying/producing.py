"""
Produces of a session whose partitions several nodes lead, or nobody knows who.

A request is cut by partition, and each part goes to its partition's leader, in the order in
which they came. Those that can't be sent just now wait; `requests` says for how long.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

from collections.abc import Callable

from sandglass.core import limits
from sandglass.core.message import Placed
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import BusyError, NotLeaderError, SandglassError, UnavailableError
from sandglass.rpc.relaying.links import HERE, Links
from sandglass.rpc.relaying.requests import (
    WAIT_MS,
    Gathering,
    Waitings,
    may_go_elsewhere,
    refusal,
    unknown,
)
from sandglass.rpc.relaying.upstream import Upstream, Waiting
from sandglass.surface.produce import produce_nowait
from sandglass.wire import convert
from sandglass.wire.splitting import split_request
from sandglass.wire.v1 import broker_pb2 as pb


class Producing:
    """All calls run in the event loop's thread."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._waitings = Waitings()

    @property
    def is_waiting(self) -> bool:
        """Something has to be looked at again soon."""
        return bool(self._waitings)

    def produce(self, request: pb.ProduceRequest) -> bool:
        """
        Takes a request, and sees to its answer; false if all of it concerns this node alone.

        Raises:
            SandglassError: nothing was sent or appended.
        """
        topic = self._links.broker.catalog.topic(request.topic)
        if self._links.is_own(topic):
            return False
        loops = self._links.broker.loops
        if all(loops.is_here(ref.number) for ref in topic.partitions):
            return False
        if request.partition:
            ref = self._links.broker.catalog.partition(topic, request.partition)
            self._send(ref, request, self._links.answer)
            return True
        catalog = self._links.broker.catalog
        parts = split_request(
            request, topic, lambda: topic.partitions.index(catalog.spread(topic))
        )
        gathering = Gathering(request.request_id, parts, self._links.answer)
        for part in parts:
            ref = topic.partitions[part.place]
            self._send(ref, part.request, gathering.part(part))
        return True

    def _send(
        self,
        ref: PartitionRef,
        request: pb.ProduceRequest,
        answer: Callable[[pb.ProduceReply], None],
    ) -> None:
        client_id, stream = request.request_id, self._links.stream

        def answered(reply: pb.ProduceReply) -> None:
            reply.request_id = client_id
            if self._links.stream is stream:
                answer(reply)

        until_ms = self._links.now_ms() + WAIT_MS
        request.request_id = next(self._links.ids)
        self._send_or_wait(Waiting(request, ref.number, until_ms, answered))

    def changed(self, topic: Topic) -> None:
        """A topic's partitions may be in other logs, under other numbers."""
        for number in self._waitings:
            self.send_waiting(number)

    def _renew(self, waiting: Waiting) -> None:
        """The number of its partition may be another than when it came."""
        topic = self._links.broker.loops.topic(waiting.request.topic)
        for ref in topic.partitions if topic is not None else ():
            if ref.id == waiting.request.partition:
                waiting.number = ref.number

    def _send_or_wait(self, waiting: Waiting) -> None:
        if self._waitings.has(waiting.number) or not self._sent(waiting):
            try:
                self._waitings.add(waiting)
            except BusyError as error:
                waiting.answered(refusal(waiting.request.request_id, error))
                return
            self._links.look_soon()

    def _sent(self, waiting: Waiting) -> bool:
        """False if there is no way to the leader just now."""
        try:
            home = self._links.home(waiting.number)
            if home == HERE:
                self._append(waiting)
                return True
        except NotLeaderError:
            return False
        except UnavailableError as error:
            return not self._is_refused(waiting, error)
        except SandglassError as error:
            waiting.answered(refusal(waiting.request.request_id, error))
            return True
        upstream = self._links.upstream(home)
        if not upstream.is_open or upstream.draining_ms is not None:
            return False
        if upstream.is_full:
            error = BusyError(
                f"node {home} takes what it is sent more slowly than it comes",
                retry_after_ms=limits.BUSY_RETRY_MS,
            )
            waiting.answered(refusal(waiting.request.request_id, error))
            return True
        upstream.produce(waiting)
        return True

    def _is_refused(self, waiting: Waiting, error: UnavailableError) -> bool:
        """Can a leader be waited for? Not for this node's own reasons to take nothing."""
        if not self._links.broker.loops.is_here(waiting.number):
            return True
        waiting.answered(refusal(waiting.request.request_id, error))
        return False

    def _append(self, waiting: Waiting) -> None:
        request_id = waiting.request.request_id

        def told(placed: list[Placed], error: SandglassError | None) -> None:
            if error is not None:
                waiting.answered(refusal(request_id, error))
                return
            wires = map(convert.placed_to_wire, placed)
            waiting.answered(pb.ProduceReply(request_id=request_id, placed=wires))

        produce_nowait(self._links.broker, waiting.request, told)

    def send_waiting(self, number: int) -> None:
        """A partition may have found its leader."""
        for waiting in self._waitings.take(number):
            self._renew(waiting)
            self._send_or_wait(waiting)

    def answered(self, upstream: Upstream, reply: pb.ProduceReply) -> None:
        """A node has answered."""
        waiting = upstream.produces.pop(reply.request_id, None)
        if waiting is None:
            return
        if may_go_elsewhere(reply) and self._links.now_ms() < waiting.until_ms:
            try:
                self._waitings.add(waiting)
                self._links.look_soon()
                return
            except BusyError:
                pass
        waiting.answered(reply)

    def moved(self, number: int, home: str) -> None:
        """Somebody else leads a partition: what was sent elsewhere may never be answered."""
        for upstream in self._links.upstreams.values():
            if upstream.address == home:
                continue
            for request_id, waiting in [*upstream.produces.items()]:
                if waiting.number == number:
                    del upstream.produces[request_id]
                    waiting.answered(unknown(waiting, upstream.address))
        self.send_waiting(number)

    def broken(self, upstream: Upstream) -> None:
        """The way to a node broke."""
        sent, upstream.produces = upstream.produces, {}
        for waiting in sent.values():
            waiting.answered(unknown(waiting, upstream.address))

    def look(self, now_ms: int) -> None:
        """What waits may have found its leader, or has waited for too long."""
        for number in self._waitings:
            self.send_waiting(number)
        self._waitings.expire(now_ms, self._why)

    def away(self) -> None:
        """The client has gone, and takes what it sent for unknown."""
        self._waitings.clear()

    def _why(self, number: int) -> SandglassError:
        try:
            home = self._links.home(number)
        except SandglassError as error:
            return error
        upstream = self._links.upstreams.get(home)
        trouble = "no answer" if upstream is None else upstream.trouble
        return UnavailableError(
            f"partition {number} is led by the node at {home}, which is not reached: {trouble}",
            retry_after_ms=limits.BUSY_RETRY_MS,
        )
