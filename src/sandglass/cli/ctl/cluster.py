"""`sandctl cluster`: the members of a cluster, and who leads what."""

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sandglass.cli.ctl import output
from sandglass.cli.ctl.call import call, globals_of
from sandglass.cli.ctl.progress import Progress
from sandglass.errors import UnavailableError

if TYPE_CHECKING:
    from sandglass import AsyncClient, ClusterPartition, ClusterReplica, ClusterStatus

DRAIN_S = 10.0
"""How long others may take to take over, before it is said that they have not."""

REMOVE_S = 30.0
"""How long a removal is repeated: leaders are chosen anew, among nodes and engines."""

LOOK_S = 0.1

_DURABILITY = {
    "always": "engines sync what they acknowledge",
    "unknown": "unknown: not all engines show whether they sync what they acknowledge",
}

Node = Annotated[
    str, typer.Argument(metavar="NODE", help="Name of the node.", show_default=False)
]

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="The cluster.")


@app.command()
def info(context: typer.Context) -> None:
    """Show whether there is a cluster, and what it would not survive."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        found = await client.admin.show_cluster()
        if globals_of(context).is_json:
            output.print_json(_info_json(found))
            return
        if not found.cluster_id or found.trouble:
            _print_alone(found)
            return
        print(f"cluster {found.cluster_id}")
        alive_count = sum(node.is_alive for node in found.nodes)
        quorum = "" if found.has_quorum else "; too few for a quorum: nothing can be changed"
        print(f"{alive_count} of {len(found.nodes)} nodes are there{quorum}")
        led_count = sum(bool(each.leader) for each in found.partitions)
        print(f"{led_count} of {len(found.partitions)} partitions have a leader")
        print(f"durability: {_DURABILITY[found.durability]}")
        _print_warnings(found)

    call(context, work, label="looking at the cluster")


@app.command()
def nodes(context: typer.Context) -> None:
    """List the nodes, and whether they are there."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        found = await client.admin.show_cluster()
        leads = [each.leader for each in found.partitions]
        if globals_of(context).is_json:
            output.print_json(
                [asdict(node) | {"led_count": leads.count(node.name)} for node in found.nodes]
            )
            return
        if not found.nodes:
            _print_alone(found)
            return
        output.print_table(
            ["NODE", "GRPC", "HTTP", "THERE", "DRAINED", "LEADS", "VERSION"],
            [
                (
                    node.name,
                    node.grpc_address,
                    node.http_address or "-",
                    "yes" if node.is_alive else "no",
                    "yes" if node.is_drained else "no",
                    leads.count(node.name),
                    node.version or "-",
                )
                for node in found.nodes
            ],
        )

    call(context, work, label="listing nodes")


@app.command()
def partitions(context: typer.Context) -> None:
    """List all partitions: who leads each, and how far replicas are."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        found = await client.admin.show_cluster()
        if globals_of(context).is_json:
            output.print_json([_partition_json(each) for each in found.partitions])
            return
        if not found.nodes:
            _print_alone(found)
            return
        output.print_table(
            ["TOPIC", "PARTITION", "LEADER", "EPOCH", "REPLICAS"],
            [
                (
                    each.topic,
                    each.partition,
                    each.leader or "-",
                    each.epoch,
                    " ".join(map(_replica_text, each.held)) or ",".join(each.replicas),
                )
                for each in found.partitions
            ],
        )

    call(context, work, label="listing partitions")


@app.command()
def drain(context: typer.Context, node: Node) -> None:
    """Let a node lead nothing, before you stop it for long."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        await client.admin.drain_node(node)
        left_count = await _until_drained(client, node)
        found = await client.admin.show_cluster()
        alone = sorted({each.topic for each in found.partitions if each.replicas == (node,)})
        if globals_of(context).is_json:
            output.print_json({"drained": node, "led_count": left_count, "alone": alone})
            return
        if left_count:
            print(f"node '{node}' is drained, and leads {left_count} partitions still")
        else:
            print(f"node '{node}' is drained: it leads nothing")
        if alone:
            print(f"these topics live on it alone: {', '.join(alone)}")

    call(context, work, label=f"draining {node}")


@app.command()
def undrain(context: typer.Context, node: Node) -> None:
    """Let a node that was drained take part again."""

    async def work(client: "AsyncClient", _: Progress) -> None:
        await client.admin.undrain_node(node)
        if globals_of(context).is_json:
            output.print_json({"undrained": node})
        else:
            print(f"node '{node}' takes part again")

    call(context, work, label=f"undraining {node}")


@app.command()
def remove(
    context: typer.Context,
    node: Node,
    is_abandoning: Annotated[
        bool, typer.Option("--abandon", help="Give up topics that live on it alone.")
    ] = False,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Remove a node for good; others hold what it held."""
    if not is_sure and sys.stdin.isatty():
        typer.confirm(f"remove node '{node}'?", abort=True, default=False, err=True)

    async def work(client: "AsyncClient", _: Progress) -> None:
        waits_for = await _until_removed(client, node, is_abandoning=is_abandoning)
        if waits_for:
            raise UnavailableError(f"node '{node}' is not removed yet: {waits_for}; repeat")
        if globals_of(context).is_json:
            output.print_json({"removed": node})
        else:
            print(f"node '{node}' is removed: stop it, and wipe its data before it joins anew")

    call(context, work, label=f"removing {node}")


def _print_alone(found: "ClusterStatus") -> None:
    if found.cluster_id:
        print(f"cluster {found.cluster_id}")
    if found.trouble:
        print(f"not joined: {found.trouble}")
    else:
        print("this node serves alone: it was given no initial_peers")
    _print_warnings(found)


def _print_warnings(found: "ClusterStatus") -> None:
    for warning in found.warnings:
        print(f"warning: {warning}")


async def _until_removed(client: "AsyncClient", node: str, *, is_abandoning: bool) -> str:
    """Repeats it for a while; returns what it waits for then."""
    waits_for = ""
    for _ in range(int(REMOVE_S / LOOK_S)):
        try:
            waits_for = await client.admin.remove_node(node, abandon=is_abandoning)
        except UnavailableError as error:  # the engines have to choose leaders anew
            waits_for = error.message
        if not waits_for:
            return ""
        await asyncio.sleep(LOOK_S)
    return waits_for


async def _until_drained(client: "AsyncClient", node: str) -> int:
    """Waits a while for others to take over; how many partitions the node leads then."""
    left_count = 0
    for _ in range(int(DRAIN_S / LOOK_S)):
        found = await client.admin.show_cluster()
        left_count = sum(
            each.leader == node and len(each.replicas) > 1 for each in found.partitions
        )
        if not left_count:
            return 0
        await asyncio.sleep(LOOK_S)
    return left_count


def _replica_text(replica: "ClusterReplica") -> str:
    """`node2`, or `node2(-12)` for one with 12 records to read, `node2(frozen)`, `node2(?)`."""
    if not replica.state:
        return f"{replica.node}(?)"
    if replica.state not in {"leading", "following"}:
        return f"{replica.node}({replica.state})"
    return f"{replica.node}(-{replica.lag_count})" if replica.lag_count else replica.node


def _partition_json(found: "ClusterPartition") -> dict[str, Any]:
    return asdict(found) | {
        "replicas": list(found.replicas),
        "held": [asdict(each) for each in found.held],
    }


def _info_json(found: "ClusterStatus") -> dict[str, Any]:
    return {
        "cluster_id": found.cluster_id,
        "trouble": found.trouble,
        "node_count": len(found.nodes),
        "alive_node_count": sum(node.is_alive for node in found.nodes),
        "partition_count": len(found.partitions),
        "led_partition_count": sum(bool(each.leader) for each in found.partitions),
        "has_quorum": found.has_quorum,
        "durability": found.durability,
        "warnings": list(found.warnings),
    }
