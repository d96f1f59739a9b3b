"""What partitions cost that nobody uses: memory and CPU of nodes and engines."""

import asyncio
import time

from bench.cluster.bench import NODES, ClusterBench
from bench.cluster.nodes import Nodes, Processes
from bench.lines import Figure

REST_S = 3.0
"""Between the last partition that was made and the first look."""
PER_TOPIC = 100


async def idle(bench: ClusterBench) -> list[Figure]:
    """Partitions of three replicas on a cluster of their own, more and more of them."""
    figures: list[Figure] = []
    async with Nodes.open(bench.directory / "idle") as nodes:
        await asyncio.sleep(REST_S)
        kinds = {"node": nodes.processes, "engine": nodes.engines}
        none_mb = {kind: each.memory_mb() for kind, each in kinds.items()}
        none_cores = await _cores(kinds, bench.sizes.idle_s)
        made = 0
        for count in bench.sizes.idle_counts:
            began_s = time.monotonic()
            while made < count:
                step = min(PER_TOPIC, count - made)
                await nodes.create_topic(f"idle-{made}", partition_count=step)
                made += step
            made_s = time.monotonic() - began_s
            await asyncio.sleep(REST_S)
            cores = await _cores(kinds, bench.sizes.idle_s)
            notes: dict[str, float] = {"made_s": made_s}
            for kind, each in kinds.items():
                notes[f"{kind}_cores"] = cores[kind] / len(each.pids)
                more = cores[kind] - none_cores[kind]
                notes[f"{kind}_cpu_us_per_s_of_one"] = more / len(each.pids) / count * 1e6
                notes[f"{kind}_mb"] = each.memory_mb() / len(each.pids)
                more_mb = each.memory_mb() - none_mb[kind]
                notes[f"{kind}_kb_of_one"] = more_mb / len(each.pids) / count * 1024
            figures.append(_figure(count, bench.sizes.idle_s, notes))
    return figures


async def _cores(kinds: dict[str, Processes], seconds: float) -> dict[str, float]:
    """How many cores they use while nobody wants anything."""
    before = {kind: each.cpu_s() for kind, each in kinds.items()}
    began_s = time.monotonic()
    await asyncio.sleep(seconds)
    passed_s = time.monotonic() - began_s
    return {kind: (each.cpu_s() - before[kind]) / passed_s for kind, each in kinds.items()}


def _figure(count: int, seconds: float, notes: dict[str, float]) -> Figure:
    return Figure(
        line=f"idle: {count} partitions",
        kind=NODES,
        count=count,
        seconds=seconds,
        server_us=0,
        client_us=0,
        latency="",
        p50_ms=0,
        p99_ms=0,
        max_ms=0,
        memory_mb=0,
        notes=notes,
    )
