"""
The operator of a simulated node, and its bad luck: topics and groups that come and go,
retention, clocks that are set, a disk that fills, a process that is stopped for a while.
"""

from dataclasses import dataclass, field

from sandglass.core.machine import encode_topic
from sandglass.core.membership import admit_group
from sandglass.core.message import DEAD_LETTER_CHANNEL
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import DeleteTopic, PutTopic
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.testing.seen import PartitionHistory
from sandglass.testing.simulated_consumers import Consumers
from sandglass.testing.simulated_producers import Producers
from sandglass.testing.world import CHANNELS, IDLE, World

STEPS_MS = (-3_600_000, -20_000, -3000, -400, -200, -60, -5, 5, 200, 2000, 7000, 600_000)
TOPICS = (("a", 2), ("b", 1), (IDLE, 1))
"""Names, and how many partitions."""


@dataclass(slots=True)
class Operator:
    """Acts by chance."""

    world: World
    consumers: Consumers
    producers: Producers
    _creating: set[str] = field(default_factory=set[str])

    def begin(self) -> None:
        """What ought to be there is made, where a crash or a deletion has taken it."""
        self._creating.clear()
        for name, partition_count in TOPICS:
            if name in self.world.topics:
                self._create_groups(self.world.topics[name])
            else:
                self._create_topic(name, partition_count)

    def act(self) -> None:
        """One more group; a topic that goes, to come back empty, or not at all."""
        world, chance = self.world, self.world.chance
        if not world.node.is_serving or not world.topics:
            return
        name = chance.choice(list(world.topics))
        lot = chance.random()
        if lot < 0.5:
            channel = chance.choice((*CHANNELS, DEAD_LETTER_CHANNEL))
            self._create_group_everywhere(world.topics[name], channel, "second")
        elif lot < 0.75:
            self._delete(name)
        elif len(world.topics) < 4:
            missing = [each for each in (*TOPICS, ("c", 1)) if each[0] not in world.topics]
            if missing:
                self._create_topic(*chance.choice(missing))
        world.kick()

    def cut(self, partition: Partition | None = None) -> None:
        """Retention takes what is old, or what has just been read."""
        world = self.world
        found = partition or world.any_partition()
        if found is None:
            return
        moment = world.see()
        below = world.chance.choice(
            (
                found.closed,
                found.closed + 3,
                moment.wall_ms - world.chance.choice((0, 50, 300, 1500)) << INDEX_BITS,
            )
        )
        record = found.admit_cut(below, moment)
        if record is not None:
            world.node.submit(record, moment)
            world.kick()

    def rush(self) -> None:
        """Much in one partition at one moment, before and after the node has had a turn."""
        world, chance = self.world, self.world.chance
        partition = world.any_partition()
        if partition is None:
            return
        for _ in range(chance.randint(1, 3)):
            lot = chance.random()
            if lot < 0.5:
                self.producers.produce(partition)
            elif lot < 0.8:
                self.producers.read(partition)
            else:
                name = chance.choice(("late", "later", "latest"))
                self.create_group(partition.number, CHANNELS[0], name, is_from_now=True)
        world.kick()
        world.after(0, lambda: self._rush_again(partition))

    def _rush_again(self, partition: Partition) -> None:
        if partition.number in self.world.node.machine.refs:
            self.world.chance.choice((self.producers.produce, self.producers.read))(partition)
            self.producers.produce(partition)

    # --- topics and groups --------------------------------------------------------------------

    def _create_topic(self, name: str, partition_count: int) -> None:
        world, history = self.world, self.world.history
        if name in self._creating:
            return
        self._creating.add(name)
        max_deliveries = world.chance.choice((1, 2, 3, 5))
        first = len(history.partitions) + 1
        refs = tuple(PartitionRef(f"P{first + n}", first + n) for n in range(partition_count))
        settings = TopicSettings(ack_timeout_ms=400, max_deliveries=max_deliveries)
        topic = Topic(name, TopicKind.TIMER, refs, settings=settings)
        for ref in refs:
            history.partitions[ref.number] = PartitionHistory(ref.number, max_deliveries, name)

        def created() -> None:
            self._creating.discard(name)
            world.topics[name] = topic
            self._create_groups(topic)

        put = PutTopic(name, encode_topic(topic))
        moment = world.see()
        world.node.submit(world.node.machine.record([put], moment), moment, created)

    def _delete(self, name: str) -> None:
        """Those who have it in hand find out when it is gone."""
        topic = self.world.topics.pop(name)
        numbers = [ref.number for ref in topic.partitions]
        moment = self.world.see()
        record = self.world.node.machine.record([DeleteTopic(name, numbers)], moment)
        self.world.node.submit(record, moment, lambda: self._deleted(topic))

    def _deleted(self, topic: Topic) -> None:
        self.world.report.deleted_count += 1
        self.consumers.forget_topic(topic)
        if self.world.chance.random() < 0.7 and topic.name not in self.world.topics:
            self._create_topic(topic.name, 1)

    def _create_groups(self, topic: Topic) -> None:
        for channel in CHANNELS:
            for ref in topic.partitions:
                self.create_group(ref.number, channel, "first", is_from_now=False)

    def _create_group_everywhere(self, topic: Topic, channel: str, name: str) -> None:
        is_from_now = self.world.chance.random() < 0.6
        for ref in topic.partitions:
            self.create_group(ref.number, channel, name, is_from_now=is_from_now)

    def create_group(self, number: int, channel: str, name: str, *, is_from_now: bool) -> None:
        """The group in one partition, unless it is there."""
        world = self.world
        partition = world.node.partition(number)
        if partition is None:
            return
        moment = world.see()
        record = admit_group(
            partition,
            channel,
            name,
            start=None if is_from_now else 0,
            moment=moment,
            view=world.node.view,
        )
        if record is not None:
            world.node.submit(record, moment, self.consumers.join_all)
            world.kick()

    # --- bad luck -----------------------------------------------------------------------------

    def flutter(self) -> None:
        """The clock is set by a little; now and then it is the last thing that happens."""
        world, chance = self.world, self.world.chance
        world.shift_ms += chance.choice((-12, -6, -3, -1, 1, 4))
        world.kick()
        if chance.random() < 0.15:
            world.after(chance.choice((2, 8, 15, 25)), world.crash)

    def waver(self) -> None:
        """The clock is set back and forth within one sync, somebody reads, the process ends."""
        world, chance = self.world, self.world.chance
        back_ms = chance.choice((1, 3, 6))
        world.shift_ms -= back_ms
        world.kick()
        world.after(chance.choice((1, 2)), lambda: self._come_forth(back_ms), is_world=True)
        if chance.random() < 0.5:
            world.after(chance.choice((2, 3, 4, 8)), world.crash)

    def _come_forth(self, back_ms: int) -> None:
        self.world.shift_ms += back_ms + self.world.chance.choice((0, 2, 5))
        self.world.kick()
        self.rush()

    def step_clock(self) -> None:
        """Somebody sets the clock; where nobody has looked, something is scheduled then."""
        world, chance = self.world, self.world.chance
        world.shift_ms += chance.choice(STEPS_MS)
        world.report.step_count += 1
        world.kick()
        idle = world.partition_of(IDLE)
        if idle is not None and chance.random() < 0.5:
            self.producers.produce(idle)
            if chance.random() < 0.5:
                world.after(chance.choice((5, 20, 60)), world.crash)

    def pause(self) -> None:
        """The process is stopped, and goes on: its promise has run out meanwhile."""
        world, chance = self.world, self.world.chance
        world.pause(chance.choice((100, 600, 1500)))
        partition = world.any_partition()
        if partition is not None and chance.random() < 0.7:
            self.cut(partition)
            self.producers.read(partition)
            if chance.random() < 0.5:
                world.after(chance.choice((0, 1, 3)), world.crash)
        world.kick()

    def fill_disk(self) -> None:
        """There is no room, for a while; now and then not even in the reserve."""
        world, node = self.world, self.world.node
        node.is_full, node.has_reserve = True, world.chance.random() < 0.8
        world.after(world.chance.choice((5, 30, 120, 400)), self._empty_disk, is_world=True)

    def _empty_disk(self) -> None:
        self.world.node.is_full = False
        self.world.kick()
