"""`sandctl clock`: the clock of a node, and a step of it that the node doesn't believe yet."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from sandglass.cli.ctl import output
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.settings import show_duration

if TYPE_CHECKING:
    from sandglass import AsyncClient, NodeClock

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="The clock of the node at --addrs."
)


@app.command()
def show(context: typer.Context) -> None:
    """Show the node's clock, and whether it believes its machine's."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        found = await client.admin.show_clock()
        if globals_of(context).is_json:
            output.print_json(_json(found))
            return
        print(f"the node's clock   {output.moment(found.now)}")
        print(f"its machine's      {output.moment(found.machine)}")
        if found.step:
            step, left = _rough(found.step), show_duration(found.believed_in)
            print(f"stepped forward by {step}: believed in {left}, if it stays;")
            print("`sandctl clock accept` believes it at once")

    call(context, work, label="looking at the clock")


@app.command()
def accept(context: typer.Context) -> None:
    """Believe a forward step of the machine's clock at once."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        step = await client.admin.accept_clock()
        if globals_of(context).is_json:
            output.print_json({"accepted_ms": _ms(step)})
        elif step:
            print(f"accepted: the clock has gone forward by {_rough(step)}")
        else:
            print("there is nothing to accept: the node believes its machine's clock")

    call(context, work, label="accepting the clock")


def _json(found: "NodeClock") -> dict[str, Any]:
    return {
        "now": output.moment(found.now),
        "machine": output.moment(found.machine),
        "step_ms": _ms(found.step),
        "believed_in_ms": _ms(found.believed_in),
    }


def _rough(step: timedelta) -> str:
    """In whole seconds: two clocks that are read one by one differ by a chance millisecond."""
    return show_duration(timedelta(seconds=round(step.total_seconds())))


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
