"""Claims over the wire, by hand: what a node that began anew takes, and what it refuses."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sandglass.core import limits
from sandglass.testing import Broker
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.raw import RawSession, Wire, claim_of, values_of, wire

GRACE_MS = 30_000
"""Longer than a loaded machine takes to begin anew."""


@pytest.fixture
async def held(tmp_path: Path) -> tuple[str, list[pb.Delivery]]:
    """The id of a session, and what it held of topic `t` when its node stopped."""
    async with (
        Broker(data=tmp_path, session_grace_ms=GRACE_MS) as broker,
        wire(broker) as client,
    ):
        await client.create("t")
        session = await client.session()
        await session.subscribe("t")
        deliveries: list[pb.Delivery] = []
        for number in range(3):
            await client.produce("t", *[b"%d%d" % (number, place) for place in range(2)])
            deliveries.append(await session.delivery())
        session.cut()
    return session.welcome.session_id, deliveries


@pytest.fixture
async def client(held: tuple[str, list[pb.Delivery]], tmp_path: Path) -> AsyncIterator[Wire]:
    async with (
        Broker(data=tmp_path, session_grace_ms=GRACE_MS) as broker,
        wire(broker) as client,
    ):
        yield client


async def claimed(session: RawSession, *claims: pb.Claim, **fields: Any) -> list[pb.Claimed]:
    await session.subscribe("t", claims=claims, **fields)
    reply = await session.take(pb.Subscribed)
    assert not reply.HasField("error"), reply.error
    return list(reply.claims)


async def test_what_is_claimed_is_settled_under_either_token_and_the_rest_comes_again(
    client: Wire, held: tuple[str, list[pb.Delivery]]
) -> None:
    session_id, (one, two, three) = held
    session = await client.session(session_id)

    first, second = await claimed(session, claim_of(one), claim_of(three, places=[1, 1]))
    again = await session.delivery()
    new = await session.outcome(one, pb.OUTCOME_ACK)
    one.token = first.token
    lost = await session.outcome(one, pb.OUTCOME_ACK)
    three.token = second.token
    last = await session.outcome(three, pb.OUTCOME_ACK)

    assert (session_id, False) == (session.welcome.session_id, session.welcome.is_resumed)
    assert ([0, 2], [1, 1]) == (first.places, second.places)
    assert first.token > two.token
    assert [b"10", b"11", b"20"] == values_of(again)
    assert not new.HasField("error")
    assert "LEASE_LOST" == lost.error.reason
    assert not last.HasField("error")
    assert 3 == (await client.group("t")).acked_count


async def test_a_claim_whose_answer_was_lost_is_granted_again(
    client: Wire, held: tuple[str, list[pb.Delivery]]
) -> None:
    session_id, (one, *_) = held
    session = await client.session(session_id)

    (first,) = await claimed(session, claim_of(one))
    (again,) = await claimed(session, claim_of(one), subscription_id=2)
    one.token, one.subscription_id = again.token, 2

    assert (first.token, [0, 2]) == (again.token, again.places)
    assert not (await session.ack(one)).HasField("error")


async def test_the_second_subscription_of_a_group_claims_what_the_first_announced(
    client: Wire, held: tuple[str, list[pb.Delivery]]
) -> None:
    session_id, (one, two, three) = held
    session = await client.session(session_id)

    first = await claimed(session, claim_of(one), claim_of(two), has_more_claims=True)
    second = await claimed(session, claim_of(three), subscription_id=2)

    assert all(each.token for each in (*first, *second))
    assert not session.has(pb.Delivery)


async def test_another_session_gets_nothing_of_it_and_waits(
    client: Wire, held: tuple[str, list[pb.Delivery]]
) -> None:
    session_id, (one, *_) = held
    stranger = await client.session()

    (refused,) = await claimed(stranger, claim_of(one))
    assert (True, 0) == (refused.is_late, refused.token)
    assert not stranger.has(pb.Delivery)
    session = await client.session(session_id)
    await claimed(session, credit_count=0)

    assert b"00" in values_of(await stranger.delivery())


async def test_what_came_again_before_the_node_stopped_is_told_as_late_not_as_settled(
    tmp_path: Path,
) -> None:
    """
    A client takes a claim that is neither granted nor late for settled, and an outcome that was
    not answered for done. Of a lease that had ended, nothing is settled.
    """
    async with (
        Broker(data=tmp_path, session_grace_ms=GRACE_MS) as broker,
        wire(broker) as before,
    ):
        await before.create("t")
        session = await before.session()
        await session.subscribe("t")
        await before.produce("t", b"a")
        first = await session.delivery()
        await session.outcome(first, pb.OUTCOME_NACK)
        second = await session.delivery()
        session.cut()
    async with (
        Broker(data=tmp_path, session_grace_ms=GRACE_MS) as broker,
        wire(broker) as client,
    ):
        again = await client.session(session.welcome.session_id)
        ended, open_ = await claimed(again, claim_of(first), claim_of(second))

    assert (1, 2) == (first.attempt, second.attempt)
    assert (0, True) == (ended.token, ended.is_late)
    assert open_.token


async def test_as_many_claims_as_the_limit_are_taken_and_no_more(
    client: Wire, held: tuple[str, list[pb.Delivery]]
) -> None:
    session_id, (one, *_) = held
    session = await client.session(session_id)
    many = [claim_of(one)] * limits.CLAIM_COUNT_MAX

    await session.subscribe("t", claims=[*many, claim_of(one)])
    refused = await session.take(pb.Subscribed)
    replies = await claimed(session, *many)

    assert ("INVALID", "count of claims") == (refused.error.reason, refused.error.field)
    assert str(limits.CLAIM_COUNT_MAX) in refused.error.message
    assert len(many) == len(replies)
    assert replies[0].token


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"run_count": []}, "run"),
        ({"run_count": [2, 1]}, "run"),
        ({"run_due_ms": [-5]}, "run_due_ms"),
        ({"run_count": [20_000]}, "count of messages"),
        ({"places": [1]}, "places"),
        ({"places": [5, 5]}, "places"),
        ({"partition_number": 9}, "partition_number"),
    ],
)
async def test_a_claim_that_is_none_is_refused_and_leaves_the_rest_alone(
    client: Wire, held: tuple[str, list[pb.Delivery]], fields: dict[str, Any], field: str
) -> None:
    session_id, (one, *_) = held
    session = await client.session(session_id)
    wrong = claim_of(one)
    for name, value in fields.items():
        if isinstance(value, list):
            wrong.ClearField(name)
            getattr(wrong, name).extend(value)
        else:
            setattr(wrong, name, value)

    await session.subscribe("t", claims=[wrong])
    refused = await session.take(pb.Subscribed)
    (good,) = await claimed(session, claim_of(one))

    assert ("INVALID", field) == (refused.error.reason, refused.error.field)
    assert good.token


async def test_who_has_left_is_not_waited_for(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with Broker(data=data, session_grace_ms=GRACE_MS) as broker, wire(broker) as client:
        await client.create("t")
        await client.produce("t", b"x")
        for leave in ("unsubscribe", "goodbye"):
            session = await client.session()
            await session.subscribe("t", credit_count=0)
            await session.take(pb.Subscribed)
            if leave == "goodbye":
                await session.send(is_goodbye=True)
                await session.ended()
            else:
                await session.send(unsubscribes=[pb.Unsubscribe(subscription_id=1)])
                await session.take(pb.SubscriptionEnded)

    async with Broker(data=data, session_grace_ms=GRACE_MS) as broker, wire(broker) as client:
        session = await client.session()
        await session.subscribe("t")
        assert [b"x"] == values_of(await session.delivery())
