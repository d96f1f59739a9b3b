"""
Who belongs to the cluster, who is there, and what that allows this node to do.

Each member keeps one entry, `node.<name>`, and renews it; each renewal gives it a new revision.
That is the member's *lease*: one for all the partitions that it leads, so that a cluster costs
a renewal a member, not one a partition. A member draws an *incarnation* when it starts, and
every leadership names the incarnation that took it.

1. A member serves what it leads while its lease is valid: counted from before the renewal was
   sent, less a margin.
2. One whose revision has stood for a lease's length may be *declared over*, by changing its
   entry from just that revision: from then on its own renewals fail, so that it knows. What it
   led is free.
3. A member that finds itself declared over leads nothing any more, and comes back as a new
   incarnation.
4. Silence counts only while the engine answers: in the seconds of an election nobody's renewals
   come through, and nobody is to blame. So a renewal of one's own that fails, or takes long,
   makes all watches begin anew.
5. A name belongs to one node: an entry of another node's id, while it is renewed, is refused.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Final

from sandglass.core import limits
from sandglass.errors import ConflictError, PreconditionError, SandglassError
from sandglass.ports import Clock, Entropy, Entry, Placement
from sandglass.replication.lease import HeldLease, LeaseWatch

logger = logging.getLogger(__name__)

PREFIX: Final = "node."
MEMBER_VERSION: Final = 1
AGAIN_S: Final = limits.LEADER_LOOK_MS / 2000
"""Half of what a watcher may look away."""

GOODBYE_COUNT: Final = 5
"""So often a member tries to say it."""

SLOW_MS: Final = 1000
"""A renewal that took longer says that the engine was away."""


@dataclass(frozen=True, slots=True)
class Member:
    """
    A node of the cluster. `id` is that of its data; `grpc` and `http` are the addresses,
    host:port, at which it serves; empty where it doesn't.
    """

    name: str
    id: str
    incarnation: str
    grpc: str
    http: str
    software: str
    is_over: bool = False
    """It said goodbye, or others have declared it over."""

    behind: tuple[int, ...] | None = None
    """Partitions that it holds and could not lead at once; None while it doesn't know."""

    is_leaving: bool = False
    """It hands over what it leads, and will lead nothing any more."""

    engine: int = 0
    """How often its engine was away: what others read by way of it is lost each time."""

    def encode(self) -> bytes:
        """The entry's value: JSON, so that a person can read it."""
        return json.dumps({"version": MEMBER_VERSION, **asdict(self)}, sort_keys=True).encode()

    @staticmethod
    def decode(value: bytes) -> "Member":
        """Reads an entry's value; fields of a newer version are passed over."""
        return _decoded(value)


@lru_cache(maxsize=256)
def _decoded(value: bytes) -> Member:
    """Asked for each partition several times a second."""
    found = json.loads(value)
    known = {name: found[name] for name in Member.__dataclass_fields__ if name in found}
    behind = known.get("behind")
    return Member(**{**known, "behind": None if behind is None else tuple(behind)})


def key_part(name: str) -> str:
    """A name as a word of a key: dots are what words are joined by."""
    return name.replace(".", "=2E")


class Members:
    """
    All calls run in the event loop's thread. `join` once, `leave` once.

    `on_change` is told when a member came, went, or changed; `on_lost` when this node was
    declared over: nothing that it led is its own any more.
    """

    def __init__(
        self, placement: Placement, clock: Clock, entropy: Entropy, me: Member
    ) -> None:
        self.placement = placement
        self.clock = clock
        self.entropy = entropy
        self.me = replace(me, incarnation=self._drawn())
        self.on_change: list[Callable[[], None]] = []
        self.on_lost: list[Callable[[], None]] = []
        self.lease = HeldLease()
        self._watches: dict[str, LeaseWatch] = {}
        self._known: dict[str, Member] = {}
        self._over: set[str] = set()
        self._revision = 0
        self._hurry = asyncio.Event()
        """What this node has to tell doesn't wait for the next renewal."""
        self._trouble = ""
        """What was logged last of why the lease is not renewed."""
        self._task: asyncio.Task[None] | None = None

    # --- who is there -------------------------------------------------------------------------

    @property
    def all(self) -> list[Member]:
        """All that have an entry, by name."""
        entries = self.placement.entries
        keys = sorted([key for key in entries if key.startswith(PREFIX)])
        return [Member.decode(entries[key].value) for key in keys]

    @property
    def alive(self) -> list[Member]:
        """Those whose lease stands, as far as is known here, this node among them."""
        return [member for member in self.all if self.is_alive(member)]

    def named(self, name: str) -> Member | None:
        """The member of a name."""
        entry = self.placement.entries.get(PREFIX + key_part(name))
        return None if entry is None else Member.decode(entry.value)

    def is_alive(self, member: Member) -> bool:
        """Is its lease standing, as far as is known here?"""
        if member.is_over:
            return False
        if member.name == self.me.name:
            return member.incarnation == self.me.incarnation
        watch = self._watches.get(member.name)
        return watch is None or not watch.is_over(self.clock.monotonic_ms())

    def may_serve(self) -> bool:
        """Does this node's own lease allow it to hand out, read, and answer?"""
        return self.lease.is_valid(self.clock.monotonic_ms())

    # --- joining and leaving ------------------------------------------------------------------

    async def join(self) -> None:
        """
        Takes this node's entry, and renews it from here on.

        Raises:
            PreconditionError: another node of this name is there.
            UnavailableError: the engine doesn't answer.
        """
        self.placement.follow(self._on_entry)
        for key in [*self.placement.entries]:
            self._on_entry(key)
        await self._take()
        self._task = asyncio.create_task(self._run(), name="membership")

    async def leave(self) -> None:
        """Says goodbye: what this node led may be taken at once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.lease.given_up()
        gone, revision = replace(self.me, is_over=True), self._revision
        for tries_left in reversed(range(GOODBYE_COUNT)):
            try:
                await self.placement.set(self._key, gone.encode(), revision)
                return
            except ConflictError as error:
                # A renewal is on its way, of which no answer is awaited any more.
                if not tries_left:
                    logger.warning("no goodbye to the cluster: %s", error)
                    return
                await asyncio.sleep(AGAIN_S)
                revision = self._own_revision()
            except SandglassError as error:
                logger.warning("no goodbye to the cluster: %s", error)
                return

    def _own_revision(self) -> int:
        """Of the entry, if it is still that of this incarnation."""
        entry = self.placement.entries.get(self._key)
        is_own = entry is not None and (
            Member.decode(entry.value).incarnation == self.me.incarnation
        )
        return entry.revision if entry is not None and is_own else self._revision

    @property
    def engines(self) -> dict[str, str]:
        """What tells the life of each member's engine from the next; empty: it is gone."""
        return {
            member.name: f"{member.incarnation} {member.engine}"
            if self.is_alive(member)
            else ""
            for member in self.all
        }

    def tell(self, *, behind: tuple[int, ...], at_once: bool = False) -> None:
        """The others hear this of the node with its next renewal, which `at_once` hurries."""
        if self.me.behind != behind:
            self.me = replace(self.me, behind=behind)
        if at_once:
            self._hurry.set()

    def tell_leaving(self) -> None:
        """As above, and at once: nobody is to hand anything over to it."""
        self.me = replace(self.me, is_leaving=True)
        self._hurry.set()

    def tell_engine_was_away(self) -> None:
        """As above: it is back."""
        self.me = replace(self.me, engine=self.me.engine + 1)

    def _drawn(self) -> str:
        return self.entropy.token_bytes(8).hex()

    @property
    def _key(self) -> str:
        return PREFIX + key_part(self.me.name)

    async def _take(self) -> None:
        """The entry of this name, if it is free: absent, over, or of this node's own data."""
        watch, first_revision = LeaseWatch(), 0
        while True:
            entry = self.placement.entries.get(self._key)
            now_ms = self.clock.monotonic_ms()
            if entry is not None and not self._is_free(entry, watch, now_ms):
                first_revision = first_revision or entry.revision
                if entry.revision > first_revision:
                    raise PreconditionError(
                        f"another node is named {self.me.name!r}, at"
                        f" {Member.decode(entry.value).grpc}; names are unique in a cluster",
                        field="name",
                    )
                await asyncio.sleep(AGAIN_S)
                continue
            sent_ms = self.lease.sending(now_ms)
            try:
                self._revision = await self.placement.set(
                    self._key, self.me.encode(), 0 if entry is None else entry.revision
                )
            except ConflictError:
                await asyncio.sleep(AGAIN_S)
                continue
            self.lease.renewed(sent_ms)
            return

    def _is_free(self, entry: Entry, watch: LeaseWatch, now_ms: int) -> bool:
        found = Member.decode(entry.value)
        watch.saw(entry.revision, now_ms)
        # Data are locked by their process: of a node with ours no other is left.
        return found.is_over or found.id == self.me.id or watch.is_over(now_ms)

    # --- renewing and watching ----------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            wait_ms = await self.turn()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_ms / 1000):
                    await self._hurry.wait()

    async def turn(self) -> int:
        """Looks at the others' leases, and renews this node's: in so many ms once more."""
        self._look()
        now_ms = self.clock.monotonic_ms()
        if self._hurry.is_set() or not self.lease.renew_in_ms(now_ms):
            self._hurry.clear()
            try:
                await self._renew()
            except ConflictError:
                await asyncio.sleep(AGAIN_S)  # what it collided with comes by the tail
                await self._lost()
            except SandglassError as error:
                self._log_trouble(str(error))
                self._restart_watches()
        return min(
            self.lease.renew_in_ms(self.clock.monotonic_ms()), limits.LEADER_LOOK_MS // 2
        )

    async def _renew(self) -> None:
        sent_ms = self.lease.sending(self.clock.monotonic_ms())
        self._revision = await self.placement.set(self._key, self.me.encode(), self._revision)
        self.lease.renewed(sent_ms)
        self._log_trouble("")
        if self.clock.monotonic_ms() - sent_ms > SLOW_MS:
            self._restart_watches()

    def _log_trouble(self, trouble: str) -> None:
        """Logs what keeps the lease from being renewed: once, and when that is over."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            logger.warning("the lease is not renewed: %s", trouble)
        else:
            logger.info("the lease is renewed again")

    async def _lost(self) -> None:
        """
        Our entry has another revision: others have declared us over, or a renewal that was
        never answered had arrived.
        """
        entry = self.placement.entries.get(self._key)
        if entry is not None:
            found = Member.decode(entry.value)
            if found.incarnation == self.me.incarnation and not found.is_over:
                self._revision = entry.revision
                return
        logger.error("this node was declared over: what it led is led by others")
        self.lease.given_up()
        for told in self.on_lost:
            told()
        self.me = replace(self.me, incarnation=self._drawn(), is_over=False, behind=None)
        try:
            await self._take()
        except SandglassError as error:
            logger.error("this node does not come back into the cluster: %s", error)
        self._tell()

    def _on_entry(self, key: str) -> None:
        if not key.startswith(PREFIX):
            return
        entry = self.placement.entries.get(key)
        if entry is None:
            self._tell()
            return
        member = Member.decode(entry.value)
        now_ms = self.clock.monotonic_ms()
        watch = self._watches.get(member.name)
        if watch is None:
            watch = self._watches[member.name] = LeaseWatch()
            self._tell()
        watch.saw(entry.revision, now_ms)
        known = self._known.get(member.name)
        if known != member:
            self._known[member.name] = member
            self._tell()

    def _look(self) -> None:
        """Tells of those whose lease has ended since the last look."""
        now_ms = self.clock.monotonic_ms()
        over = {name for name, watch in self._watches.items() if watch.is_over(now_ms)}
        over.discard(self.me.name)
        if over != self._over:
            self._over = over
            self._tell()

    def _restart_watches(self) -> None:
        # From now on, by what is known: of a member that stays silent nothing else comes.
        now_ms = self.clock.monotonic_ms()
        for watch in self._watches.values():
            watch.restarted()
            watch.saw(watch.revision, now_ms)

    async def declare_over(self, member: Member) -> bool:
        """
        Ends the lease of a member that is silent; false if it has spoken meanwhile.

        Raises:
            UnavailableError: the engine doesn't answer.
        """
        key = PREFIX + key_part(member.name)
        entry = self.placement.entries.get(key)
        watch = self._watches.get(member.name)
        if entry is None or Member.decode(entry.value).incarnation != member.incarnation:
            return False
        if watch is None or not watch.is_over(self.clock.monotonic_ms()):
            return Member.decode(entry.value).is_over
        try:
            await self.placement.set(
                key, replace(member, is_over=True).encode(), entry.revision
            )
        except ConflictError:
            return False
        logger.warning("node %s is silent, and declared over", member.name)
        return True

    def _tell(self) -> None:
        for told in self.on_change:
            told()
