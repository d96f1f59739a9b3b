"""Who is there: leases of members over one bucket, on a clock of the test's own."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.cluster.members import SLOW_MS, Member, Members
from sandglass.core import limits
from sandglass.errors import PreconditionError, UnavailableError
from sandglass.testing.faults import ManualClock

LENGTH_MS = limits.LEADER_LEASE_MS
LOOK_MS = limits.LEADER_LOOK_MS // 2


class Draws:
    """Each draw is another."""

    def __init__(self) -> None:
        self.count = 0

    def token_bytes(self, count: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(count, "big")


class Placement(MemoryPlacement):
    """One whose engine may be away, or slow."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self.clock = clock
        self.is_away = False
        self.answers_after_ms = 0
        self.meanwhile: Callable[[], object] = lambda: None

    @property
    def followers(self) -> list[Callable[[str], None]]:
        return self._followers

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        if self.is_away:
            raise UnavailableError("no answer")
        for _ in range(0, self.answers_after_ms, LOOK_MS):
            self.clock.advance(LOOK_MS)
            self.meanwhile()
        return await super().set(key, value, revision)


class Behind(MemoryPlacement):
    """What a member knows whose news are late: entries as they were."""

    def __init__(self, bucket: Placement) -> None:
        super().__init__()
        self._entries = {**bucket.entries}
        self._bucket = bucket

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        return await self._bucket.set(key, value, revision)


class Cluster:
    """Members of one bucket, of which those in `running` have their turns."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.clock.advance(1000)
        self.placement = Placement(self.clock)
        self.draws = Draws()
        self.all: list[Members] = []
        self.running: list[Members] = []

    async def join(self, name: str, node_id: str = "") -> Members:
        me = Member(name, node_id or f"id of {name}", "", "g", "h", "1")
        members = Members(self.placement, self.clock, self.draws, me)
        self.all.append(members)
        await members.join()
        self.running.append(members)
        return members

    async def pass_ms(self, duration_ms: int) -> None:
        end_ms = self.clock.monotonic_ms() + duration_ms
        while self.clock.monotonic_ms() < end_ms:
            for members in self.running:
                await members.turn()
            self.clock.advance(LOOK_MS)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    async def nothing(_: Members) -> None: ...

    monkeypatch.setattr(Members, "_run", nothing)  # turns are the test's
    monkeypatch.setattr("sandglass.cluster.members.AGAIN_S", 0)
    return Cluster()


def alive(members: Members) -> set[str]:
    return {member.name for member in members.alive}


async def declared(by: Members, name: str) -> bool:
    member = by.named(name)
    assert member is not None
    return await by.declare_over(member)


async def test_who_renews_is_there_and_cannot_be_declared_over(cluster: Cluster) -> None:
    a, _ = await cluster.join("a"), await cluster.join("b")
    await cluster.pass_ms(5 * LENGTH_MS)

    assert alive(a) == {"a", "b"}
    assert not await declared(a, "b")


async def test_a_silent_member_is_declared_over_after_a_lease(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    cluster.running.remove(b)
    await cluster.pass_ms(LENGTH_MS - LOOK_MS)
    assert not await declared(a, "b")
    await cluster.pass_ms(2 * LOOK_MS)

    assert not b.may_serve()
    assert alive(a) == {"a"}
    assert await declared(a, "b")


async def test_who_stops_to_serve_does_so_before_others_may_begin(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    await cluster.pass_ms(LENGTH_MS)
    cluster.running.remove(b)
    while b.may_serve():
        assert not await declared(a, "b")
        await cluster.pass_ms(LOOK_MS)


async def test_silence_does_not_count_while_the_engine_is_away(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    await cluster.pass_ms(LENGTH_MS)
    cluster.placement.is_away = True
    await cluster.pass_ms(3 * LENGTH_MS)
    cluster.placement.is_away = False

    assert "b" in alive(a)
    assert not await declared(a, "b")
    assert not b.may_serve()


async def test_a_lease_that_is_not_renewed_is_told_once_and_when_that_is_over(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await cluster.join("a")
    cluster.placement.is_away = True
    await cluster.pass_ms(3 * LENGTH_MS)
    cluster.placement.is_away = False
    await cluster.pass_ms(LENGTH_MS)

    said = [each for each in caplog.records if each.name == Members.__module__]
    assert [each.getMessage() for each in said] == [
        "the lease is not renewed: no answer",
        "the lease is renewed again",
    ]


async def test_after_the_engine_was_away_silence_counts_again(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    cluster.running.remove(b)
    cluster.placement.is_away = True
    await cluster.pass_ms(LENGTH_MS)
    cluster.placement.is_away = False
    await cluster.pass_ms(LENGTH_MS + 3 * LOOK_MS)

    assert alive(a) == {"a"}
    assert await declared(a, "b")


async def test_a_slow_answer_makes_silence_count_anew(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    cluster.running.remove(b)
    await cluster.pass_ms(LENGTH_MS - 3 * LOOK_MS)
    cluster.placement.answers_after_ms = SLOW_MS + LOOK_MS
    cluster.placement.meanwhile = lambda: alive(a)
    await a._renew()
    cluster.placement.answers_after_ms = 0

    assert "b" in alive(a)
    await cluster.pass_ms(LENGTH_MS + 3 * LOOK_MS)
    assert alive(a) == {"a"}


async def test_who_spoke_at_the_last_moment_is_not_declared_over(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    cluster.running.remove(b)
    await cluster.pass_ms(LENGTH_MS + LOOK_MS)
    a.placement = Behind(cluster.placement)
    followers = [*cluster.placement.followers]
    cluster.placement.followers.clear()
    await b._renew()  # a doesn't know of it yet
    cluster.placement.followers.extend(followers)

    assert not await declared(a, "b")
    assert b.may_serve()


async def test_who_was_declared_over_leads_nothing_and_comes_back_as_another(
    cluster: Cluster,
) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    first = b.me.incarnation
    lost: list[str] = []
    b.on_lost.append(lambda: lost.append(b.me.incarnation))
    cluster.running.remove(b)
    await cluster.pass_ms(LENGTH_MS + 2 * LOOK_MS)
    assert await declared(a, "b")

    await b.turn()

    assert lost == [first]
    assert b.me.incarnation != first
    assert b.may_serve()
    assert alive(a) == {"a", "b"}


async def test_who_is_removed_stops_to_serve_at_once(cluster: Cluster) -> None:
    a = await cluster.join("a")
    served: list[bool] = []
    a.on_lost.append(lambda: served.append(a.may_serve()))
    await cluster.placement.set("node.a", replace(a.me, is_over=True).encode())
    assert a.may_serve()
    await cluster.pass_ms(limits.LEADER_RENEW_MS + LOOK_MS)

    assert served == [False]


async def test_a_node_that_was_started_again_takes_its_name_at_once(cluster: Cluster) -> None:
    first = await cluster.join("a")
    cluster.running.remove(first)
    joining = asyncio.create_task(cluster.join("a"))
    await asyncio.sleep(0)

    assert joining.done()
    assert (await joining).me.incarnation != first.me.incarnation


async def test_that_a_node_is_leaving_is_told_at_once(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")

    a.tell_leaving()
    await a.turn()

    seen = b.named("a")
    assert seen is not None
    assert seen.is_leaving
    assert b.is_alive(seen)


async def test_goodbye_is_said_though_a_renewal_had_no_answer(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    await cluster.placement.set(a._key, a.me.encode())  # it arrived

    await a.leave()

    seen = b.named("a")
    assert seen is not None
    assert seen.is_over


async def test_a_renewal_without_an_answer_is_known_again(cluster: Cluster) -> None:
    """It had arrived: the next one collides with it, and nobody has declared anything."""
    a = await cluster.join("a")
    lost: list[None] = []
    a.on_lost.append(lambda: lost.append(None))
    await cluster.placement.set("node.a", a.me.encode(), a._revision)
    await cluster.pass_ms(LENGTH_MS)

    assert not lost
    assert a.may_serve()


async def test_a_name_belongs_to_one_node(cluster: Cluster) -> None:
    b = await cluster.join("b")
    joining = asyncio.create_task(cluster.join("b", "another id"))
    while not joining.done():
        await cluster.pass_ms(LOOK_MS)
        await asyncio.sleep(0)

    with pytest.raises(PreconditionError, match="another node is named 'b'"):
        await joining
    assert cluster.placement.entries["node.b"].value == b.me.encode()


async def test_a_name_is_free_once_its_lease_is_over(cluster: Cluster) -> None:
    cluster.running.remove(await cluster.join("b"))
    joining = asyncio.create_task(cluster.join("b", "another id"))
    while not joining.done():
        await cluster.pass_ms(LOOK_MS)
        await asyncio.sleep(0)

    assert (await joining).may_serve()
