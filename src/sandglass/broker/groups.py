"""
Groups of topics: made, changed, moved and deleted, for all partitions and channels at once.

A group stands in the catalog, with its start and its settings, from its first consumer on or
when it is created; its parts (one in each partition and channel) come when somebody reads
there.
A deletion marks the group first, so that it is finished after a crash: nobody can read a group
that is going, its parts are dropped in slices, and then it leaves the catalog.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sandglass.broker.inbox import resolve
from sandglass.broker.loops import Loops, is_replicated
from sandglass.core import limits
from sandglass.core.machine import encode_group
from sandglass.core.membership import admit_drop, admit_group, admit_seek
from sandglass.core.message import CHANNEL_DEFAULT
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import DeleteGroup, PutGroup
from sandglass.core.topic import (
    GroupSettings,
    PartitionRef,
    Topic,
    TopicGroup,
    TopicKind,
    TopicSettings,
)
from sandglass.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    SandglassError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

GOING_RETRY_MS = 100


@dataclass(frozen=True, slots=True)
class Start:
    """Where a group begins: at a time (Unix ms, 0 for the beginning), or with what comes."""

    at_ms: int = 0
    is_now: bool = False


def check_kind(topic: Topic) -> None:
    """
    Raises:
        PreconditionError: groups don't read a KV topic.
    """
    if topic.kind is TopicKind.KV:
        raise PreconditionError(
            f"topic '{topic.name}' is a KV topic: no group reads it; get its keys, or scan"
            " them",
            field="topic",
        )


class Groups:
    """
    All calls run in the event loop's thread. `on_deleted` is told (topic, group, error) before
    a group's parts go: its consumers end with the error.
    """

    def __init__(self, loops: Loops) -> None:
        self.loops = loops
        self.loop = loops.own
        self.on_deleted: Callable[[str, str, SandglassError], None] = lambda *_: None
        self.drop_elsewhere: Callable[[Topic, str], Awaitable[None]] = _nobody_else
        """Lets other nodes drop what a group that is going has where they lead."""
        self._coming: dict[tuple[str, str], TopicGroup] = {}
        """As they will be, once their records are applied."""
        self._going: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._unfinished: set[tuple[str, str]] = set()
        """Of these it was said that their deletion takes longer."""
        self._is_resumed = False

    # --- looking ------------------------------------------------------------------------------

    def all(self, topic: Topic) -> list[TopicGroup]:
        """The groups of a topic, by name, those excepted that are being deleted."""
        known = self.loops.groups(topic.name)
        return [group for _, group in sorted(known.items()) if not group.is_going]

    def group(self, topic: Topic, name: str) -> TopicGroup:
        """
        A group by its name.

        Raises:
            NotFoundError: there is none, or it is being deleted.
        """
        group = self._find(topic.name, name)
        if group is None or group.is_going:
            raise NotFoundError(
                f"group '{name[:200]}' of topic '{topic.name}' not found", field="group"
            )
        return group

    def settings_of(self, topic: Topic, group: TopicGroup) -> TopicSettings:
        """What holds for a group: its own settings, else those of its topic."""
        return group.settings.over(topic.settings)

    # --- making and changing ------------------------------------------------------------------

    def join(
        self, topic: Topic, name: str, *, is_from_now: bool
    ) -> tuple[int | None, Awaitable[None] | None]:
        """
        A consumer comes: the group is made where there is none.

        Returns:
            Where the group starts in partitions that it reaches now, None for what comes from
            now on; and what to wait for, if the group is new.

        Raises:
            BusyError: the group is being deleted, or the topic has as many as it may.
        """
        group = self._find(topic.name, name)
        if group is None:
            start = Start(is_now=is_from_now)
            wait = self._put(self._new(topic, name, start, GroupSettings()))
            return (None if is_from_now else 0), wait
        if group.is_going:
            raise BusyError(
                f"group '{name}' of topic '{topic.name}' is being deleted",
                field="group",
                retry_after_ms=GOING_RETRY_MS,
            )
        return group.start_ms << INDEX_BITS, None

    async def create(
        self,
        topic: Topic,
        name: str,
        start: Start,
        settings: GroupSettings,
        *,
        begins_in: Sequence[PartitionRef] | None = None,
    ) -> TopicGroup:
        """
        Makes a group, durably, that no consumer has come to yet. One that starts with what
        comes from now on begins in these partitions, or in all.

        Raises:
            InvalidError: a name, time or setting outside its limits.
            ConflictError: there is one of this name.
            PreconditionError: groups don't read a KV topic.
            BusyError: the topic has as many as it may.
        """
        check_kind(topic)
        limits.check_name(name, field="group")
        limits.check_range(start.at_ms, field="start_ms", low=0, high=limits.DUE_MS_MAX)
        settings.over(topic.settings).check()
        if self._find(topic.name, name) is not None:
            raise ConflictError(
                f"group '{name}' of topic '{topic.name}' already exists", field="group"
            )
        group = self._new(topic, name, start, settings)
        waits = [self._put(group)]
        if start.is_now:
            waits += self._begin_now(name, topic.partitions if begins_in is None else begins_in)
        await asyncio.gather(*waits)
        return group

    async def change(
        self, topic: Topic, name: str, change: GroupSettings, unset: tuple[str, ...] = ()
    ) -> TopicGroup:
        """
        Changes what is given; the settings named in `unset` are the topic's again.

        Raises:
            NotFoundError: there is no such group.
            InvalidError: a setting outside its limits.
        """
        before = self.group(topic, name)
        group = replace(before, settings=before.settings.changed(change, unset))
        group.settings.over(topic.settings).check()
        await self._put(group)
        return group

    async def seek(
        self,
        topic: Topic,
        name: str,
        start: Start,
        *,
        partition: PartitionRef | None = None,
        offset: int | None = None,
    ) -> TopicGroup:
        """
        Moves a group, in all partitions and channels; or to an offset in one partition.

        What was leased before can't be settled any more, and what waited for a retry is
        dropped; attempts start anew. A crash on the way may leave some partitions unmoved.

        Raises:
            NotFoundError: there is no such group.
            InvalidError: a time outside its limits.
        """
        if partition is not None:
            group = self.group(topic, name)
            await self.move(group, start, [partition], offset)
            return group
        group = await self.start_at(topic, name, start)
        await self.move(group, start, topic.partitions, offset)
        return group

    async def start_at(self, topic: Topic, name: str, start: Start) -> TopicGroup:
        """
        From here on a group begins elsewhere in partitions that it reaches later.

        Raises:
            NotFoundError: there is no such group.
            InvalidError: a time outside its limits.
        """
        limits.check_range(start.at_ms, field="start_ms", low=0, high=limits.DUE_MS_MAX)
        group = replace(self.group(topic, name), start_ms=self._start_ms(start))
        await self._put(group)
        return group

    async def move(
        self,
        group: TopicGroup,
        start: Start,
        refs: Sequence[PartitionRef],
        offset: int | None = None,
    ) -> None:
        """
        Moves a group in some partitions of its topic, to an offset or else to `start`.

        Raises:
            InvalidError: a time outside its limits.
        """
        limits.check_range(start.at_ms, field="start_ms", low=0, high=limits.DUE_MS_MAX)
        waits: list[Awaitable[None]] = []
        name = group.name
        at = None if start.is_now else start.at_ms << INDEX_BITS
        for ref in refs:
            loop = self.loops.of(ref.number)
            led = loop.partition(ref.number)
            for channel in self._channels(led, name):
                part = led.group(channel, name, loop.view)
                record = admit_seek(
                    led,
                    part,
                    start=at if offset is None else offset,
                    moment=loop.moment(),
                )
                waits.append(loop.commit(record))
            await asyncio.sleep(0)
        await asyncio.gather(*waits)

    async def begin_now(self, group: TopicGroup, refs: Sequence[PartitionRef]) -> None:
        """A group that is there begins in these partitions, with what comes from now on."""
        await asyncio.gather(*self._begin_now(group.name, refs))

    def _new(
        self, topic: Topic, name: str, start: Start, settings: GroupSettings
    ) -> TopicGroup:
        known = self.loops.groups(topic.name)
        if len(known) + len(self._coming) >= limits.GROUP_COUNT_MAX:
            raise BusyError(
                f"topic '{topic.name}' has {len(known)} groups, the most it may have",
                field="group",
            )
        now_ms = self.loop.moment().wall_ms
        return TopicGroup(topic.name, name, self._start_ms(start), now_ms, settings)

    def _start_ms(self, start: Start) -> int:
        return self.loop.moment().wall_ms if start.is_now else start.at_ms

    def _begin_now(self, name: str, refs: Sequence[PartitionRef]) -> list[Awaitable[None]]:
        """
        The parts that read what most consumers read, now: times count in ms, and what was
        produced in this one isn't new.
        """
        waits: list[Awaitable[None]] = []
        for ref in refs:
            loop = self.loops.of(ref.number)
            record = admit_group(
                loop.partition(ref.number),
                CHANNEL_DEFAULT,
                name,
                start=None,
                moment=loop.moment(),
                view=loop.view,
            )
            if record is not None:
                waits.append(loop.commit(record))
        return waits

    # --- deleting -----------------------------------------------------------------------------

    async def delete(self, topic: Topic, name: str) -> None:
        """
        Deletes a group with all its state; its consumers end. A deletion that is on its way is
        gone on with.

        Raises:
            NotFoundError: there is no such group.
            UnavailableError: a partition has no leader: the group is gone from elsewhere, and
                the rest follows when it has one.
        """
        going = self.loops.groups(topic.name).get(name)
        if going is None or not going.is_going:
            going = replace(self.group(topic, name), is_going=True)
            marked = self._put(going)
            self._end_consumers(going)
            await marked
        await asyncio.shield(self._finish(going))

    async def drop_going(self, topic: Topic, name: str, refs: Sequence[PartitionRef]) -> None:
        """
        Drops what a group that is being deleted has in these partitions; its consumers end.

        Raises:
            PreconditionError: it is not being deleted.
            NotLeaderError: another node leads one of them.
        """
        group = self._find(topic.name, name)
        if group is not None and not group.is_going:
            raise PreconditionError(
                f"group '{name[:200]}' of topic '{topic.name}' is not being deleted",
                field="partitions",
            )
        if group is None:
            return  # it is gone already
        for ref in refs:
            await self._drop_from(self.loops.partition(ref.number), group)

    def resume(self) -> None:
        """
        Deletions that were cut short go on: in the node's own log once, when it has started; of
        a replicated topic at the node that leads its first partition, as often as it takes.
        """
        if not self._is_resumed:
            self._is_resumed = True
            self._finish_going(self.loop.machine.groups)
        if self.loops.shared is not None:
            self._finish_going(self.loops.shared.groups)

    def _finish_going(self, groups: Mapping[str, Mapping[str, TopicGroup]]) -> None:
        for topic in [name for name, known in groups.items() if _has_going(known)]:
            found = self.loops.topic(topic)
            if found is None or self.loops.of_any(found.partitions[0].number) is None:
                continue
            for group in groups[topic].values():
                if group.is_going:
                    self._finish(group)

    async def stop(self) -> None:
        """Ends what is being deleted; the next start goes on with it."""
        tasks = [*self._going.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _finish(self, group: TopicGroup) -> "asyncio.Task[None]":
        key = (group.topic, group.name)
        task = self._going.get(key)
        if task is None:
            task = self._going[key] = asyncio.create_task(self._drop(group))
            task.add_done_callback(lambda done: self._finished(key, done))
        return task

    def _finished(self, key: tuple[str, str], task: "asyncio.Task[None]") -> None:
        self._going.pop(key, None)
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._unfinished.discard(key)
        elif key not in self._unfinished:
            self._unfinished.add(key)
            logger.warning("group %r of topic %r is not all deleted yet: %s", *key[::-1], error)

    async def _drop(self, group: TopicGroup) -> None:
        machine = self.loop.machine
        topic = self.loops.topic(group.topic)
        for ref in topic.partitions if topic is not None else ():
            loop = self.loops.working(ref.number)
            if loop is not None:
                await self._drop_from(loop.partition(ref.number), group)
        if self._is_shared(group.topic):
            assert self.loops.shared is not None
            assert topic is not None
            await self.drop_elsewhere(topic, group.name)
            await self.loops.shared.delete_group(group.topic, group.name)
            return
        operation = DeleteGroup(group.topic, group.name)
        await self.loop.commit(machine.record([operation], self.loop.moment()))

    def _end_consumers(self, group: TopicGroup) -> None:
        error = NotFoundError(
            f"group '{group.name}' of topic '{group.topic}' was deleted", field="group"
        )
        self.on_deleted(group.topic, group.name, error)

    async def _drop_from(self, partition: Partition, group: TopicGroup) -> None:
        for channel in self._channels(partition, group.name):
            loop = self.loops.working(partition.number)
            if loop is None:
                return  # its topic was deleted meanwhile
            self._end_consumers(group)  # one may have come while the mark was on its way
            part = partition.group(channel, group.name, loop.view)
            await loop.commit(admit_drop(partition, part, loop.moment()))
        await asyncio.sleep(0)

    def _channels(self, partition: Partition, name: str) -> list[str]:
        names = partition.groups.names(self.loops.of(partition.number).view)
        return [channel for channel, each in names if each == name]

    # --- records ------------------------------------------------------------------------------

    def _find(self, topic: str, name: str) -> TopicGroup | None:
        coming = self._coming.get((topic, name))
        return coming or self.loops.groups(topic).get(name)

    def _put(self, group: TopicGroup) -> Awaitable[None]:
        """Queues the group's row; what it returns waits until it is applied."""
        key = (group.topic, group.name)
        self._coming[key] = group
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: SandglassError | None) -> None:
            if self._coming.get(key) is group:
                del self._coming[key]
            resolve(future, error)

        if self._is_shared(group.topic):
            assert self.loops.shared is not None
            putting = asyncio.create_task(self.loops.shared.put_group(group))
            putting.add_done_callback(lambda task: done(_error_of(task)))
            return _shielded(future)
        machine, moment = self.loop.machine, self.loop.moment()
        operation = PutGroup(group.topic, group.name, encode_group(group))
        self.loop.submit(machine.record([operation], moment), done)
        return _shielded(future)

    def _is_shared(self, topic: str) -> bool:
        """Are the groups of a topic in the cluster's catalog?"""
        found = self.loops.topic(topic)
        return found is not None and is_replicated(found.partitions[0].number)


def _has_going(groups: Mapping[str, TopicGroup]) -> bool:
    return any(group.is_going for group in groups.values())


async def _nobody_else(_: Topic, __: str) -> None:
    """There are no other nodes."""


def _shielded(future: "asyncio.Future[None]") -> "asyncio.Future[None]":
    """Its wait may be cancelled, or forgotten by a consumer that has gone, without a trace."""
    outer = asyncio.shield(future)
    outer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return outer


def _error_of(task: "asyncio.Task[None]") -> SandglassError | None:
    """How a change of the cluster's catalog ended."""
    if task.cancelled():
        return UnavailableError("the node is stopping", is_result_unknown=True)
    error = task.exception()
    if error is None or isinstance(error, SandglassError):
        return error
    raise error
