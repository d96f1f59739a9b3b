"""
Who leads which partition, as far as this node has a say: it takes over, and hands over.

The *order* of a partition is that of its replicas; who stands first leads, if its node is
there. Topics are made with orders that begin with one member after the other, so that leaders
are spread evenly as long as everybody is there.

1. A leader is entered in the catalog, by compare-and-set, before it opens its epoch. One that
   doesn't get so far, and knows of another that could, leaves it to that one, and is the last
   in order for some time.
2. A leader that is not the first hands over to the one that is, once that has been there, with
   all that it holds read, for some time: whoever comes and goes moves nothing.
3. A node that is drained, stops, or is no longer one of a partition's replicas hands over to
   the first of those that are left; its replica stays until then.
4. Handing over: what is queued is finished, the offsets are closed exactly, and the entry is
   released, in favour of the heir, who opens its epoch at once. A few partitions at a time, so
   that none waits for all the others.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from sandglass.cluster.catalog import ClusterCatalog, Leadership
from sandglass.cluster.members import Member, Members
from sandglass.cluster.replica import Replica, State
from sandglass.core import limits
from sandglass.errors import SandglassError
from sandglass.ports import Clock
from sandglass.replication.writer import next_epoch

logger = logging.getLogger(__name__)

PATIENCE_MS: Final = 3000
"""A replica that should take over, and doesn't within this, is passed over."""

OPENING_MS: Final = 10_000
"""A node that is entered as the leader, and doesn't lead within this, leaves it to another: its
engine may not reach the one that leads the stream. Longer than a choice of the engine takes."""

UNABLE_MS: Final = 60_000
"""A node that did so doesn't try again for so long, if anybody else does."""

AT_ONCE: Final = 4
"""Partitions that are handed over at a time."""

HAND_OVER_S: Final = 5.0
"""So long a node that stops waits for its heirs: without a quorum nothing is handed over."""

HEIR_S: Final = 1.0
LOOK_S: Final = 0.01
"""A node that stops stays until its heirs have opened their epochs, at most so long, and looks
so often: with it goes its engine, and what that leads is away for a moment."""

GIVEN_MS: Final = 60_000
"""An heir that lost what it was given is not given it again for so long; but another is, and so
is the same one where the order has changed: somebody wants it to lead."""


class Leaders:
    """
    All calls run in the event loop's thread. `replicas` are those that this node holds, by
    number.
    """

    def __init__(
        self,
        catalog: ClusterCatalog,
        members: Members,
        replicas: Mapping[int, Replica],
        clock: Clock,
    ) -> None:
        self.catalog = catalog
        self.members = members
        self.replicas = replicas
        self.clock = clock
        self.heirs: dict[int, str] = {}
        """To whom a partition is being handed over just now."""
        self._vacant_ms: dict[int, int] = {}
        self._trying_ms: dict[int, int] = {}
        """Of each partition that this node should lead, and doesn't yet: since when."""
        self._unable_ms: dict[int, int] = {}
        """Of each that it has left to another because of that: when."""
        self._settled: dict[str, tuple[str, int]] = {}
        """Of members that are ready: their incarnation, and since when."""
        self._orders: dict[int, tuple[tuple[str, ...], int]] = {}
        """Of each replica's partition the order, and since when it is that."""
        self._given: dict[int, tuple[str, int]] = {}
        """Of each partition to whom it was handed over last, and when."""
        self._places = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @property
    def me(self) -> str:
        """This node's name."""
        return self.members.me.name

    async def consider(self) -> None:
        """
        For each replica: is it this node's turn to lead, or no longer?

        Raises:
            UnavailableError: no quorum.
        """
        self._tell_what_is_behind()
        self._look_who_is_ready()
        for replica in [*self.replicas.values()]:
            await self._consider(replica)

    async def stop(self) -> None:
        """Hands over all that is led here, to whoever there is, and takes nothing more."""
        self._is_stopping = True
        # Or the next leader gives it back at once to who stands before it in the order.
        self.members.tell_leaving()
        led = [each for each in self.replicas.values() if each.state is State.LEADING]
        heirs = {number: self._heir(number, is_ending=True) for number in self.replicas}
        epochs = {each.number: each.epoch for each in led if heirs[each.number]}
        for replica in [*self.replicas.values()]:
            self._begin_hand_over(replica, heirs[replica.number])
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=HAND_OVER_S)
            for task in left:
                task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(HEIR_S):
                while any(  # noqa: ASYNC110  # marks tell nobody
                    self.replicas[number].mark.epoch <= epoch
                    for number, epoch in epochs.items()
                ):
                    await asyncio.sleep(LOOK_S)

    def is_there(self, name: str) -> bool:
        """Is a member alive, and none that leads nothing on purpose?"""
        member = self.members.named(name)
        return (
            member is not None
            and self.members.is_alive(member)
            and not member.is_leaving
            and name not in self.catalog.drained
        )

    def _may_lead(self, name: str, number: int) -> bool:
        """A node that is drained carries out nevertheless what moves away from it."""
        member = self.members.named(name)
        is_alive = member is not None and self.members.is_alive(member)
        return self.is_there(name) or (is_alive and self.catalog.is_coming(number))

    # --- taking -------------------------------------------------------------------------------

    async def _consider(self, replica: Replica) -> None:
        number, me = replica.number, self.members.me
        if number in self.heirs:
            return
        leadership = self.catalog.leadership(number)
        leader = self.members.named(leadership.node) if leadership.node else None
        is_held = (
            leader is not None
            and leader.incarnation == leadership.incarnation
            and self.members.is_alive(leader)
        )
        is_mine = (leadership.node, leadership.incarnation) == (me.name, me.incarnation)
        if replica.state is State.LEADING:
            self._unable_ms.pop(number, None)
        if not is_held or not is_mine or replica.state is State.LEADING:
            self._trying_ms.pop(number, None)
        if is_held and not is_mine:
            self._vacant_ms.pop(number, None)
            if replica.state in {State.LEADING, State.OPENING}:
                replica.drop()
            return
        if is_held and replica.state is State.LEADING:
            self._vacant_ms.pop(number, None)
            self._consider_another(replica)
            return
        if is_held and (self._is_left(replica) or replica.state is State.OPENING):
            self._vacant_ms.pop(number, None)
            return
        # Nobody leads it, or this node should and does not.
        await self._consider_vacant(replica, leadership, leader)

    async def _consider_vacant(
        self, replica: Replica, leadership: Leadership, leader: Member | None
    ) -> None:
        number, now_ms = replica.number, self.clock.monotonic_ms()
        since_ms = self._vacant_ms.setdefault(number, now_ms)
        is_able = replica.is_current and not replica.is_called
        if not is_able or self._is_stopping or not self.members.may_serve():
            return
        if now_ms - since_ms < self._rank(number, leadership) * PATIENCE_MS:
            return
        if leader is not None and self._is_silent(leader, leadership):
            is_over = await self.members.declare_over(leader)
            if not is_over:
                return
        epoch = next_epoch(catalog_epoch=leadership.epoch, mark=replica.mark)
        if await self.catalog.lead(number, epoch):
            self._vacant_ms[number] = now_ms
            replica.lead(epoch)

    def _is_left(self, replica: Replica) -> bool:
        """This node should lead, and doesn't: does it leave that to another?"""
        number, now_ms = replica.number, self.clock.monotonic_ms()
        since_ms = self._trying_ms.setdefault(number, now_ms)
        is_vain = replica.state is State.FROZEN or now_ms - since_ms >= OPENING_MS
        heir = self._heir(number, is_ending=True) if is_vain else ""
        if not heir or not self.members.may_serve():
            return False
        if not self._is_unable(number):
            # The others hear of it first: or the heir would give it back at once.
            self._unable_ms[number] = now_ms
            self._tell_what_is_behind(at_once=True)
            return False
        self._begin_hand_over(replica, heir)
        return True

    def _is_unable(self, number: int) -> bool:
        """Has this node tried in vain to lead a partition, a short while ago?"""
        since_ms = self._unable_ms.get(number)
        return since_ms is not None and self.clock.monotonic_ms() - since_ms < UNABLE_MS

    def _is_silent(self, leader: Member, leadership: Leadership) -> bool:
        """It led, has not said goodbye, and nobody has declared it over."""
        is_same = leader.incarnation == leadership.incarnation
        return is_same and not leader.is_over and leader.name != self.me

    def _rank(self, number: int, leadership: Leadership) -> int:
        """
        The place of this node among those who may lead: whoever the leader before has named,
        then the replicas in their order. Drained ones come last, when nobody else is there, and
        so does who has tried in vain.
        """
        names = [name for name in self._order(number) if self._may_lead(name, number)]
        if leadership.heir in names and not leadership.node:
            names.remove(leadership.heir)
            names.insert(0, leadership.heir)
        is_last = self.me not in names or self._is_unable(number)
        return len(names) if is_last else names.index(self.me)

    def _order(self, number: int) -> tuple[str, ...]:
        placed = self.catalog.placed_of(number)
        return () if placed is None else placed[1]

    # --- handing over -------------------------------------------------------------------------

    def _consider_another(self, replica: Replica) -> None:
        """Should another lead what is led here?"""
        is_ending = self._is_stopping or self._is_to_end(replica.number)
        heir = self._heir(replica.number, is_ending=is_ending)
        if not heir or heir == self.me:
            return
        now_ms = self.clock.monotonic_ms()
        if not is_ending and self._was_given(replica.number, heir):
            return
        self._given[replica.number] = (heir, now_ms)
        self._begin_hand_over(replica, heir)

    def _was_given(self, number: int, heir: str) -> bool:
        """Was it handed over to this heir a short while ago, and in the order that it has?"""
        before, given_ms = self._given.get(number, ("", 0))
        since_ms = self._orders.get(number, ((), 0))[1]
        is_short = self.clock.monotonic_ms() - given_ms < GIVEN_MS
        return before == heir and since_ms <= given_ms and is_short

    def _heir(self, number: int, *, is_ending: bool) -> str:
        """
        The first in order that could lead at once; this node, unless it is to end that. One
        that stops names somebody who is there, if nobody is ready: while it isn't gone itself,
        the others would wait for its turn.
        """
        for name in self._order(number):
            if name == self.me:
                if not is_ending:
                    return name
            elif self._may_lead(name, number) and self._is_ready(
                name, number, at_once=is_ending
            ):
                return name
        there = [name for name in self._order(number) if self.is_there(name)]
        others = [name for name in there if name != self.me]
        return others[0] if self._is_stopping and others else ""

    def _is_to_end(self, number: int) -> bool:
        """Is this node to lead a partition no longer, for good or for a while?"""
        is_drained = self.me in self.catalog.drained and not self.catalog.is_coming(number)
        return is_drained or self.me not in self._order(number)

    def has_to_stay(self, replica: Replica) -> bool:
        """A replica that the node is to hold no longer: does it lead still, or hand over?"""
        leadership, me = self.catalog.leadership(replica.number), self.members.me
        is_mine = (leadership.node, leadership.incarnation) == (me.name, me.incarnation)
        return is_mine or replica.number in self.heirs

    def _is_ready(self, name: str, number: int, *, at_once: bool) -> bool:
        """Has a member read its replica of a partition, and been there for some time?"""
        member = self.members.named(name)
        if member is None or member.behind is None or number in member.behind:
            return False
        incarnation, since_ms = self._settled.get(name, ("", 0))
        # One that was just given a replica has not even begun to say that it is behind.
        since_ms = max(since_ms, self._orders.get(number, ((), 0))[1])
        has_settled = (
            incarnation == member.incarnation
            and self.clock.monotonic_ms() - since_ms >= limits.LEADER_SETTLE_MS
        )
        return at_once or has_settled

    def _begin_hand_over(self, replica: Replica, heir: str) -> None:
        if replica.number in self.heirs:
            return  # it is on its way
        self.heirs[replica.number] = heir
        task = asyncio.create_task(self._hand_over(replica, heir), name="hand-over")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, replica: Replica, heir: str) -> None:
        number = replica.number
        async with self._places:
            try:
                if replica.state in {State.LEADING, State.OPENING}:
                    logger.info("partition %d is handed over to %s", number, heir or "whoever")
                    await replica.yield_()
                if replica.epoch:
                    await self.catalog.yield_(number, replica.epoch, heir)
            except SandglassError as error:
                logger.warning("partition %d is not released: %s", number, error)
            finally:
                self._vacant_ms.pop(number, None)
                del self.heirs[number]

    # --- who is ready -------------------------------------------------------------------------

    def _tell_what_is_behind(self, *, at_once: bool = False) -> None:
        """The others hear, with the next renewal, what this node could not lead at once."""
        able = {State.LEADING, State.OPENING}
        behind = tuple(
            sorted(
                number
                for number, each in self.replicas.items()
                if (each.state not in able and not each.is_current) or self._is_unable(number)
            )
        )
        self.members.tell(behind=behind, at_once=at_once)

    def _look_who_is_ready(self) -> None:
        now_ms = self.clock.monotonic_ms()
        for member in self.members.all:
            is_ready = member.behind is not None and self.members.is_alive(member)
            if not is_ready:
                self._settled.pop(member.name, None)
            elif self._settled.get(member.name, ("", 0))[0] != member.incarnation:
                self._settled[member.name] = (member.incarnation, now_ms)
        for number in self.replicas:
            order = self._order(number)
            if self._orders.get(number, ((), 0))[0] != order:
                self._orders[number] = (order, now_ms)
