"""
Those who look after the topics of a simulated cluster while they move: somebody moves groups,
somebody redrives and purges dead letters, and retention cuts what is old.
"""

import asyncio

from sandglass.broker.groups import Start
from sandglass.core.message import CHANNEL_DEFAULT, DEAD_LETTER_CHANNEL
from sandglass.core.offset import INDEX_BITS
from sandglass.core.record import Cut
from sandglass.core.topic import PartitionRef
from sandglass.errors import SandglassError
from sandglass.testing.moving_seen import Given, Seek
from sandglass.testing.simulated_clients import GROUPS, Scene, fetched, messages_of
from sandglass.testing.simulated_host import Host
from sandglass.testing.virtual_time import START_MS

SLACK_MS = 50
TICK_MS = 20
HASTE = 6
"""So much more often they are at work while a topic moves."""


async def _is_turn(scene: Scene, mean_ms: int) -> bool:
    """Waits for the next turn of somebody; false if things are calm by then."""
    while not scene.is_calm:
        await asyncio.sleep(TICK_MS / 1000)
        haste = HASTE if scene.is_moving() else 1
        if scene.loop.chance.random() < haste * TICK_MS / mean_ms:
            return not scene.is_calm
    return False


class Seeker:
    """It moves the groups of a topic, one after the other, in one partition each time."""

    def __init__(self, scene: Scene, topic: str, mean_ms: int) -> None:
        self.scene, self.topic, self.mean_ms = scene, topic, mean_ms

    async def run(self) -> None:
        """Until things calm down."""
        chance = self.scene.loop.chance
        while await _is_turn(self.scene, self.mean_ms):
            found = self.scene.serving(self.topic, chance.choice((0, 1)))
            if found is not None:
                await self._seek(*found, chance.choice(GROUPS))

    async def _seek(self, host: Host, ref: PartitionRef, group: str) -> None:
        scene = self.scene
        start, offset, place = self._any_start(ref.id)
        scene.history.seek(self.topic, group, ref.id, place)
        assert host.life is not None
        moving = self._move(host, ref, group, start, offset)
        try:
            generation = await host.life.call(moving)
        except SandglassError:
            return  # it may be done, or may be yet
        scene.sought_count += 1
        scene.history.sought(self.topic, group, ref.id, place, generation)

    def _any_start(self, partition: str) -> tuple[Start, int | None, Seek]:
        """The beginning, the end, a time, or where a message stands."""
        scene, chance = self.scene, self.scene.loop.chance
        lot, now_ms = chance.random(), START_MS + scene.loop.now_ms
        if lot < 0.25:
            return Start(), None, Seek(0, 0)
        if lot < 0.4:
            latest_ms = now_ms + scene.spread_ms + SLACK_MS
            return Start(is_now=True), None, Seek(0, latest_ms << INDEX_BITS)
        if lot < 0.7:
            at_ms = now_ms - chance.choice((0, 200, 1000, 3000))
            return Start(at_ms), None, Seek(at_ms << INDEX_BITS, at_ms << INDEX_BITS)
        known = scene.history.known(partition)[-20:]
        offset = scene.history.sent[chance.choice(known)].offset or 0 if known else 0
        offset += chance.choice((0, 0, 1))
        return Start(), offset, Seek(offset, offset)

    async def _move(
        self, host: Host, ref: PartitionRef, group: str, start: Start, offset: int | None
    ) -> int:
        topic = host.broker.catalog.topic(self.topic)
        await host.broker.groups.seek(topic, group, start, partition=ref, offset=offset)
        loop = host.broker.loops.of(ref.number)
        found = loop.partition(ref.number).group(CHANNEL_DEFAULT, group, loop.view)
        return found.generation


class Redriver:
    """It takes dead letters of a topic, and lets them come back, or throws them away."""

    def __init__(self, scene: Scene, topic: str, mean_ms: int) -> None:
        self.scene, self.topic, self.mean_ms = scene, topic, mean_ms

    async def run(self) -> None:
        """Until things calm down."""
        chance = self.scene.loop.chance
        while await _is_turn(self.scene, self.mean_ms):
            place = chance.choice((0, 1))
            found = self.scene.serving(self.topic, place)
            if found is not None:
                await self._look(*found, place)

    async def _look(self, host: Host, ref: PartitionRef, place: int) -> None:
        chance = self.scene.loop.chance
        assert host.life is not None
        try:
            slices = await host.life.call(fetched(host, self.topic, ref, DEAD_LETTER_CHANNEL))
        except SandglassError:
            return
        letters = [
            (part.origin.group, each)
            for part in slices
            if part.origin is not None
            for each in messages_of([part])
        ]
        for group, letter in chance.sample(letters, min(len(letters), 2)):
            count = chance.choice((1, 1, 1, 2))
            takes = [self._take(place, group, letter) for _ in range(count)]
            await asyncio.gather(*takes)

    async def _take(self, place: int, group: str, letter: Given) -> None:
        scene = self.scene
        found = scene.serving(self.topic, place)
        if found is None:
            return
        host, ref = found
        is_redrive = scene.loop.chance.random() < 0.8
        take = scene.history.take(
            self.topic, group, ref.id, letter, is_redrive=is_redrive, now_ms=scene.loop.now_ms
        )
        assert host.life is not None
        taking = self._carry_out(host, ref, letter.offset, is_redrive=is_redrive)
        try:
            count = await host.life.call(taking)
        except SandglassError:
            return  # it is gone, or it may be done
        scene.redriven_count += count if is_redrive else 0
        scene.purged_count += 0 if is_redrive else count
        scene.history.taken(self.topic, group, take, count)

    async def _carry_out(
        self, host: Host, ref: PartitionRef, offset: int, *, is_redrive: bool
    ) -> int:
        topic, letters = host.broker.catalog.topic(self.topic), host.broker.dead_letters
        act = letters.redrive if is_redrive else letters.purge
        return (await act(topic, offsets=[(ref, offset)])).count


class Cutter:
    """Retention of a topic: what is old goes, sooner than any topic may have it."""

    def __init__(self, scene: Scene, topic: str, mean_ms: int) -> None:
        self.scene, self.topic, self.mean_ms = scene, topic, mean_ms

    async def run(self) -> None:
        """Until things calm down."""
        chance = self.scene.loop.chance
        while await _is_turn(self.scene, self.mean_ms):
            found = self.scene.serving(self.topic, chance.choice((0, 1)))
            if found is not None:
                self._cut(*found)

    def _cut(self, host: Host, ref: PartitionRef) -> None:
        """As `Retention` does."""
        scene, life = self.scene, host.life
        loop = host.broker.loops.working(ref.number)
        if loop is None or life is None:
            return
        old_ms = scene.loop.chance.choice((300, 1500, 4000, 4000))
        moment = loop.moment()
        try:
            partition = loop.partition(ref.number)
        except SandglassError:
            return
        record = partition.admit_cut(moment.wall_ms - old_ms << INDEX_BITS, moment)
        if record is None:
            return
        (cut,) = record.operations
        assert isinstance(cut, Cut)
        below = cut.below
        scene.history.cut(ref.id, below, is_over=False)

        def done(error: SandglassError | None) -> None:
            if error is None and not life.is_over:
                scene.cut_count += 1
                scene.history.cut(ref.id, below, is_over=True)

        loop.submit(record, done)
