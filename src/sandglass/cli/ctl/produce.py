"""`sandctl produce`: one message, the same many times, or one for each line of a file."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandglass.cli.ctl import ndjson, output
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.given import content_of, encoded, headers_of
from sandglass.cli.ctl.progress import Progress
from sandglass.core import limits
from sandglass.errors import InvalidError, SandglassError
from sandglass.settings import parse_duration

if TYPE_CHECKING:
    from sandglass import AsyncClient, Message

COUNT_MAX = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """Where messages go."""

    topic: str
    partition: str
    channel: str


def produce(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")],
    payload: Annotated[
        str | None, typer.Argument(metavar="[PAYLOAD]", help="The value, as UTF-8.")
    ] = None,
    partition: Annotated[
        str,
        typer.Option(
            "--partition",
            metavar="ID",
            help="A partition's id. [default: by key, else by id, else spread]",
        ),
    ] = "",
    file: Annotated[
        str, typer.Option("--file", metavar="PATH", help="The value: a whole file; - is stdin.")
    ] = "",
    number: Annotated[
        int, typer.Option("--number", "-n", metavar="N", help="So many times.")
    ] = 1,
    key: Annotated[
        str, typer.Option("--key", metavar="TEXT", help="Messages of a key stay together.")
    ] = "",
    delay: Annotated[
        str, typer.Option("--delay", metavar="DURATION", help="Due so long from now: 90s, 5m.")
    ] = "",
    at: Annotated[
        str,
        typer.Option("--at", metavar="TIME", help="Due at a moment: 2027-01-01T09:00:00Z."),
    ] = "",
    channel: Annotated[
        str, typer.Option("--channel", metavar="NAME", help="A channel. [default: master]")
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="A header; give it repeatedly."),
    ] = None,
    id: Annotated[  # noqa: A002 - the option's name
        str, typer.Option("--id", metavar="TEXT", help="Your own name for the message.")
    ] = "",
    lines: Annotated[
        str,
        typer.Option(
            "--ndjson",
            metavar="PATH",
            help="A message for each line of JSON; - is stdin. Keys: value or value_base64,"
            " key, at, delay, headers, id, channel.",
        ),
    ] = "",
) -> None:
    """Produce a message: the payload, a file, or a line of JSON each. Prints OK."""
    limits.check_range(number, field="--number", low=1, high=COUNT_MAX)
    _check_one_source(payload, file, lines)
    target = Target(topic, partition, channel)
    if lines:
        alone = {"--number": number != 1, "--key": key, "--delay": delay, "--at": at}
        alone |= {"--header": header, "--id": id}
        given = [option for option, value in alone.items() if value]
        if given:
            raise InvalidError(f"{given[0]} goes into the lines of --ndjson, not beside them")
        call(context, _line_by_line(context, target, lines), label=f"producing to {topic}")
        return
    if id and number > 1:
        raise InvalidError("--id names one message; it doesn't go with --number")
    if delay and at:
        raise InvalidError("--delay and --at are both given; give one")
    value = content_of(file) if file else encoded(payload or "", "the payload")
    parts: dict[str, Any] = {
        "key": encoded(key, "--key"),
        "headers": headers_of(header or []),
        "id": id,
        "delay": parse_duration(delay, field="--delay") if delay else None,
        "due_at": ndjson.parse_moment(at, field="--at") if at else None,
    }
    call(context, _repeated(context, target, value, parts, number), label=_label(topic, number))


def _repeated(
    context: typer.Context, target: Target, value: bytes, parts: dict[str, Any], number: int
) -> Any:
    async def work(client: "AsyncClient", progress: Progress) -> None:
        where = {"channel": target.channel, "partition": target.partition}
        if number == 1:
            receipt = await client.produce(target.topic, value, **where, **parts)
            found = {"partition": receipt.partition, "offset": receipt.offset}
            _say_done(context, target, 1, found)
            return
        from sandglass import Message

        message = Message(value, **parts) if any(parts.values()) else value
        progress.total = number
        await client.produce_many(
            target.topic,
            itertools.repeat(message, number),
            on_progress=progress.update,
            **where,
        )
        _say_done(context, target, number)

    return work


def _line_by_line(context: typer.Context, target: Target, source: str) -> Any:
    async def work(client: "AsyncClient", progress: Progress) -> None:
        before = 0
        done_count = 0

        def done(count: int) -> None:
            nonlocal done_count
            done_count = before + count
            progress.update(done_count)

        try:
            async for numbered in ndjson.read_lines(source):
                channels, error = _by_channel(numbered, target.channel, source)
                for channel, messages in channels.items():
                    await client.produce_many(
                        target.topic,
                        messages,
                        channel=channel,
                        partition=target.partition,
                        on_progress=done,
                    )
                    before += len(messages)
                done_count = before
                if error is not None:
                    raise error
        except SandglassError as error:
            # Of all calls together, instead of what the last one says of itself.
            error.__notes__ = [f"{done_count} messages were produced before"]
            raise
        _say_done(context, target, done_count)

    return work


def _by_channel(
    numbered: list[tuple[int, bytes]], channel: str, source: str
) -> tuple[dict[str, list["Message"]], InvalidError | None]:
    """Messages for each channel, up to the first wrong line, and what is wrong with it."""
    found: dict[str, list[Message]] = {}
    shown = ndjson.shown_name(source)
    for number, line in numbered:
        try:
            entry = ndjson.parse_line(line)
        except InvalidError as error:
            return found, InvalidError(f"{shown} line {number}: {error.message}")
        found.setdefault(entry.channel or channel, []).append(entry.message)
    return found, None


def _say_done(
    context: typer.Context, target: Target, count: int, more: dict[str, str] | None = None
) -> None:
    if globals_of(context).is_json:
        output.print_json({"topic": target.topic, "count": count, **(more or {})})
    else:
        print("OK")


def _check_one_source(payload: str | None, file: str, lines: str) -> None:
    given = [
        name
        for name, is_given in (
            ("PAYLOAD", payload is not None),
            ("--file", bool(file)),
            ("--ndjson", bool(lines)),
        )
        if is_given
    ]
    if not given:
        raise InvalidError("nothing to produce: give a PAYLOAD, --file or --ndjson")
    if len(given) > 1:
        raise InvalidError(f"{' and '.join(given)} are both given; give one")


def _label(topic: str, number: int) -> str:
    return f"producing to {topic}" if number == 1 else f"producing {number} to {topic}"
