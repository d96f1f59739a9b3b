"""What is long is done in slices, and others have the loop in between: passes are counted."""

import asyncio
from itertools import count

import pytest

from sandglass.broker.node_loop import DISPATCH_NS
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.group import Group
from sandglass.core.lease import Lease
from sandglass.core.partition import Partition
from tests.unit.broker.shell import Shell, batch_of, running


class Passes:
    """Counts passes of the event loop while it is open."""

    def __init__(self) -> None:
        self.count = 0
        self._handle: asyncio.Handle | None = None

    def __enter__(self) -> "Passes":
        self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._handle is not None
        self._handle.cancel()

    def _tick(self) -> None:
        self.count += 1
        self._handle = asyncio.get_running_loop().call_soon(self._tick)


async def test_partitions_that_take_long_have_their_turns_one_by_one() -> None:
    shell = Shell()
    shell.partition_count = 5
    async with running(shell):
        consumer = await shell.consume()
        await shell.quiet()
        shell.loop.stopwatch_ns = count(step=DISPATCH_NS + 1).__next__
        turns: list[tuple[int, int]] = []
        dispatched = shell.loop.on_dispatched

        def spy(partition: Partition) -> None:
            turns.append((partition.number, shell.loop.stats.turn_count))
            dispatched(partition)

        shell.loop.on_dispatched = spy
        await asyncio.gather(*[shell.produce(b"m", place=place) for place in range(5)])
        await shell.until(lambda: len(consumer.values) == 5)

    assert len(turns) == len({turn for _, turn in turns})
    assert {ref.number for ref in shell.t.partitions} == {number for number, _ in turns}


async def test_answers_are_written_before_more_is_handed_out(shell: Shell) -> None:
    consumer = await shell.consume()
    await shell.quiet()
    seen: list[str] = []
    is_told = asyncio.Event()
    deliver = shell.loop.on_deliveries

    def spy(deliveries: list[Delivery]) -> None:
        seen.append("handed out")
        deliver(deliveries)

    async def write() -> None:
        # As the writer of a session: what else the pass brings goes along.
        await is_told.wait()
        await asyncio.sleep(0)
        seen.append("written")

    shell.loop.on_deliveries = spy
    writing = asyncio.create_task(write())
    shell.broker.produce_nowait(
        shell.t.partitions[0], "", batch_of(b"m"), lambda *_: is_told.set()
    )
    await shell.until(lambda: consumer.values)
    await writing

    assert seen == ["written", "handed out"]


async def test_a_session_that_held_much_gives_it_back_in_slices_and_in_order(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TURN_ENDING_COUNT_MAX", 3)
    session, _ = shell.broker.consumers.open_session("", "test")
    consumer = await shell.consume(session=session)
    other = await shell.consume(credit_count=5)
    for number in range(20):
        await shell.produce(b"%02d" % number)
    await shell.until(lambda: len(consumer.values) + len(other.values) == 20)
    group, held_count = consumer.deliveries[0].group, len(consumer.deliveries)
    slices: list[tuple[int, int]] = []
    ended = Group.drop_ended

    with Passes() as passes:

        def spy(group: Group, leases: list[Lease]) -> None:
            slices.append((passes.count, len(leases)))
            ended(group, leases)

        monkeypatch.setattr(Group, "drop_ended", spy)
        shell.broker.consumers.close_session(session, is_goodbye=True)
        await shell.until(lambda: group.retry_count == held_count)

    assert all(size <= 3 for _, size in slices)
    assert len(slices) == len({at for at, _ in slices}) >= held_count // 3
    assert len(group.leases) == len(other.deliveries)
    again = await shell.consume()
    await shell.until(lambda: len(again.values) == held_count)
    assert again.values == consumer.values
