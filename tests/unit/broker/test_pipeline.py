"""A log that takes more while entries are under way: what goes when, and who is answered."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from sandglass.core import codec, limits
from sandglass.core.record import Append
from sandglass.errors import UnavailableError
from tests.unit.broker.shell import DEADLINE_S, Answer, Consumer, Shell, running


@dataclass(slots=True)
class PipedLog:
    """Keeps what it is given; `commit` makes the next appends durable."""

    position: int = 7
    durable: int = 7
    room_bytes: int = 1 << 20
    is_holding: bool = True
    """Else what it is given is durable at once."""
    appends: list[list[bytes]] = field(default_factory=list[list[bytes]])
    refusal: str = ""
    on_durable: Callable[[], None] = lambda: None

    @property
    def first_position(self) -> int:
        return self.position + 1

    @property
    def last_position(self) -> int:
        return self.position

    @property
    def durable_position(self) -> int:
        return self.durable

    def append(self, records: Sequence[bytes], *, may_use_reserve: bool = False) -> int:
        del may_use_reserve
        if self.refusal:
            raise UnavailableError(self.refusal, is_result_unknown=True)
        self.appends.append(list(records))
        self.position += len(records)
        if not self.is_holding:
            asyncio.get_running_loop().call_soon(self.commit)
        return self.position

    def commit(self, count: int = 1 << 20) -> None:
        """So many more records are durable, at most all."""
        self.durable = min(self.position, self.durable + count)
        self.on_durable()

    def release(self) -> None:
        """From here on all is durable at once."""
        self.is_holding = False
        self.commit()

    async def synced(self) -> int:
        self.commit()
        return self.durable

    def sync(self) -> int:
        raise AssertionError("nobody asks for it")

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        del position
        return iter(())

    def trim(self, position: int) -> None:
        del position

    def close(self) -> None:
        pass

    @property
    def sent(self) -> int:
        """How many appends carry something that was produced."""
        return sum(any(map(_is_produced, raws)) for raws in self.appends)


def _is_produced(raw: bytes) -> bool:
    return any(isinstance(each, Append) for each in codec.decode(raw).operations)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is little waits for ever, unless a test says otherwise."""
    monkeypatch.setattr(limits, "ENTRY_WAIT_MS", 3_600_000)


@pytest.fixture
async def log(shell: Shell) -> AsyncIterator[PipedLog]:
    await shell.quiet()
    log = PipedLog()
    shell.loop.log = log
    shell.loop._writer.take_over(log)
    yield log
    log.refusal = ""
    log.room_bytes = 1 << 20
    log.release()


async def some_passes() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def much(shell: Shell) -> Answer:
    """A produce that is worth an entry of its own."""
    return shell.produce_nowait(bytes(limits.ENTRY_BYTES_MIN))


async def test_more_goes_out_while_entries_are_under_way(shell: Shell, log: PipedLog) -> None:
    answers: list[Answer] = []
    for number in range(5):
        answers.append(much(shell))
        await shell.until(lambda: log.sent == number + 1)  # noqa: B023  # called at once

    assert [] == [told for answer in answers for told in answer.told]
    log.commit()
    await shell.until(lambda: all(answer.told == [None] for answer in answers))


async def test_what_is_durable_is_answered_and_no_more(shell: Shell, log: PipedLog) -> None:
    consumer = await consume(shell, log)
    first, second = much(shell), None
    await shell.until(lambda: log.sent == 1)
    second = much(shell)
    await shell.until(lambda: log.sent == 2)

    log.commit(log.position - log.durable - 1)
    await shell.until(lambda: first.told)
    await some_passes()
    before = (second.told[:], len(consumer.values))
    log.release()
    await shell.until(lambda: second.told and len(consumer.values) == 2)

    assert before == ([], 1)
    assert (first.told, second.told) == ([None], [None])


async def consume(shell: Shell, log: PipedLog) -> Consumer:
    """A consumer whose group is durable."""
    log.is_holding = False
    consumer = await shell.consume()
    await shell.quiet()
    log.is_holding = True
    return consumer


async def test_without_room_nothing_goes_until_there_is_some(
    shell: Shell, log: PipedLog
) -> None:
    much(shell)
    await shell.until(lambda: log.sent == 1)
    log.room_bytes = 0
    answer = much(shell)
    await some_passes()
    before = log.sent

    log.room_bytes = 1 << 20
    log.commit(1)
    await shell.until(lambda: log.sent == 2)

    assert before == 1
    assert answer.told == []


async def test_no_more_goes_than_there_is_room_for(shell: Shell, log: PipedLog) -> None:
    shell.produce_nowait(b"opens")
    await shell.until(lambda: log.sent == 1)
    log.room_bytes = 0
    answers = [shell.produce_nowait(bytes(limits.ROW_BYTES_MAX - 100)) for _ in range(4)]
    await some_passes()

    log.room_bytes = limits.ROW_BYTES_MAX * 3 // 2  # one, and the one that goes beyond it
    log.on_durable()
    await shell.until(lambda: log.sent == 2)

    assert 2 == len(log.appends[-1])
    log.release()
    await shell.until(lambda: all(answer.told for answer in answers))


async def test_a_lone_record_goes_at_once_and_little_ones_behind_it_share_the_next(
    shell: Shell, log: PipedLog
) -> None:
    first = shell.produce_nowait(b"alone")
    await shell.until(lambda: log.sent == 1)
    answers = [shell.produce_nowait(b"%d" % number) for number in range(30)]
    await some_passes()
    before = log.sent

    log.commit()
    await shell.until(lambda: log.sent == 2)

    assert before == 1
    assert first.told == [None]
    log.release()
    await shell.until(lambda: all(answer.told == [None] for answer in answers))
    assert log.sent == 2


async def test_little_goes_by_itself_once_it_has_waited(
    shell: Shell, log: PipedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ENTRY_WAIT_MS", 1)
    shell.produce_nowait(b"alone")
    await shell.until(lambda: log.sent == 1)

    shell.produce_nowait(b"behind it")
    async with asyncio.timeout(DEADLINE_S):
        while log.sent < 2:
            await asyncio.sleep(0.001)

    assert log.durable == 7


async def test_a_log_that_takes_nothing_more_stops_its_loop_and_the_outcome_is_unknown(
    shell: Shell, log: PipedLog
) -> None:
    first = much(shell)
    await shell.until(lambda: log.sent == 1)
    log.refusal = "another node leads"
    second = much(shell)
    await shell.until(lambda: first.told and second.told)

    for answer in (first, second):
        (error,) = answer.told
        assert isinstance(error, UnavailableError)
        assert error.is_result_unknown


async def test_a_stop_waits_for_all_that_is_under_way() -> None:
    async with running(Shell()) as shell:
        await shell.quiet()
        log = PipedLog()
        shell.loop.log = log
        shell.loop._writer.take_over(log)
        answers: list[Answer] = []
        for number in range(3):
            answers.append(much(shell))
            await shell.until(lambda: log.sent == number + 1)  # noqa: B023  # called at once
        stopping = asyncio.create_task(shell.loop.stop())
        await some_passes()
        is_early = stopping.done()
        turn_count = shell.loop.stats.turn_count
        await some_passes()
        is_spinning = shell.loop.stats.turn_count > turn_count + 1
        log.commit()
        async with asyncio.timeout(DEADLINE_S):
            await stopping

        assert not is_early
        assert not is_spinning
        assert [[None]] * 3 == [answer.told for answer in answers]
        assert log.durable == log.position


async def test_how_long_an_entry_took_is_measured(shell: Shell, log: PipedLog) -> None:
    before = sum(shell.loop.stats.sync_ms.counts)
    for number in range(3):
        much(shell)
        await shell.until(lambda: log.sent == number + 1)  # noqa: B023  # called at once
    log.commit()
    await shell.until(lambda: not shell.loop._writer.is_syncing)

    assert sum(shell.loop.stats.sync_ms.counts) == before + 3


async def test_a_house_in_which_nothing_happens_is_left_alone(shell: Shell) -> None:
    shell.loop._pace.rest_ms = 30_000
    kept: list[int] = []
    shell.loop.housekeeping = lambda moment: kept.append(moment.steady_ms)
    await shell.produce(b"x")
    await shell.quiet()
    shell.clock.advance(1000)
    await shell.until(lambda: kept)
    kept.clear()
    shell.loop._kick.clear()

    assert 29_000 <= shell.loop._pace.delay_ms() <= 30_000

    await shell.produce(b"y")  # and it is kept, as ever, while something does
    assert shell.loop._pace.delay_ms() <= 1000
