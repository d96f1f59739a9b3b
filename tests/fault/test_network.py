"""Attacks over the network on a real node: it bounds each, and others are unharmed."""

import asyncio
import time
from pathlib import Path

import pytest

from sandglass import AsyncClient
from sandglass.testing.process import NodeProcess
from tests.fault.attacks import ATTACKS, Attack, Target
from tests.fault.witness import Witness

SHORT = 0.02
GROWTH_BYTES_MAX = 700 << 20
"""What all that a node allows at once may cost, and what the allocator keeps of it."""


ATTACK_S_MAX = 120.0


async def target_of(node: NodeProcess, scale: float) -> Target:
    """With a topic of large messages."""
    async with AsyncClient(node.address) as client:
        topic = await client.create_topic("large")
        for _ in range(10):
            await client.produce("large", bytes(900_000))
    return Target(node, topic.partitions[0], scale)


async def peak_of(node: NodeProcess, attack: Attack, target: Target) -> int:
    """Runs an attack; returns the most memory that the node held meanwhile."""
    running = asyncio.create_task(attack(target))
    peak = 0
    deadline = time.monotonic() + ATTACK_S_MAX
    while not running.done():
        assert time.monotonic() < deadline, f"{attack.__name__} never ends"
        peak = max(peak, node.memory_bytes)
        await asyncio.wait([running], timeout=0.02)
    running.result()
    return peak


async def test_attacks_one_after_the_other_harm_nobody(tmp_path: Path) -> None:
    async with NodeProcess(tmp_path / "data") as node:
        target = await target_of(node, SHORT)
        before = node.memory_bytes
        async with Witness(node.address) as witness:
            for attack in ATTACKS:
                peak = await peak_of(node, attack, target)
                assert peak - before < GROWTH_BYTES_MAX, attack.__name__
                await witness.goes_on()
        assert "Traceback" not in node.stderr, node.stderr


@pytest.mark.fault
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_a_whole_attack_harms_nobody(tmp_path: Path, attack: Attack) -> None:
    async with NodeProcess(tmp_path / "data") as node:
        target = await target_of(node, 1)
        before = node.memory_bytes
        async with Witness(node.address) as witness:
            peak = await peak_of(node, attack, target)
            await witness.goes_on()
        print(f"{attack.__name__}: {(peak - before) >> 20} MiB more")
        assert peak - before < GROWTH_BYTES_MAX
        assert "Traceback" not in node.stderr, node.stderr
