"""Consuming by calls: what a call takes, and what one that goes away leaves."""

import asyncio
from typing import Any

import pytest

from sandglass.core.dispatch import Delivery
from sandglass.core.record import Ending
from tests.unit.broker.shell import Shell, values_of


def take(shell: Shell, **fields: Any) -> "asyncio.Task[list[Delivery]]":
    request: dict[str, Any] = {
        "channel": "",
        "group": "g",
        "consumer": "c",
        "count_max": 10,
        "bytes_max": 1 << 20,
        **fields,
    }
    return asyncio.create_task(shell.broker.pulls.take(shell.t, shell.t.partitions, **request))


def is_waiting(shell: Shell) -> bool:
    return bool(shell.broker.pulls._waiting)


async def test_a_call_leaves_nobody_behind(shell: Shell) -> None:
    await shell.produce(b"a", b"b")

    (delivery,) = await take(shell)
    assert [] == await take(shell)

    assert [b"a", b"b"] == values_of(delivery)
    assert [] == delivery.group.consumers
    assert {} == shell.broker.consumers._subscriptions == shell.broker.consumers._drains


async def test_two_that_wait_share_what_comes(shell: Shell) -> None:
    calls = [take(shell, wait_ms=60_000, count_max=1) for _ in range(2)]
    await shell.until(lambda: len(shell.broker.pulls._waiting) == 2)

    await shell.produce(b"a", b"b")

    got = [each for call in calls for each in await call]
    assert [b"a", b"b"] == sorted(value for each in got for value in values_of(each))
    assert not is_waiting(shell)


async def test_who_comes_while_the_node_goes_down_is_not_kept(shell: Shell) -> None:
    waiting = take(shell, wait_ms=60_000)
    await shell.until(lambda: is_waiting(shell))

    shell.broker.pulls.let_go()

    assert [] == await waiting
    assert [] == await take(shell, wait_ms=60_000)


@pytest.mark.parametrize("ending", [None, Ending.ACKED])
async def test_what_a_caller_never_saw_is_given_back_uncounted(
    shell: Shell, ending: Ending | None
) -> None:
    """It goes away in the very turn in which something is delivered to it."""
    call = take(shell, wait_ms=60_000)
    await shell.until(lambda: is_waiting(shell))
    deliver = shell.loop.on_deliveries

    def deliver_and_cancel(deliveries: list[Delivery]) -> None:
        deliver(deliveries)
        call.cancel()
        if ending is not None:
            lease = deliveries[0].lease
            shell.broker.outcomes.settle_lease(
                deliveries[0].group, lease.token, [], ending, None
            )

    shell.loop.on_deliveries = deliver_and_cancel
    await shell.produce(b"a")
    with pytest.raises(asyncio.CancelledError):
        await call
    shell.loop.on_deliveries = deliver
    await shell.quiet()

    again = await take(shell)
    if ending is None:
        assert [(1, [b"a"])] == [(each.attempt, values_of(each)) for each in again]
    else:
        assert [] == again
