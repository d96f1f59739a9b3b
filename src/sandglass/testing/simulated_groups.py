"""
Groups of a simulated node that their operators move, delete, make again and give settings,
while leases, retries and records of them are in flight.
"""

from dataclasses import dataclass

from sandglass.core.backoff import Backoff
from sandglass.core.machine import encode_group
from sandglass.core.membership import admit_drop, admit_seek
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import PutGroup
from sandglass.core.topic import GroupSettings, TopicGroup
from sandglass.testing.seen import GroupHistory
from sandglass.testing.simulated_consumers import Consumers
from sandglass.testing.simulated_operator import Operator
from sandglass.testing.world import World


@dataclass(slots=True)
class Groups:
    """Acts by chance."""

    world: World
    consumers: Consumers
    operator: Operator

    def seek(self) -> None:
        """A group is moved; now and then once more at once, or it is the last thing."""
        world, chance = self.world, self.world.chance
        known = self._any_group()
        if known is None:
            return
        self._seek(known)
        if chance.random() < 0.1:
            self._seek(known)
        if chance.random() < 0.2:
            world.after(chance.choice((0, 1, 3, 10)), world.crash)

    def drop(self) -> None:
        """A group goes from a partition; most come back, as if they had never been."""
        world, chance = self.world, self.world.chance
        known = self._any_group()
        if known is None:
            return
        number, channel, name = known.partition, known.channel, known.name
        topic = world.history.partitions[number].topic
        if topic not in world.topics:
            return  # it is on its way out
        for client in list(self.consumers.clients.values()):
            if (client.topic, client.channel, client.group) == (topic, channel, name):
                self.consumers.leave(client)
        partition = world.node.partition(number)
        if partition is None:
            return
        moment = world.see()
        group = partition.group(channel, name, world.node.view)
        is_from_now = chance.random() < 0.5

        def dropped() -> None:
            world.report.dropped_count += 1
            if chance.random() < 0.8:
                self.operator.create_group(number, channel, name, is_from_now=is_from_now)

        world.node.submit(admit_drop(partition, group, moment), moment, dropped)
        world.kick()
        if chance.random() < 0.2:
            world.after(chance.choice((0, 1, 3, 10)), world.crash)

    def set(self) -> None:
        """A group has settings of its own from now on."""
        world, chance = self.world, self.world.chance
        known = self._any_group()
        if known is None:
            return
        topic = world.history.partitions[known.partition].topic
        if topic not in world.topics:
            return
        delays_ms = chance.choice(((0,), (20,), (5, 60, 10)))
        backoff = Backoff(delays_ms, chance.choice((1, 2)), 200, chance.choice((0, 50)))
        settings = GroupSettings(None, chance.choice((1, 2, 3, 6)), backoff)
        value = encode_group(TopicGroup(topic, known.name, settings=settings))
        moment = world.see()
        put = PutGroup(topic, known.name, value)
        world.node.submit(world.node.machine.record([put], moment), moment)
        world.kick()

    def _any_group(self) -> GroupHistory | None:
        known = self.world.known_groups()
        if not known or not self.world.node.is_serving:
            return None
        return self.world.chance.choice(known)

    def _seek(self, known: GroupHistory) -> None:
        world = self.world
        partition = world.node.partition(known.partition)
        if partition is None:
            return
        moment = world.see()
        start = self._any_start(known, moment.wall_ms)
        group = partition.group(known.channel, known.name, world.node.view)
        record = admit_seek(partition, group, moment=moment, start=start)
        world.history.seek(known, start)
        world.node.submit(record, moment)
        world.kick()

    def _any_start(self, known: GroupHistory, wall_ms: int) -> int | None:
        """The beginning, the end, a time, or where a message stands."""
        chance = self.world.chance
        lot = chance.random()
        if lot < 0.3:
            return 0
        if lot < 0.5:
            return None
        offsets = self.world.history.partitions[known.partition].channel(known.channel).offsets
        if lot < 0.7 or not offsets:
            return wall_ms + chance.choice((-1000, -100, -20, -1, 0, 1, 50)) << INDEX_BITS
        return chance.choice(offsets[-20:]) + chance.choice((0, 0, 1))
