"""
Consumers of a simulated cluster whose topics move, one for each partition that it reads.

A consumer's session comes to the node that leads its partition directly, or by way of another
node, which reads for it under a session of its own. It comes back after its way broke, or by
another way while the one before still stands, and claims what it holds.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sandglass.broker.subscription import Session, Subscription
from sandglass.core.claim import Claim
from sandglass.core.dispatch import Delivery
from sandglass.core.lease import Lease
from sandglass.core.record import Ending
from sandglass.core.topic import PartitionRef
from sandglass.errors import InvalidError, LeaseLostError, SandglassError
from sandglass.testing.seen import Violation
from sandglass.testing.simulated_clients import Scene, messages_of
from sandglass.testing.simulated_host import Host
from sandglass.testing.virtual_time import Life

TASK_COUNT_MAX = 20
LEASE_MS = 1500
CREDIT_COUNT = 6
CREDIT_BYTES = 1 << 20
TRIES = 8


@dataclass(slots=True, eq=False)
class Task:
    """A delivery, as its consumer has it."""

    token: int
    numbers: list[int]
    lease: Lease
    generation: int
    settled: set[int] = field(default_factory=set[int])
    """Places whose outcome was answered."""


@dataclass(slots=True, eq=False)
class Way:
    """How a session comes to the node that leads its partition, once."""

    host: Host
    life: Life
    session: Session
    key: str
    ref: PartitionRef
    subscription: Subscription | None = None


class Part:
    """A consumer's session at one partition, by whatever way; a `Receiver`."""

    def __init__(
        self, scene: Scene, topic: str, place: int, group: str, *, is_diligent: bool = False
    ) -> None:
        self.scene, self.topic, self.place, self.group = scene, topic, place, group
        self.is_diligent = is_diligent
        self.is_over = False
        self.name = ""
        self.connection = 0
        self.tasks: list[Task] = []
        self.way: Way | None = None
        self.ended = asyncio.Event()
        self._begin()

    def _begin(self) -> None:
        """A new session, which holds nothing."""
        self.name = f"{self.group}-{self.place}-{next(self.scene.numbers)}"
        self.connection = 0
        self.tasks = []

    async def run(self) -> None:
        """Reads, until it is to end."""
        scene = self.scene
        while not (self.is_over or scene.is_over):
            if self.way is None and not await self._come():
                await asyncio.sleep(scene.chances(20, 60, 150))
                continue
            await self._wait(scene.loop.chance.expovariate(1 / 1.5))
            if self.ended.is_set() or not self._is_standing():
                self._lose()
                continue
            if not self.is_diligent:
                await self._change()
        self.say_goodbye()

    async def _wait(self, for_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self.ended.wait()

    def _is_standing(self) -> bool:
        return self.way is not None and not self.way.life.is_over

    # --- ways ---------------------------------------------------------------------------------

    async def _come(self) -> bool:
        """By a new way, with what it claims; true if that leads somewhere."""
        found = self.scene.serving(self.topic, self.place)
        if found is None:
            return False
        host, ref = found
        assert host.life is not None
        self.connection += 1
        chance, consumers = self.scene.loop.chance, host.broker.consumers
        relay = chance.choice(("", "", "~a", "~b"))
        session, _ = consumers.open_session(
            self.name + relay, self.name, connection=self.connection
        )
        way = Way(host, host.life, session, f"{self.name}/{self.connection}", ref)
        began_ms = self.scene.loop.now_ms
        self.ended.clear()
        tasks = [*self.tasks]
        claims = [(ref.number, _claim_of(task)) for task in tasks]
        try:
            way.subscription = await host.life.call(self._subscribe(way, ref, claims))
        except InvalidError as error:
            raise Violation(f"I7: what {self.name} claims is no claim: {error}") from error
        except SandglassError:
            self._hang_up(way)
            return False
        self._take(way, tasks, began_ms)
        if self.is_over or self.way is not None:
            raise AssertionError("two ways at a time")
        self.way = way
        return True

    async def _subscribe(
        self, way: Way, ref: PartitionRef, claims: list[tuple[int, Claim]]
    ) -> Subscription:
        topic = way.host.broker.catalog.topic(self.topic)
        return await way.host.broker.consumers.subscribe(
            way.session,
            PartReceiver(self, way),
            subscription_id=1 + self.connection,
            topic=topic,
            refs=[ref],
            channel="",
            group=self.group,
            consumer=self.name,
            credit_count=10_000 if self.is_diligent else CREDIT_COUNT,
            credit_bytes=CREDIT_BYTES,
            ack_timeout_ms=LEASE_MS,
            claims=claims,
            reader=self.name,
            reader_connection=self.connection,
        )

    def _take(self, way: Way, tasks: Sequence[Task], began_ms: int) -> None:
        """What of its claims it was granted is its own from now on."""
        assert way.subscription is not None
        scene, claimed = self.scene, way.subscription.claimed
        kept: list[Task] = []
        for task, lease in zip(tasks, claimed, strict=True):
            if lease is None:
                continue
            granted = [
                number for place, number in enumerate(task.numbers) if lease.open >> place & 1
            ]
            scene.history.claim(
                self.topic,
                self.group,
                way.ref.id,
                granted,
                token=lease.token,
                generation=task.generation,
                holder=way.key,
                now_ms=scene.loop.now_ms,
                ends_ms=began_ms + lease.lease_ms,
                there=scene.there,
            )
            if lease.token == task.token:
                scene.rerouted_count += 1
            else:
                scene.claimed_count += len(granted)
            task.token = lease.token
            kept.append(task)
            self._plan(task)
        self.tasks = kept + [each for each in self.tasks if each not in tasks]
        scene.there.add(way.key)

    async def _change(self) -> None:
        """Something happens to its way, or to itself."""
        chance, way = self.scene.loop.chance, self.way
        assert way is not None
        lot = chance.random()
        if lot < 0.3:  # it breaks, and the client comes again
            self._hang_up(way)
            self._lose()
            await asyncio.sleep(self.scene.chances(1, 50, 300, 900))
        elif lot < 0.6:  # the node finds out later, or too late
            hang_up = self._hanging_up(way)
            self.way = None
            self.scene.loop.call_later(self.scene.chances(1, 30, 300, 1500), hang_up)
            self.scene.there.discard(way.key)
        elif lot < 0.8:
            self.say_goodbye()
            self._begin()
        elif lot < 0.9:  # it is gone, without a word
            self._hang_up(way)
            self._lose()
            self._begin()

    def _hanging_up(self, way: Way) -> Callable[[], None]:
        attachment = way.session.attachment
        return lambda: self._hang_up(way, attachment)

    def _hang_up(self, way: Way, attachment: int | None = None) -> None:
        self.scene.there.discard(way.key)
        if way.life.is_over:
            return
        wanted = way.session.attachment if attachment is None else attachment
        way.life.after(0, lambda: way.host.broker.consumers.detach(way.session, wanted))

    def _lose(self) -> None:
        way, self.way = self.way, None
        if way is not None:
            self._hang_up(way)

    def say_goodbye(self) -> None:
        """It ends, and gives back what it holds."""
        way, self.way = self.way, None
        if way is not None and not way.life.is_over:
            self.scene.there.discard(way.key)
            session = way.session
            way.life.after(
                0, lambda: way.host.broker.consumers.close_session(session, is_goodbye=True)
            )

    # --- as a receiver ------------------------------------------------------------------------

    def deliver(self, way: Way, delivery: Delivery) -> None:
        """It is given this, by a way of its own."""
        at = self.scene.history.at
        task = Task(
            delivery.lease.token,
            [at[way.ref.id, each.offset] for each in messages_of(delivery.slices)],
            delivery.lease,
            delivery.group.generation,
        )
        self.tasks = [*self.tasks[-TASK_COUNT_MAX:], task]
        self._plan(task)

    def _plan(self, task: Task) -> None:
        chance = self.scene.loop.chance
        lot = 0.0 if self.is_diligent else chance.random()
        delay_s = 0.001 if self.is_diligent else self.scene.chances(0, 5, 40, 300, 1400)
        if lot < 0.55:
            ending = Ending.ACKED
        elif lot < 0.75:
            ending = Ending.NACKED
        elif lot < 0.8:
            ending = Ending.DEAD
        elif lot < 0.9:
            ending = Ending.RELEASED
        else:
            return  # it says nothing
        some = chance.random() < 0.2 and not self.is_diligent
        loop = self.scene.loop
        loop.call_later(delay_s, lambda: self._settle(task, ending, TRIES, some=some))

    # --- outcomes -----------------------------------------------------------------------------

    def _settle(self, task: Task, ending: Ending, tries_left: int, *, some: bool) -> None:
        way, scene = self.way, self.scene
        if task not in self.tasks or tries_left == 0:
            return
        is_there = way is not None and way.subscription is not None and not way.life.is_over
        if not is_there or way is None or way.subscription is None:
            self._again(task, ending, tries_left, some=some)
            return
        places = [place for place in range(len(task.numbers)) if place not in task.settled]
        if some and len(places) > 1:
            places = places[: len(places) // 2]
        numbers = [task.numbers[place] for place in places]
        delay_ms = scene.loop.chance.choice((0, 50, 700)) if ending is Ending.NACKED else None
        not_before_ms = scene.loop.now_ms + (delay_ms or 0)
        life = way.life

        def done(error: SandglassError | None) -> None:
            if life.is_over or error is not None:
                return
            task.settled.update(places)
            if len(task.settled) == len(task.numbers) and task in self.tasks:
                self.tasks.remove(task)
            scene.history.settled(
                self.topic,
                self.group,
                numbers,
                ending,
                generation=task.generation,
                not_before_ms=not_before_ms,
            )

        token, consumers = task.token, way.host.broker.consumers
        try:
            way.host.broker.outcomes.settle(
                way.subscription,
                way.ref.number,
                token,
                [(place, 1) for place in places],
                ending,
                done,
                delay_ms=delay_ms,
            )
        except LeaseLostError:
            self.tasks.remove(task)
            return
        except SandglassError:
            self._again(task, ending, tries_left, some=some)
            return
        scene.history.settle(
            self.topic,
            self.group,
            numbers,
            token,
            ending,
            generation=task.generation,
            now_ms=scene.loop.now_ms,
        )
        if not way.subscription.is_closed:
            consumers.grant(way.subscription, len(numbers), 0)

    def _again(self, task: Task, ending: Ending, tries_left: int, *, some: bool) -> None:
        self.scene.loop.call_later(
            self.scene.chances(30, 200, 700),
            lambda: self._settle(task, ending, tries_left - 1, some=some),
        )


class PartReceiver:
    """What a broker tells a part."""

    def __init__(self, part: Part, way: Way) -> None:
        self.part, self.way = part, way

    def deliver(self, subscription: Subscription, delivery: Delivery) -> None:
        """See `Receiver`."""
        del subscription
        self.part.deliver(self.way, delivery)

    def ended(self, subscription: Subscription, error: SandglassError | None) -> None:
        """See `Receiver`."""
        if self.part.way is self.way or self.part.way is None:
            self.part.ended.set()


def key_of(subscription: Subscription | None) -> str:
    """By which way what is handed out goes; empty: nobody is there."""
    receiver = None if subscription is None else subscription.receiver
    return receiver.way.key if isinstance(receiver, PartReceiver) else ""


def _claim_of(task: Task) -> Claim:
    lease = task.lease
    places = [(place, 1) for place in range(len(task.numbers)) if place not in task.settled]
    return Claim(
        task.token,
        task.generation,
        lease.attempts,
        lease.releases,
        lease.dues,
        lease.indexes,
        lease.counts,
        [] if len(places) == len(task.numbers) else places,
    )
