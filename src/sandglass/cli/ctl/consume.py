"""
`sandctl consume`: messages of a topic, a line each.

A delivery is acknowledged once all of it has been written to stdout, never before. Whatever
ends the command, Ctrl-C or a reader who had enough, gives back what was not: the next consumer
gets it at once, and no attempt is counted.
"""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sandglass.cli.ctl import output
from sandglass.cli.ctl.call import TOOL, call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.core import limits
from sandglass.settings import parse_duration

if TYPE_CHECKING:
    from sandglass import AsyncBatch, AsyncClient

CREDIT_COUNT: Final = 20_000
CREDIT_BYTES: Final = 32 * 1024 * 1024
HELD_COUNT_MAX: Final = limits.CREDIT_COUNT_MAX // 2
HELD_BYTES_MAX: Final = limits.CREDIT_BYTES_MAX // 2
"""What a client may hold: with --ack=false, the end of the road."""


def consume(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")],
    partition: Annotated[
        list[str] | None,
        typer.Option(
            "--partition", metavar="ID", help="A partition's id; repeatedly. [default: all]"
        ),
    ] = None,
    group: Annotated[
        str,
        typer.Option("--consumer-group", "--group", metavar="NAME", help="The consumer group."),
    ] = "sandctl",
    consumer: Annotated[
        str,
        typer.Option(
            "--consumer-name",
            "--consumer",
            metavar="NAME",
            help="This consumer's name. [default: one that nobody else has]",
        ),
    ] = "",
    poll_interval: Annotated[
        str,
        typer.Option(
            "--poll-interval",
            metavar="DURATION",
            help="Accepted, without effect: messages are pushed.",
        ),
    ] = "50ms",
    is_following: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")
    ] = False,
    is_acking: Annotated[
        bool,
        typer.Option(
            "--ack/--no-ack",
            help="Acknowledge what was printed; without, it is given back at the end.",
        ),
    ] = True,
    channel: Annotated[
        str,
        typer.Option("--channel", metavar="NAME", help="A channel. [default: master]"),
    ] = "",
    number: Annotated[
        int, typer.Option("--number", "-n", metavar="N", help="At most so many; 0 is all.")
    ] = 0,
) -> None:
    """Print the messages of a topic, a line each. Ends when nothing is left, unless -f."""
    parse_duration(poll_interval, field="--poll-interval")
    limits.check_range(number, field="--number", low=0, high=10**12)
    limits.check_name(group, field="--consumer-group")
    if consumer:
        limits.check_name(consumer, field="--consumer-name")
    held = {"credit": HELD_COUNT_MAX, "credit_bytes": HELD_BYTES_MAX}
    acked = {"credit": min(number or CREDIT_COUNT, CREDIT_COUNT), "credit_bytes": CREDIT_BYTES}
    wanted: dict[str, Any] = {
        "group": group,
        "consumer": consumer or None,
        "channel": channel,
        "partitions": partition or None,
        "drain": not is_following,
        **(acked if is_acking else held),
    }
    printer = _Printer(number, is_json=globals_of(context).is_json, is_acking=is_acking)

    async def work(client: "AsyncClient", progress: Progress) -> None:
        progress.total = number or None
        async with client.consume_batches(topic, **wanted) as batches:
            async for batch in batches:
                await printer.take(batch)
                progress.update(printer.count)
                if printer.is_done:
                    break

    call(context, work, label=f"consuming {topic}", is_quiet=sys.stdout.isatty())


class _Printer:
    """Writes deliveries, then acknowledges them; counts what it has written."""

    def __init__(self, number: int, *, is_json: bool, is_acking: bool) -> None:
        self.count = 0
        self._held_bytes = 0
        self._number = number
        self._is_json = is_json
        self._is_acking = is_acking

    @property
    def is_done(self) -> bool:
        """Whether there have been enough."""
        if self._number and self.count >= self._number:
            return True
        is_full = self.count >= HELD_COUNT_MAX or self._held_bytes >= HELD_BYTES_MAX
        if not self._is_acking and is_full:
            print(
                f"{TOOL}: stopped after {self.count} messages: no more can be held without"
                " acknowledging",
                file=sys.stderr,
            )
            return True
        return False

    async def take(self, batch: "AsyncBatch") -> None:
        """Writes a delivery, or as much of it as is wanted, and acknowledges that."""
        left = self._number - self.count if self._number else len(batch)
        await output.write(self._text(batch, left))
        self.count += min(left, len(batch))
        self._held_bytes += batch.size_bytes
        if not self._is_acking:
            return
        if left >= len(batch):
            await batch.ack()
            return
        for message in batch.messages[:left]:
            await message.ack()
        await batch.release()

    def _text(self, batch: "AsyncBatch", left: int) -> bytes:
        if not self._is_json:
            return b"".join([value + b"\n" for value in batch.values[:left]])
        lines = [
            json.dumps(output.message_json(message), ensure_ascii=False) + "\n"
            for message in batch.messages[:left]
        ]
        return "".join(lines).encode()
