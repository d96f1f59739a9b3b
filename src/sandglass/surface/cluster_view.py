"""
The cluster as its nodes see it together, in one reply: the same, whichever of them is asked.

What the members agree on, each of them knows. What a node alone knows (how far its replicas
are, what it warns of, how its engine writes) it says itself: whoever is asked asks the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen, PartitionSeen
from sandglass.errors import SandglassError
from sandglass.wire.v1 import admin_pb2 as pb

ANSWER_S: Final = 2.0
"""A node that is silent for so long is left out, and named: the others are of interest."""


def cluster_to_wire(seen: ClusterSeen) -> pb.ShowClusterReply:
    """What one node knows."""
    return pb.ShowClusterReply(
        cluster_id=seen.cluster_id,
        trouble=seen.trouble,
        nodes=map(_node_to_wire, seen.nodes),
        partitions=[_partition_to_wire(each, seen.me) for each in seen.partitions],
        warnings=seen.warnings,
        has_quorum=seen.has_quorum,
    )


async def seen_by_all(
    seen: ClusterSeen, ask: Callable[[str], Awaitable[pb.ShowClusterReply]]
) -> pb.ShowClusterReply:
    """What all know; `ask` asks the node at an address for what it knows."""
    others = [each for each in seen.nodes if each.is_alive and each.name != seen.me]
    replies = await asyncio.gather(*(_asked(each.grpc, ask) for each in others))
    own = cluster_to_wire(seen)
    by_name = {seen.me: own}
    for each, reply in zip(others, replies, strict=True):
        if reply is not None:
            by_name[each.name] = reply
    silent = [each.name for each in others if each.name not in by_name]
    return _joined(own, by_name, silent)


async def _asked(
    address: str, ask: Callable[[str], Awaitable[pb.ShowClusterReply]]
) -> pb.ShowClusterReply | None:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await ask(address)
    except (SandglassError, TimeoutError):
        return None


def _joined(
    own: pb.ShowClusterReply, by_name: Mapping[str, pb.ShowClusterReply], silent: list[str]
) -> pb.ShowClusterReply:
    joined = pb.ShowClusterReply()
    joined.CopyFrom(own)
    durability = {
        name: each.durability
        for name, reply in by_name.items()
        for each in reply.nodes
        if each.name == name
    }
    for node in joined.nodes:
        node.durability = durability.get(node.name, "")
    held = {
        (each.topic, each.partition, replica.node): replica
        for reply in by_name.values()
        for each in reply.partitions
        for replica in each.held
    }
    for each in joined.partitions:
        if len(each.replicas) > 1:
            _put_held(each, held)
    texts = [text for _, reply in sorted(by_name.items()) for text in reply.warnings]
    texts += [f"node {name} does not answer" for name in silent]
    joined.warnings[:] = dict.fromkeys(texts)
    return joined


def _put_held(
    partition: pb.ClusterPartition, held: Mapping[tuple[str, str, str], pb.ClusterReplica]
) -> None:
    del partition.held[:]
    place = (partition.topic, partition.partition)
    leader = held.get((*place, partition.leader))
    for name in partition.replicas:
        replica = partition.held.add(node=name)
        found = held.get((*place, name))
        if found is None:
            continue
        replica.state, replica.position = found.state, found.position
        if leader is not None:
            # They answered one after the other: a replica may have read on meanwhile.
            replica.lag_count = max(0, leader.position - found.position)


def _node_to_wire(node: NodeSeen) -> pb.ClusterNode:
    return pb.ClusterNode(
        name=node.name,
        grpc_address=node.grpc,
        http_address=node.http,
        is_alive=node.is_alive,
        is_drained=node.is_drained,
        version=node.version,
        durability=node.durability,
    )


def _partition_to_wire(partition: PartitionSeen, me: str) -> pb.ClusterPartition:
    wire = pb.ClusterPartition(
        topic=partition.topic,
        partition=partition.partition,
        leader=partition.leader,
        epoch=partition.epoch,
        replicas=partition.replicas,
    )
    if partition.state:
        wire.held.add(node=me, state=partition.state, position=partition.position)
    return wire
