"""`sandctl groups`: how far consumers are, and where they begin."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sandglass.cli.ctl import output, values
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.errors import InvalidError

if TYPE_CHECKING:
    from sandglass import AsyncClient, Group, GroupStatus

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Groups of consumers: how far they are, and their settings.",
)

COUNTS: Final = (
    "lag_count",
    "leased_count",
    "retry_count",
    "acked_count",
    "dead_count",
    "consumer_count",
)
HEADINGS: Final = ("LAG", "LEASED", "RETRY", "ACKED", "DEAD", "CONSUMERS")


@app.command(name="list")
def list_(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(metavar="[TOPIC]", help="One topic; all without it.")
    ] = "",
) -> None:
    """List groups, all partitions together."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        names = [topic] if topic else [each.name for each in await client.list_topics()]
        found = [group for name in names for group in await client.list_groups(name)]
        known = [group for name in names for group in await client.admin.groups(name)]
        rows = _summed(found, known)
        if globals_of(context).is_json:
            output.print_json(rows)
            return
        output.print_table(
            ["TOPIC", "GROUP", "CHANNEL", "PARTITIONS", *HEADINGS],
            [tuple(row.values()) for row in rows],
        )

    call(context, work, label="listing groups")


@app.command()
def show(
    context: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")],
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")],
) -> None:
    """Show a group, partition by partition."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        known = output.known_json(await client.admin.group(topic, group))
        found = await client.list_groups(topic, group)
        if globals_of(context).is_json:
            parts = [output.group_json(each) for each in found]
            output.print_json({**known, "parts": parts})
            return
        known["start"] = known["start"] or "beginning"
        known["own"] = ", ".join(known["own"]) or "none: all settings are the topic's"
        for key, value in known.items():
            print(f"{key}: {value}")
        print()
        output.print_table(
            ["PARTITION", "CHANNEL", "COMMITTED", *HEADINGS],
            [
                (
                    each.partition,
                    each.channel,
                    each.committed,
                    *(getattr(each, name) for name in COUNTS),
                )
                for each in found
            ],
        )

    call(context, work, label=f"looking at {group}")


Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
Name = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
AckTimeout = Annotated[
    str,
    typer.Option(
        "--ack_timeout", metavar="DURATION", help="How long one may be in hand untold."
    ),
]
MaxDeliveries = Annotated[
    int | None,
    typer.Option("--max_deliveries", metavar="N", help="Attempts before it is a dead letter."),
]
BackoffText = Annotated[
    str, typer.Option("--backoff", metavar="BACKOFF", help=values.BACKOFF_HELP)
]
Start = Annotated[
    str,
    typer.Option("--start", metavar="PLACE", help="beginning, now, or 2027-01-01T09:00:00Z."),
]


@app.command()
def create(
    context: typer.Context,
    topic: Topic,
    group: Name,
    start: Start = "beginning",
    ack_timeout: AckTimeout = "",
    max_deliveries: MaxDeliveries = None,
    backoff: BackoffText = "",
) -> None:
    """Make a group, with a start that holds for all partitions."""
    wanted = values.settings_of(ack_timeout, max_deliveries, backoff)
    place = _place(start)

    async def work(client: "AsyncClient", _: Progress) -> None:
        made = await client.admin.create_group(topic, group, start=place, **wanted)
        _told(context, made, f"group '{group}' of topic '{topic}' was created")

    call(context, work, label=f"creating {group}")


@app.command(name="set")
def set_(
    context: typer.Context,
    topic: Topic,
    group: Name,
    ack_timeout: AckTimeout = "",
    max_deliveries: MaxDeliveries = None,
    backoff: BackoffText = "",
    unset: Annotated[
        list[str] | None,
        typer.Option(
            "--unset",
            metavar="NAME",
            help="ack_timeout, max_deliveries or backoff: as the topic has it again.",
        ),
    ] = None,
) -> None:
    """Change settings of a group. Those that are given are stronger than its topic's."""
    wanted: dict[str, Any] = values.settings_of(ack_timeout, max_deliveries, backoff)
    if not wanted and not unset:
        raise InvalidError("no setting is given", field="settings")

    async def work(client: "AsyncClient", _: Progress) -> None:
        names: Any = unset or ()
        changed = await client.admin.set_group(topic, group, unset=names, **wanted)
        _told(context, changed, f"group '{group}' of topic '{topic}' was changed")

    call(context, work, label=f"changing {group}")


@app.command()
def seek(
    context: typer.Context,
    topic: Topic,
    group: Name,
    start: Start = "",
    at: Annotated[
        str,
        typer.Option(
            "--at", metavar="PARTITION/OFFSET", help="In this partition only: to an offset."
        ),
    ] = "",
) -> None:
    """Move a group to another place; attempts start anew. The beginning, if none is named."""
    if start and at:
        raise InvalidError("--start and --at are both given; give one")
    place = _place(start or "beginning")
    partition, offset = values.place_of(at, field="--at") if at else ("", "")

    async def work(client: "AsyncClient", _: Progress) -> None:
        moved = await client.admin.seek_group(
            topic, group, place, partition=partition, at=offset
        )
        _told(context, moved, f"group '{group}' of topic '{topic}' was moved")

    call(context, work, label=f"moving {group}")


@app.command()
def delete(
    context: typer.Context,
    topic: Topic,
    group: Name,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a group with its state; its consumers end."""
    if not is_sure and sys.stdin.isatty():
        typer.confirm(f"delete group '{group}'?", abort=True, default=False, err=True)

    async def work(client: "AsyncClient", _: Progress) -> None:
        await client.admin.delete_group(topic, group)
        if globals_of(context).is_json:
            output.print_json({"deleted": group})
        else:
            print(f"group '{group}' of topic '{topic}' was deleted")

    call(context, work, label=f"deleting {group}")


def _told(context: typer.Context, group: "Group", text: str) -> None:
    if globals_of(context).is_json:
        output.print_json(output.known_json(group))
    else:
        print(text)


def _place(text: str) -> Any:
    if text in {"beginning", "now"}:
        return text
    try:
        return values.moment_of(text, field="--start")
    except InvalidError as error:
        raise InvalidError(
            f"--start is {text!r}; it must be beginning, now, or a moment with a zone, such"
            " as 2027-01-01T09:00:00Z",
            field="--start",
        ) from error


def _summed(groups: list["GroupStatus"], known: list["Group"]) -> list[dict[str, Any]]:
    """
    A row for each group and channel, and for each that has read nowhere so far; consumers are
    those of the partition that has most.
    """
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for each in groups:
        row = rows.setdefault(
            (each.topic, each.group, each.channel),
            {
                "topic": each.topic,
                "group": each.group,
                "channel": each.channel,
                "partition_count": 0,
                **dict.fromkeys(COUNTS, 0),
            },
        )
        row["partition_count"] += 1
        for name in COUNTS[:-1]:
            row[name] += getattr(each, name)
        row["consumer_count"] = max(row["consumer_count"], each.consumer_count)
    reading = {(topic, group) for topic, group, _ in rows}
    for each in known:
        if (each.topic, each.name) not in reading:
            rows[each.topic, each.name, ""] = {
                "topic": each.topic,
                "group": each.name,
                "channel": "",
                "partition_count": 0,
                **dict.fromkeys(COUNTS, 0),
            }
    return [rows[key] for key in sorted(rows)]
