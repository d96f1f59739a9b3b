"""
Somebody who looks at a simulated node from time to time, and holds what it shows against the
history: committed offsets always, counts and standings when nothing is on its way, and, when it
rests, that nothing is left which it could hand out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sandglass.core.counting import count_skipped
from sandglass.core.dispatch import Moment
from sandglass.core.group import Group
from sandglass.core.partition import Partition
from sandglass.testing.looks import check_index_order, check_standings
from sandglass.testing.seen import GroupHistory
from sandglass.testing.world import World


@dataclass(slots=True)
class Onlooker:
    """Looks by chance; `rest` is to be called after each turn."""

    world: World
    _is_look_wanted: bool = False

    def look(self) -> None:
        """At the groups of the node that serves."""
        if not self.world.node.is_serving:
            return
        self._is_look_wanted = True
        node, history, moment = self.world.node, self.world.history, self.world.moment
        is_quiet = not node.queue and not node.is_syncing
        chance = self.world.report.event_count
        partitions: dict[int, Partition] = {}
        for known, partition, group in self._groups():
            history.commit(known, group.committed(partition.closed, node.view))
            if is_quiet:
                partitions[partition.number] = partition
                counted = (
                    group.acked_count,
                    group.dead_count,
                    group.expired_count,
                    group.retry_count,
                    group.redriven_count,
                    count_skipped(partition, group, moment, node.view, row_count_max=1 << 62)[
                        0
                    ],
                )
                history.count(known, counted, max(partition.now_ms, moment.wall_ms))
                check_standings(history, known, partition, group, node.view, chance=chance)
        for partition in partitions.values():
            check_index_order(history, partition, node.view, chance=chance)

    def rest(self, moment: Moment) -> bool:
        """
        If the node waits for something to come, what may be handed out has been.

        Returns:
            Whether it was looked at, and rests.
        """
        node = self.world.node
        if not self._is_look_wanted or node.wake_in_ms(moment) == 0 or not node.is_resting():
            return False
        self._is_look_wanted = False
        for known, partition, group in self._groups():
            if moment.lease_ms < partition.claims_until_ms and known.awaited:
                continue
            if group.has_credit():
                now_ms = max(partition.now_ms, moment.wall_ms)
                self.world.history.rest(known, now_ms, moment.steady_ms)
        return True

    def _groups(self) -> Iterator[tuple[GroupHistory, Partition, Group]]:
        for known in self.world.known_groups():
            partition = self.world.node.partition(known.partition)
            if partition is not None:
                group = partition.group(known.channel, known.name, self.world.node.view)
                yield known, partition, group
