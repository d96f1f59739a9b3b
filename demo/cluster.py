"""
The demo on three nodes: `python -m demo.cluster [--seconds 30]`.

The departures of `make demo`, on a topic that each of three nodes holds; each leads one of its
partitions. Half way through the day a node is killed, with its engine (kill -9 of both). The
board goes on: clients and gates know all three addresses, and find who leads now.

Ends with 0, with 1 if anything was lost, early or double, and with 130 after Ctrl-C. A message
that came to a gate and was not acknowledged when its leader died may rightly come again.
"""

import argparse
import asyncio
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from demo.board import board_for
from demo.departures import (
    GATES,
    TOPIC,
    Day,
    add_seconds,
    check_acked,
    close_gate,
    new_console,
    open_gates,
    plan_day,
    produce_day,
    read_gate,
    run,
    show_departures,
    until_acked,
    until_gates_are_ready,
    watch,
)
from demo.gate import quiet_clients
from demo.node import NodeError
from sandglass import AsyncClient
from sandglass.testing.cluster import ClusterProcesses

PATIENCE = timedelta(seconds=30)
"""How long after the last departure a missing message is taken for lost: an election of the
engines takes up to ten seconds."""

LED_S_MAX = 30.0


async def play(console: Console, *, seconds: float) -> bool:
    """The whole demo; says whether all went well."""
    console.print("starting three nodes and their engines in a temporary directory")
    with tempfile.TemporaryDirectory(prefix="sandglass-demo-") as directory:
        async with ClusterProcesses(Path(directory)) as cluster:
            try:
                day, killed_at = await _play_day(cluster, console, seconds=seconds)
            finally:
                for node in cluster.nodes:  # their data go with the directory
                    node.kill_engine()
                    node.kill()
    show_departures(console, day.tally)
    gap = day.tally.longest_wait(killed_at)
    console.print(f"nothing came for {gap / timedelta(seconds=1):.1f} s after the kill")
    return day.tally.is_good


async def _play_day(
    cluster: ClusterProcesses, console: Console, *, seconds: float
) -> tuple[Day, datetime]:
    """Produces the day, shows it as it comes, and kills a node half way; also says when."""
    addresses = [node.address for node in cluster.nodes]
    async with AsyncClient(*addresses) as client:
        await client.create_topic(TOPIC, partitions=3, replication_factor=3)
        console.print(f"each leads one of three partitions: {await until_led(client)}")
        async with open_gates(addresses) as gates:
            await until_gates_are_ready(client, gates)
            day = plan_day(seconds=seconds, is_forgiving=True)
            await produce_day(client, day, console)
            with board_for(console) as board:
                async with asyncio.TaskGroup() as playing:
                    for name, gate in zip(GATES, gates, strict=True):
                        playing.create_task(read_gate(name, gate, day.tally, board))
                    killing = playing.create_task(_kill_half_way(cluster, day))
                    await watch(day, board, patience=PATIENCE)
                    if not killing.done():
                        raise NodeError("not even half of the flights came")
                    await until_acked(client, day.tally)
                    for gate in gates:
                        await close_gate(gate)
            await check_acked(client, day.tally)
            console.print(
                f"{cluster.nodes[0].name} was killed half way, with its engine;"
                f" now they are led by {await until_led(client)}"
            )
    return day, killing.result()


async def until_led(client: AsyncClient) -> str:
    """
    Who leads the topic's partitions, once all are led.

    Raises:
        TimeoutError: some are not.
    """
    async with asyncio.timeout(LED_S_MAX):
        while True:
            seen = await client.admin.show_cluster()
            leaders = [each.leader for each in seen.partitions if each.topic == TOPIC]
            if leaders and all(leaders):
                return ", ".join(sorted(leaders))
            await asyncio.sleep(0.05)


async def _kill_half_way(cluster: ClusterProcesses, day: Day) -> datetime:
    """Kills a node and its engine when half of the flights have left; says when."""
    while 2 * len(day.tally.late_ms) < len(day.tally.due):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.01)
    at = datetime.now(UTC)
    cluster.nodes[0].kill_engine()
    cluster.nodes[0].kill()
    return at


def main() -> int:
    """Plays the demo; returns the exit code."""
    quiet_clients()
    parser = argparse.ArgumentParser(prog="make cluster-demo", description=__doc__)
    add_seconds(parser)
    arguments = parser.parse_args()
    console = new_console()
    return run(lambda: play(console, seconds=arguments.seconds), console)


if __name__ == "__main__":
    sys.exit(main())
