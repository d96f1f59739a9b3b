"""
Produces of a session that go to several nodes, or to one that isn't known just now.

A request is cut by partition; each part goes to its partition's leader, in the order in which
they came. What was not sent yet waits for a leader, for `WAIT_MS` at most, and is refused then:
nothing was taken, and the client may repeat it. What was sent when its way broke has an unknown
result.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from sandglass.errors import BusyError, NotLeaderError, SandglassError, UnavailableError
from sandglass.rpc.relaying.upstream import Waiting
from sandglass.wire import status
from sandglass.wire.splitting import RequestPart
from sandglass.wire.v1 import broker_pb2 as pb

WAIT_MS: Final = 5000
RETRY_MS: Final = 200
WAITING_BYTES_MAX: Final = 8 * 1024 * 1024

Answer = Callable[[pb.ProduceReply], None]


class Gathering:
    """
    The answers to the parts of one request, until all have come.

    Invariant: `answer` is called once, after as many answers as there are parts.
    """

    def __init__(self, request_id: int, parts: list[RequestPart], answer: Answer) -> None:
        self._reply = pb.ProduceReply(request_id=request_id)
        self._left_count = self._total_count = len(parts)
        self._errors: list[SandglassError] = []
        self._answer = answer

    def part(self, part: RequestPart) -> Answer:
        """Who is told of a part."""

        def answered(reply: pb.ProduceReply) -> None:
            self._left_count -= 1
            if reply.HasField("error"):
                self._errors.append(status.from_wire(reply.error))
            else:
                for placed in reply.placed:
                    if part.places is not None:
                        placed.request_places[:] = part.places
                self._reply.placed.extend(reply.placed)
            if not self._left_count:
                self._tell()

        return answered

    def _tell(self) -> None:
        if self._errors:
            taken_count = self._total_count - len(self._errors)
            self._reply.error.CopyFrom(status.to_wire(self._joined(taken_count)))
            del self._reply.placed[:]
        self._answer(self._reply)

    def _joined(self, taken_count: int) -> SandglassError:
        """One error for several parts: the first, with what became of the others."""
        first = self._errors[0]
        if self._total_count == 1:
            return first
        is_unknown = taken_count > 0 or any(each.is_result_unknown for each in self._errors)
        return type(first)(
            f"{first.message} ({taken_count} of the request's {self._total_count} atoms were"
            " appended)",
            field=first.field,
            retry_after_ms=first.retry_after_ms,
            is_result_unknown=is_unknown,
        )


class Waitings:
    """What waits for a leader, by partition number, in line."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[Waiting]] = {}
        self._size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __iter__(self) -> Iterator[int]:
        return iter([*self._lines])

    def add(self, waiting: Waiting) -> None:
        """
        One more.

        Raises:
            BusyError: too much waits already.
        """
        size_bytes = len(waiting.request.batch)
        if self._size_bytes and self._size_bytes + size_bytes > WAITING_BYTES_MAX:
            raise BusyError(
                f"{self._size_bytes} bytes wait for the leaders of their partitions; the limit"
                f" is {WAITING_BYTES_MAX}",
                retry_after_ms=RETRY_MS,
            )
        self._size_bytes += size_bytes
        self._lines.setdefault(waiting.number, deque()).append(waiting)

    def has(self, number: int) -> bool:
        """Does anything wait for this partition's leader?"""
        return number in self._lines

    def take(self, number: int) -> list[Waiting]:
        """All that waits for a partition's leader, in line; it waits no longer."""
        found = self._lines.pop(number, ())
        self._size_bytes -= sum(len(each.request.batch) for each in found)
        return list(found)

    def expire(self, now_ms: int, why: Callable[[int], SandglassError]) -> None:
        """Refuses what has waited for too long; nothing of it was taken."""
        for number in self:
            late = [each for each in self._lines[number] if each.until_ms <= now_ms]
            if late:
                left = [each for each in self.take(number) if each.until_ms > now_ms]
                for each in left:
                    self.add(each)
                for each in late:
                    each.answered(refusal(each.request.request_id, why(number)))

    def clear(self) -> None:
        """Nobody waits any more."""
        self._lines.clear()
        self._size_bytes = 0


def refusal(request_id: int, error: SandglassError) -> pb.ProduceReply:
    """The answer to a produce that failed."""
    return pb.ProduceReply(request_id=request_id, error=status.to_wire(error))


def unknown(waiting: Waiting, address: str) -> pb.ProduceReply:
    """The answer to a produce that was sent, and will never be answered."""
    error = UnavailableError(
        f"node {address} did not answer a produce to partition {waiting.number} before the way"
        " to it broke, or another node began to lead: it may have been taken",
        is_result_unknown=True,
    )
    return refusal(waiting.request.request_id, error)


def may_go_elsewhere(reply: pb.ProduceReply) -> bool:
    """Was nothing taken, because the node leads no longer, or stops?"""
    if not reply.HasField("error"):
        return False
    error = status.from_wire(reply.error)
    is_passing = isinstance(error, NotLeaderError | UnavailableError)
    return is_passing and not error.is_result_unknown
