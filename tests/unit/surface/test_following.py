"""A drain over calls: when it is over, and what it gives back."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from sandglass.core.topic import PartitionRef
from sandglass.errors import NotLeaderError, UnavailableError
from sandglass.surface.following import FollowingDrain
from sandglass.surface.leaders import Caller, Leaders
from sandglass.wire.v1 import broker_pb2 as pb
from tests.unit.broker.shell import Shell, running

BEGAN_MS = 1000


class NoPeers:
    """Nobody answers."""

    async def call(
        self, address: str, path: str, request: bytes, who: Caller, *, may_wait: bool
    ) -> bytes:
        raise AssertionError("the drain is given its calls")

    def stream(
        self, address: str, path: str, request: bytes, who: Caller
    ) -> AsyncGenerator[bytes, None]:
        raise AssertionError("the drain is given its calls")

    def forget(self, address: str) -> None:
        raise AssertionError("nobody was asked")


class Leader:
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self, *answers: pb.ConsumeReply | Exception) -> None:
        self.answers = [*answers]
        self.asked: list[pb.ConsumeRequest] = []
        self.settled: list[pb.Outcome] = []
        self.is_waiting = asyncio.Event()

    async def take(self, request: pb.ConsumeRequest) -> pb.ConsumeReply:
        self.asked.append(pb.ConsumeRequest.FromString(request.SerializeToString()))
        if request.wait_ms and not self.answers:
            self.is_waiting.set()
            await asyncio.Event().wait()
        answer = self.answers.pop(0) if self.answers else pb.ConsumeReply()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def settle(self, request: pb.SettleRequest) -> pb.SettleReply:
        self.settled += request.outcomes
        return pb.SettleReply()


def delivery(token: int, *values: bytes, due_ms: int = 1) -> pb.Delivery:
    batch = pb.MessageBatch(messages=[pb.Message(value=value) for value in values])
    return pb.Delivery(
        token=token,
        batch=batch.SerializeToString(),
        count=len(values),
        run_due_ms=[due_ms],
        run_first_index=[token],
        run_count=[len(values)],
        run_produced_ms=[due_ms],
    )


def page(*deliveries: pb.Delivery) -> pb.ConsumeReply:
    return pb.ConsumeReply(deliveries=deliveries)


@pytest.fixture
async def shell() -> AsyncIterator[Shell]:
    async with running(Shell()) as started:
        yield started


@pytest.fixture
def leaders(shell: Shell) -> Leaders:
    return Leaders(shell.broker.loops, NoPeers())


def drain_of(leaders: Leaders, leader: Leader) -> FollowingDrain:
    return FollowingDrain(
        leaders,
        PartitionRef("p", 1),
        pb.ConsumeRequest(topic="t", group="g", consumer="c"),
        take=leader.take,
        settle=leader.settle,
        began_ms=BEGAN_MS,
    )


async def all_of(drain: FollowingDrain) -> list[int]:
    found: list[int] = []
    while (handed := await drain.next()) is not None:
        found += [piece.first_index for piece in handed.slices]
    return found


async def test_it_is_over_when_nothing_more_is_ready(leaders: Leaders) -> None:
    leader = Leader(page(delivery(1, b"a"), delivery(2, b"b")), page(delivery(3, b"c")))
    drain = drain_of(leaders, leader)

    await drain.begin()

    assert [1, 2, 3] == await all_of(drain)
    assert [["p"]] * 3 == [[*each.partitions] for each in leader.asked]
    assert [] == await all_of(drain)


async def test_it_is_over_where_it_comes_to_what_was_produced_since(leaders: Leaders) -> None:
    leader = Leader(
        page(delivery(1, b"a")), page(delivery(2, b"b", due_ms=BEGAN_MS + 1)), page()
    )
    drain = drain_of(leaders, leader)

    await drain.begin()

    assert [1, 2] == await all_of(drain)
    assert 2 == len(leader.asked)


async def test_what_was_not_handed_on_is_given_back(leaders: Leaders) -> None:
    leader = Leader(page(delivery(1, b"a", b"b", b"c"), delivery(2, b"d")))
    drain = drain_of(leaders, leader)
    await drain.begin()
    await drain.next()

    drain.close(handed_on_count=1)
    while not leader.settled:
        await asyncio.sleep(0)

    assert {(1, (1, 2)), (2, (0, 1))} == {
        (each.token, tuple(each.places)) for each in leader.settled
    }
    assert {pb.OUTCOME_RELEASE} == {each.kind for each in leader.settled}


async def test_what_was_handed_on_stays_leased(leaders: Leaders) -> None:
    leader = Leader(page(delivery(1, b"a", b"b")))
    drain = drain_of(leaders, leader)
    await drain.begin()
    await drain.next()

    drain.close()
    drain.close(handed_on_count=0)
    await asyncio.sleep(0.01)

    assert [] == leader.settled


async def test_it_waits_for_the_first_and_is_over_behind_it(leaders: Leaders) -> None:
    leader = Leader(page(), page(delivery(1, b"a"), delivery(2, b"b")))
    drain = drain_of(leaders, leader)
    await drain.begin()
    assert None is await drain.next()

    first = await drain.first(5.0)

    assert first is not None
    assert [1] == [piece.first_index for piece in first.slices]
    assert [2] == await all_of(drain)
    assert [0, 5000] == [each.wait_ms for each in leader.asked]


async def test_it_waits_no_longer_once_it_is_stopped(leaders: Leaders) -> None:
    leader = Leader(page())
    drain = drain_of(leaders, leader)
    await drain.begin()
    waiting = asyncio.create_task(drain.first(60.0))
    await leader.is_waiting.wait()

    drain.stop()

    assert None is await waiting


async def test_it_goes_on_when_a_leader_has_gone(leaders: Leaders) -> None:
    leader = Leader(
        page(delivery(1, b"a")), NotLeaderError("led elsewhere"), page(delivery(2, b"b"))
    )
    drain = drain_of(leaders, leader)

    await drain.begin()

    assert [1, 2] == await all_of(drain)


async def test_what_this_node_cannot_do_itself_ends_it(leaders: Leaders) -> None:
    leader = Leader(UnavailableError("the node is stopping"))

    with pytest.raises(UnavailableError, match="stopping"):
        await drain_of(leaders, leader).begin()
