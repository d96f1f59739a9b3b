"""Nodes that are removed from a cluster, step by step."""

import pytest

from sandglass.cluster.catalog import DRAINED
from sandglass.cluster.members import PREFIX
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.steward import REMOVED, ClusterSteward
from sandglass.core.topic import PartitionRef, Topic, TopicKind
from sandglass.errors import NotFoundError, PreconditionError
from tests.unit.cluster.scene import FIRST, Cluster


class Engine:
    """Its group, out of which members are taken."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.unsettled_counts: list[int] = []

    async def remove(self, node: str) -> None:
        self.removed.append(node)

    async def unsettled_count(self, gone: str, left_count: int) -> int:
        assert (gone, left_count) == (self.removed[-1], 2)
        return self.unsettled_counts.pop() if self.unsettled_counts else 0


class Operator:
    """Whoever asks node `a` of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.replica_counts = [3]
        self.engine = Engine()
        a = cluster.nodes[0]
        self.placed = a.catalog.placed
        self.steward = ClusterSteward(a.catalog, a.members, self, self.engine)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self.cluster.placement, name)

    async def replica_count(self) -> int:
        return self.replica_counts[-1]

    async def replicate(self, count: int) -> None:
        self.replica_counts.append(count)

    async def remove(self, node: str, *, is_abandoning: bool = False) -> str:
        return await self.steward.remove(node, is_abandoning=is_abandoning)

    async def place(self, name: str, *replicas: tuple[str, ...]) -> None:
        number = 1 if len(replicas[0]) == 1 else FIRST + 10
        refs = tuple(PartitionRef(f"{name}{n}", number + n) for n in range(len(replicas)))
        topic = Topic(name, TopicKind.TIMER, refs, len(replicas[0]))
        await self.cluster.placement.set(topic_key(name), Placed(topic, replicas).encode())


@pytest.fixture
async def operator() -> Operator:
    """A cluster without the topic of three replicas."""
    cluster = Cluster()
    await cluster.begin()
    await cluster.placement.delete(topic_key("t"))
    return Operator(cluster)


async def test_a_node_goes_when_it_leads_nothing_and_has_left(operator: Operator) -> None:
    cluster, placement = operator.cluster, operator.cluster.placement
    _, b, c = cluster.nodes
    await operator.place("u", ("b", "c"), ("c", "a"), ("a", "b"))
    for node in cluster.nodes:
        node.replicas = {}
        node.leaders.replicas = node.replicas  # type: ignore[assignment]
    await c.catalog.lead(FIRST + 11, 1)

    assert await operator.remove("c") == "1 partitions are led by it still"
    assert operator.placed["u"].replicas == (("b", "c"), ("c", "a"), ("a", "b"))
    await c.catalog.yield_(FIRST + 11, 1)
    assert await operator.remove("c") == "it has not left yet"
    assert operator.placed["u"].replicas == (("b", "a"), ("b", "a"), ("a", "b"))
    assert operator.replica_counts == [3, 2]
    assert REMOVED + "c" in placement.entries
    assert operator.engine.removed == []
    await c.go()
    operator.engine.unsettled_counts = [0, 2]
    assert "2 streams of the engine" in await operator.remove("c")
    assert [member.name for member in b.members.all] == ["a", "b", "c"]
    assert await operator.remove("c") == ""

    assert operator.engine.removed == ["c", "c"]
    assert [member.name for member in b.members.all] == ["a", "b"]
    assert DRAINED + "c" not in placement.entries
    assert REMOVED + "c" in placement.entries
    with pytest.raises(NotFoundError):
        await operator.remove("c")


async def test_what_lives_on_it_alone_is_named_and_kept(operator: Operator) -> None:
    await operator.place("alone", ("c",))
    await operator.place("other", ("b",))
    cluster = operator.cluster

    with pytest.raises(PreconditionError) as refused:
        await operator.remove("c")
    assert refused.value.message == (
        "these topics live on node c alone: alone; move each of them ('sandctl topics move"
        " alone --to a'), delete them, or give them up with --abandon"
    )
    assert DRAINED + "c" not in cluster.placement.entries

    await operator.remove("c", is_abandoning=True)
    assert topic_key("alone") not in cluster.placement.entries
    assert topic_key("other") in cluster.placement.entries


async def test_of_a_node_that_is_not_there_it_says_to_start_it(operator: Operator) -> None:
    await operator.place("alone", ("c",))
    await operator.cluster.nodes[0].catalog.drain("a", is_drained=True)
    await operator.cluster.nodes[2].go()

    with pytest.raises(PreconditionError) as refused:
        await operator.remove("c")

    assert refused.value.message == (
        "these topics live on node c alone: alone; it is not there: start it and move each of"
        " them ('sandctl topics move alone --to b'), or give them up with --abandon"
    )


async def test_a_topic_that_comes_while_it_is_drained_is_not_given_up(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = operator.cluster.nodes[0].catalog
    drain = catalog.drain

    async def drain_late(node: str, *, is_drained: bool) -> None:
        await operator.place("late", ("c",))
        await drain(node, is_drained=is_drained)

    monkeypatch.setattr(catalog, "drain", drain_late)

    with pytest.raises(PreconditionError, match="live on node c alone: late"):
        await operator.remove("c")
    assert topic_key("late") in operator.cluster.placement.entries
    assert REMOVED + "c" not in operator.cluster.placement.entries


async def test_a_replica_without_another_node_for_it_stays(operator: Operator) -> None:
    await operator.place("wide", ("a", "b", "c"))

    with pytest.raises(PreconditionError, match="topic 'wide' has 3 replicas, one of them on"):
        await operator.remove("c")

    assert operator.placed["wide"].replicas == (("a", "b", "c"),)
    assert DRAINED + "c" not in operator.cluster.placement.entries


async def test_a_drained_node_gets_none_of_its_replicas(operator: Operator) -> None:
    await operator.place("u", ("a", "c"))
    await operator.cluster.nodes[0].catalog.drain("b", is_drained=True)

    with pytest.raises(PreconditionError, match="no other node for it"):
        await operator.remove("c")


async def test_another_node_removes_the_one_that_is_asked(operator: Operator) -> None:
    with pytest.raises(PreconditionError, match="ask node b, at b:7170"):
        await operator.remove("a")

    assert PREFIX + "a" in operator.cluster.placement.entries
