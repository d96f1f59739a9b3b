"""`sandctl schedule`: what is still to come."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from sandglass.cli.ctl import output, values
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.core import limits

if TYPE_CHECKING:
    from sandglass import AsyncClient

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="What is still to come.")

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]
Channel = Annotated[
    str, typer.Option("--channel", metavar="NAME", help="A channel. [default: master]")
]
From = Annotated[
    str, typer.Option("--from", metavar="TIME", help="Only what is due from this moment on.")
]
To = Annotated[
    str, typer.Option("--to", metavar="TIME", help="Only what is due before this moment.")
]


@app.command()
def count(
    context: typer.Context,
    topic: Topic,
    channel: Channel = "",
    due_from: From = "",
    due_to: To = "",
) -> None:
    """Count messages that are not due yet. Beyond 200,000 rows it is a lower bound."""
    first, end = _moment(due_from, "--from"), _moment(due_to, "--to")

    async def work(client: "AsyncClient", _: Progress) -> None:
        found = await client.admin.count_pending(
            topic, channel=channel, due_from=first, due_to=end
        )
        due_at = output.moment(found.next_due_at) if found.next_due_at else None
        if globals_of(context).is_json:
            output.print_json(
                {
                    "count": found.count,
                    "is_lower_bound": found.is_lower_bound,
                    "next_due_at": due_at,
                }
            )
            return
        more = " or more" if found.is_lower_bound else ""
        then = f", the next at {due_at}" if due_at else ""
        messages = "message" if found.count == 1 and not more else "messages"
        print(f"{found.count}{more} {messages} pending{then}")

    call(context, work, label=f"counting what is pending in {topic}")


@app.command(name="list")
def list_(
    context: typer.Context,
    topic: Topic,
    channel: Channel = "",
    due_from: From = "",
    due_to: To = "",
    number: Annotated[
        int, typer.Option("--number", "-n", metavar="N", help="At most so many, up to 1000.")
    ] = limits.PAGE_COUNT_DEFAULT,
) -> None:
    """List the messages that come due next."""
    first, end = _moment(due_from, "--from"), _moment(due_to, "--to")
    limits.check_range(number, field="--number", low=1, high=limits.PAGE_COUNT_MAX)

    async def work(client: "AsyncClient", _: Progress) -> None:
        page = await client.admin.list_pending(
            topic, channel=channel, due_from=first, due_to=end, page_size=number
        )
        found = [output.stored_json(each) for each in page.messages]
        if globals_of(context).is_json:
            output.print_json(found)
            return
        output.print_table(
            ["DUE", "BYTES", "AT"],
            [
                (each["due_at"], each["size_bytes"], f"{each['partition']}/{each['offset']}")
                for each in found
            ],
        )

    call(context, work, label=f"listing what is pending in {topic}")


def _moment(text: str, field: str) -> datetime | None:
    return values.moment_of(text, field=field) if text else None
