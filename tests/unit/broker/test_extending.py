"""Leases that are kept for longer than they were to last, or for less."""

import pytest

from tests.unit.broker.shell import Shell


@pytest.mark.parametrize(("lease_ms", "is_over"), [(400, True), (600_000, False)])
async def test_a_lease_ends_when_extend_has_said(
    shell: Shell, lease_ms: int, is_over: bool
) -> None:
    consumer = await shell.consume(ack_timeout_ms=60_000)
    await shell.produce(b"x")
    await shell.until(lambda: consumer.deliveries)
    await shell.quiet()

    shell.broker.outcomes.extend(
        consumer.subscription,
        shell.t.partitions[0].number,
        consumer.deliveries[0].lease.token,
        lease_ms=lease_ms,
        begun_count=1,
    )
    await shell.advance(1000 if is_over else 60_000, step_ms=500)

    attempts = [delivery.attempt for delivery in consumer.deliveries]
    assert attempts == ([1, 2] if is_over else [1])
