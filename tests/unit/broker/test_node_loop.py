"""The loop: what it answers when, and what it does when log, store or clock misbehave."""

import asyncio

import pytest

from sandglass.broker.agenda import WAKE_COUNT_MIN
from sandglass.broker.inbox import Inbox
from sandglass.core import codec, limits
from sandglass.core.counting import has_below
from sandglass.core.record import Append, Ending, Promise
from sandglass.errors import (
    BusyError,
    InternalError,
    LeaseLostError,
    NoSpaceError,
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


async def test_without_a_lease_nothing_is_handed_out_or_taken_in(shell: Shell) -> None:
    consumer = await shell.consume()
    answer = shell.produce_nowait(b"waits", delay_ms=50)
    await shell.until(lambda: answer.told)
    shell.loop.may_serve = lambda: False
    with pytest.raises(UnavailableError, match="lease of this node"):
        shell.produce_nowait(b"refused")
    await shell.advance(2000)
    before = consumer.values

    shell.loop.may_serve = lambda: True
    await shell.advance(2000)

    assert before == []
    assert consumer.values == [b"waits"]


async def test_a_log_that_is_quiet_is_synced_once_more_and_no_more(shell: Shell) -> None:
    await shell.produce(b"x")
    await shell.advance(1100)
    before = shell.loop.stats.sync_count

    await shell.advance(5000)

    assert shell.loop.stats.sync_count == before + 1


async def test_what_waits_while_a_sync_runs_shares_the_next_one(shell: Shell) -> None:
    await shell.quiet()
    shell.log.hold_sync()
    shell.produce_nowait(b"opens the turn")
    await shell.until(lambda: shell.loop._writer.is_syncing)
    before = shell.loop.stats.sync_count

    answers = [shell.produce_nowait(b"%d" % number) for number in range(100)]
    shell.log.release_sync()
    await shell.until(lambda: all(answer.told for answer in answers))

    assert shell.loop.stats.sync_count <= before + 2


async def test_what_is_too_much_for_a_turn_goes_with_the_next_ones(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By count, by size, and by rows: a record more than the limit of bytes or rows."""
    await shell.quiet()
    monkeypatch.setattr(limits, "ROW_MESSAGE_COUNT_MAX", 1)  # a record each
    monkeypatch.setattr(limits, "TURN_APPEND_COUNT_MAX", 4)
    monkeypatch.setattr(limits, "TURN_APPEND_BYTES_MAX", 3000)
    monkeypatch.setattr(limits, "TURN_APPEND_ROW_COUNT_MAX", 6)
    before = shell.loop.stats.sync_count

    answers = [shell.produce_nowait(bytes(size)) for size in (*[1] * 16, *[2000] * 8)]
    answers += [shell.produce_each(1, 2, 3) for _ in range(8)]
    await shell.until(lambda: all(answer.told for answer in answers))

    assert all(answer.told == [None] for answer in answers)
    assert shell.loop.stats.sync_count >= before + 16 // 4 + 8 // 2 + 8 // 2


async def test_a_promise_goes_before_what_several_turns_take(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = await shell.consume()
    await shell.produce(b"x", delay_ms=10_000)
    await shell.quiet()
    monkeypatch.setattr(limits, "ROW_MESSAGE_COUNT_MAX", 1)  # a record each
    monkeypatch.setattr(limits, "TURN_APPEND_COUNT_MAX", 1)
    shell.clock.advance(10_000)

    answers = [shell.produce_nowait(b"later") for _ in range(100)]
    await shell.until(lambda: b"x" in consumer.values)

    assert not all(answer.told for answer in answers)


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


async def test_a_clean_stop_leaves_no_promise_to_wait_for(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"x")
    await shell.until(lambda: consumer.values)
    assert shell.loop.machine.promised_ms > shell.clock.wall_ms()

    await shell.stop()
    await shell.start()  # it would wait for a clock that stands still

    assert shell.loop.machine.closing_ms == 0


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


async def test_a_full_disk_refuses_producers_while_outcomes_go_on(shell: Shell) -> None:
    consumer = await shell.consume()
    for number in range(5):
        await shell.produce(b"%d" % number)
        await shell.until(lambda: len(consumer.deliveries) == number + 1)  # noqa: B023
    shell.log.is_full = True

    refused = shell.produce_nowait(b"no room")
    await shell.until(lambda: refused.told)
    acks = [shell.settle(consumer, delivery) for delivery in consumer.deliveries]
    await shell.until(lambda: all(ack.told for ack in acks))

    assert isinstance(refused.told[0], NoSpaceError)
    assert not refused.told[0].is_result_unknown
    assert [ack.told for ack in acks] == [[None]] * 5
    assert not shell.failures


async def test_a_want_of_descriptors_is_told_as_such_and_passes(shell: Shell) -> None:
    """Clients may have used them up: no reason to stop."""
    consumer = await shell.consume()
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)
    shell.log.is_full = shell.log.is_short_of_files = True

    refused = shell.produce_nowait(b"no file")
    await shell.until(lambda: refused.told)
    ack = shell.settle(consumer, consumer.deliveries[0])
    await shell.until(lambda: ack.told)
    with pytest.raises(BusyError, match="too many files open") as caught:
        shell.produce_nowait(b"at the door")
    shell.log.is_full = False
    await shell.advance(1100)
    await shell.produce(b"again")

    assert [BusyError, BusyError] == [type(refused.told[0]), type(caught.value)]
    assert [None] == ack.told
    assert not shell.failures


async def test_a_stop_on_a_full_disk_is_a_stop_like_any_other() -> None:
    """What it would have written is for speed: nothing depends on it."""
    shell = Shell()
    await shell.start()
    await shell.produce(b"x")
    await shell.quiet()
    shell.log.is_full, shell.log.has_reserve = True, False

    await shell.stop()

    assert not shell.failures
    shell.log.is_full = False
    shell.memory_log.close()
    shell.memory_log.reopen()
    shell.clock.advance(1000)
    async with running(shell):
        consumer = await shell.consume()
        await shell.until(lambda: consumer.values == [b"x"])


async def test_a_start_on_a_full_disk_says_so_and_does_not_wait() -> None:
    shell = Shell()
    shell.log.is_full, shell.log.has_reserve = True, False

    async with asyncio.timeout(60):
        with pytest.raises(UnavailableError, match="no segment can be made"):
            await shell.start()

    await shell.loop.stop()


async def test_producers_never_get_the_reserve(shell: Shell) -> None:
    """However often a full disk is tried anew."""
    await shell.quiet()
    shell.log.is_full = True
    appended: list[bytes] = []
    append = shell.memory_log.append

    def spy(records: list[bytes], *, may_use_reserve: bool = False) -> int:
        appended.extend(records)
        return append(records, may_use_reserve=may_use_reserve)

    shell.memory_log.append = spy  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(20):
        await shell.advance(500)
        try:
            shell.produce_nowait(b"x" * 1000)
        except NoSpaceError:
            continue
    await shell.quiet()

    operations = [each for raw in appended for each in codec.decode(raw).operations]
    assert not [each for each in operations if isinstance(each, Append)]


async def test_when_space_returns_producers_go_on_where_they_were(shell: Shell) -> None:
    """What was refused leaves no gap: the next message takes its index."""
    first = await shell.produce(b"first")
    shell.log.is_full = True
    refused = [shell.produce_nowait(b"refused", b"too") for _ in range(3)]
    await shell.until(lambda: all(each.told for each in refused))

    shell.log.is_full = False
    await shell.advance(1100)
    second = await shell.produce(b"second")
    consumer = await shell.consume()
    await shell.until(lambda: len(consumer.values) == 2)

    assert (first.first_index, second.first_index) == (1, 2)
    assert consumer.values == [b"first", b"second"]
    assert not shell.loop.stopped
    assert shell.loop.queued_bytes == 0


async def test_outcomes_between_refused_batches_are_carried_out(shell: Shell) -> None:
    """Also those that take an index of their own: a dead letter."""
    consumer = await shell.consume()
    for value in (b"a", b"b", b"c"):
        await shell.produce(value)
    await shell.until(lambda: len(consumer.values) == 3)
    deliveries = consumer.deliveries
    shell.log.is_full = True

    refused = [shell.produce_nowait(b"no")]
    dead = [shell.settle(consumer, deliveries[0], Ending.DEAD)]
    refused.append(shell.produce_nowait(b"no", b"no"))
    dead.append(shell.settle(consumer, deliveries[1], Ending.DEAD))
    acked = shell.settle(consumer, deliveries[2])
    refused.append(shell.produce_nowait(b"no"))
    await shell.until(lambda: acked.told and all(each.told for each in (*refused, *dead)))
    shell.log.is_full = False
    await shell.advance(1100)
    placed = await shell.produce(b"later")

    assert all(isinstance(each.told[0], NoSpaceError) for each in refused)
    assert [each.told for each in dead] == [[None], [None]]
    assert acked.told == [None]
    assert not shell.loop.stopped
    assert placed.first_index == 6  # three messages, two dead letters
    ((_, status),) = [each async for each in shell.broker.status.parts(shell.t)]
    assert (status.acked_count, status.dead_count) == (1, 2)


async def test_a_disk_without_even_a_reserve_keeps_outcomes_waiting(shell: Shell) -> None:
    """They are neither lost nor refused, and the node doesn't spin meanwhile."""
    consumer = await shell.consume()
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)
    await shell.quiet()
    shell.log.is_full, shell.log.has_reserve = True, False

    ack = shell.settle(consumer, consumer.deliveries[0])
    for _ in range(50):
        await asyncio.sleep(0)
    delay_ms, failures = shell.loop._pace.delay_ms(), shell.failures[:]
    shell.log.is_full = False
    shell.clock.advance(1000)
    await shell.until(lambda: ack.told)

    assert failures == []
    assert delay_ms > 0
    assert ack.told == [None]


# --- the store fails ------------------------------------------------------------------------


async def test_a_store_that_fails_leaves_nobody_without_an_answer(shell: Shell) -> None:
    """The record is durable: only a start will tell what became of it."""
    await shell.quiet()
    shell.store.error = UnavailableError("the view can't be written, says the test")

    answer = shell.produce_nowait(b"x")
    await shell.until(lambda: answer.told)

    (error,) = answer.told
    assert isinstance(error, UnavailableError)
    assert error.is_result_unknown
    assert shell.failures


@pytest.mark.parametrize(("fault", "kind"), [("stall", BusyError), ("fill", NoSpaceError)])
async def test_a_store_that_takes_nothing_holds_producers_and_nobody_else(
    shell: Shell, fault: str, kind: type[BusyError]
) -> None:
    consumer = await shell.consume()
    await shell.produce(b"0")
    await shell.until(lambda: consumer.deliveries)
    getattr(shell.store, fault)()

    answer = shell.produce_nowait(b"1")
    await shell.until(lambda: answer.told)
    with pytest.raises(BusyError) as caught:
        shell.produce_nowait(b"2")
    ack = shell.settle(consumer, consumer.deliveries[0])
    await shell.until(lambda: ack.told and len(consumer.values) == 2)
    shell.store.heal()
    await shell.until(lambda: not shell.loop.is_stalled)
    await shell.advance(1100)
    third = await shell.produce(b"3")

    assert type(caught.value) is kind
    assert (answer.told, ack.told) == ([None], [None])
    assert third.first_index == 3
    assert shell.memory_store.applied_position == shell.memory_log.durable_position


async def test_what_a_stalled_store_lacks_is_there_after_a_crash(shell: Shell) -> None:
    shell.store.stall()
    placed = await shell.produce(b"x")

    await shell.crash()
    consumer = await shell.consume()
    await shell.until(lambda: consumer.values)

    assert delivered_offsets(consumer) == shell.offsets(placed)


async def test_a_store_that_never_recovers_does_not_hold_up_the_stop(shell: Shell) -> None:
    await shell.produce(b"x")
    shell.store.stall()
    await shell.produce(b"y")

    await shell.stop()
    shell.store.heal()
    await shell.start()
    consumer = await shell.consume()
    await shell.until(lambda: len(consumer.values) == 2)

    assert not shell.failures


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


# --- too much -------------------------------------------------------------------------------


async def test_an_append_is_bounded_and_the_rest_follows(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mass ending may queue more dead letters than one frame of the log holds."""
    monkeypatch.setattr(limits, "ROW_MESSAGE_COUNT_MAX", 1)  # a record each
    monkeypatch.setattr(limits, "TURN_APPEND_BYTES_MAX", 3000)
    shell.log.hold_sync()
    shell.produce_nowait(b"opens the turn")
    await shell.until(lambda: shell.loop._writer.is_syncing)
    sizes: list[int] = []
    append = shell.memory_log.append

    def spy(records: list[bytes], *, may_use_reserve: bool = False) -> int:
        sizes.append(sum(map(len, records)))
        return append(records, may_use_reserve=may_use_reserve)

    shell.memory_log.append = spy  # pyright: ignore[reportAttributeAccessIssue]
    answers = [shell.produce_nowait(b"x" * 1000) for _ in range(20)]
    shell.log.release_sync()
    await shell.until(lambda: all(answer.told for answer in answers))

    assert [answer.told for answer in answers] == [[None]] * 20
    assert max(sizes) < 3000 + 1200


async def test_a_mass_ending_waits_for_each_slice(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that held much ends as dead letters: they don't all lie in memory at once."""
    monkeypatch.setattr(limits, "TURN_ENDING_BYTES_MAX", 1000)
    session, _ = shell.broker.consumers.open_session("", "test")
    consumer = await shell.consume(session=session)
    for number in range(20):
        await shell.produce(b"%d" % number + b"x" * 400)
    await shell.until(lambda: len(consumer.values) == 20)
    for delivery in consumer.deliveries:
        delivery.lease.attempts = 4
        delivery.lease.begun = delivery.lease.count
    queued: list[int] = []
    encoded = Inbox.encoded

    def spy(inbox: Inbox, bytes_max: int) -> list[bytes]:
        queued.append(sum(each.record.body_bytes for each in inbox.waiting))
        return encoded(inbox, bytes_max)

    monkeypatch.setattr(Inbox, "encoded", spy)
    shell.broker.consumers.close_session(session, is_goodbye=False)
    group = consumer.deliveries[0].group
    await shell.until(lambda: group.dead_count == 20)

    assert max(queued) < 1000 + 500


async def test_wakes_that_were_planned_anew_are_not_kept_for_a_year(shell: Shell) -> None:
    """The clocks tick at different moments: a plan differs by a millisecond from the last."""
    await shell.consume()
    await shell.produce(b"next year", delay_ms=365 * 24 * 3_600_000)

    for number in range(2 * WAKE_COUNT_MIN):
        shell.clock.step(1 if number % 2 else -1)
        turn_count = shell.loop.stats.turn_count
        shell.loop.ready(shell.t.partitions[0].number)
        await shell.until(lambda: shell.loop.stats.turn_count > turn_count + 1)  # noqa: B023

    assert len(shell.loop._agenda.wakes) <= WAKE_COUNT_MIN + 3


async def test_what_comes_after_the_stop_is_refused_and_waits_for_nothing() -> None:
    shell = Shell()
    await shell.start()
    loop = shell.loop
    await shell.stop()

    with pytest.raises(UnavailableError):
        await loop.commit(loop.machine.record([], loop.moment()))
    with pytest.raises(UnavailableError):
        loop.partition(shell.t.partitions[0].number)


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


async def test_a_scheduled_message_is_not_early_after_a_step_back(shell: Shell) -> None:
    consumer = await shell.consume()
    due_ms = shell.clock.wall_ms() + 10_000
    await shell.produce(b"due", due_ms=due_ms)

    await shell.advance(9000)
    shell.clock.step(-3_600_000)
    await shell.advance(1000 + 30_000)
    early = consumer.values[:]
    shell.clock.step(3_600_000)
    await shell.advance(61_000)

    assert early == []
    assert consumer.values == [b"due"]


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


@pytest.mark.parametrize("is_crash", [False, True])
async def test_a_delayed_nack_waits_on_after_a_stop_and_at_most_anew_after_a_crash(
    shell: Shell, is_crash: bool
) -> None:
    consumer = await shell.consume()
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)
    settle = shell.broker.outcomes.settle
    lease = consumer.deliveries[0].lease
    settle(
        consumer.subscription,
        consumer.deliveries[0].partition,
        lease.token,
        [],
        Ending.NACKED,
        None,
        delay_ms=2000,
    )
    await shell.advance(1600)

    if is_crash:
        await shell.crash(kept_batch_count=100)
    else:
        await shell.stop()
        await shell.start()
    consumer = await shell.consume()
    await shell.advance(300)
    early = consumer.values[:]
    await shell.advance(1800 if is_crash else 200)

    assert [] == early
    assert [b"x"] == consumer.values


async def test_a_small_step_forward_is_believed_at_once(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"due", delay_ms=4000)

    shell.clock.step(limits.CLOCK_STEP_MS)
    await shell.until(lambda: consumer.values)

    assert consumer.values == [b"due"]


async def test_a_large_step_forward_is_not_believed_for_a_minute(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"in 10 min", delay_ms=600_000)

    shell.clock.step(3_600_000)
    await shell.advance(limits.CLOCK_STABLE_MS - 1000, step_ms=1000)
    early = consumer.values[:]
    await shell.produce(b"now")
    await shell.until(lambda: consumer.values)
    flowing = consumer.values[:]
    await shell.advance(3000, step_ms=1000)

    assert early == []
    assert flowing == [b"now"]
    assert consumer.values == [b"now", b"in 10 min"]


async def test_a_large_step_forward_is_believed_once_it_is_accepted(
    shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = await shell.consume()
    await shell.produce(b"in 10 min", delay_ms=600_000)
    shell.clock.step(3_600_000)
    shell.broker.clocks.look()
    await shell.advance(1000, step_ms=1000)

    seen = shell.broker.clocks.look()
    accepted_ms = await shell.broker.clocks.accept()
    await shell.until(lambda: consumer.values)

    assert (3_600_000, limits.CLOCK_STABLE_MS - 1000) == (seen.step_ms, seen.believed_in_ms)
    assert 3_600_000 == seen.machine_ms - seen.now_ms == accepted_ms
    assert 1 == caplog.text.count("`sandctl clock accept`")
    now = shell.broker.clocks.look()
    assert (now.machine_ms, 0, 0) == (now.now_ms, now.step_ms, now.believed_in_ms)
    assert 0 == await shell.broker.clocks.accept()
    assert now.now_ms <= shell.loop.machine.reached_ms


async def test_a_large_step_that_is_taken_back_was_never_believed(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.produce(b"in 10 min", delay_ms=600_000)

    shell.clock.step(3_600_000)
    await shell.advance(30_000, step_ms=1000)
    shell.clock.step(-3_600_000)
    await shell.advance(300_000, step_ms=1000)
    early = consumer.values[:]
    await shell.advance(300_000, step_ms=1000)

    assert early == []
    assert consumer.values == [b"in 10 min"]


# --- pauses ---------------------------------------------------------------------------------


async def test_a_pause_is_added_to_every_lease(shell: Shell) -> None:
    """Wherever in its wait the process was stopped: also just before it would have woken."""
    consumer = await shell.consume(ack_timeout_ms=3000)
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)
    await shell.advance(2000)

    shell.clock.advance(60_000)
    await shell.quiet()
    await shell.advance(500)
    ack = shell.settle(consumer, consumer.deliveries[0])
    await shell.until(lambda: ack.told)

    assert ack.told == [None]
    assert len(consumer.deliveries) == 1


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


async def test_retention_cuts_by_age_and_counts_what_was_not_settled() -> None:
    shell = Shell()
    shell.settings = type(shell.settings)(retention_ms=limits.RETENTION_MS_MIN)
    async with running(shell):
        consumer = await shell.consume(credit_count=2)
        for number in range(5):
            await shell.produce(b"%d" % number)
            await shell.advance(10)
        await shell.until(lambda: len(consumer.values) == 2)
        ack = shell.settle(consumer, consumer.deliveries[0])
        await shell.until(lambda: ack.told)
        await shell.produce(b"far", delay_ms=3_600_000)
        shell.broker.consumers.grant(consumer.subscription, 10, 1000)
        await shell.until(lambda: len(consumer.values) == 5)

        await shell.advance(8000, step_ms=500)
        partition = shell.loop.partition(shell.t.partitions[0].number)
        group = partition.group("master", "g", shell.loop.view)
        kept = [
            piece
            async for pieces in shell.broker.fetch(
                shell.t, shell.t.partitions[0], "", 0, (1 << 112) - 1
            )
            for piece in pieces
        ]

        assert kept == []
        assert (group.acked_count, group.expired_count) == (1, 4)
        assert partition.last_index == 6
        await shell.advance(3_600_000, step_ms=60_000)
        await shell.until(lambda: b"far" in consumer.values)


async def test_without_a_reader_nothing_is_cut_before_its_age(shell: Shell) -> None:
    await shell.produce(b"x")

    await shell.advance(600_000, step_ms=10_000)
    consumer = await shell.consume()
    await shell.until(lambda: consumer.values)

    assert consumer.values == [b"x"]


async def test_what_nobody_reads_is_cut_too() -> None:
    """The closed offset is moved by housekeeping, not by readers alone."""
    shell = Shell()
    shell.settings = type(shell.settings)(retention_ms=limits.RETENTION_MS_MIN)
    async with running(shell):
        await shell.produce(*[b"x"] * 100)

        await shell.advance(8000, step_ms=500)
        partition = shell.loop.partition(shell.t.partitions[0].number)

        assert not has_below(partition, shell.clock.wall_ms() << 64, shell.loop.view)


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
