"""Who leads, takes over and hands over, on nodes whose replicas do what they are told."""

from dataclasses import replace

import pytest

from sandglass.cluster.catalog import DRAINED, Leadership
from sandglass.cluster.leaders import GIVEN_MS, OPENING_MS, PATIENCE_MS, UNABLE_MS
from sandglass.cluster.members import PREFIX, Member
from sandglass.cluster.placed import topic_key
from sandglass.cluster.replica import State
from sandglass.core import limits
from sandglass.core.topic import Topic, TopicKind
from sandglass.errors import NotFoundError, PreconditionError
from tests.unit.cluster.scene import FIRST, Cluster, FakeReplica, Node


@pytest.fixture
async def cluster() -> Cluster:
    found = Cluster()
    await found.begin()
    await found.turn()
    return found


async def test_leaders_are_spread(cluster: Cluster) -> None:
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}


async def test_a_node_that_stops_hands_over_to_those_that_are_next(cluster: Cluster) -> None:
    a, b, c = cluster.nodes

    await a.leaders.stop()
    await a.go()
    await cluster.turn(b, c)

    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}
    # Without waiting for anybody: no time has passed.
    assert b.catalog.leadership(FIRST).node == "b"


async def test_a_silent_leader_is_declared_over_before_another_leads(cluster: Cluster) -> None:
    a = cluster.nodes[0]
    await fall_silent(cluster, a)

    assert cluster.led["b"] == [0, 1]
    assert Member.decode(cluster.placement.entries[PREFIX + "a"].value).is_over

    await cluster.turn(a)  # it was only paused
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}


async def test_who_has_no_lease_takes_nothing(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    b.members.lease.given_up()
    await a.leaders.stop()
    await a.go()
    await cluster.turn(b, c)
    cluster.clock.advance(2 * PATIENCE_MS)
    await cluster.turn(b)
    assert cluster.led["b"] == [1]

    await cluster.turn(c)
    assert c.catalog.leadership(FIRST).epoch == 2


async def fall_silent(cluster: Cluster, node: Node) -> None:
    """The others look on until its lease is over, and they have had their turns."""
    others = [each for each in cluster.nodes if each is not node]
    for each in others:
        each.members._on_entry(PREFIX + node.name)
    for _ in range(0, limits.LEADER_LEASE_MS + PATIENCE_MS, limits.LEADER_LOOK_MS):
        cluster.clock.advance(limits.LEADER_LOOK_MS)
        await cluster.turn(*others)


async def test_the_heir_is_whoever_has_read_its_replica(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    b.replicas[FIRST].is_current = False
    await cluster.turn()
    await b.placement.set(PREFIX + "b", b.members.me.encode())  # its next renewal

    await a.leaders.stop()

    assert a.catalog.leadership(FIRST).heir == "c"
    await cluster.turn(b, c)
    assert cluster.led["c"] == [0, 2]


async def test_nobody_gives_back_to_a_node_that_is_about_to_go(cluster: Cluster) -> None:
    """It stands first in the order, and has been there for long."""
    a, b, c = cluster.nodes
    await cluster.settle()

    await a.leaders.stop()
    await a.placement.set(PREFIX + "a", a.members.me.encode())  # so it has told
    await cluster.turn(b, c)

    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}


async def test_a_node_that_stops_names_an_heir_though_nobody_is_ready(
    cluster: Cluster,
) -> None:
    """Without one, the others would wait for its own turn while it isn't gone yet."""
    a, b, c = cluster.nodes
    b.replicas[FIRST].is_current = c.replicas[FIRST].is_current = False
    await cluster.turn()
    for node in (b, c):  # their next renewals
        await node.placement.set(PREFIX + node.members.me.name, node.members.me.encode())

    await a.leaders.stop()
    b.replicas[FIRST].is_current = c.replicas[FIRST].is_current = True
    await cluster.turn(b, c)

    assert cluster.led["b"] == [0, 1]


async def test_who_comes_back_is_given_what_it_should_lead_once_it_has_settled(
    cluster: Cluster,
) -> None:
    a, b, c = cluster.nodes
    await a.leaders.stop()
    await a.go()
    await cluster.turn(b, c)
    a = cluster.nodes[0] = Node(cluster.placement, cluster.clock, "a")
    a.replicas.update({FIRST + place: FakeReplica(FIRST + place) for place in range(3)})
    await a.come()

    await cluster.turn()
    cluster.clock.advance(limits.LEADER_SETTLE_MS - 1)
    await cluster.turn()
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}

    cluster.clock.advance(1)
    await cluster.turn()
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}


async def test_who_could_not_lead_is_not_given_it_again_at_once(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    await a.leaders.stop()
    await cluster.turn(b, c)
    await cluster.settle()
    # It was handed back to `a`, which takes nothing any more: its patience over, `b` leads on.
    for _ in range(3):
        cluster.clock.advance(PATIENCE_MS)
        await cluster.turn()
    epoch = b.catalog.leadership(FIRST).epoch
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}

    cluster.clock.advance(GIVEN_MS - 4 * PATIENCE_MS)
    await cluster.turn()
    assert b.catalog.leadership(FIRST).epoch == epoch


async def begin_in_vain() -> Cluster:
    """`a` is entered as the leader of the first partition, and cannot open its epoch."""
    cluster = Cluster()
    await cluster.begin()
    cluster.nodes[0].replicas[FIRST].opens = False
    await cluster.turn()
    assert cluster.nodes[1].catalog.leadership(FIRST).node == "a"
    return cluster


async def renew(cluster: Cluster) -> None:
    """What nodes have to tell is told."""
    for node in cluster.nodes:
        await node.placement.set(PREFIX + node.name, node.members.me.encode())


async def test_who_does_not_get_to_lead_leaves_it_to_another() -> None:
    """Its engine may not reach the one that leads the stream, while it renews its lease."""
    cluster = await begin_in_vain()
    a, b, _ = cluster.nodes
    cluster.clock.advance(OPENING_MS - 1)
    await cluster.turn()
    assert cluster.led == {"a": [], "b": [1], "c": [2]}

    cluster.clock.advance(1)
    await a.leaders.consider()
    assert a.members.me.behind == (FIRST,)
    assert a.members._hurry.is_set()  # the others hear it before they could give it back
    await renew(cluster)
    await cluster.turn()
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}

    epoch = b.catalog.leadership(FIRST).epoch
    cluster.clock.advance(UNABLE_MS - 1)
    await cluster.turn()
    await renew(cluster)
    assert b.catalog.leadership(FIRST).epoch == epoch

    a.replicas[FIRST].opens = True
    cluster.clock.advance(1)
    await cluster.turn(a)
    await renew(cluster)
    await cluster.turn()
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}


async def test_who_tried_in_vain_is_the_last_to_try_again() -> None:
    cluster = await begin_in_vain()
    a, b, c = cluster.nodes
    cluster.clock.advance(OPENING_MS)
    await a.leaders.consider()
    await renew(cluster)
    await cluster.turn()
    assert cluster.led["b"] == [0, 1]

    await fall_silent(cluster, b)
    assert 0 in c.led()


async def test_who_has_no_lease_leaves_nothing_to_another() -> None:
    """What it says would not arrive: all may be without the engine."""
    cluster = await begin_in_vain()
    a = cluster.nodes[0]
    a.members.lease.given_up()
    cluster.clock.advance(OPENING_MS)
    await cluster.turn(a)
    assert (a.members.me.behind, a.leaders.heirs) == ((), {})


async def test_who_is_frozen_leaves_it_to_another_at_once() -> None:
    cluster = await begin_in_vain()
    a = cluster.nodes[0]
    a.replicas[FIRST].state, a.replicas[FIRST].is_current = State.FROZEN, False
    await a.leaders.consider()
    await renew(cluster)
    await cluster.turn()

    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}


async def test_who_does_not_get_to_lead_goes_on_trying_while_nobody_else_could() -> None:
    cluster = await begin_in_vain()
    a, b, c = cluster.nodes
    b.replicas[FIRST].is_current = c.replicas[FIRST].is_current = False
    await cluster.turn()
    await renew(cluster)
    cluster.clock.advance(2 * OPENING_MS)
    await cluster.turn()
    assert (a.catalog.leadership(FIRST).node, a.members.me.behind) == ("a", ())

    a.replicas[FIRST].opens, a.replicas[FIRST].state = True, State.FOLLOWING
    await cluster.turn()
    assert cluster.led["a"] == [0]


async def test_who_is_given_a_replica_is_given_time_to_read_it(cluster: Cluster) -> None:
    await cluster.settle()
    b = cluster.nodes[1]
    placed = b.catalog.placed["t"]
    wanted = replace(placed, replicas=(("b", "a", "c"), *placed.replicas[1:]))

    await b.placement.set(topic_key("t"), wanted.encode())
    await cluster.turn()
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}

    cluster.clock.advance(limits.LEADER_SETTLE_MS)
    await cluster.turn()
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}


async def test_who_gave_a_partition_away_gives_it_to_another_soon(cluster: Cluster) -> None:
    """A topic that moves several times in a minute is led each time by who is to move it."""
    await cluster.settle()
    b = cluster.nodes[1]
    leaders: list[str] = []
    for order in (("b", "a", "c"), ("a", "c", "b"), ("c", "b", "a"), ("a", "b", "c")) * 2:
        placed = b.catalog.placed["t"]
        wanted = replace(placed, replicas=(order, *placed.replicas[1:]))
        await b.placement.set(topic_key("t"), wanted.encode())
        await cluster.turn()
        cluster.clock.advance(limits.LEADER_SETTLE_MS)
        await cluster.turn()
        leaders.append(b.catalog.leadership(FIRST).node)

    assert [*"baca"] * 2 == leaders


async def test_a_drained_node_leads_nothing_until_it_is_undrained(cluster: Cluster) -> None:
    _, b, _ = cluster.nodes

    await b.catalog.drain("a", is_drained=True)
    await cluster.turn()
    assert cluster.led == {"a": [], "b": [0, 1], "c": [2]}
    await cluster.settle()
    assert cluster.led["a"] == []

    await b.catalog.drain("a", is_drained=False)
    await cluster.settle()
    assert cluster.led == {"a": [0], "b": [1], "c": [2]}


async def test_a_drained_node_keeps_what_nobody_else_could_lead(cluster: Cluster) -> None:
    a, b, c = cluster.nodes
    for node in (b, c):
        node.replicas[FIRST].is_current = False
    await cluster.turn()
    for node in (b, c):
        await node.placement.set(PREFIX + node.name, node.members.me.encode())

    await b.catalog.drain("a", is_drained=True)
    await cluster.turn()

    assert a.led() == [0]


async def test_the_last_node_is_not_drained(cluster: Cluster) -> None:
    catalog = cluster.nodes[0].catalog
    await catalog.drain("a", is_drained=True)
    await catalog.drain("b", is_drained=True)

    with pytest.raises(PreconditionError, match="node c is the last one"):
        await catalog.drain("c", is_drained=True)
    with pytest.raises(NotFoundError):
        await catalog.drain("d", is_drained=True)
    assert DRAINED + "c" not in cluster.placement.entries


async def test_a_drained_node_gets_no_replicas(cluster: Cluster) -> None:
    catalog = cluster.nodes[0].catalog
    await catalog.drain("b", is_drained=True)

    assert catalog._able_members(2) == ["a", "c"]
    with pytest.raises(PreconditionError, match="node b is drained, and gets no topics"):
        await cluster.nodes[1].catalog.claim(Topic("own", TopicKind.TIMER, ()))
    with pytest.raises(PreconditionError, match="3 are there, 1 of them drained: 1 missing"):
        catalog._able_members(3)


async def test_an_entry_of_before_there_were_heirs_is_read() -> None:
    found = Leadership.decode(b'{"epoch": 3, "incarnation": "i", "node": "a"}')

    assert found == Leadership("a", "i", 3)
