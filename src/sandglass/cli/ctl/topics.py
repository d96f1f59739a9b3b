"""`sandctl topics`: make, list, show and delete them."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from sandglass.cli.ctl import output, values
from sandglass.cli.ctl.call import TOOL, call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.core import limits
from sandglass.errors import InvalidError, PreconditionError, UnavailableError
from sandglass.settings import show_duration

if TYPE_CHECKING:
    from sandglass import AsyncClient
    from sandglass.client.topics import Topic

KINDS: Final[dict[str, Literal["timer", "kv"]]] = {
    "timerkind": "timer",
    "timer": "timer",
    "kvkind": "kv",
    "kv": "kv",
}

MOVED_S: Final = 300.0
"""How long a topic that moves is waited for; it goes on after that, too."""

AGAIN_S: Final = 0.2
ON_ITS_WAY: Final = "on its way"

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Topics and their settings."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The topic's name.")]


@app.command()
def create(
    context: typer.Context,
    name: Name,
    num_partitions: Annotated[
        int,
        typer.Option(
            "--num_partitions", "-p", metavar="N", help="How many partitions: 1 to 1024."
        ),
    ] = 1,
    replication_factor: Annotated[
        int,
        typer.Option(
            "--replication_factor",
            "-r",
            metavar="N",
            help="How many nodes hold each partition: 1 to 5; 0 for 1 on a node alone, and for"
            " as many as there are members, up to 3, in a cluster.",
        ),
    ] = 0,
    kind: Annotated[
        str, typer.Option("--kind", metavar="KIND", help="TimerKind or KVKind.")
    ] = "TimerKind",
    storage_driver: Annotated[
        str,
        typer.Option(
            "--storage_driver", metavar="DRIVER", help="RocksDB; Badger means RocksDB, too."
        ),
    ] = "RocksDB",
    retention: Annotated[
        str,
        typer.Option(
            "--retention",
            metavar="DURATION",
            help="How long after their due time messages are kept. [default: 7d]",
        ),
    ] = "",
    ack_timeout: Annotated[
        str,
        typer.Option(
            "--ack_timeout",
            metavar="DURATION",
            help="How long a message may be in hand without a word. [default: 10s]",
        ),
    ] = "",
    max_deliveries: Annotated[
        int,
        typer.Option(
            "--max_deliveries",
            metavar="N",
            help="Attempts before a message becomes a dead letter; 0 means 5.",
        ),
    ] = 0,
    backoff: Annotated[
        str, typer.Option("--backoff", metavar="BACKOFF", help=values.BACKOFF_HELP)
    ] = "",
) -> None:
    """Make a topic."""
    limits.check_name(name, field="topic")
    limits.check_range(
        num_partitions, field="--num_partitions", low=1, high=limits.PARTITION_COUNT_MAX
    )
    limits.check_range(
        replication_factor,
        field="--replication_factor",
        low=0,
        high=limits.REPLICATION_FACTOR_MAX,
    )
    limits.check_range(
        max_deliveries, field="--max_deliveries", low=0, high=limits.MAX_DELIVERIES_MAX
    )
    _check_driver(storage_driver)
    wanted: dict[str, Any] = {
        "partitions": num_partitions,
        "replication_factor": replication_factor or None,
        "kind": _kind(kind),
        "retention": values.retention_of(retention) if retention else None,
        "ack_timeout": values.ack_timeout_of(ack_timeout) if ack_timeout else None,
        "max_deliveries": max_deliveries or None,
        "backoff": values.backoff_of(backoff) if backoff else None,
    }

    async def work(client: "AsyncClient", _: Progress) -> None:
        topic = await client.create_topic(name, **wanted)
        if globals_of(context).is_json:
            output.print_json(output.topic_json(topic))
        else:
            print(f"topic '{name}' was successfully created")

    call(context, work, label=f"creating {name}")


@app.command(name="list")
def list_(context: typer.Context) -> None:
    """List all topics."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        topics = await client.list_topics()
        if globals_of(context).is_json:
            output.print_json([output.topic_json(each) for each in topics])
            return
        output.print_table(
            ["NAME", "KIND", "PARTITIONS", "REPLICAS", "RETENTION", "CREATED"],
            [
                (
                    each.name,
                    each.kind,
                    len(each.partitions),
                    each.replication_factor,
                    show_duration(each.retention),
                    output.moment(each.created_at),
                )
                for each in topics
            ],
        )

    call(context, work, label="listing topics")


@app.command()
def show(context: typer.Context, name: Name) -> None:
    """Show a topic and its partitions."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        status = await client.show_topic(name)
        found = output.topic_json(status.topic)
        found["partitions"] = [
            {
                "id": each.id,
                "message_count": each.message_count,
                "closed_offset": each.closed_offset,
                "channels": list(each.channels),
            }
            for each in status.partitions
        ]
        if globals_of(context).is_json:
            output.print_json(found)
            return
        for key, value in found.items():
            if key != "partitions":
                print(f"{key}: {value}")
        print()
        output.print_table(
            ["PARTITION", "MESSAGES", "CHANNELS"],
            [
                (each.id, each.message_count, ",".join(each.channels))
                for each in status.partitions
            ],
        )

    call(context, work, label=f"looking at {name}")


@app.command(name="set")
def set_(
    context: typer.Context,
    name: Name,
    retention: Annotated[
        str,
        typer.Option(
            "--retention", metavar="DURATION", help="How long messages are kept once due."
        ),
    ] = "",
    ack_timeout: Annotated[
        str,
        typer.Option(
            "--ack_timeout", metavar="DURATION", help="How long one may be in hand untold."
        ),
    ] = "",
    max_deliveries: Annotated[
        int | None,
        typer.Option(
            "--max_deliveries", metavar="N", help="Attempts before it is a dead letter."
        ),
    ] = None,
    backoff: Annotated[
        str, typer.Option("--backoff", metavar="BACKOFF", help=values.BACKOFF_HELP)
    ] = "",
    num_partitions: Annotated[
        int | None,
        typer.Option(
            "--num_partitions",
            "-p",
            metavar="N",
            help="So many partitions from here on: more, of a timer topic. Some keys go to new"
            " ones then.",
            show_default=False,
        ),
    ] = None,
    replication_factor: Annotated[
        int | None,
        typer.Option(
            "--replication_factor",
            "-r",
            metavar="N",
            help="So many nodes hold each partition from here on.",
            show_default=False,
        ),
    ] = None,
    node: Annotated[
        str,
        typer.Option(
            "--node", metavar="NODE", help="Where a topic with one replica is to live."
        ),
    ] = "",
) -> None:
    """Change settings of a topic: those that are given."""
    wanted = values.settings_of(ack_timeout, max_deliveries, backoff, retention)
    if num_partitions is not None:
        wanted["partitions"] = limits.check_range(
            num_partitions, field="--num_partitions", low=1, high=limits.PARTITION_COUNT_MAX
        )
    if replication_factor is not None:
        wanted["replication_factor"] = limits.check_range(
            replication_factor,
            field="--replication_factor",
            low=1,
            high=limits.REPLICATION_FACTOR_MAX,
        )
    if node:
        wanted["node"] = node
    if not wanted:
        raise InvalidError("no setting is given", field="settings")

    async def work(client: "AsyncClient", _: Progress) -> None:
        topic = await _until_set(client, name, wanted)
        if globals_of(context).is_json:
            output.print_json(output.topic_json(topic))
        else:
            print(f"topic '{name}' was changed")

    call(context, work, label=f"changing {name}")


@app.command()
def move(
    context: typer.Context,
    name: Name,
    node: Annotated[
        str, typer.Option("--to", metavar="NODE", help="Name of the node.", show_default=False)
    ],
) -> None:
    """Let a topic with one replica live on another node."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        before = (await client.show_topic(name)).topic
        if before.replication_factor > 1:
            raise PreconditionError(
                f"topic '{name}' has {before.replication_factor} replicas. To let it live on"
                f" node '{node}' alone: {TOOL} topics set {name} --replication_factor 1 --node"
                f" {node}"
            )
        topic = await _until_set(client, name, {"replication_factor": 1, "node": node})
        if globals_of(context).is_json:
            output.print_json(output.topic_json(topic))
        else:
            print(f"topic '{name}' lives on node '{node}'")

    call(context, work, label=f"moving {name}")


async def _until_set(client: "AsyncClient", name: str, wanted: dict[str, Any]) -> "Topic":
    """Repeats it for a while: a topic that moves to other logs takes its time."""
    until_s = asyncio.get_running_loop().time() + MOVED_S
    while True:
        try:
            return await client.admin.set_topic(name, **wanted)
        except UnavailableError as error:
            if ON_ITS_WAY not in error.message:
                raise
            if asyncio.get_running_loop().time() > until_s:
                raise
        await asyncio.sleep(AGAIN_S)


@app.command()
def delete(
    context: typer.Context,
    name: Name,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a topic with all its messages and groups."""
    if not is_sure and sys.stdin.isatty():
        typer.confirm(
            f"delete topic '{name}' with all its messages?", abort=True, default=False, err=True
        )

    async def work(client: "AsyncClient", _: Progress) -> None:
        await client.delete_topic(name)
        if globals_of(context).is_json:
            output.print_json({"deleted": name})
        else:
            print(f"topic '{name}' was deleted")

    call(context, work, label=f"deleting {name}")


def _kind(text: str) -> Literal["timer", "kv"]:
    if text.lower() not in KINDS:
        raise InvalidError(f"--kind is {text!r}; it must be TimerKind or KVKind", field="kind")
    return KINDS[text.lower()]


def _check_driver(text: str) -> None:
    if text.lower() == "badger":
        print(f"{TOOL}: storage driver Badger: stored as RocksDB", file=sys.stderr)
    elif text.lower() != "rocksdb":
        raise InvalidError(
            f"--storage_driver is {text!r}; it must be RocksDB or Badger",
            field="storage_driver",
        )
