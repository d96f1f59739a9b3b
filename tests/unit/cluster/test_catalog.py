"""The cluster's catalog: what it refuses, and what it can't read."""

import json

import pytest

from sandglass.cluster.placed import PLACED_VERSION, topic_key
from sandglass.core.machine import GROUP_VERSION, TOPIC_VERSION
from sandglass.core.topic import TopicKind, TopicSettings
from sandglass.errors import PreconditionError
from tests.unit.cluster.scene import Cluster


@pytest.fixture
async def cluster() -> Cluster:
    found = Cluster()
    await found.begin()
    return found


async def test_more_replicas_than_members_are_refused_with_a_count(cluster: Cluster) -> None:
    catalog, before = cluster.nodes[0].catalog, dict(cluster.placement.entries)

    with pytest.raises(PreconditionError) as caught:
        await catalog.create_topic("new", TopicKind.TIMER, 1, 5, TopicSettings())

    assert caught.value.field == "replication_factor"
    assert caught.value.message == (
        "ErrUnableToSelectReplicas: replication_factor 5 needs 5 members, and 3 are there:"
        " 2 missing; 3 can be had now"
    )
    assert before == cluster.placement.entries, "not even a number was taken"


async def test_drained_members_get_no_replicas(cluster: Cluster) -> None:
    catalog = cluster.nodes[0].catalog
    await catalog.drain("b", is_drained=True)

    with pytest.raises(PreconditionError, match="3 are there, 1 of them drained: 1 missing"):
        await catalog.create_topic("new", TopicKind.TIMER, 1, 3, TopicSettings())


async def test_an_engine_that_has_not_caught_up_is_warned_of(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    before = node.sight().seen("").warnings

    node.engine.is_behind = True

    assert () == before
    (warning,) = node.sight().seen("").warnings
    assert "the engine of node a has not caught up" in warning


async def test_a_topic_that_a_newer_version_wrote_is_left_and_warned_of(
    cluster: Cluster,
) -> None:
    node, key = cluster.nodes[0], topic_key("t")
    sight = node.sight()
    known = json.loads(cluster.placement.entries[key].value)
    newer = json.dumps({**known, "version": PLACED_VERSION + 1}).encode()

    await cluster.placement.set(key, newer)
    await cluster.placement.set(topic_key("u"), newer)

    assert node.catalog.placed.keys() == {"t"}, "its replicas here stay what they are"
    assert [w for w in sight.seen("").warnings if "start the newer version" in w] == [
        f"node a does not know all of topic '{name}': its entry is of version 2, this program"
        " knows up to 1: start the newer version"
        for name in ("t", "u")
    ]
    await cluster.placement.delete(key)
    assert node.catalog.placed == {}
    assert node.catalog.unreadable.keys() == {"u"}


async def test_rows_that_a_newer_version_wrote_are_left_too(cluster: Cluster) -> None:
    catalog, key = cluster.nodes[0].catalog, topic_key("t")
    known = json.loads(cluster.placement.entries[key].value)
    topic = {**known["topic"], "version": TOPIC_VERSION + 1}
    group = {"version": GROUP_VERSION + 1, "topic": "t", "name": "g"}

    await cluster.placement.set(key, json.dumps({**known, "topic": topic}).encode())
    assert "its row is of version" in catalog.unreadable["t"]
    await cluster.placement.set("group.t.g", json.dumps(group).encode())

    assert "the row of group 'g' is of version" in catalog.unreadable["t"]
    assert catalog.placed.keys() == {"t"}
    assert catalog.groups.get("t", {}) == {}
