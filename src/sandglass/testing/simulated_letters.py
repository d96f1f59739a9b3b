"""
Dead letters of a simulated node that are redriven and purged, under their readers.
"""

from dataclasses import dataclass

from sandglass.core import keys
from sandglass.core.browse import look
from sandglass.core.dead_letter import Selection, admit_purge, admit_redrive
from sandglass.core.message import DEAD_LETTER_CHANNEL
from sandglass.core.offset import MAX
from sandglass.testing.seen import Violation
from sandglass.testing.world import World


@dataclass(slots=True)
class Letters:
    """Acts by chance."""

    world: World

    def take(self) -> None:
        """All dead letters of a kind are redriven or purged, or some; now and then both."""
        world, chance = self.world, self.world.chance
        numbers = [
            number
            for number, known in world.history.partitions.items()
            if known.channel(DEAD_LETTER_CHANNEL).offsets and number in world.node.machine.refs
        ]
        if not world.node.is_serving or not numbers:
            return
        number = chance.choice(numbers)
        for _ in range(chance.choice((1, 1, 2))):
            self._take(number)
        if chance.random() < 0.1:
            world.after(chance.choice((0, 1, 3, 10)), world.crash)

    def _take(self, number: int) -> None:
        world, chance = self.world, self.world.chance
        partition = world.node.partition(number)
        assert partition is not None, "a partition that was there a moment ago"
        selection = Selection(
            group=chance.choice(("", "", "first", "second")),
            reason=chance.choice(("", "", "dead", "nacked", "timed_out")),
        )
        found = look(
            world.node.view,
            keys.rows_prefix(number, DEAD_LETTER_CHANNEL),
            0,
            MAX,
            is_wanted=selection.takes,
            message_count_max=chance.choice((1, 2, 5, 1000)),
            is_newest_first=chance.random() < 0.2,
        ).found
        admit = chance.choice((admit_redrive, admit_redrive, admit_purge))
        moment = world.see()
        record, count = admit(partition, found, moment, world.node.view)
        if record is None:
            if count:
                raise Violation(f"I8: {count} dead letters are taken by no record")
            return
        if admit is admit_redrive:
            world.report.redriven_count += count
        else:
            world.report.purged_count += count
        world.node.submit(record, moment)
        world.kick()
