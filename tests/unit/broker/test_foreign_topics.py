"""Topics that live on another node of the cluster, as this one sees them."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import cast

import pytest

from sandglass.broker import catalog
from sandglass.broker.groups import Start
from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen, SharedCatalog
from sandglass.core import limits
from sandglass.core.topic import GroupSettings, PartitionRef, Topic, TopicGroup, TopicKind
from sandglass.errors import ConflictError, NotFoundError, NotLeaderError, UnavailableError
from tests.unit.broker.shell import Shell

ELSEWHERE = NotLeaderError("topic 'far' lives on node other", leader="other:7170")
FAR = Topic("far", TopicKind.TIMER, (PartitionRef("p", limits.FOREIGN_NUMBER_MIN),))


class Shared:
    """A cluster's catalog that knows one topic, of another node."""

    def __init__(self) -> None:
        self.topics: Mapping[str, Topic] = {FAR.name: FAR}
        self.groups: Mapping[str, Mapping[str, TopicGroup]] = {}
        self.claimed: list[str] = []
        self.published: list[str] = []
        self.let_go_of: list[str] = []
        self.refused: list[str] = []
        self.is_away = False

    async def claim(self, topic: Topic) -> None:
        if self.is_away:
            raise UnavailableError("no quorum")
        self.claimed.append(topic.name)

    async def let_go(self, name: str) -> None:
        self.let_go_of.append(name)

    def publish(self, name: str) -> None:
        self.published.append(name)

    async def moved(self, name: str) -> None:
        await asyncio.Event().wait()

    async def put_group(self, group: TopicGroup) -> None:
        self.refused.append(group.name)
        raise UnavailableError("no quorum")


@pytest.fixture
def shared(shell: Shell) -> Shared:
    found = Shared()
    shell.broker.loops.shared = cast(SharedCatalog, found)
    shell.broker.loops.whereabouts = lambda _: ELSEWHERE
    return found


async def test_it_is_listed_and_found(shell: Shell, shared: Shared) -> None:
    assert [topic.name for topic in shell.broker.catalog.topics()] == ["far", "t"]
    assert shell.broker.catalog.topic("far") is FAR


async def test_its_name_is_taken(shell: Shell, shared: Shared) -> None:
    with pytest.raises(ConflictError):
        await shell.broker.catalog.create_topic("far")


@pytest.mark.parametrize(
    "call",
    [
        lambda shell: shell.broker.catalog.change_topic("far", max_deliveries=3),
        lambda shell: shell.broker.catalog.delete_topic("far"),
        lambda shell: shell.broker.groups.create(FAR, "g", Start(), GroupSettings()),
        lambda shell: shell.broker.groups.change(FAR, "g", GroupSettings()),
        lambda shell: shell.broker.groups.seek(FAR, "g", Start()),
        lambda shell: shell.broker.groups.delete(FAR, "g"),
        lambda shell: anext(shell.broker.status.parts(FAR)),
    ],
)
async def test_what_concerns_it_is_its_homes(
    call: Callable[[Shell], Awaitable[object]], shell: Shell, shared: Shared
) -> None:
    with pytest.raises(NotLeaderError) as refused:
        await call(shell)

    assert refused.value.leader == "other:7170"
    assert not shared.published


async def test_nobody_is_subscribed_to_it_here(shell: Shell, shared: Shared) -> None:
    shell.topic = FAR
    with pytest.raises(NotLeaderError):
        await shell.consume()


async def test_a_topic_that_takes_long_to_move_is_waited_for_no_longer_than_clients_wait(
    shell: Shell, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "CHANGE_S_MAX", 0.01)

    with pytest.raises(UnavailableError, match="topic 't' is on its way"):
        await shell.broker.catalog.change_topic("t", partition_count=2)


async def test_a_group_that_fails_when_its_consumer_has_gone_fails_without_a_word(
    shell: Shell, shared: Shared
) -> None:
    replicated = replace(FAR, partitions=(PartitionRef("p", limits.REPLICATED_NUMBER_MIN),))
    shared.topics = {FAR.name: replicated}
    said: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

    shell.broker.groups.join(replicated, "g", is_from_now=False)
    await shell.until(lambda: shared.refused)
    await shell.quiet()
    gc.collect()

    assert not said


async def test_a_topic_takes_its_name_before_it_comes_into_the_log(
    shell: Shell, shared: Shared
) -> None:
    await shell.broker.catalog.create_topic("new")
    await shell.broker.catalog.change_topic("new", max_deliveries=3)
    await shell.broker.catalog.delete_topic("new")

    assert shared.claimed == ["new"]
    assert shared.published == ["new"] * 3
    assert shared.let_go_of == ["new"]


async def test_without_its_name_no_topic_is_made(shell: Shell, shared: Shared) -> None:
    shared.is_away = True

    for _ in range(2):  # nor is the name held back by the first attempt
        with pytest.raises(UnavailableError):
            await shell.broker.catalog.create_topic("new")

    assert "new" not in shell.loop.machine.topics
    assert shared.published == ["new"] * 2


async def test_before_it_has_joined_again_a_node_says_what_it_cannot_know(shell: Shell) -> None:
    shell.broker.loops.is_member = lambda: True
    shell.broker.loops.why_alone = lambda: "no quorum"

    with pytest.raises(UnavailableError, match="no quorum"):
        shell.broker.catalog.topic("far")
    with pytest.raises(UnavailableError, match="no quorum"):
        await shell.broker.catalog.create_topic("new")
    assert shell.broker.catalog.topic("t").name == "t"


async def test_a_node_that_never_joined_makes_topics_of_its_own(shell: Shell) -> None:
    with pytest.raises(NotFoundError):
        shell.broker.catalog.topic("far")

    await shell.broker.catalog.create_topic("far")


@pytest.mark.parametrize(("member_count", "factor"), [(1, 1), (2, 2), (3, 3), (4, 3)])
async def test_a_topic_has_as_many_replicas_as_there_are_members(
    shell: Shell, shared: Shared, member_count: int, factor: int
) -> None:
    """Up to three, where nobody says how many."""
    nodes = tuple(NodeSeen(f"n{n}", "", "", is_alive=n == 0) for n in range(member_count))
    shell.broker.loops.look_around = lambda: ClusterSeen(nodes=nodes)

    assert factor == shell.broker.catalog.replication_factor_default()


async def test_a_topic_of_a_node_alone_has_one_replica(shell: Shell) -> None:
    assert 1 == shell.broker.catalog.replication_factor_default()
