"""Replicated topics with more partitions, or other replicas, as the catalog has them."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest

from sandglass.adapters.jetstream import Stream
from sandglass.adapters.nats import Connection
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.placing import with_factor
from sandglass.cluster.replica import Replica
from sandglass.cluster.streams import Streams
from sandglass.core import limits
from sandglass.core.topic import Topic
from sandglass.errors import NotFoundError, PreconditionError
from tests.unit.cluster.scene import Cluster


class FakeConnection:
    """It knows which streams were made."""

    def __init__(self) -> None:
        self.streams: dict[str, int] = {}

    async def call(self, method: str, request: Any = None) -> dict[str, Any]:
        await asyncio.sleep(0)
        kind, _, name = method.rpartition(".")
        if kind in {"STREAM.CREATE", "STREAM.UPDATE"}:
            self.streams[name] = request["num_replicas"]
        elif kind == "STREAM.INFO":
            return {"config": {"num_replicas": self.streams.get(name, 3)}}
        else:
            assert kind == "STREAM.DELETE", method
            del self.streams[name]
        return {}


@pytest.fixture
async def cluster() -> Cluster:
    """With a topic `t` of three partitions and three replicas."""
    found = Cluster()
    await found.begin()
    for node in found.nodes:
        node.catalog.connection = cast(Connection, FakeConnection())
    return found


def topic_at(cluster: Cluster, place: int = 0) -> Topic:
    return cluster.nodes[place].catalog.topics["t"]


def placed_in(cluster: Cluster) -> Placed:
    return Placed.decode(cluster.placement.entries[topic_key("t")].value)


async def test_new_partitions_stand_behind_the_others_with_streams_and_replicas(
    cluster: Cluster,
) -> None:
    before, told = topic_at(cluster), list[Topic]()
    cluster.nodes[1].catalog.on_changed = told.append
    a = cluster.nodes[0].catalog
    # The scene's own partitions were numbered by hand.
    await cluster.placement.set("numbers", b"%d" % (limits.REPLICATED_NUMBER_MIN + 3))

    after = await a.change_topic(before, {}, 5)

    assert before.partitions == after.partitions[:3]
    assert after == topic_at(cluster, 1)
    assert [after] == told
    assert [3] * 5 == [len(set(names)) for names in placed_in(cluster).replicas]
    streams = cast(FakeConnection, a.connection).streams
    assert {f"SANDGLASS_{ref.number}": 3 for ref in after.partitions[3:]} == streams
    assert all(a.placed_of(ref.number) is not None for ref in after.partitions)


async def test_settings_and_partitions_that_change_at_once_both_change(
    cluster: Cluster,
) -> None:
    """Each has seen the topic as it was before; who comes second has to look again."""
    await cluster.placement.set("numbers", b"%d" % (limits.REPLICATED_NUMBER_MIN + 3))
    before = topic_at(cluster)
    one, other = cluster.nodes[0].catalog, cluster.nodes[1].catalog

    await asyncio.gather(
        one.change_topic(before, {}, 4),
        other.change_topic(before, {"max_deliveries": 9}, 0),
        other.change_topic(before, {"retention_ms": 99_000}, 4),
    )

    found = topic_at(cluster)
    assert (9, 99_000) == (found.settings.max_deliveries, found.settings.retention_ms)
    assert 4 == len(found.partitions)
    assert 4 == len(placed_in(cluster).replicas)
    kept = {f"SANDGLASS_{ref.number}" for ref in topic_at(cluster).partitions[3:]}
    made = [cast(FakeConnection, node.catalog.connection).streams for node in cluster.nodes]
    assert kept == {name for streams in made for name in streams}, "streams are left over"


async def test_a_topic_that_went_or_lacks_members_gets_none(cluster: Cluster) -> None:
    before, catalog = topic_at(cluster), cluster.nodes[0].catalog
    await cluster.nodes[2].go()

    with pytest.raises(PreconditionError, match="needs 3 members, and 2 are there"):
        await catalog.change_topic(before, {}, 4)
    assert before == topic_at(cluster)

    await cluster.placement.delete(topic_key("t"))
    with pytest.raises(NotFoundError):
        await catalog.change_topic(before, {}, 0)


@pytest.mark.parametrize(
    ("names", "factor", "able", "expected"),
    [
        ("ab", 3, "abcd", "abc"),
        ("ab", 2, "abcd", "ab"),
        ("abc", 2, "abcd", "ab"),
        ("abc", 2, "bcd", "bc"),  # who leads nothing goes first
        ("abc", 2, "bd", "ab"),
        ("ab", 3, "bcd", "abc"),  # who is away keeps what it has
        ("ba", 4, "abcd", "bacd"),
    ],
)
def test_who_holds_replicas_when_their_number_changes(
    names: str, factor: int, able: str, expected: str
) -> None:
    held = Counter("aaaabbbbd")

    assert tuple(expected) == with_factor([*names], factor, [*able], held)


def test_new_replicas_are_spread_over_those_that_hold_few() -> None:
    held = Counter("aabb")

    found = [with_factor(["a", "b"], 3, ["a", "b", "c", "d"], held) for _ in range(4)]

    assert ["c", "d", "c", "d"] == [names[2] for names in found]


async def test_another_number_of_replicas_reaches_orders_and_streams(cluster: Cluster) -> None:
    catalog = cluster.nodes[0].catalog

    fewer = await catalog.change_topic(topic_at(cluster), {}, 0, 2)

    streams = cast(FakeConnection, catalog.connection).streams
    assert {f"SANDGLASS_{ref.number}": 2 for ref in fewer.partitions} == streams
    assert (("a", "b"), ("b", "c"), ("c", "a")) == placed_in(cluster).replicas
    assert 2 == topic_at(cluster, 2).replication_factor
    await catalog.change_topic(fewer, {}, 0, 3)
    assert [3] * 3 == [len(set(names)) for names in placed_in(cluster).replicas]
    assert {3} == {*streams.values()}
    with pytest.raises(PreconditionError, match="needs 4 members, and 3 are there"):
        await catalog.change_topic(topic_at(cluster), {}, 0, 4)


async def test_who_is_no_replica_any_more_hands_over_what_it_leads(cluster: Cluster) -> None:
    """`c` leads the last partition, and is out of its order; its replica stays till then."""
    await cluster.settle()
    c = cluster.nodes[2]
    number = topic_at(cluster).partitions[2].number
    replica = c.replicas[number]
    assert c.led() == [2]

    placed = placed_in(cluster)
    orders = (*placed.replicas[:2], ("a", "b"))
    await cluster.placement.set(topic_key("t"), Placed(placed.topic, orders).encode())
    assert c.leaders.has_to_stay(cast(Replica, replica))
    await cluster.turn()
    await cluster.turn()

    assert {"a": [0, 2], "b": [1], "c": []} == cluster.led
    assert not c.leaders.has_to_stay(cast(Replica, replica))


async def test_a_leader_puts_right_what_whoever_changed_the_factor_did_not(
    cluster: Cluster,
) -> None:
    """It ended between the catalog's entry and the streams."""
    await cluster.settle()
    a, number = cluster.nodes[0], topic_at(cluster).partitions[0].number
    connection = cast(Connection, FakeConnection())
    replica = cast(Replica, a.replicas[number])
    replica.stream, replica.engine_count = Stream(connection, number), 3
    streams = Streams(a.catalog, {number: replica})
    streams.look()
    placed = placed_in(cluster)
    topic = replace(placed.topic, replication_factor=2)
    await cluster.placement.set(topic_key("t"), Placed(topic, placed.replicas).encode())

    async with asyncio.timeout(60):
        while replica.engine_count != 2:
            streams.look()
            await asyncio.sleep(0)
    await streams.stop()

    assert {f"SANDGLASS_{number}": 2} == cast(FakeConnection, connection).streams
