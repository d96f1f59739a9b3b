"""
Outcomes of what a relayed subscription was handed, on their way to whoever leads the partition.

1. An outcome whose partition has no leader just now, or one that has not answered yet what was
   claimed, waits for `WAIT_MS`. Then it is refused as `UNAVAILABLE`: the client may repeat it.
2. One that a leader didn't take since it leads no longer waits, too. So does one that was sent
   to a leader before, and was never answered, by way of another node perhaps: nobody knows
   whether it was taken.
3. Such a one goes to the next leader with the claim before it. That the lease is lost then says
   that it was taken before; unless the claim came too late, for then it is lost, or time may
   have ended the lease: then nobody knows.
4. Those of one partition go in the order in which they came.
5. Extensions don't wait: the lease stands while nobody leads, and a client extends again.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

from collections import deque
from collections.abc import Collection
from typing import Final

from sandglass.errors import (
    BusyError,
    LeaseLostError,
    NotFoundError,
    NotLeaderError,
    SandglassError,
    UnavailableError,
)
from sandglass.rpc.relaying.links import Downstream, Links
from sandglass.rpc.relaying.parted import Part, Parted
from sandglass.rpc.relaying.requests import RETRY_MS, WAIT_MS
from sandglass.rpc.relaying.upstream import UNANSWERED_COUNT_MAX, Sent, Upstream
from sandglass.wire import status
from sandglass.wire.v1 import broker_pb2 as pb

PASSING: Final = (BusyError, NotLeaderError, UnavailableError)
"""Reasons that are over in a moment."""


class Settling:
    """All calls run in the event loop's thread. `subscriptions` is by the client's id."""

    def __init__(self, links: Links, subscriptions: dict[int, Parted]) -> None:
        self._links = links
        self._subscriptions = subscriptions
        self._waiting: dict[tuple[int, int], deque[Sent]] = {}
        """By subscription and place, in line."""
        self._waiting_count = 0

    @property
    def is_waiting(self) -> bool:
        """Something has to be looked at again soon."""
        return bool(self._waiting)

    # --- what the client says -----------------------------------------------------------------

    def outcomes(self, parted: Parted, items: list[pb.Outcome]) -> None:
        """Outcomes that say the same of one delivery."""
        until_ms = self._links.now_ms() + WAIT_MS
        place = items[0].partition_number
        is_unsure = (place, items[0].token) in parted.unsure
        sents = [Sent(item, parted.id, until_ms, is_repeated=is_unsure) for item in items]
        part = self._open_part(parted, place)
        if part is not None and (parted.id, place) not in self._waiting:
            self._send(parted, part, sents)
        elif parted.failure is not None and isinstance(parted.failure, PASSING):
            self._answer_all(sents, parted.failure)
        elif place in parted.homeless or place in parted.by_place:
            for sent in sents:
                self._wait(sent, UnavailableError("too many outcomes wait for their leaders"))
        else:
            self._answer_all(sents, _lost())

    def extend(self, parted: Parted, item: pb.Extend) -> None:
        """The client wants to keep a lease."""
        place = item.partition_number
        parted.holdings.extended(
            place,
            item.token,
            lease_ms=item.lease_ms,
            begun_count=item.begun_count,
            now_ms=self._links.now_ms(),
        )
        part = self._open_part(parted, place)
        if part is None or (part.upstream is not None and not part.upstream.is_open):
            error: SandglassError = UnavailableError("the partition has no leader just now")
            if place not in parted.homeless and place not in parted.by_place:
                error = parted.failure or LeaseLostError("it is not read any more")
            self._links.answer(
                pb.ExtendReply(
                    request_id=item.request_id, token=item.token, error=status.to_wire(error)
                )
            )
        elif part.upstream is None:
            self._of_stream().extend(item, part.id)
        else:
            item.subscription_id = part.id
            part.upstream.extend(item)

    def away(self) -> None:
        """The client has gone: what is unanswered it says again if it comes back."""
        self._waiting.clear()
        self._waiting_count = 0

    # --- what leaders say ---------------------------------------------------------------------

    def settled(self, upstream: Upstream, reply: pb.OutcomeReply) -> None:
        """A node has answered an outcome."""
        sent = upstream.outcomes.pop(reply.request_id, None)
        if sent is not None:
            error = status.from_wire(reply.error) if reply.HasField("error") else None
            self._settled(sent, error)

    def extended(self, upstream: Upstream, reply: pb.ExtendReply) -> None:
        """A node has answered an extension."""
        if upstream.extends.pop(reply.request_id, None) is not None:
            self._links.answer(reply)

    def broken(self, upstream: Upstream) -> None:
        """The way to a node broke: nothing comes of extensions, outcomes wait."""
        error = UnavailableError(f"the way to node {upstream.address} broke")
        extends, upstream.extends = upstream.extends, {}
        for request_id, token in extends.items():
            self._links.answer(
                pb.ExtendReply(request_id=request_id, token=token, error=status.to_wire(error))
            )

    def opened(self, parted: Parted, part: Part, late: Collection[tuple[int, int]]) -> None:
        """A part is there, and has answered what was claimed; `late` is what came too late."""
        for place in sorted(part.places):
            line = self._waiting.get((parted.id, place), ())
            for sent in [each for each in line if (place, each.item.token) in late]:
                self._drop(sent)
                self._answer(sent, _lost(is_result_unknown=sent.is_repeated))
        self.look()

    def put_off(self, part: Part, places: Collection[int]) -> None:
        """These partitions are none of a part any more: what it hasn't answered waits."""
        upstream = part.upstream
        if upstream is None:
            return  # it answers all it was sent
        for request_id, sent in [*upstream.outcomes.items()]:
            item = sent.item
            if item.subscription_id == part.id and item.partition_number in places:
                del upstream.outcomes[request_id]
                self._wait_on(sent)
        upstream.answered()

    def put_off_all(self, upstream: Upstream) -> None:
        """The session at a node began anew: nothing that it was sent will be answered."""
        sents, upstream.outcomes = [*upstream.outcomes.values()], {}
        for sent in sents:
            self._wait_on(sent)
        upstream.answered()

    def failed(self, parted: Parted, error: SandglassError) -> None:
        """A subscription is over; what waited for its leaders is not taken."""
        for key in [key for key in self._waiting if key[0] == parted.id]:
            for sent in self._take(key):
                is_known = not isinstance(error, PASSING)
                is_unknown = sent.is_repeated
                self._answer(
                    sent, _lost(is_result_unknown=is_unknown) if is_known else _away(sent)
                )

    # --- time ---------------------------------------------------------------------------------

    def look(self) -> None:
        """What waits may have found its leader, or has waited for too long."""
        now_ms = self._links.now_ms()
        for key in [*self._waiting]:
            parted = self._subscriptions.get(key[0])
            part = None if parted is None else self._open_part(parted, key[1])
            if parted is not None and part is not None:
                self._send_waiting(parted, part, key, now_ms)
            for sent in [
                each for each in self._waiting.get(key, ()) if each.until_ms <= now_ms
            ]:
                self._drop(sent)
                self._answer(sent, _away(sent))

    def _send_waiting(
        self, parted: Parted, part: Part, key: tuple[int, int], now_ms: int
    ) -> None:
        line = self._waiting[key]
        if line[0].not_before_ms <= now_ms:
            # One by one: what is refused stands in line again, behind the others.
            for sent in self._take(key):
                self._send(parted, part, [sent])

    # --- private ------------------------------------------------------------------------------

    def _open_part(self, parted: Parted, place: int) -> Part | None:
        part = parted.by_place.get(place)
        return part if part is not None and part.is_open else None

    def _send(self, parted: Parted, part: Part, sents: list[Sent]) -> None:
        if part.upstream is None:
            by_item = {id(sent.item): sent for sent in sents}

            def answered(item: pb.Outcome, error: SandglassError | None) -> None:
                self._settled(by_item[id(item)], error)

            self._of_stream().settle([sent.item for sent in sents], part.id, answered)
            return
        for sent in sents:
            sent.item.subscription_id = part.id
            if not sent.item.request_id:
                self._is_taken(parted, sent.item)  # nobody will say so
            part.upstream.settle(sent)

    def _settled(self, sent: Sent, error: SandglassError | None) -> None:
        if isinstance(error, NotFoundError) and error.field == "subscription_id":
            error = self._ended(sent, error)
        if isinstance(error, NotLeaderError | UnavailableError):
            sent.is_repeated = sent.is_repeated or error.is_result_unknown
            sent.not_before_ms = self._links.now_ms() + RETRY_MS
            self._wait(sent, error)
            return
        parted = self._subscriptions.get(sent.subscription_id)
        if sent.is_repeated and isinstance(error, LeaseLostError):
            error = self._lost_again(parted, sent.item, error)
        if error is None and parted is not None:
            self._is_taken(parted, sent.item)
        self._answer(sent, error)

    def _lost_again(
        self, parted: Parted | None, item: pb.Outcome, error: LeaseLostError
    ) -> LeaseLostError | None:
        """None if the first one ended the lease; unknown if time may have."""
        now_ms = self._links.now_ms()
        if parted is None or not parted.holdings.has_run_out(
            item.partition_number, item.token, now_ms
        ):
            return None
        return LeaseLostError(error.message, is_result_unknown=True)

    def _ended(self, sent: Sent, error: SandglassError) -> SandglassError:
        """The node has ended the part, and says so behind this answer; or it was left, and has
        no lease any more."""
        parted = self._subscriptions.get(sent.subscription_id)
        part = None if parted is None else parted.by_place.get(sent.item.partition_number)
        if part is not None and part.is_over:
            return LeaseLostError(error.message)
        return NotLeaderError(error.message)

    def _is_taken(self, parted: Parted, item: pb.Outcome) -> None:
        parted.holdings.settled(item.partition_number, item.token, item.places)

    def _wait_on(self, sent: Sent) -> None:
        """It was sent, and will not be answered."""
        sent.is_repeated = True
        self._wait(sent, _away(sent))

    def _wait(self, sent: Sent, error: SandglassError) -> None:
        """It waits for a leader; or is refused if it has waited for long, or too much does."""
        if self._links.stream is None:
            return
        is_late = sent.until_ms <= self._links.now_ms()
        if is_late or self._waiting_count >= UNANSWERED_COUNT_MAX:
            self._answer(sent, error)
            return
        self._waiting_count += 1
        self._waiting.setdefault(_key(sent), deque()).append(sent)
        self._links.look_soon()

    def _take(self, key: tuple[int, int]) -> deque[Sent]:
        line = self._waiting.pop(key)
        self._waiting_count -= len(line)
        return line

    def _drop(self, sent: Sent) -> None:
        line = self._waiting[_key(sent)]
        line.remove(sent)
        self._waiting_count -= 1
        if not line:
            del self._waiting[_key(sent)]

    def _answer_all(self, sents: list[Sent], error: SandglassError) -> None:
        for sent in sents:
            self._answer(sent, error)

    def _answer(self, sent: Sent, error: SandglassError | None) -> None:
        request_id = sent.item.request_id
        if error is not None:
            self._links.answer(
                pb.OutcomeReply(request_id=request_id, error=status.to_wire(error))
            )
        elif request_id:
            self._links.answer(pb.OutcomeReply(request_id=request_id))

    def _of_stream(self) -> Downstream:
        assert self._links.stream is not None, "the client's items come over its stream"
        return self._links.stream


def _key(sent: Sent) -> tuple[int, int]:
    return sent.subscription_id, sent.item.partition_number


def _lost(*, is_result_unknown: bool = False) -> LeaseLostError:
    return LeaseLostError(
        "the partition has changed its leader since the delivery",
        is_result_unknown=is_result_unknown,
    )


def _away(sent: Sent) -> UnavailableError:
    return UnavailableError(
        "the partition has no leader just now", is_result_unknown=sent.is_repeated
    )
