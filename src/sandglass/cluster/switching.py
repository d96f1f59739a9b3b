"""
Topics that move to other logs, as this node carries that out: `switch` says what is next.

From the node's own log to replicated ones, or from those to its own: in both cases this node
leads all of them meanwhile, and nobody else is served from the new ones.

1. New replicated logs are made: the switch names them, so that they go with it at the latest.
   All is copied while the old logs are served; then what was written meanwhile, a few times.
2. The old ones are sealed, for the revision of the cluster's entry; the rest is copied, which
   is what was written since, however much the topic holds.
3. Groups of the topic go where those of such topics stand: into the cluster's catalog, or into
   the node's own log.
4. The entry is changed by compare-and-set, from that revision on.
5. Then the old logs let go of the topic.

Tokens only grow: the new logs are led in epochs above those of the old ones.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from sandglass.broker.moving import Written, commit, copy, seal, wait_for_claims, watched
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster.members import key_part
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.switch import (
    SWITCHES,
    Act,
    Switch,
    act_of,
    has_come,
    inward,
    switch_key,
)
from sandglass.core import keys
from sandglass.core.machine import decode_group, encode_group, encode_topic
from sandglass.core.record import (
    DeleteGroup,
    DeleteTopic,
    OpenEpoch,
    Operation,
    PutGroup,
    PutTopic,
)
from sandglass.core.topic import PartitionRef, Topic, TopicGroup
from sandglass.errors import ConflictError, PreconditionError, SandglassError
from sandglass.ports import Entry, Placement

logger = logging.getLogger(__name__)

LOOK_S: Final = 0.25
AFTER_FAILURE_S: Final = 0.5
AFTER_DEFECT_S: Final = 5.0

FEW_ROWS: Final = 100
ROUND_COUNT_MAX: Final = 4
"""Copies while the old logs are served: until a few rows differ, or so often."""


Place = tuple[NodeLoop, int, NodeLoop, int]
"""From a number in one log to another in another."""


class Logs(Protocol):
    """The replicated logs, as this node has them."""

    def led(self, number: int) -> NodeLoop | None:
        """The loop of one that this node leads; None if it doesn't."""
        ...

    def is_made(self, number: int) -> bool:
        """Is one to which a topic moves there?"""
        ...

    async def make(self, number: int, factor: int, *, epoch: int) -> None:
        """One is there from here on, led by this node to begin with, above this epoch."""
        ...

    async def delete(self, number: int, factor: int) -> None:
        """One goes, with its snapshots, and with the entry that says who leads it."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """A partition's way: from a number in one log to another in another."""

    source: NodeLoop
    number: int
    target: NodeLoop
    to: int
    ahead_ms: int
    """So far the steady time of the other log is ahead, so that what waits waits no shorter."""

    written: Written
    """There, since it was copied last."""


class Switching:
    """
    All calls run in the event loop's thread. `left` is told a partition that is served here no
    more; `published` a topic of which the node's own log has changed.
    """

    def __init__(
        self,
        placement: Placement,
        me: str,
        own: NodeLoop,
        logs: Logs,
        *,
        left: Callable[[int], None],
        published: Callable[[str], None],
    ) -> None:
        self._placement = placement
        self._me = me
        self._own = own
        self._logs = logs
        self._left = left
        self._published = published
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Goes on with what is under way, and begins what comes."""
        self._task = asyncio.create_task(self._run(), name="cluster-switching")

    def wake(self) -> None:
        """Something may go on."""
        self._news.set()

    async def stop(self) -> None:
        """Leaves everything where it is: the next start goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._news.clear()
            for name in self._names():
                await self._try(name)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._news.wait()

    def _names(self) -> list[str]:
        switches: list[str] = []
        for key, entry in [*self._placement.entries.items()]:
            if key.startswith(SWITCHES):
                with suppress(PreconditionError):  # a newer program's is not ours to carry out
                    switches.append(Switch.decode(entry.value).source.topic.name)
        moving = (each.name for each in self._own.machine.topics.values() if each.is_moving)
        return [*dict.fromkeys((*switches, *moving))]

    async def _try(self, name: str) -> None:
        try:
            while await self.go_on(name):
                pass
        except PreconditionError as error:
            logger.error("topic %s does not move: %s", name, error)
            with suppress(SandglassError):
                await self._clear(name)
        except SandglassError as error:
            logger.info("topic %s is on its way still: %s", name, error)
            await asyncio.sleep(AFTER_FAILURE_S)
        except Exception:
            logger.exception("topic %s does not get on", name)
            await asyncio.sleep(AFTER_DEFECT_S)

    def next(self, name: str) -> Act:
        """What is next about a topic."""
        return act_of(self._me, self._topic(name), self._placed(name), self._switch(name))

    async def go_on(self, name: str) -> bool:
        """
        Does what is next about a topic; false if it has to wait for something.

        Raises:
            SandglassError: it didn't come to its end; to be repeated.
        """
        acts: dict[Act, Callable[[str], Awaitable[bool]]] = {
            Act.CARRY_ON: self._carry_on,
            Act.ARRIVE: self._arrive,
            Act.LEAVE: self._leave,
            Act.UNSEAL: self._unseal,
            Act.CLEAR: self._clear,
        }
        act = self.next(name)
        return act is not Act.NOTHING and await acts[act](name)

    # --- what is known ------------------------------------------------------------------------

    def _topic(self, name: str) -> Topic | None:
        return self._own.machine.topics.get(name)

    def _entry(self, name: str) -> Entry | None:
        return self._placement.entries.get(topic_key(name))

    def _placed(self, name: str) -> Placed | None:
        entry = self._entry(name)
        return None if entry is None else Placed.decode(entry.value)

    def _switch(self, name: str) -> Switch | None:
        entry = self._placement.entries.get(switch_key(name))
        return None if entry is None else Switch.decode(entry.value)

    # --- on the way ---------------------------------------------------------------------------

    async def _carry_on(self, name: str) -> bool:
        switch = self._switch(name)
        assert switch is not None
        replicated = switch.source if switch.target.is_at_home else switch.target
        if replicated is switch.target:
            await self._make_logs(replicated)
        loops = [self._logs.led(ref.number) for ref in replicated.topic.partitions]
        led = [loop for loop in loops if loop is not None]
        if len(led) < len(loops):
            return False
        if switch.target.is_at_home:
            return await self._carry_in(name, led)
        return await self._carry_out(name, switch, led)

    async def _make_logs(self, target: Placed) -> None:
        factor, epoch = target.topic.replication_factor, self._own.machine.epoch
        for ref in target.topic.partitions:
            if not self._logs.is_made(ref.number):
                await self._logs.make(ref.number, factor, epoch=epoch)

    async def _carry_out(self, name: str, switch: Switch, led: Sequence[NodeLoop]) -> bool:
        topic = self._topic(name)
        if topic is None or not all(_is_coming(loop, name) for loop in led):
            return False
        if any(loop.machine.epoch <= self._own.machine.epoch for loop in led):
            raise PreconditionError(
                "its new logs are led in epochs that are not above this log's"
            )
        refs = switch.target.topic.partitions
        places = [
            (self._own, ref.number, loop, to.number)
            for ref, loop, to in zip(topic.partitions, led, refs, strict=True)
        ]
        revision = await self._copy_and_seal(name, places, [self._own])
        for loop in led:
            _reach(loop, self._own)
        await self._groups_out(name)
        settings = self._own.machine.topics[name].settings
        target = replace(switch.target.topic, settings=settings)
        placed = Placed(target, switch.target.replicas)
        return await self._switch_over(name, placed, revision)

    async def _carry_in(self, name: str, led: Sequence[NodeLoop]) -> bool:
        topic = self._topic(name)
        if topic is None:
            topic = await self._begin_in(name)
        places = [
            (loop, ref.number, self._own, to.number)
            for loop, to in zip(led, topic.partitions, strict=True)
            for ref in loop.machine.topics[name].partitions
        ]
        revision = await self._copy_and_seal(name, places, led)
        for loop in led:
            _reach(self._own, loop)
        found = self._placed(name)
        assert found is not None
        refs = topic.partitions
        arrived = replace(found.topic, partitions=refs, replication_factor=1)
        placed = Placed(arrived, tuple((self._me,) for _ in refs))
        return await self._switch_over(name, placed, revision)

    async def _begin_in(self, name: str) -> Topic:
        """The topic comes into the node's own log, with numbers of that."""
        placed, machine = self._placed(name), self._own.machine
        assert placed is not None
        first = machine.assigned_partition
        machine.assigned_partition += len(placed.topic.partitions)
        refs = tuple(
            PartitionRef(ref.id, first + place)
            for place, ref in enumerate(placed.topic.partitions)
        )
        topic = replace(placed.topic, partitions=refs, replication_factor=1, is_coming=True)
        await commit(self._own, PutTopic(name, encode_topic(topic)))
        return topic

    async def _copy_and_seal(
        self, name: str, places: Sequence[Place], sealed: Sequence[NodeLoop]
    ) -> int:
        """All rows are in the new logs then, and stay as they are; see `_seal`."""
        with ExitStack() as stack:
            ways = [
                Way(*place, _ahead_ms(place), stack.enter_context(watched(*place[:2])))
                for place in places
            ]
            for _ in range(ROUND_COUNT_MAX):
                if await self._copy(ways) <= FEW_ROWS:
                    break
            revision = await self._seal(name, sealed)
            await self._copy(ways)
            return revision

    async def _copy(self, ways: Sequence[Way]) -> int:
        changed_count = 0
        for way in ways:
            changed_count += await copy(
                way.source,
                way.number,
                way.target,
                way.to,
                ahead_ms=way.ahead_ms,
                written=way.written,
            )
        return changed_count

    async def _seal(self, name: str, loops: Sequence[NodeLoop]) -> int:
        """Seals the topic in these logs; returns the revision for which."""
        entry = self._entry(name)
        if entry is None:
            raise ConflictError(f"topic '{name}' was deleted meanwhile")
        for loop in loops:
            topic = loop.machine.topics.get(name)
            if topic is None:
                raise ConflictError(f"topic '{name}' was deleted meanwhile")
            if topic.seal != entry.revision:
                await seal(loop, name, entry.revision)
            for ref in topic.partitions:
                self._left(ref.number)
        return entry.revision

    async def _switch_over(self, name: str, placed: Placed, revision: int) -> bool:
        await self._placement.set(topic_key(name), placed.encode(), revision)
        where = f"node {placed.home}" if placed.is_at_home else "logs of its own"
        logger.info("topic %s has moved to %s", name, where)
        return True

    # --- groups -------------------------------------------------------------------------------

    def _shared_groups(self, name: str) -> dict[str, TopicGroup]:
        prefix = f"group.{key_part(name)}."
        found = (
            decode_group(entry.value)
            for key, entry in [*self._placement.entries.items()]
            if key.startswith(prefix)
        )
        return {group.name: group for group in found}

    async def _groups_out(self, name: str) -> None:
        """What stands in the node's own log stands in the cluster's catalog, and no more."""
        groups = self._own.machine.groups[name]
        await self._forget_groups(name, keep=groups.keys())
        for group in groups.values():
            await self._placement.set(_group_key(group), encode_group(group))

    async def _forget_groups(self, name: str, keep: Collection[str] = ()) -> None:
        for group in self._shared_groups(name).values():
            if group.name not in keep:
                await self._placement.delete(_group_key(group))

    def _groups_in(self, name: str) -> list[Operation]:
        """What stands in the cluster's catalog is to stand in the node's own log."""
        shared, own = self._shared_groups(name), self._own.machine.groups.get(name, {})
        operations: list[Operation] = [
            PutGroup(name, group.name, encode_group(group)) for group in shared.values()
        ]
        return operations + [DeleteGroup(name, each) for each in own if each not in shared]

    # --- at its end ---------------------------------------------------------------------------

    async def _arrive(self, name: str) -> bool:
        topic, machine = self._topic(name), self._own.machine
        assert topic is not None
        rows = (self._own.view.get(keys.partition_key(ref.number)) for ref in topic.partitions)
        epochs = [0 if row is None else keys.epoch_of(row) for row in rows]
        operations = self._groups_in(name)
        if max(epochs) >= machine.epoch:
            operations.append(OpenEpoch(max(epochs) + 1))
        operations.append(PutTopic(name, encode_topic(replace(topic, is_coming=False))))
        await commit(self._own, *operations)
        for ref in topic.partitions:
            wait_for_claims(self._own, ref.number)
        self._published(name)
        return True

    async def _leave(self, name: str) -> bool:
        topic = self._topic(name)
        assert topic is not None
        for ref in topic.partitions:
            self._own.left.add(ref.number)
            self._left(ref.number)
        await commit(self._own, DeleteTopic(name, [ref.number for ref in topic.partitions]))
        self._published(name)
        return True

    async def _unseal(self, name: str) -> bool:
        topic, entry = self._topic(name), self._entry(name)
        assert topic is not None
        if entry is not None and entry.revision == topic.seal:
            # What may be under way can't switch it any more.
            await self._placement.set(topic_key(name), entry.value, entry.revision)
        await commit(self._own, PutTopic(name, encode_topic(replace(topic, seal=0))))
        self._published(name)
        return True

    async def _clear(self, name: str) -> bool:
        switch, placed = self._switch(name), self._placed(name)
        assert switch is not None
        over = switch.source if has_come(placed, switch.target) else switch.target
        if placed is None or placed.is_at_home:
            await self._forget_groups(name)
        if not over.is_at_home:
            for ref in over.topic.partitions:
                await self._logs.delete(ref.number, over.topic.replication_factor)
        if switch.heir and over is switch.source and await self._move_on(name, switch.heir):
            return True
        await self._placement.delete(switch_key(name))
        return True

    async def _move_on(self, name: str, heir: str) -> bool:
        """Lets another node carry on; false if it has no replicas to begin with."""
        entry, placed = self._entry(name), self._placed(name)
        assert entry is not None
        assert placed is not None
        if not all(heir in names for names in placed.replicas):
            return False
        onward = inward(placed, heir)
        if onward.source != placed:
            await self._placement.set(topic_key(name), onward.source.encode(), entry.revision)
        await self._placement.set(switch_key(name), onward.encode())
        return True


def _is_coming(loop: NodeLoop, name: str) -> bool:
    topic = loop.machine.topics.get(name)
    return topic is not None and topic.is_coming


def _ahead_ms(place: Place) -> int:
    source, _, target, _ = place
    return (
        target.moment().steady_ms - source.moment().steady_ms + 1
    )  # they are not read at once


def _reach(target: NodeLoop, source: NodeLoop) -> None:
    """A clock that stands behind what was reached in the other log stands behind here, too."""
    target.clocks.reached_ms = max(target.clocks.reached_ms, source.clocks.reached_ms)


def _group_key(group: TopicGroup) -> str:
    return f"group.{key_part(group.topic)}.{key_part(group.name)}"
