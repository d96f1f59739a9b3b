"""
A topic moves between a node's own log and replicated ones, and the process ends after each of
the durable steps: it comes to its end nevertheless, or to nothing; clients notice neither.
"""

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from sandglass.cluster.coming import is_made
from sandglass.cluster.placed import topic_key
from sandglass.cluster.switch import SWITCH_VERSION, Switch, is_at, switch_key
from sandglass.core.record import Ending
from sandglass.core.topic import Topic
from sandglass.errors import BusyError, ConflictError, NotLeaderError, SandglassError
from sandglass.ports import Placement
from tests.unit.cluster.moving_scene import (
    Died,
    Life,
    Message,
    MortalPlacement,
    Scene,
    moving_scene,
)

DELAY_MS = 60_000
SLACK_MS = 1000
"""More than a promise, which a partition that has come to a node's own log may wait out."""


@dataclass
class Seen:
    """What clients were told before the topic moved."""

    sent: list[Message] = field(default_factory=list[Message])
    acked: set[Message] = field(default_factory=set[Message])
    nacked: set[Message] = field(default_factory=set[Message])


async def use(scene: Scene) -> Seen:
    """Messages of both partitions: acked, nacked for a minute, leased, and not due for long."""
    seen = Seen()
    for place in (0, 1):
        seen.sent += await scene.produce(place, b"acked", b"acked too")
    subscription, deliveries = await scene.take(4)
    for each in deliveries:
        await scene.settle(subscription, each, Ending.ACKED)
        seen.acked |= {*scene.messages(subscription.topic, [each])}
    for place in (0, 1):
        seen.sent += await scene.produce(place, b"nacked")
    subscription, deliveries = await scene.take(2)
    for each in deliveries:
        await scene.settle(subscription, each, Ending.NACKED, delay_ms=DELAY_MS)
        seen.nacked |= {*scene.messages(subscription.topic, [each])}
    for place in (0, 1):
        seen.sent += await scene.produce(place, b"ready", b"ready too")
        await scene.produce(place, b"later", delay_ms=DELAY_MS)
    await scene.take(4)  # leased, without an outcome
    return seen


async def check(scene: Scene, seen: Seen) -> None:
    """Nothing is lost, comes again after its ack, or too early; offsets are what they were."""
    scene.clock.advance(SLACK_MS)
    assert sorted(seen.sent) == sorted(await scene.read())
    left = {*seen.sent} - seen.acked - seen.nacked
    subscription, deliveries = await scene.take(len(left))
    assert left == {*scene.messages(subscription.topic, deliveries)}
    for each in deliveries:
        await scene.settle(subscription, each, Ending.ACKED)
    new = await scene.produce(0, b"new")
    assert new[0][1] > max(offset for id_, offset, _ in seen.sent if id_ == new[0][0])
    subscription, deliveries = await scene.take(1)
    assert new == [*scene.messages(subscription.topic, deliveries)]
    scene.clock.advance(DELAY_MS + SLACK_MS)
    subscription, deliveries = await scene.take(4)
    late = {*scene.messages(subscription.topic, deliveries)}
    assert seen.nacked <= late
    assert [b"later"] * 2 == [value for _, _, value in late if value == b"later"]
    assert {"g"} == scene.broker.loops.groups("t").keys()


async def plan(scene: Scene, factor: int) -> None:
    """Somebody wants it, and doesn't wait."""
    if factor > 1:
        wanted = scene.catalog.move_out(scene.topic, factor)
    else:
        wanted = scene.catalog.move_in(scene.topic, "a")
    task = asyncio.create_task(wanted)
    await scene.until(lambda: switch_key("t") in scene.bucket.entries)
    task.cancel()
    await asyncio.wait([task])


async def go_out(scene: Scene) -> None:
    """It has moved to replicated logs."""
    await plan(scene, 3)
    await scene.go_on()
    assert 3 == scene.topic.replication_factor


async def steps_of(scene: Scene) -> int:
    """How many durable steps it takes from here."""
    life = Life()
    await scene.end()
    await scene.start(life)
    before = life.steps_left
    await scene.go_on()
    return before - life.steps_left


@dataclass
class Way:
    is_out: bool

    async def begin(self, scene: Scene) -> Seen:
        if self.is_out:
            seen = await use(scene)
            await plan(scene, 3)
        else:
            await go_out(scene)
            seen = await use(scene)
            await plan(scene, 1)
        return seen

    def is_there(self, topic: Topic) -> bool:
        return topic.replication_factor == (3 if self.is_out else 1)


OUT, IN = Way(is_out=True), Way(is_out=False)
WAYS = pytest.mark.parametrize("way", [OUT, IN], ids=["out", "in"])


@WAYS
async def test_a_topic_moves_with_all_that_its_groups_did(way: Way) -> None:
    async with moving_scene() as scene:
        seen = await way.begin(scene)

        await scene.go_on()

        assert way.is_there(scene.topic)
        assert switch_key("t") not in scene.bucket.entries
        await check(scene, seen)


@WAYS
async def test_its_groups_are_known_where_it_moves_before_anybody_consumes_there(
    way: Way,
) -> None:
    async with moving_scene() as scene:
        await way.begin(scene)
        before = dict(scene.broker.loops.groups("t"))
        await scene.go_on()

        assert {"g"} == before.keys()
        assert before == scene.broker.loops.groups("t")


@WAYS
async def test_a_switch_that_came_to_nothing_takes_away_what_was_new_and_nothing_else(
    way: Way,
) -> None:
    async with moving_scene() as scene:
        seen = await way.begin(scene)
        if way.is_out:
            assert not await scene.switching.go_on("t"), "its logs are made, and not led yet"
        await scene.lead()
        own, led = {ref.number for ref in scene.topic.partitions}, {*scene.loops}
        await scene.switching._clear("t")
        await scene.go_on()

        assert led - own == scene.deleted
        assert switch_key("t") not in scene.bucket.entries
        assert not way.is_there(scene.topic)
        assert sorted(seen.sent) == sorted(await scene.read())


async def test_a_switch_that_another_has_entered_meanwhile_stays() -> None:
    async with moving_scene() as scene:
        await plan(scene, 3)
        entered = scene.bucket.entries[switch_key("t")]
        switch = scene.catalog.switches.pop("t")  # the news of it is late

        with pytest.raises(BusyError):
            await scene.catalog._begin_switch("t", replace(switch, node="b"))

        assert entered == scene.bucket.entries[switch_key("t")]


async def test_a_log_is_sealed_anew_for_an_entry_that_was_changed_meanwhile() -> None:
    """Else it is served again while it is copied: it is sealed for no entry that there is."""
    async with moving_scene() as scene:
        await OUT.begin(scene)
        first = await scene.switching._seal("t", [scene.own])
        entry = scene.bucket.entries[topic_key("t")]
        changed = await scene.bucket.set(topic_key("t"), entry.value, entry.revision)
        second = await scene.switching._seal("t", [scene.own])

        assert (entry.revision, changed) == (first, second)
        assert changed == scene.own.machine.topics["t"].seal
        await scene.go_on()


@WAYS
async def test_it_moves_there_and_back_again(way: Way) -> None:
    async with moving_scene() as scene:
        await way.begin(scene)
        await scene.go_on()
        scene.clock.advance(2 * DELAY_MS)
        ids = [ref.id for ref in scene.topic.partitions]
        await plan(scene, 1 if way.is_out else 3)
        await scene.go_on()

        assert ids == [ref.id for ref in scene.topic.partitions]
        assert not way.is_there(scene.topic)
        assert 12 == len(await scene.read())


@WAYS
async def test_a_process_that_ends_after_any_step_is_followed_by_one_that_goes_on(
    way: Way,
) -> None:
    async with moving_scene() as scene:
        await way.begin(scene)
        step_count = await steps_of(scene)
    assert step_count >= 8

    for ends_at in range(1, step_count + 1):
        async with moving_scene() as scene:
            seen = await way.begin(scene)
            await scene.end()
            await scene.start(Life(ends_at))
            with pytest.raises(Died):
                await scene.go_on()
            await scene.end()
            await scene.start(Life())
            await scene.go_on()

            assert way.is_there(scene.topic), ends_at
            await check(scene, seen)
            assert switch_key("t") not in scene.bucket.entries


async def test_what_is_left_over_of_a_topic_that_has_grown_since_goes_first() -> None:
    """The node ended as it began to come, and its switch was taken back meanwhile."""
    async with moving_scene() as scene:
        seen = await IN.begin(scene)
        await scene.end()
        await scene.start(Life(1))
        with pytest.raises(Died):
            await scene.go_on()
        assert scene.own.machine.topics["t"].is_coming
        await scene.bucket.delete(switch_key("t"))
        await scene.end()
        await scene.catalog.change_topic(scene.catalog.topics["t"], {}, partition_count=3)
        await scene.start(Life())
        await plan(scene, 1)
        await scene.go_on()

        assert (1, 3) == (scene.topic.replication_factor, len(scene.topic.partitions))
        assert sorted(seen.sent) == sorted(await scene.read())


@pytest.mark.parametrize("is_taken_back", [False, True])
async def test_a_topic_that_grows_before_its_old_log_let_go_is_whole_where_it_is(
    *, is_taken_back: bool
) -> None:
    """The switch is done, and nobody has waited for it to be cleared away."""
    async with moving_scene() as scene:
        await OUT.begin(scene)
        step_count = await steps_of(scene)

    grown_count = 0
    for ends_at in range(1, step_count + 1):
        async with moving_scene() as scene:
            seen = await OUT.begin(scene)
            await scene.end()
            await scene.start(Life(ends_at))
            with pytest.raises(Died):
                await scene.go_on()
            await scene.end()
            if "t" not in scene.catalog.placed:
                continue
            grown_count += 1
            await scene.catalog.change_topic(scene.topic, {}, partition_count=3)
            if is_taken_back and switch_key("t") in scene.bucket.entries:
                await scene.bucket.delete(switch_key("t"))
            await scene.start(Life())
            await scene.go_on()

            assert "t" not in scene.own.machine.topics
            assert (3, 3) == (scene.topic.replication_factor, len(scene.topic.partitions))
            await check(scene, seen)
    assert grown_count >= 2


def wanted_streams(scene: Scene) -> set[int]:
    """Those of the topic, and of where it moves."""
    switch = scene.catalog.switches.get("t")
    placed = [each.target for each in (switch,) if each is not None]
    placed += [each for each in (scene.catalog.placed.get("t"),) if each is not None]
    return {
        ref.number for each in placed for ref in each.topic.partitions if not each.is_at_home
    }


@pytest.mark.parametrize("ends_at", [1, 2])
async def test_a_process_that_ends_while_it_begins_a_move_leaves_no_stream_behind(
    ends_at: int,
) -> None:
    """It has taken numbers, or entered the switch."""
    async with moving_scene() as scene:
        seen = await use(scene)
        bucket = scene.catalog.placement
        scene.catalog.placement = cast(Placement, MortalPlacement(scene.bucket, Life(ends_at)))
        with pytest.raises(Died):
            await scene.catalog.move_out(scene.topic, 3)
        scene.catalog.placement = bucket
        assert set() == scene.engine.streams
        await scene.end()
        await scene.start(Life())
        await scene.go_on()

        assert wanted_streams(scene) == scene.engine.streams
        assert (3 if ends_at == 2 else 1) == scene.topic.replication_factor
        await check(scene, seen)


@WAYS
async def test_whenever_a_process_ends_the_streams_are_those_of_the_topic(way: Way) -> None:
    """Those that it moves to, or away from, go with its switch."""
    async with moving_scene() as scene:
        await way.begin(scene)
        step_count = await steps_of(scene)

    for ends_at in range(1, step_count + 1):
        async with moving_scene() as scene:
            await way.begin(scene)
            await scene.end()
            await scene.start(Life(ends_at))
            with pytest.raises(Died):
                await scene.go_on()
            await scene.end()
            await scene.start(Life())
            await scene.go_on()

            assert wanted_streams(scene) == scene.engine.streams, ends_at


async def test_a_log_that_was_begun_is_made_by_the_next_process_in_an_epoch_above_its_own() -> (
    None
):
    async with moving_scene() as scene:
        await OUT.begin(scene)
        await scene.end()
        await scene.start(Life(1))
        with pytest.raises(Died):
            await scene.switching.go_on("t")
        (begun,) = scene.engine.streams
        assert not is_made(scene.catalog, begun)
        assert begun in scene.catalog.held_by("a")
        await scene.end()
        await scene.start(Life())
        await scene.switching.go_on("t")

        led = [scene.catalog.leadership(number) for number in sorted(scene.engine.streams)]
        assert ["a", "a"] == [each.heir for each in led]
        assert all(each.epoch > scene.own.machine.epoch for each in led)
        await scene.go_on()


async def plan_for(scene: Scene, heir: str) -> None:
    """Somebody wants it to live on another node alone, and doesn't wait."""
    wanted = scene.catalog.move_out(scene.topic, 2, heir=heir)
    task = asyncio.create_task(wanted)
    await scene.until(lambda: switch_key("t") in scene.bucket.entries)
    task.cancel()
    await asyncio.wait([task])


async def test_what_is_to_live_on_another_node_is_left_to_it_after_any_last_step() -> None:
    async with moving_scene() as scene:
        await plan_for(scene, "b")
        step_count = await steps_of(scene)
    assert step_count >= 8

    for ends_at in range(1, step_count + 1):
        async with moving_scene() as scene:
            seen = await use(scene)
            await plan_for(scene, "b")
            await scene.end()
            await scene.start(Life(ends_at))
            with pytest.raises(Died):
                await scene.go_on()
            await scene.end()
            await scene.start(Life())
            await scene.go_on()

            entry = scene.bucket.entries[switch_key("t")]
            onward = Switch.decode(entry.value)
            assert ("b", "b") == (onward.node, onward.target.home)
            assert is_at(scene.catalog.placed["t"], onward.source)
            assert {"b"} == {names[0] for names in scene.catalog.placed["t"].replicas}
            await check(scene, seen)


async def test_of_two_who_want_a_topic_elsewhere_at_once_one_is_told_to_wait() -> None:
    async with moving_scene() as scene:
        both = [scene.catalog.move_out(scene.topic, factor) for factor in (2, 3)]
        tasks = [asyncio.create_task(each) for each in both]
        await scene.until(lambda: any(task.done() for task in tasks))
        (refused,) = [task for task in tasks if task.done()]

        with pytest.raises(BusyError):
            await refused
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await scene.go_on()
        assert scene.topic.replication_factor in {2, 3}


@WAYS
async def test_a_switch_that_is_taken_back_after_any_step_leaves_the_topic_whole(
    way: Way,
) -> None:
    """It may have been done by then; it is served in one place, whichever."""
    async with moving_scene() as scene:
        await way.begin(scene)
        step_count = await steps_of(scene)

    sealed_count = 0
    for ends_at in range(1, step_count + 1):
        async with moving_scene() as scene:
            seen = await way.begin(scene)
            await scene.end()
            await scene.start(Life(ends_at))
            with pytest.raises(Died):
                await scene.go_on()
            entry = scene.bucket.entries[topic_key("t")]
            logs = (scene.own, *scene.loops.values())
            topics = [each for loop in logs if (each := loop.machine.topics.get("t"))]
            was_sealed = entry.revision in {each.seal for each in topics}
            if switch_key("t") in scene.bucket.entries:
                await scene.bucket.delete(switch_key("t"))
            await scene.end()
            await scene.start(Life())
            await scene.go_on()

            if was_sealed:  # what was under way arrives now, and changes nothing
                sealed_count += 1
                with pytest.raises(ConflictError):
                    await scene.bucket.set(topic_key("t"), entry.value, entry.revision)
            await check(scene, seen)
    assert sealed_count >= 3


@WAYS
async def test_who_produces_and_consumes_all_the_while_loses_nothing(way: Way) -> None:
    async with moving_scene() as scene:
        seen = await way.begin(scene)
        before, (_, consumer) = scene.topic, await scene.consume()
        taken: list[Message] = []
        is_over = False

        async def go_on() -> None:
            while not is_over:
                try:
                    taken.extend(await scene.produce(len(taken) % 2, b"%d" % len(taken)))
                except NotLeaderError:
                    await asyncio.sleep(0)

        producing = asyncio.create_task(go_on())
        await scene.go_on()
        is_over = True
        await producing

        assert way.is_there(scene.topic)
        assert [NotLeaderError] == [type(each) for each in consumer.ends]
        given = {*scene.messages(before, consumer.deliveries)}
        assert not given & seen.acked
        seen.sent += taken
        await check(scene, seen)


async def test_a_switch_that_a_newer_version_wrote_is_left_as_it_is() -> None:
    async with moving_scene() as scene:
        seen = await OUT.begin(scene)
        key = switch_key("t")
        newer = {**json.loads(scene.bucket.entries[key].value), "version": SWITCH_VERSION + 1}
        await scene.bucket.set(key, json.dumps(newer).encode())

        assert [] == scene.switching._names()
        assert "start the newer version" in scene.catalog.unreadable["t"]
        assert key in scene.bucket.entries
        assert sorted(seen.sent) == sorted(await scene.read())


async def test_who_knows_a_partition_by_the_number_that_it_had_is_told_to_look_again() -> None:
    async with moving_scene() as scene:
        await OUT.begin(scene)
        before = scene.topic
        await scene.go_on()

        assert before.partitions != scene.topic.partitions
        for ref in before.partitions:
            assert not scene.broker.loops.is_here(ref.number)
            with pytest.raises(NotLeaderError):
                scene.broker.loops.partition(ref.number)
            assert scene.broker.loops.renewed(ref) in scene.topic.partitions


async def test_nobody_is_served_from_a_log_that_is_sealed_or_being_filled() -> None:
    async with moving_scene() as scene:
        await OUT.begin(scene)
        own = scene.topic
        await scene.end()
        await scene.start(Life(8))
        with pytest.raises(Died):
            await scene.go_on()
        coming = [*scene.loops]

        for ref in own.partitions:
            assert scene.broker.loops.is_here(ref.number) or scene.own.machine.topics["t"].seal
        assert all(scene.loops[number].is_moving(number) for number in coming)
        with pytest.raises(SandglassError):
            scene.loops[coming[0]].partition(coming[0])


async def test_messages_flow_on_where_a_clock_stood_back_before_the_topic_moved() -> None:
    """The new logs are led by who began after the step, and never saw what was reached."""
    async with moving_scene() as scene:
        seen = await OUT.begin(scene)
        scene.clock.step(-5 * SLACK_MS)
        await scene.go_on()

        seen.sent += await scene.produce(0, b"now")
        left = {*seen.sent} - seen.acked - seen.nacked
        subscription, deliveries = await scene.take(len(left))

        assert left == {*scene.messages(subscription.topic, deliveries)}
