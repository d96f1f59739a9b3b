"""
A delivery and its lease, as the client holds them.

Places count the messages of a delivery from 0. An outcome is noted here at once and goes out
with the next frame; neighbouring places become one range, so that acknowledging a thousand
messages one after the other is one outcome of two numbers.

Outcomes may be noted by any thread: a consumer's handlers need not run where the session does.
All else is the session's.

Invariants: `open_count` is how many of `outcomes` are 0; `begun_count` never goes back.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Final

from sandglass.core import limits, offset
from sandglass.errors import ConflictError, InternalError, InvalidError, LeaseLostError
from sandglass.wire.v1 import broker_pb2

if TYPE_CHECKING:
    from sandglass.client.subscription import Subscription

ACK: Final = 1
NACK: Final = 2
RELEASE: Final = 3
DEAD: Final = 4
LOST: Final = 5
"""No outcome: it is somebody else's, or was settled without us."""

_NAMES: Final = ("open", "acknowledged", "nacked", "released", "declared dead", "lost")


@dataclass(frozen=True, slots=True)
class Noted:
    """Outcomes of one kind that wait for the next frame: `places` as pairs (first, count)."""

    kind: int
    delay_ms: int | None
    reason: str
    places: list[int]


class Lease:
    """
    Messages that were handed out together, and what has become of each.

    `on_noted` is called when the first outcome is noted since `take` was called, by whoever
    notes it. `taken_count` is how many outcomes were taken so far. `ends_ms` is monotonic,
    `lease_ms` what the broker gave at first. `reported_count` is how far the broker
    knows the consumer to be. `refusal` is of an outcome that came too late, and of which
    nobody has been told. Once a lease `is_lost`, no outcome is taken; once it `is_run_out`,
    no message of it is begun on. One that `is_unsure` is claimed, and no leader has said yet
    that it is held.
    """

    __slots__ = (
        "_lock",
        "acks",
        "attempt",
        "batch",
        "begun_count",
        "count",
        "credited_bytes",
        "credited_count",
        "dead_letter",
        "ends_ms",
        "generation",
        "is_lost",
        "is_noted",
        "is_run_out",
        "is_unsure",
        "lease_ms",
        "on_noted",
        "open_count",
        "others",
        "outcomes",
        "partition_number",
        "refusal",
        "releases",
        "reported_count",
        "reported_ms",
        "run_due_ms",
        "run_first_index",
        "run_produced_ms",
        "run_starts",
        "subscription",
        "taken_count",
        "token",
        "waiters",
    )

    def __init__(
        self,
        delivery: broker_pb2.Delivery,
        *,
        subscription: "Subscription",
        now_ms: int,
        on_noted: Callable[["Lease"], None],
    ) -> None:
        self.subscription = subscription
        self.partition_number = delivery.partition_number
        self.token = delivery.token
        self.attempt = delivery.attempt
        self.releases = delivery.releases
        self.generation = delivery.generation
        self.batch = delivery.batch
        self.count = delivery.count
        self.run_due_ms = list(delivery.run_due_ms)
        self.run_first_index = list(delivery.run_first_index)
        self.run_produced_ms = list(delivery.run_produced_ms)
        self.run_starts = list(accumulate(delivery.run_count, initial=0))
        self.dead_letter = delivery.dead_letter if delivery.HasField("dead_letter") else None
        self.lease_ms = delivery.lease_ms
        self.ends_ms = now_ms + delivery.lease_ms
        self.on_noted = on_noted
        self._lock = Lock()
        self.taken_count = 0
        self.open_count = self.count
        self.outcomes = bytearray(self.count)
        self.begun_count = 0
        self.reported_count = 0
        self.reported_ms = 0
        self.credited_count = 0
        self.credited_bytes = 0
        self.is_lost = False
        self.is_run_out = False
        self.is_unsure = False
        self.is_noted = False
        self.acks: list[int] = []
        self.others: list[Noted] = []
        self.waiters: list[object] = []
        self.refusal: LeaseLostError | None = None

    @property
    def partition(self) -> str:
        """The id of the partition."""
        return self.subscription.partitions[self.partition_number]

    def run_of(self, place: int) -> int:
        """Which run the message at `place` belongs to."""
        return bisect_right(self.run_starts, place) - 1

    def index_of(self, place: int) -> int:
        """Its place in the order of production."""
        run = self.run_of(place)
        return self.run_first_index[run] + place - self.run_starts[run]

    def offset_of(self, place: int) -> int:
        """The offset of the message at `place`: due time and index in one number."""
        return offset.make(self.run_due_ms[self.run_of(place)], self.index_of(place))

    def begin(self, place: int) -> bool:
        """Hands out the message at `place`, unless it isn't the consumer's any more."""
        with self._lock:
            if self.is_lost or self.is_run_out or self.outcomes[place]:
                return False
            self.begun_count = place + 1
            return True

    def settle(
        self, place: int, kind: int, delay_ms: int | None = None, reason: str = ""
    ) -> None:
        """
        Notes the outcome of one message. The same outcome twice is one.

        Raises:
            LeaseLostError: the lease is gone; the message is, or will be, somebody else's.
            ConflictError: it has another outcome already.
            InvalidError: the reason is too long.
        """
        if reason:
            check_reason(reason)
        with self._lock:
            earlier = self.outcomes[place]
            if earlier or self.is_lost:
                if earlier == kind:
                    return
                raise self._refusal(place, earlier)
            self.outcomes[place] = kind
            self.open_count -= 1
            is_first = self._note(kind, delay_ms, reason, place, 1)
        if is_first:
            self.on_noted(self)

    def settle_open(self, kind: int, delay_ms: int | None = None, reason: str = "") -> None:
        """
        Notes one outcome for all messages that have none.

        Raises:
            LeaseLostError: there are some, and the lease is gone.
            InvalidError: the reason is too long.
        """
        check_reason(reason)
        with self._lock:
            if self.open_count and self.is_lost:
                raise LeaseLostError(
                    f"{self.open_count} messages of partition {self.partition} are no longer"
                    " leased to this consumer"
                )
            is_first = self._settle_open(0, kind, delay_ms, reason)
        if is_first:
            self.on_noted(self)

    def check_open(self, place: int | None = None) -> None:
        """
        Raises:
            ConflictError: the message at `place`, or without one every message, is settled.
        """
        with self._lock:
            if place is not None and self.outcomes[place]:
                raise self._refusal(place, self.outcomes[place])
            if not self.open_count:
                raise ConflictError(f"all {self.count} messages have an outcome already")

    def release_unbegun(self) -> None:
        """Gives back what was not handed out; nothing more of it will be."""
        with self._lock:
            is_first = not self.is_lost and self._settle_open(self.begun_count, RELEASE, 0, "")
        if is_first:
            self.on_noted(self)

    def unresolved(self, sent: Sequence[list[int]]) -> list[int]:
        """
        Places, as pairs, of which nobody knows yet what becomes of them: open, or with an
        outcome that was noted, or is on its way as `sent` says.
        """
        with self._lock:
            marks = self.outcomes.translate(_IS_OPEN)
            if self.is_run_out:
                marks[self.begun_count :] = bytes(self.count - self.begun_count)
            for places in (*sent, self.acks, *[noted.places for noted in self.others]):
                for first, count in zip(places[::2], places[1::2], strict=True):
                    marks[first : first + count] = b"\1" * count
        return _marked(marks)

    def renew(self, token: int, held: Sequence[int], *, ends_ms: int) -> None:
        """The lease goes on under another token, for places `held`, as pairs."""
        marks = bytearray(self.count)
        for first, count in zip(held[::2], held[1::2], strict=True):
            marks[first : first + count] = b"\1" * count
        with self._lock:
            self.token, self.ends_ms = token, ends_ms
            self.reported_count = 0
            place = self.outcomes.find(0)
            while place >= 0:
                if not marks[place]:
                    self.outcomes[place] = LOST
                    self.open_count -= 1
                place = self.outcomes.find(0, place + 1)

    def take(self) -> list[Noted]:
        """What was noted since the last time."""
        with self._lock:
            self.is_noted = False
            self.taken_count = self.count - self.open_count
            noted, self.others = self.others, []
            if self.acks:
                noted.insert(0, Noted(ACK, 0, "", self.acks))
                self.acks = []
            return noted

    def _settle_open(self, first: int, kind: int, delay_ms: int | None, reason: str) -> bool:
        is_first = False
        start = self.outcomes.find(0, first)
        while start >= 0:
            end = start + 1
            while end < self.count and not self.outcomes[end]:
                end += 1
            self.outcomes[start:end] = bytes((kind,)) * (end - start)
            self.open_count -= end - start
            is_first |= self._note(kind, delay_ms, reason, start, end - start)
            start = self.outcomes.find(0, end)
        return is_first

    def _note(
        self, kind: int, delay_ms: int | None, reason: str, first: int, count: int
    ) -> bool:
        """Whether it is the first since `take`."""
        if kind == ACK:
            places = self.acks
        else:
            last = self.others[-1] if self.others else None
            if last is None or (last.kind, last.delay_ms, last.reason) != (
                kind,
                delay_ms,
                reason,
            ):
                last = Noted(kind, delay_ms, reason, [])
                self.others.append(last)
            places = last.places
        if places and places[-2] + places[-1] == first:
            places[-1] += count
        else:
            places += (first, count)
        is_first, self.is_noted = not self.is_noted, True
        return is_first

    def _refusal(self, place: int, earlier: int) -> ConflictError:
        if earlier and earlier != LOST:
            return ConflictError(f"{self._name(place)} was {_NAMES[earlier]} already")
        return LeaseLostError(f"{self._name(place)} is no longer leased to this consumer")

    def _name(self, place: int) -> str:
        topic = self.subscription.request.topic
        return f"message {self.index_of(place)} of {topic}/{self.partition}"


_IS_OPEN: Final = b"\1" + bytes(255)


def _marked(marks: bytes | bytearray) -> list[int]:
    """The stretches of ones, as pairs of first and count."""
    pairs: list[int] = []
    first = marks.find(1)
    while first >= 0:
        end = marks.find(0, first)
        end = len(marks) if end < 0 else end
        pairs += (first, end - first)
        first = marks.find(1, end)
    return pairs


def check_claimed(claimed: broker_pb2.Claimed, lease: "Lease") -> None:
    """
    Whether an answer to a claim of this lease is one.

    Raises:
        InternalError: the node is none of ours, or has a defect.
    """
    end = 0
    is_one = len(claimed.places) % 2 == 0
    for first, count in zip(claimed.places[::2], claimed.places[1::2], strict=False):
        is_one = is_one and first >= end and count > 0
        end = first + count
    if not is_one or end > lease.count:
        raise InternalError(f"the node granted places that a claim of {lease.count} hasn't")


def check_delivery(delivery: broker_pb2.Delivery, partition_count: int) -> None:
    """
    Whether a delivery is one, as far as its columns say; its messages are parsed when they are
    looked at. Of a topic with so many partitions.

    Raises:
        InternalError: the node is none of ours, or has a defect.
    """
    dues, run_count = delivery.run_due_ms, len(delivery.run_count)
    columns = (dues, delivery.run_first_index, delivery.run_produced_ms)
    is_one = (
        delivery.partition_number < partition_count
        and all(len(column) == run_count for column in columns)
        # A message takes two bytes at least: a count alone makes nobody take memory for it.
        and sum(delivery.run_count) == delivery.count <= len(delivery.batch) // 2
        and delivery.count > 0
        and all(map(_are_times, (dues, delivery.run_produced_ms)))
    )
    if is_one and delivery.HasField("dead_letter"):
        sizes = [len(each) for each in delivery.dead_letter.run_offset]
        is_one = sizes == [offset.OFFSET_BYTES] * run_count
    if not is_one:
        raise InternalError(
            f"the node sent a delivery of {delivery.count} messages whose columns don't fit it"
        )


def _are_times(column: Sequence[int]) -> bool:
    return min(column) >= 0 and max(column) <= limits.DUE_MS_MAX


def check_reason(reason: str) -> None:
    """
    Raises:
        InvalidError: longer than the limit, or no UTF-8.
    """
    try:
        size_bytes = len(reason.encode())
    except UnicodeEncodeError as error:
        raise InvalidError("reason is text that UTF-8 cannot hold", field="reason") from error
    if size_bytes > limits.REASON_BYTES_MAX:
        raise InvalidError(
            f"reason is {size_bytes} bytes; the limit is {limits.REASON_BYTES_MAX}",
            field="reason",
        )
