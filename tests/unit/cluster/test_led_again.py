"""
A node leads a partition, leads it no longer, and leads it again, in this log or in another:
what was leased is void, and may be claimed.
"""

import asyncio

import pytest

from sandglass.broker.subscription import Session, Subscription
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.record import Ending
from sandglass.errors import NotLeaderError
from tests.unit.cluster.moving_scene import Consumer, Scene, moving_scene
from tests.unit.cluster.test_switching import IN, WAYS, Way, go_out, plan


async def lead_again(scene: Scene) -> None:
    """All logs, in a new epoch; whoever was attached before doesn't come back."""
    for number, loop in [*scene.loops.items()]:
        scene.broker.loops.remove(number, NotLeaderError("another leads it"))
        await loop.stop()
        del scene.loops[number]
    await scene.lead()
    await let_grace_pass(scene)


async def let_grace_pass(scene: Scene) -> None:
    """Who has not come back by then is waited for no longer."""
    for _ in range(0, limits.SESSION_GRACE_MS_DEFAULT + 1000, 100):
        scene.clock.advance(100)  # less than a pause of the process
        await take_turns(scene)


async def take_turns(scene: Scene) -> None:
    """Each loop has had some."""
    loops = (scene.own, *scene.loops.values())
    before = [loop.stats.turn_count for loop in loops]
    await scene.until(
        lambda: all(
            loop.stats.turn_count > count + 2 for loop, count in zip(loops, before, strict=True)
        )
    )


async def hold_one(scene: Scene) -> tuple[Session, Subscription, Delivery]:
    """A session has been given a message."""
    await scene.produce(0, b"held")
    session, _ = scene.broker.consumers.open_session("s", "client")
    consumer = Consumer()
    subscription = await scene.broker.consumers.subscribe(
        session,
        consumer,
        subscription_id=1,
        topic=scene.topic,
        refs=scene.topic.partitions[:1],
        channel="",
        group="g",
        consumer="c",
        credit_count=1,
        credit_bytes=1000,
    )
    await scene.until(lambda: consumer.deliveries)
    return session, subscription, consumer.deliveries[0]


async def test_a_session_that_ends_gives_nothing_back_of_an_earlier_leader() -> None:
    """Another has acked it meanwhile: to move it now would break the partition everywhere."""
    async with moving_scene() as scene:
        await go_out(scene)
        session, _, held = await hold_one(scene)
        await lead_again(scene)
        subscription, (delivery,) = await scene.take(1)
        await scene.settle(subscription, delivery, Ending.ACKED)

        scene.broker.consumers.close_session(session, is_goodbye=False)
        await asyncio.gather(*scene.broker.consumers._tasks)
        await scene.produce(0, b"new")
        _, (new,) = await scene.take(1)

        assert held.partition == delivery.partition == new.partition
        assert [{}, {}] == [loop.stopped for loop in scene.loops.values()]
        assert [b"new"] == [value for *_, value in scene.messages(scene.topic, [new])]


async def test_an_outcome_of_an_earlier_leaders_lease_is_refused() -> None:
    async with moving_scene() as scene:
        await go_out(scene)
        _, subscription, held = await hold_one(scene)
        await lead_again(scene)
        outcomes, token = scene.broker.outcomes, held.lease.token

        with pytest.raises(NotLeaderError):
            outcomes.settle(subscription, held.partition, token, [], Ending.ACKED, None)
        with pytest.raises(NotLeaderError):
            outcomes.extend(subscription, held.partition, token, lease_ms=100, begun_count=1)


@WAYS
async def test_who_held_a_message_when_the_topic_moved_has_its_grace_to_claim_it(
    way: Way,
) -> None:
    async with moving_scene() as scene:
        if way is IN:
            await go_out(scene)
        await hold_one(scene)
        await plan(scene, 1 if way is IN else 3)
        await scene.lead()
        await let_grace_pass(scene)  # that of leaders who have just begun
        await scene.go_on()

        _, other = await scene.consume()
        for _ in range(0, limits.SESSION_GRACE_MS_DEFAULT - 500, 100):  # beyond a promise
            scene.clock.advance(100)
            await take_turns(scene)
        given = other.deliveries[:]
        await let_grace_pass(scene)
        await scene.until(lambda: other.deliveries)

        assert [] == given
