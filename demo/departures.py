"""
The demo: `python -m demo.departures [--seconds 30] [--emails 10000]`.

Each flight that left New York on 11 July 2013 is a message, due when it really departed; the
day is squeezed into seconds. They are produced in the order of the timetable and come in the
order of departure, to two processes that share one group. Then ten thousand e-mails.

Ends with 0, with 1 if anything was lost, early or double, and with 130 after Ctrl-C.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.console import Console

from demo.board import LiveBoard, PlainBoard, board_for
from demo.emails import Rates, send_emails
from demo.flights import Flight, Squeeze, read_flights
from demo.gate import GROUP
from demo.node import NodeError, running_node
from demo.tally import Tally
from sandglass import AsyncClient, Message, SandglassError

TOPIC = "departures"
GATES = ("gate-1", "gate-2")

LEAD = timedelta(seconds=1)
"""Between producing and the first departure."""

PATIENCE = timedelta(seconds=10)
"""How long after the last departure a missing message is taken for lost."""

READY_S = 20.0
FRAME = timedelta(milliseconds=100)
TURN_S = 0.02
STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class Day:
    """What is to be played, and what comes of it."""

    squeeze: Squeeze
    cancelled: list[Flight]
    tally: Tally
    messages: list[Message]


def plan_day(*, seconds: float, is_forgiving: bool = False) -> Day:
    """The day, which begins in a moment."""
    flights = read_flights()
    squeeze = Squeeze.of(flights, begins=datetime.now(UTC) + LEAD, seconds=seconds)
    tally = Tally(
        {
            flight.value: (flight, squeeze.due(flight.departed))
            for flight in flights
            if flight.departed is not None
        },
        is_forgiving,
    )
    messages = [
        Message(value, key=flight.name, due_at=due)
        for value, (flight, due) in tally.due.items()
    ]
    cancelled = [flight for flight in flights if flight.departed is None]
    return Day(squeeze, cancelled, tally, messages)


@asynccontextmanager
async def open_gates(
    addresses: Sequence[str],
) -> AsyncGenerator[list[asyncio.subprocess.Process]]:
    """The consumers, as processes; closes them at the end, and waits until they have gone."""
    gates: list[asyncio.subprocess.Process] = []
    try:
        for name in GATES:
            gates.append(  # noqa: PERF401 - what was started has to be stopped
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "demo.gate", TOPIC, name, *addresses),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
            )
        yield gates
    finally:
        for gate in gates:
            await close_gate(gate)


async def close_gate(gate: asyncio.subprocess.Process) -> None:
    """Lets it end by itself, and waits."""
    assert gate.stdin is not None
    gate.stdin.close()
    try:
        async with asyncio.timeout(STOP_S):
            await gate.wait()
    except TimeoutError:
        gate.kill()
        await gate.wait()


async def until_gates_are_ready(
    client: AsyncClient, gates: list[asyncio.subprocess.Process]
) -> None:
    """Waits until both consumers have subscribed."""
    patient_until = asyncio.get_running_loop().time() + READY_S
    while True:
        groups = await client.list_groups(TOPIC, GROUP)
        if groups and all(group.consumer_count == len(GATES) for group in groups):
            return
        if any(gate.returncode is not None for gate in gates):
            raise NodeError("a gate ended by itself")
        if asyncio.get_running_loop().time() > patient_until:
            raise NodeError(f"the gates were not ready within {READY_S:.0f} s")
        await asyncio.sleep(0.05)


async def read_gate(
    name: str, gate: asyncio.subprocess.Process, tally: Tally, board: PlainBoard | LiveBoard
) -> None:
    """Takes what a gate says until it closes."""
    assert gate.stdout is not None
    async for line in gate.stdout:
        said = json.loads(line)
        value = said["value"].encode()
        at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=said["at_us"])
        if said["what"] == "acked":
            tally.knows_acked(value, at)
            continue
        departure = tally.took(value, at, name)
        if departure is not None:
            board.departed(departure)


async def watch(
    day: Day, board: PlainBoard | LiveBoard, *, patience: timedelta = PATIENCE
) -> None:
    """Keeps the board until everything has come, or is overdue."""
    squeeze, tally = day.squeeze, day.tally
    waiting = sorted(day.cancelled, key=lambda flight: flight.scheduled, reverse=True)
    last = max(due for _, due in tally.due.values())
    next_frame = squeeze.begins - LEAD
    while True:
        now = datetime.now(UTC)
        while waiting and squeeze.due(waiting[-1].scheduled) <= now:
            board.cancelled(waiting.pop())
        if now >= next_frame:
            board.refresh(squeeze.shown(min(max(now, squeeze.begins), last)), tally)
            next_frame = now + FRAME
        if (tally.is_complete and not waiting) or now > last + patience:
            return
        await asyncio.sleep(TURN_S)


async def produce_day(client: AsyncClient, day: Day, console: Console) -> None:
    """All messages at once, in the order of the timetable."""
    summary = await client.produce_many(TOPIC, day.messages)
    console.print(
        f"produced {summary.count} flights, each due at its departure;"
        f" {len(day.cancelled)} never left"
    )


async def play_departures(address: str, console: Console, *, seconds: float) -> Tally:
    """Produces the day, and shows it as it comes."""
    async with AsyncClient(address) as client, open_gates([address]) as gates:
        await client.create_topic(TOPIC, partitions=3)
        await until_gates_are_ready(client, gates)
        day = plan_day(seconds=seconds)
        await produce_day(client, day, console)
        with board_for(console) as board:
            # The group ends when the gates have: a message too many would stand there.
            async with asyncio.TaskGroup() as reading:
                for name, gate in zip(GATES, gates, strict=True):
                    reading.create_task(read_gate(name, gate, day.tally, board))
                await watch(day, board)
                await until_acked(client, day.tally)
                for gate in gates:
                    await close_gate(gate)
        await check_acked(client, day.tally)
    return day.tally


async def until_acked(client: AsyncClient, tally: Tally) -> None:
    """Waits until what came is acknowledged, but not for ever: `check_acked` looks then."""
    patient_until = asyncio.get_running_loop().time() + READY_S
    while asyncio.get_running_loop().time() < patient_until:
        if await acked_count(client) >= len(tally.late_ms):
            return
        await asyncio.sleep(TURN_S)


async def check_acked(client: AsyncClient, tally: Tally) -> None:
    """
    Raises:
        NodeError: the group's count is another than ours.
    """
    count = await acked_count(client)
    if count != len(tally.late_ms):
        raise NodeError(f"{len(tally.late_ms)} came, but {count} are acked")


async def acked_count(client: AsyncClient) -> int:
    """What the gates' group has acknowledged, as the broker counts it."""
    groups = await client.list_groups(TOPIC, GROUP)
    return sum(group.acked_count for group in groups)


def show_departures(console: Console, tally: Tally) -> None:
    """What came of the flights, in words."""
    shares = ", ".join(f"{name} {count}" for name, count in sorted(tally.by_gate.items()))
    console.print(
        f"delivered {len(tally.late_ms)} of {len(tally.due)} ({shares}):"
        f" {tally.lost_count} lost, {tally.early_count} early, {tally.double_count} double"
    )
    if tally.again_count:
        console.print(f"{tally.again_count} came again that nobody had acknowledged")
    if tally.unknown_count:
        console.print(f"{tally.unknown_count} messages came that nobody produced")
    console.print(
        f"lateness p50 {tally.lateness_ms(0.5):.1f} ms, p99 {tally.lateness_ms(0.99):.1f} ms,"
        f" max {tally.lateness_ms(1):.1f} ms"
    )


def show_emails(console: Console, rates: Rates) -> None:
    """What came of the e-mails, in words."""
    console.print(
        f"produced {rates.sent_count:,} e-mails in {rates.sent_s:.2f} s:"
        f" {rates.sent_count / rates.sent_s:,.0f} a second"
    )
    console.print(
        f"consumed and acked {rates.taken_count:,} one by one in {rates.taken_s:.2f} s:"
        f" {rates.taken_count / rates.taken_s:,.0f} a second"
        f" ({rates.double_count} double, {rates.acked_count:,} acked)"
    )


async def play(console: Console, *, seconds: float, email_count: int) -> bool:
    """The whole demo; says whether all went well."""
    console.print("starting a node in a temporary directory")
    async with running_node() as address:
        tally = await play_departures(address, console, seconds=seconds)
        show_departures(console, tally)
        rates = await send_emails(address, email_count)
        show_emails(console, rates)
    return tally.is_good and rates.is_good


async def _until_terminated(
    playing: Callable[[], Awaitable[bool]], signals: list[signal.Signals]
) -> bool:
    """A termination, or the end of the terminal, is taken like Ctrl-C: the nodes stop first."""
    task = asyncio.current_task()
    assert task is not None

    def end(number: signal.Signals) -> None:
        signals.append(number)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            asyncio.get_running_loop().add_signal_handler(number, end, number)
    return await playing()


def main() -> int:
    """Plays the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    add_seconds(parser)
    parser.add_argument("--emails", type=int, default=10_000, help="how many follow")
    arguments = parser.parse_args()
    console = new_console()
    return run(
        lambda: play(console, seconds=arguments.seconds, email_count=arguments.emails), console
    )


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """The option that all demos have."""
    parser.add_argument(
        "--seconds", type=_positive, default=30.0, help="how long the day takes"
    )


def new_console() -> Console:
    """Where a demo says what it does."""
    return _Console(highlight=False, soft_wrap=True)


def run(playing: Callable[[], Awaitable[bool]], console: Console) -> int:
    """Plays until the end, Ctrl-C or a termination; returns the exit code."""
    signals: list[signal.Signals] = []
    try:
        is_good = asyncio.run(_until_terminated(playing, signals))
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except asyncio.CancelledError:
        return 128 + signals[0]
    except (NodeError, SandglassError, OSError, ExceptionGroup) as error:
        return _failed(error)
    console.print("all well" if is_good else "NOT well: see above")
    return 0 if is_good else 1


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read our lines has gone: an error like others, so the node is stopped."""
        raise BrokenPipeError


def _failed(error: Exception) -> int:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BrokenPipeError):
        # Nothing may be written when Python closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    elif isinstance(error, NodeError | SandglassError | OSError):
        print(f"the demo failed: {error}", file=sys.stderr)
    else:
        raise error
    return 1


def _positive(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to 3600 seconds")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
