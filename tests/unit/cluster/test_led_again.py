"""A node leads a partition, leads it no longer, and leads it again: what was leased is void."""

import asyncio

import pytest

from sandglass.broker.subscription import Session, Subscription
from sandglass.core import limits
from sandglass.core.dispatch import Delivery
from sandglass.core.record import Ending
from sandglass.errors import NotLeaderError
from tests.unit.cluster.moving_scene import Consumer, Scene, moving_scene
from tests.unit.cluster.test_switching import go_out


async def lead_again(scene: Scene) -> None:
    """All logs, in a new epoch; whoever was attached before doesn't come back."""
    for number, loop in [*scene.loops.items()]:
        scene.broker.loops.remove(number, NotLeaderError("another leads it"))
        await loop.stop()
        del scene.loops[number]
    await scene.lead()
    for _ in range(0, limits.SESSION_GRACE_MS_DEFAULT + 1000, 100):
        scene.clock.advance(100)  # less than a pause of the process
        turns = {number: loop.stats.turn_count for number, loop in scene.loops.items()}
        await scene.until(
            lambda turns=turns: all(
                loop.stats.turn_count > turns[number] for number, loop in scene.loops.items()
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
        await asyncio.wait(scene.broker.consumers._tasks)
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
