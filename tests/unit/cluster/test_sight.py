"""What is said of partitions by numbers that they had."""

from dataclasses import replace

from sandglass.cluster.placed import Placed, topic_key
from sandglass.core.topic import PartitionRef
from sandglass.errors import NotFoundError, NotLeaderError
from tests.unit.cluster.scene import FIRST, Cluster


async def test_a_partition_of_a_deleted_topic_is_gone_and_not_without_a_leader() -> None:
    cluster = Cluster()
    await cluster.begin()
    sight = cluster.nodes[1].sight()
    assert isinstance(sight.whereabouts(FIRST), NotLeaderError)

    await cluster.placement.delete(topic_key("t"))

    assert isinstance(sight.whereabouts(FIRST), NotFoundError)


async def test_a_partition_of_a_topic_that_has_moved_is_looked_for_by_its_new_number() -> None:
    cluster = Cluster()
    await cluster.begin()
    sight, catalog = cluster.nodes[1].sight(), cluster.nodes[1].catalog
    before = catalog.placed["t"]
    refs = tuple(PartitionRef(ref.id, 7 + n) for n, ref in enumerate(before.topic.partitions))
    home = Placed(replace(before.topic, partitions=refs, replication_factor=1), (("a",),) * 3)
    await cluster.placement.set(topic_key("t"), home.encode())
    foreign = catalog.topics["t"].partitions[0].number
    assert isinstance(sight.whereabouts(FIRST), NotLeaderError)

    again = [PartitionRef(ref.id, FIRST + 10 + n) for n, ref in enumerate(refs)]
    topic = replace(before.topic, partitions=tuple(again))
    await cluster.placement.set(topic_key("t"), Placed(topic, before.replicas).encode())

    assert isinstance(sight.whereabouts(foreign), NotLeaderError)
    assert isinstance(sight.whereabouts(FIRST + 10), NotLeaderError)
    assert isinstance(sight.whereabouts(3), NotLeaderError)
