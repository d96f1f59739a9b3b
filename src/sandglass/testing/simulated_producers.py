"""
Simulated producers, and tail readers who come by.
"""

from dataclasses import dataclass, field
from itertools import count

from sandglass.core.dispatch import Moment
from sandglass.core.message import DEAD_LETTER_CHANNEL, Batch
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.testing.seen import Sent, message_bytes
from sandglass.testing.world import CHANNELS, World


@dataclass(slots=True)
class Producers:
    """Act by chance; each message has a number."""

    world: World
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def produce(self, partition: Partition | None = None) -> None:
        """A batch of some rows, most of them for soon."""
        partition = partition or self.world.any_partition()
        if partition is None:
            return
        chance, moment = self.world.chance, self.world.see()
        is_delay = chance.random() < 0.1
        rows = [self._row(is_delay, moment) for _ in range(chance.choice((1, 1, 2, 3)))]
        channel = CHANNELS[0] if chance.random() < 0.75 else CHANNELS[1]
        messages: list[Sent] = []
        bodies: list[bytes] = []
        for due_ms, row_count, width in rows:
            at_ms = moment.wall_ms + due_ms if is_delay and due_ms else due_ms
            bodies.append(b"")
            for _ in range(row_count):
                number = next(self._numbers)
                body = message_bytes(number, width)
                left_ms = at_ms - moment.wall_ms if at_ms else 0
                messages.append(
                    Sent(
                        number,
                        partition.number,
                        channel,
                        at_ms,
                        left_ms,
                        self.world.now_ms,
                        body,
                    )
                )
                bodies[-1] += body
        batch = Batch(
            [row[1] for row in rows],
            [row[0] for row in rows],
            bodies,
            len(messages),
            sum(map(len, bodies)),
            is_delay,
        )
        record, placed = partition.admit_append(channel, batch, moment, self.world.node.view)
        self.world.history.produce(placed.first_index, messages)
        self.world.node.submit(record, moment, lambda: self.world.history.answer(messages))
        self.world.kick()

    def _row(self, is_delay: bool, moment: Moment) -> tuple[int, int, int]:
        """(due as asked, count, bytes of a message)"""
        chance = self.world.chance
        ahead_ms = chance.choice((0, 0, 0, 0, 1, 5, 40, 40, 300, 300, 2500, 100_000))
        if is_delay:
            due_ms = ahead_ms
        elif ahead_ms:
            due_ms = moment.wall_ms + ahead_ms
        else:
            due_ms = moment.wall_ms - 100 if chance.random() < 0.1 else 0
        return due_ms, chance.choice((1, 1, 2, 3, 8)), chance.choice((8, 20, 50))

    def read(self, partition: Partition | None = None) -> None:
        """A tail reader comes by; or somebody reads a range again."""
        partition = partition or self.world.any_partition()
        if partition is None:
            return
        number, node = partition.number, self.world.node
        moment = self.world.see()
        if node.is_standing(partition, moment):
            record = partition.admit_promise(moment)
            if record is not None:
                node.submit(record, moment)
                self.world.kick()
        for name in (*CHANNELS, DEAD_LETTER_CHANNEL):
            channel = self.world.history.partitions[number].channel(name)
            again = self.world.chance.random() < 0.3
            low = 0 if again else channel.passed + 1
            high = (1 << 112) - 1
            if again and self.world.chance.random() < 0.5:
                high = (moment.wall_ms + self.world.chance.choice((-500, 0))) << INDEX_BITS
            promised = node.promised(moment)
            top = min(high, partition.readable(promised))
            slices = partition.fetch(name, low, high, promised, node.view)
            self.world.history.read(number, name, low, top, slices)
