"""What nodes say of their cluster, made one reply: the same, whichever of them is asked."""

from collections.abc import Awaitable, Callable

from sandglass.broker.shared_catalog import ClusterSeen, NodeSeen, PartitionSeen
from sandglass.client.operating import ClusterReplica, ClusterStatus, cluster_of
from sandglass.errors import UnavailableError
from sandglass.surface.cluster_view import cluster_to_wire, seen_by_all
from sandglass.wire.v1 import admin_pb2 as pb

NAMES = ("a", "b", "c")


def seen_by(
    me: str, state: str, position: int, *warnings: str, dead: tuple[str, ...] = ()
) -> ClusterSeen:
    """Three nodes, a topic on all of them that `a` leads, and one that lives on `b` alone."""
    nodes = tuple(
        NodeSeen(
            name,
            f"{name}:7170",
            "",
            is_alive=name not in dead,
            version="1",
            durability="always" if name == me else "",
        )
        for name in NAMES
    )
    partitions = (
        PartitionSeen("alone", "p", "b", 0, ("b",), "", 0),
        PartitionSeen("t", "p", "a", 3, NAMES, state, position),
    )
    return ClusterSeen("01", "", nodes, partitions, warnings, me=me, has_quorum=True)


SEEN = {
    "a": seen_by("a", "leading", 10, "all say this"),
    "b": seen_by("b", "following", 7, "all say this", "b says this"),
    "c": seen_by("c", "frozen", 12, "all say this"),
}


def others(
    known: dict[str, ClusterSeen], asked: list[str] | None = None
) -> Callable[[str], Awaitable[pb.ShowClusterReply]]:
    async def ask(address: str) -> pb.ShowClusterReply:
        name = address.partition(":")[0]
        if asked is not None:
            asked.append(name)
        if name not in known:
            raise UnavailableError("it doesn't answer")
        return cluster_to_wire(known[name])

    return ask


async def whole(me: str, known: dict[str, ClusterSeen] = SEEN) -> ClusterStatus:
    return cluster_of(await seen_by_all(known[me], others(known)))


async def test_each_says_how_far_its_replicas_are() -> None:
    alone, shared = (await whole("a")).partitions

    assert alone.held == ()
    assert shared.held == (
        ClusterReplica("a", "leading", 10, 0),
        ClusterReplica("b", "following", 7, 3),
        ClusterReplica("c", "frozen", 12, 0),
    )


async def test_all_give_the_same_answer() -> None:
    answers = [await whole(name) for name in NAMES]

    for answer in answers:
        assert answer == answers[0]
        assert answer.warnings == ("all say this", "b says this")
        assert (answer.has_quorum, answer.durability) == (True, "always")


async def test_one_that_does_not_answer_is_named_and_nothing_is_said_for_it() -> None:
    known = {name: SEEN[name] for name in "bc"}

    answer = await whole("b", known)

    assert answer.partitions[1].held == (
        ClusterReplica("a", "", 0, None),
        ClusterReplica("b", "following", 7, None),
        ClusterReplica("c", "frozen", 12, None),
    )
    assert "node a does not answer" in answer.warnings
    assert [node.durability for node in answer.nodes] == ["", "always", "always"]
    assert answer.durability == "unknown"


async def test_one_that_is_not_there_is_not_asked() -> None:
    asked: list[str] = []
    seen = seen_by("b", "following", 7, dead=("a",))

    reply = await seen_by_all(seen, others(SEEN, asked))

    assert asked == ["c"]
    assert cluster_of(reply).durability == "always", "of those that are there"
