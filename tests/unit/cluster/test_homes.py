"""Topics with one replica, on nodes that share what their members agree on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from sandglass.adapters.memory_placement import MemoryPlacement
from sandglass.cluster.homes import Homes
from sandglass.cluster.placed import TOPICS, Placed, topic_key
from sandglass.core import limits
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.errors import ConflictError, UnavailableError

DEADLINE_S = 60


class LostPlacement(MemoryPlacement):
    """A placement whose quorum may be away."""

    is_away = False

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        if self.is_away:
            raise UnavailableError("there is no quorum", is_result_unknown=True)
        return await super().set(key, value, revision)


class Node:
    """A node as its homes see it: the topics of its own log."""

    def __init__(self, placement: MemoryPlacement, name: str) -> None:
        self.own: dict[str, Topic] = {}
        self.homes = Homes(placement, name, lambda: self.own)
        placement.follow(self._on_entry)
        self._placement = placement
        for key in [*placement.entries]:
            self._on_entry(key)

    def _on_entry(self, key: str) -> None:
        entry = self._placement.entries.get(key)
        placed = None if entry is None else Placed.decode(entry.value)
        is_at_home = placed is not None and placed.is_at_home
        self.homes.heard(key.removeprefix(TOPICS), placed if is_at_home else None)

    async def create(self, topic: Topic) -> None:
        await self.homes.claim(topic)
        self.own[topic.name] = topic
        self.homes.publish(topic.name)


def topic_of(name: str, *ids: str, number: int = 1) -> Topic:
    refs = tuple(PartitionRef(each, number + place) for place, each in enumerate(ids))
    return Topic(name, TopicKind.TIMER, refs)


@pytest.fixture
def placement() -> LostPlacement:
    return LostPlacement()


@pytest.fixture
async def nodes(placement: LostPlacement) -> AsyncIterator[tuple[Node, Node]]:
    one, two = Node(placement, "one"), Node(placement, "two")
    one.homes.start()
    two.homes.start()
    yield one, two
    await one.homes.stop()
    await two.homes.stop()


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not check():
            await asyncio.sleep(0)


async def test_a_topic_is_known_elsewhere_under_numbers_that_are_no_ones_own(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes

    await one.create(topic_of("t", "a", "b"))
    await two.create(topic_of("u", "c"))

    assert one.homes.topics.keys() == {"u"}
    refs = two.homes.topics["t"].partitions
    assert [ref.id for ref in refs] == ["a", "b"]
    assert all(limits.FOREIGN_NUMBER_MIN <= ref.number for ref in refs)
    assert all(ref.number < limits.REPLICATED_NUMBER_MIN for ref in refs)
    assert [two.homes.place(ref.number) for ref in refs] == [("t", "one")] * 2


async def test_a_topic_that_gets_replicas_has_moved_and_one_that_is_deleted_has_not(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    await one.create(topic_of("t", "a"))
    await one.create(topic_of("u", "b", number=2))
    (moved,), (deleted,) = (two.homes.topics[name].partitions for name in ("t", "u"))

    two.homes.heard("t", None, has_moved=True)
    two.homes.heard("u", None)

    assert two.homes.has_moved(moved.number)
    assert not two.homes.has_moved(deleted.number)


async def test_a_name_is_taken_once(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    await one.create(topic_of("t", "a"))

    with pytest.raises(ConflictError, match="'t' already exists"):
        await two.homes.claim(topic_of("t", "b"))


async def test_of_two_that_take_a_name_at_once_one_gets_it(nodes: tuple[Node, Node]) -> None:
    one, two = nodes

    ends = await asyncio.gather(
        one.create(topic_of("t", "a")), two.create(topic_of("t", "b")), return_exceptions=True
    )

    assert [type(end) for end in ends] == [type(None), ConflictError]


async def test_without_a_quorum_no_name_is_given(
    nodes: tuple[Node, Node], placement: LostPlacement
) -> None:
    placement.is_away = True

    with pytest.raises(UnavailableError, match=r"not created: .* there is no quorum"):
        await nodes[0].homes.claim(topic_of("t", "a"))


async def test_changes_keep_the_numbers_that_others_know(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    topic = topic_of("t", "a")
    await one.create(topic)
    before = two.homes.topics["t"].partitions

    one.own["t"] = replace(topic, settings=TopicSettings(max_deliveries=9))
    one.homes.publish("t")
    await until(lambda: two.homes.topics["t"].settings.max_deliveries == 9)

    assert two.homes.topics["t"].partitions == before


async def test_a_deleted_topic_gives_its_name_back(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    await one.create(topic_of("t", "a"))
    number = two.homes.topics["t"].partitions[0].number

    del one.own["t"]
    one.homes.publish("t")
    await until(lambda: "t" not in two.homes.topics)
    await two.create(topic_of("t", "b"))

    assert two.homes.place(number) == ("", "")
    assert one.homes.topics.keys() == {"t"}


async def test_who_deletes_a_topic_is_answered_when_its_name_is_free(
    nodes: tuple[Node, Node], placement: LostPlacement
) -> None:
    one, two = nodes
    await one.create(topic_of("t", "a"))
    del one.own["t"]
    one.homes.publish("t")

    await one.homes.let_go("t")

    await two.create(topic_of("t", "b"))
    await one.homes.let_go("t")  # another's by now
    assert "two" == one.homes.placed["t"].home


async def test_a_making_that_failed_leaves_no_name_behind(
    nodes: tuple[Node, Node], placement: LostPlacement
) -> None:
    one, two = nodes
    await one.homes.claim(topic_of("t", "a"))

    one.homes.publish("t")  # nothing came into the log
    await until(lambda: topic_key("t") not in placement.entries)
    await two.create(topic_of("t", "b"))


async def test_what_a_crash_left_between_name_and_log_is_found_at_the_next_start(
    nodes: tuple[Node, Node], placement: LostPlacement
) -> None:
    one, two = nodes
    await one.homes.claim(topic_of("t", "a"))
    await one.homes.stop()

    again = Node(placement, "one")
    again.homes.start()
    await until(lambda: "t" not in two.homes.topics)
    await again.homes.stop()


async def test_a_name_that_was_left_over_is_taken_again_at_once(
    nodes: tuple[Node, Node],
) -> None:
    one, two = nodes
    await one.create(topic_of("t", "a"))
    del one.own["t"]  # and nobody has published that yet

    await one.create(topic_of("t", "b"))

    assert [ref.id for ref in two.homes.topics["t"].partitions] == ["b"]


async def test_topics_from_before_it_joined_become_known(placement: LostPlacement) -> None:
    one, two = Node(placement, "one"), Node(placement, "two")
    one.own = {"t": topic_of("t", "a"), "u": topic_of("u", "b", number=2)}

    one.homes.start()
    await until(lambda: two.homes.topics.keys() == {"t", "u"})
    await one.homes.stop()


async def test_they_become_known_when_the_quorum_is_back(placement: LostPlacement) -> None:
    one, two = Node(placement, "one"), Node(placement, "two")
    one.own = {"t": topic_of("t", "a")}
    placement.is_away = True
    one.homes.start()
    await asyncio.sleep(0)

    placement.is_away = False
    await until(lambda: "t" in two.homes.topics)
    await one.homes.stop()


async def test_where_a_name_stands_for_another_each_keeps_its_own(
    nodes: tuple[Node, Node], placement: LostPlacement
) -> None:
    one, two = nodes
    await one.create(topic_of("t", "a"))
    entry = placement.entries[topic_key("t")]

    two.own["t"] = topic_of("t", "b")
    two.homes.publish("t")
    await until(lambda: two.homes.clashes == {"t"})

    assert placement.entries[topic_key("t")] == entry
    assert "on node one" in two.homes.clash_text("t")

    del one.own["t"]  # then the name is the other's
    one.homes.publish("t")
    await until(lambda: not two.homes.clashes)
    await until(lambda: "t" in one.homes.topics)


async def test_a_clash_ends_with_the_deletion_of_ones_own(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    await one.create(topic_of("t", "a"))
    two.own["t"] = topic_of("t", "b")
    two.homes.publish("t")
    await until(lambda: two.homes.clashes)

    del two.own["t"]
    two.homes.publish("t")
    await until(lambda: not two.homes.clashes)

    assert two.homes.topics.keys() == {"t"}
