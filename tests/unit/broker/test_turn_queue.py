"""What waits for a turn, from its coming in to its answer."""

from collections.abc import Iterator

import pytest

from sandglass.adapters.memory_log import MemoryLog
from sandglass.broker.log_writer import LogWriter
from sandglass.broker.turn_queue import GATHER_BYTES_MAX, TurnQueue
from sandglass.core.message import Batch, Placed
from sandglass.core.record import Head, PromiseExact, Record
from sandglass.errors import SandglassError, UnavailableError
from sandglass.telemetry import Counts

RECORD = Record(1, Head(1, 0, 0, 0, 0), [PromiseExact(1)])
ERROR = UnavailableError("the node has stopped")


@pytest.fixture
def queue() -> Iterator[TurnQueue]:
    writer = LogWriter(MemoryLog(), Counts(), lambda: 0, lambda: None)
    yield TurnQueue(writer)
    writer.close()


class Answers:
    """What each who waits is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def record(self, name: str, error: SandglassError | None) -> None:
        self.told.append((name, error is None))

    def request(self, name: str, placed: Placed | None, error: SandglassError | None) -> None:
        assert (placed is None) != (error is None)
        self.told.append((name, error is None))


def _batch(size_bytes: int = 1) -> Batch:
    return Batch([1], [0], [b"x" * size_bytes], 1, size_bytes, is_delay=False)


def _land_all(queue: TurnQueue) -> None:
    queue.landing = queue.writer.inbox.take(len(queue.writer.inbox.waiting))
    for waiting in queue.take_landed():
        queue.tell(waiting, None)


def _produce(queue: TurnQueue, answers: Answers, count: int, size_bytes: int = 1) -> None:
    for number in range(count):
        name = f"request {number}"
        queue.put(
            1,
            "master",
            _batch(size_bytes),
            lambda *told, name=name: answers.request(name, *told),
        )


def _admit_all(queue: TurnQueue) -> None:
    for run in queue.take_runs():
        queue.add_run(run, RECORD, Placed("P", 1, [0], [run.count]))


def test_bytes_count_from_coming_in_to_the_answer(queue: TurnQueue) -> None:
    _produce(queue, Answers(), 2, size_bytes=30)
    seen = [queue.size_bytes]

    _admit_all(queue)
    seen.append(queue.size_bytes)
    queue.add(RECORD, None, 5)
    seen.append(queue.size_bytes)
    _land_all(queue)

    assert [60, 60, 65, 0] == [*seen, queue.size_bytes]


def test_something_waits_until_the_log_has_it(queue: TurnQueue) -> None:
    waits = [bool(queue)]
    _produce(queue, Answers(), 1)
    waits.append(bool(queue))
    _admit_all(queue)
    waits.append(bool(queue))
    queue.landing = queue.writer.inbox.take(1)
    waits.append(bool(queue))

    assert [False, True, True, False] == waits


def test_more_requests_are_waited_for_while_fewer_came_than_were_answered(
    queue: TurnQueue,
) -> None:
    answers = Answers()
    _produce(queue, answers, 3)
    _admit_all(queue)
    _land_all(queue)
    lacks = [queue.lacks_requests()]
    for _ in range(3):
        _produce(queue, answers, 1)
        lacks.append(queue.lacks_requests())

    assert [False, True, True, False] == lacks


def test_no_more_are_waited_for_beside_a_record_or_what_is_worth_a_turn(
    queue: TurnQueue,
) -> None:
    queue.told_count = 5
    _produce(queue, Answers(), 1, size_bytes=GATHER_BYTES_MAX - 1)
    lacks = [queue.lacks_requests()]
    _produce(queue, Answers(), 1, size_bytes=1)
    lacks.append(queue.lacks_requests())
    queue.take_runs()
    _produce(queue, Answers(), 1)
    queue.add(RECORD, None, 0)

    assert [True, False, False] == [*lacks, queue.lacks_requests()]


def test_whoever_waits_is_refused_once_at_the_end(queue: TurnQueue) -> None:
    answers = Answers()
    for name in ("lands", "is synced", "is queued"):
        queue.add(RECORD, lambda error, name=name: answers.record(name, error), 5)
    queue.landing = queue.writer.inbox.take(1)
    queue.writer.syncing = queue.writer.inbox.take(1)
    _produce(queue, answers, 1)

    for _ in range(2):
        queue.refuse_all(ERROR)

    names = ["lands", "is synced", "is queued", "request 0"]
    assert [(name, False) for name in names] == answers.told
    assert queue.size_bytes == 0
    assert not queue
