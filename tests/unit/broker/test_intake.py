"""What waits for a turn is admitted together, and told apart."""

import asyncio

import pytest

from sandglass.broker.intake import Intake, Run
from sandglass.core import limits
from sandglass.core.dispatch import Moment
from sandglass.core.message import Batch, Placed
from sandglass.core.partition import Partition
from sandglass.core.record import Record
from sandglass.core.view import View
from sandglass.errors import BusyError, InternalError, SandglassError
from tests.unit.broker.shell import Answer, Shell, batch_of, running


def runs_of(*requests: tuple[int, str, bytes]) -> list[Run]:
    """Requests of one message each, by partition and channel."""
    intake = Intake()
    for partition, channel, value in requests:
        intake.put(partition, channel, batch_of(value), lambda _placed, _error: None)
    return intake.take()


def test_requests_for_now_share_a_row_and_each_is_told_its_own_places() -> None:
    intake, answers = Intake(), [Answer() for _ in range(3)]
    sizes = (1, 3, 2)
    for answer, count in zip(answers, sizes, strict=True):
        intake.put(7, "c", batch_of(*[b"x"] * count), answer.take_placed)

    (run,) = intake.take()
    batch = run.batch()
    run.tell(Placed("p", 10, [5000], [6]))

    assert (run.partition, run.channel) == (7, "c")
    assert (batch.counts, batch.dues, batch.count) == ([6], [0], 6)
    assert batch.bodies == [batch_of(*[b"x"] * 6).bodies[0]]
    assert [answer.placed for answer in answers] == [
        Placed("p", 10, [5000], [1]),
        Placed("p", 11, [5000], [3]),
        Placed("p", 14, [5000], [2]),
    ]
    assert [answer.told for answer in answers] == [[None]] * 3


def test_due_times_stay_with_their_requests() -> None:
    """Neighbours of one due time share a row; the others have rows of their own."""
    intake, answers = Intake(), [Answer() for _ in range(4)]
    for answer, due_ms in zip(answers, (0, 9000, 9000, 0), strict=True):
        intake.put(0, "c", batch_of(b"x", due_ms=due_ms), answer.take_placed)

    (run,) = intake.take()
    batch = run.batch()
    run.tell(Placed("p", 1, [5000, 9000, 5000], [1, 2, 1]))

    assert (batch.counts, batch.dues) == ([1, 2, 1], [0, 9000, 0])
    assert [answer.placed for answer in answers] == [
        Placed("p", 1, [5000], [1]),
        Placed("p", 2, [9000], [1]),
        Placed("p", 3, [9000], [1]),
        Placed("p", 4, [5000], [1]),
    ]


def test_a_run_ends_with_its_channel_and_its_partition() -> None:
    runs = runs_of(
        (0, "a", b"1"), (0, "a", b"2"), (1, "a", b"3"), (0, "b", b"4"), (0, "a", b"5")
    )

    found = [(run.partition, run.channel, run.count) for run in runs]
    assert found == [(0, "a", 2), (0, "b", 1), (0, "a", 1), (1, "a", 1)]


def test_delays_and_due_times_are_no_one_batch() -> None:
    intake = Intake()
    for batch in (batch_of(b"1", due_ms=5), batch_of(b"2", delay_ms=5)):
        intake.put(0, "c", batch, lambda _placed, _error: None)

    assert [run.is_delay for run in intake.take()] == [False, True]


def test_a_run_holds_what_a_row_may_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    ten = [(0, "c", bytes(100))] * 10
    each = len(batch_of(bytes(100)).bodies[0])

    monkeypatch.setattr(limits, "ROW_MESSAGE_COUNT_MAX", 5)
    by_count = [run.count for run in runs_of(*ten)]
    monkeypatch.setattr(limits, "ROW_MESSAGE_COUNT_MAX", 1000)
    monkeypatch.setattr(limits, "ROW_BYTES_MAX", 4 * each)
    by_size = [run.count for run in runs_of(*ten)]

    assert by_count == [5, 5]
    assert by_size == [4, 4, 2]


def test_what_is_taken_waits_no_more() -> None:
    intake = Intake()
    intake.put(0, "c", batch_of(b"x"), lambda _placed, _error: None)

    assert intake.request_count == 1
    assert len(intake.take()) == 1
    assert (intake.request_count, intake.take()) == (0, [])


# --- in the loop ------------------------------------------------------------------------------


async def test_requests_of_a_turn_are_one_record_and_come_in_their_order(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.quiet()
    shell.log.hold_sync()
    shell.produce_nowait(b"opens the turn")
    await shell.until(lambda: shell.loop._writer.is_syncing)
    before = shell.loop.stats.record_count

    answers = [shell.produce_nowait(b"%d" % number) for number in range(50)]
    shell.log.release_sync()
    await shell.until(lambda: all(answer.told for answer in answers))
    await shell.until(lambda: len(consumer.values) == 51)

    assert shell.loop.stats.record_count - before <= 2  # a promise may be the other
    assert consumer.values[1:] == [b"%d" % number for number in range(50)]
    indexes = [answer.placed.first_index for answer in answers if answer.placed is not None]
    assert indexes == list(range(indexes[0], indexes[0] + 50))


async def _answered_together(shell: Shell, count: int) -> None:
    """So many requests have their answers, all by one sync."""
    answers = [shell.produce_nowait(b"first") for _ in range(count)]
    await shell.until(lambda: all(answer.told for answer in answers))
    assert shell.loop._queue.told_count == count
    await shell.quiet()


async def test_those_who_were_answered_together_share_the_next_sync(shell: Shell) -> None:
    """Their requests come one a pass of the event loop, and the turn waits for them."""
    await _answered_together(shell, 5)
    before = shell.loop.stats.sync_count

    answers: list[Answer] = []
    for _ in range(5):
        answers.append(shell.produce_nowait(b"again"))
        await asyncio.sleep(0)
    await shell.until(lambda: all(answer.told for answer in answers))

    assert shell.loop.stats.sync_count == before + 1


async def test_no_turn_waits_for_ever_for_more_requests(shell: Shell) -> None:
    await _answered_together(shell, 1000)

    answers = [shell.produce_nowait(b"again")]
    async with asyncio.timeout(60):
        while not answers[0].told:
            answers.append(shell.produce_nowait(b"more"))
            await asyncio.sleep(0)

    assert answers[0].told == [None]


async def test_a_request_refused_at_the_door_harms_none_beside_it(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "IN_FLIGHT_BYTES_MAX", 1000)

    first = shell.produce_nowait(b"first")
    with pytest.raises(BusyError):
        shell.produce_nowait(bytes(1000))
    last = shell.produce_nowait(b"last")
    await shell.until(lambda: first.told and last.told)

    assert (first.told, last.told) == ([None], [None])
    assert shell.loop.queued_bytes == 0


async def test_a_channel_too_many_refuses_its_own_requests_alone(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shell.produce(b"master is a channel")
    monkeypatch.setattr(limits, "CHANNEL_COUNT_MAX", 1)
    answers = [Answer() for _ in range(4)]

    for answer, channel in zip(answers, ("", "new", "new", ""), strict=True):
        shell.broker.produce_nowait(
            shell.t.partitions[0], channel, batch_of(b"x"), answer.take_placed
        )
    await shell.until(lambda: all(answer.told for answer in answers))

    refused = [isinstance(answer.told[0], BusyError) for answer in answers]
    assert refused == [False, True, True, False]
    assert shell.loop.queued_bytes == 0


async def test_a_rule_broken_at_admission_stops_that_partition_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = Shell()
    shell.partition_count = 2
    admit = Partition.admit_append

    def broken(
        partition: Partition, channel: str, batch: Batch, moment: Moment, view: View
    ) -> tuple[Record, Placed]:
        assert partition.number != shell.t.partitions[0].number, "a rule of it"
        return admit(partition, channel, batch, moment, view)

    async with running(shell):
        monkeypatch.setattr(Partition, "admit_append", broken)
        bad, good = shell.produce_nowait(b"bad"), shell.produce_nowait(b"good", place=1)
        await shell.until(lambda: bad.told and good.told)

        assert isinstance(bad.told[0], InternalError)
        assert good.told == [None]
        assert shell.loop.failure is None
        with pytest.raises(InternalError):
            shell.produce_nowait(b"later")


async def test_what_waits_when_the_node_fails_is_told_so(shell: Shell) -> None:
    shell.log.hold_sync()
    shell.produce_nowait(b"opens the turn")
    await shell.until(lambda: shell.loop._writer.is_syncing)
    waiting = shell.produce_nowait(b"waits")

    shell.log.fail_sync()
    shell.log.release_sync()
    await shell.until(lambda: waiting.told)

    (error,) = waiting.told
    assert isinstance(error, SandglassError)
    assert error.is_result_unknown


async def test_a_stop_finishes_what_waits(shell: Shell) -> None:
    await shell.quiet()
    answer = shell.produce_nowait(b"x")
    async with asyncio.timeout(60):
        await shell.loop.stop()

    assert answer.told == [None]
