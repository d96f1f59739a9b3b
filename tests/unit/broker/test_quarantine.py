"""A partition of which a rule is broken stops alone, and loses nothing."""

from collections.abc import AsyncIterator

import pytest

from sandglass.core.partition import Partition
from sandglass.errors import InternalError
from tests.unit.broker.shell import Shell, running


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    """A node whose topic has two partitions."""
    shell = Shell()
    shell.partition_count = 2
    async with running(shell):
        yield shell


def _first(shell: Shell) -> Partition:
    return shell.loop.partition(shell.t.partitions[0].number)


async def _break(shell: Shell) -> None:
    """A record of the first partition that it can't carry out, and one behind it."""
    bad, later = shell.produce_nowait(b"bad"), shell.produce_nowait(b"later")
    _first(shell).last_index += 1
    await shell.until(lambda: bad.told and later.told)
    assert [type(error) for error in (*bad.told, *later.told)] == [InternalError] * 2


async def test_the_log_is_trimmed_as_ever(shell: Shell) -> None:
    await _break(shell)
    stopped_at = shell.log.last_position

    for number in range(100):
        await shell.produce(b"%d" % number, place=1)
    await shell.advance(5000, step_ms=1000)

    assert shell.log.first_position > stopped_at


@pytest.mark.parametrize("kept_write_count", [0, 1000])
async def test_what_was_set_aside_is_carried_out_when_a_start_can(
    shell: Shell, kept_write_count: int
) -> None:
    """The fault lay in memory: from the log or from the view, nothing is missing."""
    await shell.produce(b"before")
    await _break(shell)
    await shell.produce(b"other", place=1)

    await shell.crash(kept_write_count=kept_write_count)
    placed = await shell.produce(b"after")
    consumer = await shell.consume()
    await shell.until(lambda: len(consumer.values) == 5)

    assert sorted(consumer.values) == [b"after", b"bad", b"before", b"later", b"other"]
    assert placed.first_index == 4
    assert not shell.loop.stopped


async def test_a_partition_that_still_cannot_go_on_is_found_stopped_and_others_serve(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shell.produce(b"before")
    await _break(shell)
    apply = Partition._apply_append

    def refuse(self: Partition, *args: object) -> None:
        assert self.number != shell.t.partitions[0].number or self.last_index < 1, "broken"
        apply(self, *args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(Partition, "_apply_append", refuse)
    for kept_write_count in (0, 1000):
        await shell.crash(kept_write_count=kept_write_count)
        with pytest.raises(InternalError, match="stands still"):
            shell.produce_nowait(b"refused")
        await shell.produce(b"fine", place=1)

    monkeypatch.undo()
    await shell.crash(kept_write_count=1000)
    consumer = await shell.consume()
    await shell.until(lambda: len(consumer.values) == 5)
    assert not shell.loop.stopped


async def test_what_readers_were_given_stays_closed(shell: Shell) -> None:
    """The exact close of a clean stop is of the partition as it was, not as it was left."""
    consumer = await shell.consume()
    await shell.produce(b"read")
    await shell.until(lambda: consumer.values)
    closed = _first(shell).closed
    await _break(shell)

    await shell.stop()
    await shell.start()

    assert _first(shell).closed >= closed
    assert _first(shell).last_index == 3


async def test_a_topic_with_a_stopped_partition_can_be_deleted(shell: Shell) -> None:
    await _break(shell)

    await shell.broker.catalog.delete_topic("t")
    await shell.crash(kept_write_count=1000)

    assert not shell.loop.stopped
    assert list(shell.memory_store.range(b"q", b"r")) == []


async def test_who_waits_for_a_stopped_partition_alone_is_told(shell: Shell) -> None:
    both = await shell.consume()
    alone = await shell.consume("other", refs=shell.t.partitions[:1])
    drain = await shell.consume("third", credit_count=0, is_drain=True)

    await _break(shell)

    assert [type(error) for error in alone.end] == [InternalError]
    assert [type(error) for error in drain.end] == [InternalError]
    assert both.end == []
    await shell.produce(b"fine", place=1)
    await shell.until(lambda: both.values)


async def test_a_break_of_a_session_gives_back_what_other_partitions_hold(shell: Shell) -> None:
    session, _ = shell.broker.consumers.open_session("", "test")
    consumer = await shell.consume(session=session)
    await shell.produce(b"stuck")
    await shell.produce(b"free", place=1)
    await shell.until(lambda: len(consumer.values) == 2)
    await _break(shell)

    shell.broker.consumers.close_session(session, is_goodbye=True)
    again = await shell.consume(refs=shell.t.partitions[1:])
    await shell.until(lambda: again.values)

    assert again.values == [b"free"]
