"""
What a replicated log says of its topic and its groups, and what the cluster's catalog says: the
node that leads the log brings the one to the other.

A log that is sealed stays so for as long as its topic's entry is the one for which it is. Where
nobody is about to switch it, the entry is entered anew, as it is: then whatever is under way
can't switch it any more, and the log is served again.
"""

from contextlib import suppress
from dataclasses import replace

from sandglass.broker.moving import commit, wait_for_claims
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.catalog import ClusterCatalog
from sandglass.cluster.placed import topic_key
from sandglass.core.machine import encode_group, encode_topic
from sandglass.core.record import DeleteGroup, Operation, PutGroup, PutTopic
from sandglass.core.topic import PartitionRef, Topic
from sandglass.errors import ConflictError


async def reconcile(catalog: ClusterCatalog, number: int, loop: NodeLoop) -> None:
    """
    Brings a log that is led here, that of this partition, to what the catalog says.

    Raises:
        UnavailableError: another leads.
    """
    placed = catalog.placed_of(number)
    if placed is None:
        return
    operations = _differences(catalog, placed[0], number, loop)
    if not operations:
        return
    was_moving = loop.is_moving(number)
    await commit(loop, *operations)
    if was_moving and not loop.is_moving(number):
        wait_for_claims(loop, number)


async def free(catalog: ClusterCatalog, number: int, loop: NodeLoop) -> None:
    """
    Lets a log be served again that is sealed, and that nobody is about to switch.

    Raises:
        UnavailableError: no quorum.
    """
    placed = catalog.placed_of(number)
    known = None if placed is None else loop.machine.topics.get(placed[0].name)
    if known is None or not _is_held(catalog, known):
        return
    switch = catalog.switches.get(known.name)
    node = catalog.members.named(switch.node) if switch is not None else None
    if node is None or not catalog.members.is_alive(node):
        key = topic_key(known.name)
        with suppress(ConflictError):
            value = catalog.placement.entries[key].value
            await catalog.placement.set(key, value, known.seal)


def _is_held(catalog: ClusterCatalog, topic: Topic) -> bool:
    """Is a log sealed for the entry that its topic has just now?"""
    entry = catalog.placement.entries.get(topic_key(topic.name))
    return topic.seal != 0 and entry is not None and entry.revision == topic.seal


def _differences(
    catalog: ClusterCatalog, topic: Topic, number: int, loop: NodeLoop
) -> list[Operation]:
    refs = tuple(
        PartitionRef(ref.id, ref.number) for ref in topic.partitions if ref.number == number
    )
    before = loop.machine.topics.get(topic.name)
    seal = before.seal if before is not None and _is_held(catalog, before) else 0
    topic = replace(topic, partitions=refs, seal=seal)
    operations: list[Operation] = []
    if before != topic:
        operations.append(PutTopic(topic.name, encode_topic(topic)))
    wanted = catalog.groups.get(topic.name, {})
    known = loop.machine.groups.get(topic.name, {})
    operations += [
        PutGroup(topic.name, name, encode_group(group))
        for name, group in wanted.items()
        if known.get(name) != group
    ]
    operations += [DeleteGroup(topic.name, name) for name in known if name not in wanted]
    return operations
