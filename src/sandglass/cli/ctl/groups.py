"""`sandctl groups`: how far consumers are."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sandglass.cli.ctl import output
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.errors import NotFoundError

if TYPE_CHECKING:
    from sandglass import AsyncClient, GroupStatus

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Consumer groups.")

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
        rows = _summed(found)
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
        found = await client.list_groups(topic, group)
        if not found:
            raise NotFoundError(f"group '{group}' of topic '{topic}' not found")
        if globals_of(context).is_json:
            output.print_json([output.group_json(each) for each in found])
            return
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


def _summed(groups: list["GroupStatus"]) -> list[dict[str, Any]]:
    """A row for each group and channel; consumers are those of the partition that has most."""
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
    return [rows[key] for key in sorted(rows)]
