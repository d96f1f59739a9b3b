"""The loop: what it answers when, and what it does when log, store or clock misbehave."""

import asyncio

import pytest

from sandglass.core import codec, limits
from sandglass.core.record import Promise
from sandglass.errors import (
    BusyError,
    InternalError,
    LeaseLostError,
    UnavailableError,
)
from tests.unit.broker.shell import Shell, delivered_offsets, running

MIB = 1 << 20


# --- durable first --------------------------------------------------------------------------


async def test_nothing_is_answered_or_handed_out_before_its_sync(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"first")
    await shell.until(lambda: consumer.deliveries)
    shell.log.hold_sync()

    answer = shell.produce_nowait(b"x")
    acked = shell.settle(consumer, consumer.deliveries[0])
    for _ in range(50):
        await asyncio.sleep(0)
    before = (answer.told[:], acked.told[:], consumer.values)
    shell.log.release_sync()
    await shell.until(lambda: answer.told and acked.told and len(consumer.values) == 2)

    assert before == ([], [], [b"first"])
    assert (answer.told, acked.told) == ([None], [None])


async def test_what_waits_while_a_sync_runs_shares_the_next_one(shell: Shell) -> None:
    await shell.quiet()
    shell.log.hold_sync()
    shell.produce_nowait(b"opens the turn")
    await shell.until(lambda: shell.loop._sync is not None)
    before = shell.loop.stats.sync_count

    answers = [shell.produce_nowait(b"%d" % number) for number in range(100)]
    shell.log.release_sync()
    await shell.until(lambda: all(answer.told for answer in answers))

    assert shell.loop.stats.sync_count <= before + 2


async def test_nothing_is_handed_out_beyond_a_durable_promise(shell: Shell) -> None:
    """The sync of every record is held: the promise of an hour ago covers nothing now."""
    consumer = await shell.consume()
    await shell.produce(b"x", delay_ms=10_000)
    await shell.quiet()
    shell.log.hold_sync()

    shell.clock.advance(10_000)
    for _ in range(100):
        shell.loop._kick.set()
        await asyncio.sleep(0)
    before = consumer.values
    shell.log.release_sync()
    await shell.until(lambda: consumer.values)

    assert before == []
    (offset,) = delivered_offsets(consumer)
    assert offset >> 64 < shell.loop.machine.promised_ms


async def test_an_idle_node_writes_nothing(shell: Shell) -> None:
    await shell.consume()
    await shell.produce(b"x", delay_ms=3_600_000)
    await shell.quiet()
    position = shell.log.last_position

    await shell.advance(60_000, step_ms=1000)

    assert shell.log.last_position == position


# --- restarts -------------------------------------------------------------------------------


async def test_after_a_crash_nothing_appears_behind_what_was_handed_out(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(*[b"%d" % number for number in range(10)])
    await shell.until(lambda: len(consumer.values) == 10)
    passed = max(delivered_offsets(consumer))

    await shell.crash()
    placed = await shell.produce(b"new")

    assert min(shell.offsets(placed)) > passed


async def test_after_a_crash_with_its_clock_behind_nothing_appears_behind_either(
    shell: Shell,
) -> None:
    consumer = await shell.consume()
    await shell.produce(b"x")
    await shell.until(lambda: consumer.values)
    passed = max(delivered_offsets(consumer))

    shell.clock.step(-3_600_000)
    await shell.crash()
    placed = await shell.produce(b"new")
    again = await shell.consume()
    await shell.until(lambda: len(again.values) == 2)

    assert min(shell.offsets(placed)) > passed
    assert again.values == [b"x", b"new"]


async def test_a_crash_takes_what_was_unanswered_and_nothing_else(shell: Shell) -> None:
    consumer = await shell.consume()
    kept = await shell.produce(b"kept")
    await shell.until(lambda: consumer.deliveries)
    acked = shell.settle(consumer, consumer.deliveries[0])
    await shell.until(lambda: acked.told)
    await shell.produce(b"open")
    shell.log.hold_sync()
    shell.produce_nowait(b"lost")
    await shell.until(lambda: shell.log.last_position > shell.log.durable_position)

    shell.log.fail_sync()
    await shell.crash()
    again = await shell.consume()
    await shell.until(lambda: again.values)
    await shell.quiet()

    assert again.values == [b"open"]
    assert kept.first_index == 1


async def test_the_view_may_have_lost_everything_that_was_not_flushed(shell: Shell) -> None:
    placed = [await shell.produce(b"%d" % number) for number in range(30)]

    await shell.crash(kept_write_count=3)
    consumer = await shell.consume()
    await shell.until(lambda: len(consumer.values) == 30)

    assert delivered_offsets(consumer) == [shell.offsets(each)[0] for each in placed]


# --- the log fails --------------------------------------------------------------------------


async def test_a_failed_sync_stops_the_node_and_says_that_nobody_knows(shell: Shell) -> None:
    shell.log.fail_sync()

    answer = shell.produce_nowait(b"x")
    await shell.until(lambda: answer.told and shell.failures)

    (error,) = answer.told
    assert isinstance(error, UnavailableError)
    assert error.is_result_unknown
    with pytest.raises(UnavailableError):
        shell.produce_nowait(b"y")


async def test_after_a_failed_sync_a_new_life_has_everything_that_was_answered(
    shell: Shell,
) -> None:
    await shell.produce(b"answered")
    shell.log.fail_sync()
    answer = shell.produce_nowait(b"unknown")
    await shell.until(lambda: answer.told)
    await shell.stop()

    shell.memory_log.crash()
    shell.memory_store.crash()
    shell.memory_log.reopen()
    shell.memory_store.reopen()
    shell.log._is_failing = False
    shell.clock.advance(1000)
    await shell.start()
    consumer = await shell.consume()
    await shell.until(lambda: consumer.values)

    assert consumer.values == [b"answered"]


# --- the store fails ------------------------------------------------------------------------


async def test_what_a_stalled_store_lacks_is_there_after_a_crash(shell: Shell) -> None:
    shell.store.stall()
    placed = await shell.produce(b"x")

    await shell.crash()
    consumer = await shell.consume()
    await shell.until(lambda: consumer.values)

    assert delivered_offsets(consumer) == shell.offsets(placed)


# --- one partition fails --------------------------------------------------------------------


async def test_a_partition_whose_rule_is_broken_stops_alone() -> None:
    shell = Shell()
    shell.partition_count = 2
    async with running(shell):
        broken = shell.loop.partition(shell.t.partitions[0].number)
        await shell.produce(b"before")
        answer = shell.produce_nowait(b"bad")
        broken.last_index += 1  # the record on its way no longer fits

        await shell.until(lambda: answer.told)
        with pytest.raises(InternalError) as caught:
            shell.produce_nowait(b"refused")
        placed = await shell.produce(b"fine", place=1)
        consumer_error = None
        try:
            await shell.consume()
        except InternalError as error:
            consumer_error = error
        await shell.advance(3000, step_ms=1000)

        assert isinstance(answer.told[0], InternalError)
        assert "stands still" in str(caught.value)
        assert consumer_error is not None
        assert placed.first_index == 1
        assert not shell.failures
        assert list(shell.loop.stopped) == [broken.number]


async def test_a_stopped_partition_keeps_the_log_that_it_needs() -> None:
    shell = Shell()
    shell.partition_count = 2
    async with running(shell):
        await shell.produce(b"before")
        answer = shell.produce_nowait(b"bad")
        shell.loop.partition(shell.t.partitions[0].number).last_index += 1
        await shell.until(lambda: answer.told)
        for number in range(100):
            await shell.produce(b"%d" % number, place=1)
        await shell.advance(5000, step_ms=1000)

        raws = [raw for _, raw in shell.log.read(shell.log.first_position)]
        kept = [codec.decode(raw) for raw in raws]
        bad = [each for each in kept if each.partition == shell.t.partitions[0].number]

        assert bad


# --- too much -------------------------------------------------------------------------------


async def test_more_in_flight_than_the_limit_is_busy_until_some_is_durable(
    shell: Shell,
) -> None:
    shell.log.hold_sync()
    answers = []
    with pytest.raises(BusyError) as caught:  # noqa: PT012  # until it is refused
        for _ in range(200):
            answers.append(shell.produce_nowait(b"x" * MIB))  # noqa: PERF401  # as above
    held_bytes = shell.loop.queued_bytes

    shell.log.release_sync()
    await shell.until(lambda: all(answer.told for answer in answers))
    await shell.produce(b"y")

    assert caught.value.retry_after_ms > 0
    assert str(limits.IN_FLIGHT_BYTES_MAX) in str(caught.value)
    assert held_bytes <= limits.IN_FLIGHT_BYTES_MAX
    assert shell.loop.queued_bytes == 0


# --- clocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("back_ms", [1, 1000, 3_600_000])
async def test_messages_for_now_flow_on_after_a_step_back(shell: Shell, back_ms: int) -> None:
    consumer = await shell.consume()
    await shell.produce(b"before")
    await shell.until(lambda: consumer.values)

    shell.clock.step(-back_ms)
    await shell.quiet()
    for number in range(5):
        await shell.produce(b"%d" % number)
    await shell.until(lambda: len(consumer.values) == 6)
    offsets = delivered_offsets(consumer)

    assert offsets == sorted(offsets)
    assert not shell.loop.stopped


async def test_after_a_step_back_a_delay_passes_by_the_steady_clock(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"now")
    await shell.until(lambda: consumer.values)
    shell.clock.step(-3_600_000)
    await shell.quiet()

    await shell.produce(b"in 5 s", delay_ms=5000)
    await shell.advance(4900)
    early = consumer.values[:]
    await shell.advance(200)

    assert early == [b"now"]
    assert consumer.values == [b"now", b"in 5 s"]


# --- pauses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slept_ms", [0, 100, 500, 900])
async def test_a_pause_that_hits_a_sleeping_node_is_added_whole(
    shell: Shell, slept_ms: int
) -> None:
    """The loop sleeps up to its next duty; the part of the pause before it counts too."""
    consumer = await shell.consume(ack_timeout_ms=1500)
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)
    await shell.quiet()

    await shell.advance(slept_ms)
    shell.clock.advance(2000)
    await shell.quiet()
    await shell.advance(300)
    ack = shell.settle(consumer, consumer.deliveries[0])
    await shell.until(lambda: ack.told)

    assert ack.told == [None]


async def test_a_lease_still_ends_after_a_pause(shell: Shell) -> None:
    consumer = await shell.consume(ack_timeout_ms=1000)
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)

    shell.clock.advance(60_000)
    await shell.quiet()
    await shell.advance(2000)

    assert [delivery.attempt for delivery in consumer.deliveries][:2] == [1, 2]
    with pytest.raises(LeaseLostError):
        shell.settle(consumer, consumer.deliveries[0])


# --- retention ------------------------------------------------------------------------------


async def test_without_a_reader_nothing_is_cut_before_its_age(shell: Shell) -> None:
    await shell.produce(b"x")

    await shell.advance(600_000, step_ms=10_000)
    consumer = await shell.consume()
    await shell.until(lambda: consumer.values)

    assert consumer.values == [b"x"]


# --- the port ---------------------------------------------------------------------------------


async def test_a_promise_is_one_small_record_for_the_whole_node() -> None:
    shell = Shell()
    shell.partition_count = 20
    async with running(shell):
        consumer = await shell.consume()
        await shell.quiet()
        position = shell.log.last_position
        for place in range(20):
            shell.produce_nowait(b"x", place=place)
        await shell.until(lambda: len(consumer.values) == 20)

        raws = [raw for _, raw in shell.log.read(position + 1)]
        operations = [each for raw in raws for each in codec.decode(raw).operations]

        assert sum(isinstance(each, Promise) for each in operations) <= 2
