"""`sandctl dead`: dead letters of a topic."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandglass.cli.ctl import output, values
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.core import limits
from sandglass.errors import InvalidError

if TYPE_CHECKING:
    from sandglass import AsyncClient, Taken

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Dead letters: what groups gave up."
)

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
Group = Annotated[
    str, typer.Option("--group", metavar="NAME", help="Only what this group gave up.")
]
Channel = Annotated[
    str, typer.Option("--channel", metavar="NAME", help="Only what was read in this channel.")
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Only those with this reason.")
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at", metavar="PARTITION/OFFSET", help="A single one, as `dead list` shows it."
    ),
]
Limit = Annotated[
    int, typer.Option("--number", "-n", metavar="N", help="At most so many; 0 is all.")
]
OlderThan = Annotated[
    str, typer.Option("--older-than", metavar="DURATION", help="Only what died before.")
]


@app.command(name="list")
def list_(
    context: typer.Context,
    topic: Topic,
    group: Group = "",
    channel: Channel = "",
    reason: Reason = "",
    is_newest_first: Annotated[
        bool, typer.Option("--newest", help="The newest first, not the oldest.")
    ] = False,
    with_messages: Annotated[
        bool, typer.Option("--messages", help="With the messages themselves.")
    ] = False,
    number: Limit = limits.PAGE_COUNT_DEFAULT,
) -> None:
    """List dead letters in the order of their death. 100 unless -n says otherwise."""
    _check_number(number)

    async def work(client: "AsyncClient", _: Progress) -> None:
        found: list[dict[str, Any]] = []
        letters = client.admin.dead_letters(
            topic,
            group=group,
            channel=channel,
            reason=reason,
            newest_first=is_newest_first,
            with_messages=with_messages,
        )
        async for letter in letters:
            found.append(output.letter_json(letter))
            if len(found) == number:
                break
        if globals_of(context).is_json:
            output.print_json(found)
            return
        output.print_table(
            ["DIED", "GROUP", "ATTEMPTS", "BYTES", "REASON", "AT"],
            [
                (
                    each["died_at"],
                    each["group"],
                    each["attempts"],
                    each["size_bytes"],
                    each["reason"],
                    f"{each['partition']}/{each['offset']}",
                )
                for each in found
            ],
        )

    call(context, work, label=f"listing dead letters of {topic}")


@app.command()
def count(
    context: typer.Context,
    topic: Topic,
    group: Group = "",
    channel: Channel = "",
    reason: Reason = "",
) -> None:
    """Count dead letters, by group."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        found = await client.admin.count_dead_letters(
            topic, group=group, channel=channel, reason=reason
        )
        rows = [
            {"group": name, "channel": read, "count": each}
            for (name, read), each in found.groups.items()
        ]
        if globals_of(context).is_json:
            output.print_json(
                {"count": found.count, "size_bytes": found.size_bytes, "groups": rows}
            )
            return
        letters = "dead letter" if found.count == 1 else "dead letters"
        print(f"{found.count} {letters}, {found.size_bytes} bytes")
        if rows:
            output.print_table(
                ["GROUP", "CHANNEL", "COUNT"], [tuple(row.values()) for row in rows]
            )

    call(context, work, label=f"counting dead letters of {topic}")


@app.command()
def redrive(
    context: typer.Context,
    topic: Topic,
    group: Group = "",
    channel: Channel = "",
    reason: Reason = "",
    at: At = None,
    number: Limit = 0,
    older_than: OlderThan = "",
) -> None:
    """Give dead letters back to their groups. Those that gave them up; attempts start anew."""
    given = _given(group, channel, reason, at, number, older_than)

    async def take(client: "AsyncClient", progress: Progress) -> "Taken":
        return await client.admin.redrive_dead_letters(
            topic, on_progress=progress.update, **given
        )

    _take(context, take, "redriven", label=f"redriving dead letters of {topic}")


@app.command()
def purge(
    context: typer.Context,
    topic: Topic,
    group: Group = "",
    channel: Channel = "",
    reason: Reason = "",
    at: At = None,
    number: Limit = 0,
    older_than: OlderThan = "",
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Throw dead letters away, for good."""
    given = _given(group, channel, reason, at, number, older_than)
    if not is_sure and sys.stdin.isatty():
        typer.confirm(f"purge dead letters of '{topic}'?", abort=True, default=False, err=True)

    async def take(client: "AsyncClient", progress: Progress) -> "Taken":
        return await client.admin.purge_dead_letters(
            topic, on_progress=progress.update, **given
        )

    _take(context, take, "purged", label=f"purging dead letters of {topic}")


def _given(
    group: str, channel: str, reason: str, at: list[str] | None, number: int, older_than: str
) -> dict[str, Any]:
    _check_number(number)
    return {
        "group": group,
        "channel": channel,
        "reason": reason,
        "places": [values.place_of(text, field="--at") for text in at or ()],
        "limit": number or None,
        "before": values.before_of(older_than, field="--older-than"),
    }


def _check_number(number: int) -> None:
    if number < 0:
        raise InvalidError(f"--number is {number}; it must be 0 or more", field="--number")


def _take(
    context: typer.Context,
    take: Callable[["AsyncClient", Progress], Awaitable["Taken"]],
    done: str,
    *,
    label: str,
) -> None:
    async def work(client: "AsyncClient", progress: Progress) -> None:
        taken = await take(client, progress)
        if globals_of(context).is_json:
            output.print_json({"count": taken.count, "skipped_count": taken.skipped_count})
            return
        skipped = taken.skipped_count
        note = f"; {skipped} stay, because their group is gone" if skipped else ""
        print(f"{taken.count} dead letters were {done}{note}")

    call(context, work, label=label)
