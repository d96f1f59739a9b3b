"""
What operators do with a cluster: nodes that are drained for a while, or removed for good.

A node is removed in steps, each of which may be repeated; the call says what it waits for, and
is made again until that is nothing:

1. Nothing must be lost by it: topics that live on the node alone are named, and the call
   refused, unless they are given up; and for each of its replicas there must be another node.
2. It is drained: others lead what it leads.
3. Other nodes get its replicas, at the same places of their orders.
4. The bucket is held by no more engines than will be left.
5. Its data are marked as removed (`removed.<id>`): a node with these data that runs leaves, and
   one that is started says why it doesn't join. A node of that name with other data may come.
6. Its engine is taken out of the engines' own group, which moves the streams that it held.
   Until others hold them whole, the loss of one more could be that of a majority: that is
   waited for.
7. Its entry goes.
"""

import json
import logging
from collections import Counter
from dataclasses import replace
from typing import Final, Protocol

from sandglass.cluster.catalog import DRAINED, ClusterCatalog
from sandglass.cluster.engines import ClusterEngine
from sandglass.cluster.members import PREFIX, Members, key_part
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.placing import fewest, held_counts
from sandglass.cluster.switch import switch_key
from sandglass.errors import NotFoundError, PreconditionError
from sandglass.ports import Placement

logger = logging.getLogger(__name__)

REMOVED: Final = "removed."
NAMES_SHOWN: Final = 10


class Bucket(Placement, Protocol):
    """What members agree on, and how many engines hold it."""

    async def replica_count(self) -> int:
        """How many do."""
        ...

    async def replicate(self, replica_count: int) -> None:
        """So many do, from here on."""
        ...


class ClusterSteward:
    """`Steward` of a node that has joined."""

    def __init__(
        self,
        catalog: ClusterCatalog,
        members: Members,
        bucket: Bucket,
        engine: ClusterEngine,
    ) -> None:
        self.catalog = catalog
        self.members = members
        self.bucket = bucket
        self.engine = engine

    async def drain(self, node: str, *, is_drained: bool) -> None:
        """See `Steward.drain`."""
        await self.catalog.drain(node, is_drained=is_drained)

    async def remove(self, node: str, *, is_abandoning: bool) -> str:
        """See `Steward.remove`."""
        member = self.members.named(node)
        if member is None:
            raise NotFoundError(f"the cluster has no node {node[:200]!r}", field="node")
        if node == self.members.me.name:
            raise self._elsewhere(node)
        self._check_alone(node, is_abandoning=is_abandoning)
        moved = self._moved(node)
        await self.catalog.drain(node, is_drained=True)
        led_count = len(self.catalog.led_by(node))
        if led_count:
            return f"{led_count} partitions are led by it still"
        for placed, revision in moved:
            await self.bucket.set(topic_key(placed.topic.name), placed.encode(), revision)
        self._check_alone(node, is_abandoning=is_abandoning)  # one may have come meanwhile
        for name in self._alone(node):
            await self.bucket.delete(topic_key(name))
        await self._give_up_moving(node)
        await self._narrow(node)
        await self.bucket.set(REMOVED + member.id, json.dumps({"node": node}).encode())
        if self.members.is_alive(member):
            return "it has not left yet"
        await self.engine.remove(node)
        stream_count = await self.engine.unsettled_count(node, self._left_count(node))
        if stream_count:
            return f"{stream_count} streams of the engine are being brought to other nodes"
        await self.bucket.delete(PREFIX + key_part(node))
        await self.bucket.delete(DRAINED + key_part(node))
        logger.info("node %s is removed from the cluster", node)
        return ""

    async def _give_up_moving(self, node: str) -> None:
        """What the node was to bring to other logs stays where it is."""
        for name, switch in [*self.catalog.switches.items()]:
            if switch.node == node:
                if not switch.target.is_at_home:
                    for ref in switch.target.topic.partitions:
                        factor = switch.target.topic.replication_factor
                        await self.catalog.delete_log(ref.number, factor)
                await self.bucket.delete(switch_key(name))
            elif switch.heir == node:
                await self.bucket.set(switch_key(name), replace(switch, heir="").encode())

    def _elsewhere(self, node: str) -> PreconditionError:
        others = [member for member in self.members.alive if member.name != node]
        where = f"ask node {others[0].name}, at {others[0].grpc}" if others else "none is there"
        return PreconditionError(f"node {node} is removed by another: {where}", field="node")

    def _alone(self, node: str) -> list[str]:
        """Topics of which this node has what no other has."""
        placed = self.catalog.homes.placed
        return sorted(name for name, each in placed.items() if (node,) in each.replicas)

    def _check_alone(self, node: str, *, is_abandoning: bool) -> None:
        names = self._alone(node)
        if not names or is_abandoning:
            return
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise PreconditionError(
            f"these topics live on node {node} alone: {', '.join(names[:NAMES_SHOWN])}{more};"
            f" {self._what_to_do(node, names[0])}, or give them up with --abandon",
            field="node",
        )

    def _what_to_do(self, node: str, topic: str) -> str:
        is_there = {member.name for member in self.members.alive}
        able = sorted(is_there - self.catalog.drained - {node})
        command = f"'sandctl topics move {topic} --to {able[0] if able else 'NODE'}'"
        if node not in is_there:
            return f"it is not there: start it and move each of them ({command})"
        return f"move each of them ({command}), delete them"

    def _moved(self, node: str) -> list[tuple[Placed, int]]:
        """
        Topics with another node in the place of this one, and the revisions of their entries.

        Raises:
            PreconditionError: there is none.
        """
        alive = [member.name for member in self.members.alive]
        able = [name for name in alive if name != node and name not in self.catalog.drained]
        held = held_counts(self.catalog.placed.values())
        moved: list[tuple[Placed, int]] = []
        for name, placed in sorted(self.catalog.placed.items()):
            if not any(node in names for names in placed.replicas):
                continue
            revision = self.bucket.entries[topic_key(name)].revision
            replicas = tuple(
                self._without(node, names, able, held, placed) for names in placed.replicas
            )
            moved.append((replace(placed, replicas=replicas), revision))
        return moved

    def _without(
        self,
        node: str,
        names: tuple[str, ...],
        able: list[str],
        held: Counter[str],
        placed: Placed,
    ) -> tuple[str, ...]:
        if node not in names:
            return names
        free = [name for name in able if name not in names]
        if not free:
            topic = placed.topic
            raise PreconditionError(
                f"topic '{topic.name}' has {topic.replication_factor} replicas, one of them on"
                f" node {node}, and there is no other node for it: add one, or delete the"
                " topic",
                field="node",
            )
        heir = fewest(free, held)
        return tuple(heir if name == node else name for name in names)

    async def _narrow(self, node: str) -> None:
        left_count = self._left_count(node)
        if await self.bucket.replica_count() > left_count:
            await self.bucket.replicate(left_count)

    def _left_count(self, node: str) -> int:
        return sum(member.name != node for member in self.members.all)
