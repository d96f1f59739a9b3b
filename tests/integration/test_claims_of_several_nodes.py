"""
What a client holds when leaders change, and when it goes to another node: by hand, on three
nodes in one process.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import grpc.aio
import pytest

from sandglass import AsyncClient
from sandglass.client.received import AsyncReceived
from sandglass.core.topic import Topic
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, Wire, batch, claim_of, values_of
from tests.integration.several_nodes import OneNode, SeveralNodes, several_nodes

DEADLINE_S = 60
TOLD_S = 30
COUNT = 4
"""Messages in each partition."""


@pytest.fixture
async def nodes() -> AsyncIterator[SeveralNodes]:
    async with several_nodes() as found, asyncio.timeout(DEADLINE_S):
        yield found


@pytest.fixture
async def topic(nodes: SeveralNodes) -> Topic:
    """Partition n is led by node n."""
    return await nodes.topic("t")


class Clients:
    """Sessions at nodes, and what is needed for them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def session(self, node: OneNode, session_id: str = "") -> RawSession:
        channel = grpc.aio.insecure_channel(node.address)
        await self._stack.enter_async_context(channel)
        session = RawSession(channel, deadline_s=TOLD_S)
        await session.hello(session_id)
        return session


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(stack)


async def holding(session: RawSession, topic: Topic) -> dict[int, pb.Delivery]:
    """Messages are there in each partition, and the session holds them: by place."""
    await session.subscribe(topic.name, credit_count=600)
    assert not (await session.take(pb.Subscribed)).HasField("error")
    held: dict[int, pb.Delivery] = {}
    for place, ref in enumerate(topic.partitions):
        values = [b"%d-%d" % (place, number) for number in range(COUNT)]
        request = pb.ProduceRequest(
            request_id=1, topic=topic.name, partition=ref.id, batch=batch(*values), count=COUNT
        )
        await session.send(produces=[request])
        await session.take(pb.ProduceReply)
        held[place] = await session.delivery()
        assert values == values_of(held[place])
    return held


async def nothing_comes_but(session: RawSession, topic: Topic, *places: int) -> None:
    """A new message is the next thing that comes of these partitions."""
    for place in places:
        request = pb.ProduceRequest(
            request_id=2,
            topic=topic.name,
            partition=topic.partitions[place].id,
            batch=batch(b"new-%d" % place),
            count=1,
        )
        await session.send(produces=[request])
    values: list[bytes] = []
    while len(values) < len(places):
        values += values_of(await session.delivery())
    assert sorted(values) == [b"new-%d" % place for place in places]


@pytest.mark.parametrize("leader", [0, 2])
async def test_what_is_held_goes_on_at_the_next_leader(
    nodes: SeveralNodes, topic: Topic, clients: Clients, leader: int
) -> None:
    """By way of another node, and at the node that comes to lead."""
    session = await clients.session(nodes.nodes[0])
    held = await holding(session, topic)

    await nodes.take_over(topic.partitions[1], nodes.nodes[leader])
    reply = await session.ack(held[1])

    assert not reply.HasField("error"), reply.error
    await nothing_comes_but(session, topic, 0, 1, 2)
    assert not (await session.ack(held[0])).HasField("error")


async def test_what_the_clients_own_node_led_goes_on_elsewhere(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    session = await clients.session(nodes.nodes[0])
    held = await holding(session, topic)

    await nodes.take_over(topic.partitions[0], nodes.nodes[1])
    reply = await session.ack(held[0])

    assert not reply.HasField("error"), reply.error
    await nothing_comes_but(session, topic, 0, 1, 2)


async def test_outcomes_wait_while_nobody_leads_and_count_once(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    session = await clients.session(nodes.nodes[0])
    held = await holding(session, topic)
    first, _ = held[1], nodes.lead(topic.partitions[1], None)

    items = [
        pb.Outcome(
            request_id=request_id,
            subscription_id=1,
            partition_number=1,
            token=first.token,
            kind=kind,
            places=places,
        )
        for request_id, kind, places in (
            (10, pb.OUTCOME_ACK, [0, 2]),
            (12, pb.OUTCOME_ACK, []),
        )
    ]
    await session.send(outcomes=items)
    other = await session.ack(held[0])
    assert not session.has(pb.OutcomeReply), "they wait, and others don't"
    await nodes.take_over(topic.partitions[1], nodes.nodes[2])
    replies = {
        each.request_id: each for each in [await session.take(pb.OutcomeReply) for _ in items]
    }

    assert not other.HasField("error")
    assert not replies[10].HasField("error")
    assert not replies[12].HasField("error")
    await nothing_comes_but(session, topic, 1, 2)


async def test_leaders_change_again_and_again(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    session = await clients.session(nodes.nodes[0])
    held = await holding(session, topic)

    for place, leader in enumerate((2, 0, 1)):
        await nodes.take_over(topic.partitions[1], nodes.nodes[leader])
        reply = await session.outcome(held[1], pb.OUTCOME_ACK, places=[place, 1])
        assert not reply.HasField("error"), reply.error

    last = await session.ack(held[1])
    assert not last.HasField("error")
    await nothing_comes_but(session, topic, 0, 1, 2)


async def test_two_subscriptions_to_a_group_both_go_on(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    session = await clients.session(nodes.nodes[0])
    for number in (1, 2):
        await session.subscribe("t", subscription_id=number, credit_count=600)
        await session.take(pb.Subscribed)
    held: dict[int, pb.Delivery] = {}
    while len(held) < 2:
        request = pb.ProduceRequest(
            topic="t", partition=topic.partitions[1].id, batch=batch(b"x"), count=1
        )
        await session.send(produces=[request])
        delivery = await session.delivery()
        held[delivery.subscription_id] = delivery

    await nodes.take_over(topic.partitions[1], nodes.nodes[2])
    replies = [await session.ack(each) for each in held.values()]

    assert not [reply for reply in replies if reply.HasField("error")]


async def test_who_has_unsubscribed_still_settles_what_it_holds(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    session = await clients.session(nodes.nodes[0])
    held = await holding(session, topic)
    await session.send(unsubscribes=[pb.Unsubscribe(subscription_id=1)])
    await session.take(pb.SubscriptionEnded)

    await nodes.take_over(topic.partitions[1], nodes.nodes[2])
    reply = await session.ack(held[1])

    assert not reply.HasField("error"), reply.error
    other = await clients.session(nodes.nodes[2])
    await other.subscribe("t")
    await nothing_comes_but(other, topic, 1)


async def test_who_comes_back_to_its_node_is_told_what_it_holds_of_a_partition_without_leader(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    before = await clients.session(nodes.nodes[0])
    held = await holding(before, topic)
    before.cut()
    nodes.lead(topic.partitions[1], None)

    session = await clients.session(nodes.nodes[0], before.welcome.session_id)
    leases = {(each.partition_number, each.token) for each in session.welcome.open_leases}
    await nodes.take_over(topic.partitions[1], nodes.nodes[2])
    replies = [await session.ack(each) for each in held.values()]

    assert session.welcome.is_resumed
    assert leases == {(place, each.token) for place, each in held.items()}
    assert not [reply for reply in replies if reply.HasField("error")]


async def test_tokens_are_the_clients_own_after_a_change_too(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    """A leader has a name of its own for what was claimed, which the client never hears."""
    before = await clients.session(nodes.nodes[0])
    held = await holding(before, topic)
    for place, leader in ((1, 2), (2, 0)):
        await nodes.take_over(topic.partitions[place], nodes.nodes[leader])
    for place in (1, 2):
        await before.outcome(held[place], pb.OUTCOME_ACK, places=[0, 1])
    before.cut()

    session = await clients.session(nodes.nodes[0], before.welcome.session_id)
    leases = {(each.partition_number, each.token) for each in session.welcome.open_leases}

    assert leases == {(place, each.token) for place, each in held.items()}


# --- another node -----------------------------------------------------------------------------


async def claimed(
    session: RawSession, topic: Topic, held: dict[int, pb.Delivery]
) -> dict[int, pb.Claimed]:
    """Subscribes and claims; the answers by place."""
    claims = [claim_of(each) for each in held.values()]
    await session.subscribe(topic.name, subscription_id=5, claims=claims, credit_count=600)
    reply = await session.take(pb.Subscribed)
    assert not reply.HasField("error"), reply.error
    assert len(claims) == len(reply.claims)
    for delivery, answer in zip(held.values(), reply.claims, strict=True):
        delivery.subscription_id = 5
        if answer.token:
            delivery.token = answer.token
    return dict(zip(held, reply.claims, strict=True))


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_client_that_goes_to_another_node_has_there_what_it_held(
    nodes: SeveralNodes, topic: Topic, clients: Clients, *, is_killed: bool
) -> None:
    """The leaders are the same, but for the dead node's partition, which another leads."""
    before = await clients.session(nodes.nodes[0])
    held = await holding(before, topic)
    before.cut()
    if is_killed:
        await nodes.kill(nodes.nodes[0])
        await nodes.take_over(topic.partitions[0], nodes.nodes[2])

    session = await clients.session(nodes.nodes[1], before.welcome.session_id)
    answers = await claimed(session, topic, held)
    replies = [await session.ack(each) for each in held.values()]

    assert not session.welcome.is_resumed
    assert [[0, COUNT]] * 3 == [list(each.places) for each in answers.values()]
    assert not [reply for reply in replies if reply.HasField("error")]
    await nothing_comes_but(session, topic, 0, 1, 2)


async def test_a_claim_of_a_partition_without_leader_is_held_until_there_is_one(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    before = await clients.session(nodes.nodes[0])
    held = await holding(before, topic)
    tokens = {place: each.token for place, each in held.items()}
    await nodes.kill(nodes.nodes[0])

    session = await clients.session(nodes.nodes[1], before.welcome.session_id)
    answers = await claimed(session, topic, held)
    await session.send(
        outcomes=[
            pb.Outcome(
                request_id=9,
                subscription_id=5,
                partition_number=0,
                token=held[0].token,
                kind=pb.OUTCOME_ACK,
            )
        ]
    )
    await nodes.take_over(topic.partitions[0], nodes.nodes[2])
    reply = await session.take(pb.OutcomeReply)

    assert (tokens[0], [0, COUNT]) == (answers[0].token, list(answers[0].places))
    assert answers[0].lease_ms > 0
    assert not reply.HasField("error"), reply.error
    await nothing_comes_but(session, topic, 0, 1, 2)


async def test_an_outcome_whose_answer_was_lost_with_the_leader_is_done_at_the_next(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    """Its own node led, and it comes to another before there is a leader again."""
    before = await clients.session(nodes.nodes[0])
    held = await holding(before, topic)
    await before.ack(held[0])
    await nodes.kill(nodes.nodes[0])

    session = await clients.session(nodes.nodes[1], before.welcome.session_id)
    answers = await claimed(session, topic, held)
    outcome = pb.Outcome(
        request_id=9,
        subscription_id=5,
        partition_number=0,
        token=answers[0].token,
        kind=pb.OUTCOME_ACK,
    )
    await session.send(outcomes=[outcome])
    # Once an item behind it is answered, it waits.
    assert not (await session.ack(held[1])).HasField("error")
    await nodes.take_over(topic.partitions[0], nodes.nodes[2])
    reply = await session.take(pb.OutcomeReply)

    assert (9, False) == (reply.request_id, reply.HasField("error")), reply.error
    await nothing_comes_but(session, topic, 0, 1, 2)


async def nothing_is_held(nodes: SeveralNodes, topic: Topic) -> None:
    """Waits until a goodbye has come to all leaders."""
    request = admin_pb2.ListGroupsRequest(topic=topic.name)
    async with grpc.aio.insecure_channel(nodes.nodes[0].address) as channel:
        while True:
            groups = (await Wire(channel).admin.ListGroups(request)).groups
            if not any(each.leased_count or each.consumer_count for each in groups):
                return
            await asyncio.sleep(0.01)


async def test_what_is_claimed_too_late_is_refused_and_comes_again(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    before = await clients.session(nodes.nodes[0])
    held = await holding(before, topic)
    await before.send(is_goodbye=True)
    await before.ended()
    await nothing_is_held(nodes, topic)

    session = await clients.session(nodes.nodes[1], before.welcome.session_id)
    answers = await claimed(session, topic, held)
    reply = await session.ack(held[1])

    assert all(each.is_late and not each.token for each in answers.values())
    assert "LEASE_LOST" == reply.error.reason
    values = sorted(b"%d-%d" % (place, n) for place in range(3) for n in range(COUNT))
    found: list[bytes] = []
    while len(found) < len(values):
        found += values_of(await session.delivery())
    assert values == sorted(found)


async def test_a_claim_that_is_none_is_refused_by_any_node(
    nodes: SeveralNodes, topic: Topic, clients: Clients
) -> None:
    session = await clients.session(nodes.nodes[0])
    held = await holding(session, topic)
    wrong = claim_of(held[1])
    wrong.partition_number = 9

    await session.subscribe("t", subscription_id=5, claims=[wrong])
    refused = await session.take(pb.Subscribed)

    assert ("INVALID", "partition_number") == (refused.error.reason, refused.error.field)


# --- a node that goes down --------------------------------------------------------------------


async def test_a_client_moves_on_from_a_node_that_goes_down_and_loses_nothing(
    nodes: SeveralNodes, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds messages, and goes on producing and consuming meanwhile; nothing breaks."""
    first, second, _ = nodes.nodes
    values: list[bytes] = []
    async with (
        AsyncClient(first.address, second.address) as client,
        asyncio.TaskGroup() as tasks,
    ):

        async def consume() -> None:
            held: list[AsyncReceived] = []
            async for message in client.consume("t", group="g"):
                values.append(message.value)
                held.append(message)
                if len(values) < 30:
                    continue
                if len(values) == 30:
                    first.sessions.drain()
                    await until(lambda: second.broker.consumers.sessions)
                for each in held:
                    await each.ack(wait=True)
                held.clear()
                if len(values) == 90:
                    return

        tasks.create_task(consume())
        for number in range(90):
            await client.produce("t", b"%d" % number, key=b"%d" % number)

    assert sorted(values, key=int) == [b"%d" % number for number in range(90)]
    assert "broke:" not in caplog.text, "loggers of sandglass.broker may say something"


async def test_who_comes_to_a_node_that_goes_down_is_told_at_once(
    nodes: SeveralNodes, clients: Clients
) -> None:
    nodes.nodes[0].sessions.drain()

    session = await clients.session(nodes.nodes[0])

    assert session.frames[0].HasField("welcome")
    assert session.frames[0].is_draining


async def until(check: Callable[[], object]) -> None:
    """Polls; the test's own deadline ends it."""
    while not check():
        await asyncio.sleep(0.01)
