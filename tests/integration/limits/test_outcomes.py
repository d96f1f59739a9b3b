"""Outcomes, leases and dead letters at their limits."""

from typing import Any

import pytest

from sandglass.core import limits
from sandglass.wire.v1 import admin_pb2
from sandglass.wire.v1 import broker_pb2 as pb
from tests.integration.limits.asking import (
    Neighbour,
    assert_named,
    consume,
    raise_error,
    refused_by,
)
from tests.integration.limits.surfaces import (
    SURFACES,
    Http,
    Place,
    Refused,
    code_name,
    refusal_of,
)


async def leased(place: Place, count: int = 1, **fields: Any) -> pb.Delivery:
    """So many messages under one lease, by calls."""
    raw = b"\x0a\x00" * count
    request = pb.ProduceRequest(topic=place.topic, batch=raw, count=count)
    await place.wire.broker.Produce(request)
    (delivery,) = await consume(place, count_max=count, **fields)
    assert count == delivery.count
    return delivery


async def settle(place: Place, delivery: pb.Delivery, **fields: Any) -> None:
    item = {"token": delivery.token, "kind": pb.OUTCOME_ACK, **fields}
    request = {"topic": place.topic, "group": "g", "outcomes": [pb.Outcome(**item)]}
    reply = await place.wire.broker.Settle(pb.SettleRequest(**request))
    raise_error(reply.outcomes[0].error)


async def settle_by_http(place: Place, delivery: pb.Delivery, **fields: Any) -> None:
    names = {"kind": "kind", "delay_ms": "delayMs", "reason": "reason", "places": "places"}
    item = {names[name]: value for name, value in fields.items()}
    async with SURFACES["http"](place) as http:
        assert isinstance(http, Http)
        body = {"group": "g", "outcomes": [{"token": str(delivery.token), **item}]}
        reply = await http.ask("POST", "/t/settle", json=body)
    if error := reply["outcomes"][0].get("error"):
        raise Refused(code_name(error["code"]), error["message"])


async def settle_on_session(place: Place, delivery: pb.Delivery, **fields: Any) -> None:
    """What the call leased is the group's again, under a lease of the session."""
    await settle(place, delivery, kind=pb.OUTCOME_RELEASE)
    session = await place.wire.session()
    await session.subscribe(place.topic)
    again = await session.delivery()
    reply = await session.outcome(again, fields.pop("kind"), **fields)
    await session.send(is_goodbye=True)
    await session.ended()
    raise_error(reply.error)


OUTCOMES = {
    "calls": settle,
    "session": settle_on_session,
    "http": settle_by_http,
}


@pytest.mark.parametrize("surface", OUTCOMES)
async def test_an_outcome_at_a_limit_is_taken_and_one_beyond_it_changes_nothing(
    place: Place, neighbour: Neighbour, surface: str
) -> None:
    settle_by = OUTCOMES[surface]
    delay_ms, reason = limits.NACK_DELAY_MS_MAX, "é" * (limits.REASON_BYTES_MAX // 2)

    for kind, field, value, limit, beyond in (
        (pb.OUTCOME_NACK, "delay_ms", delay_ms, delay_ms, delay_ms + 1),
        (pb.OUTCOME_DEAD, "reason", reason, limits.REASON_BYTES_MAX, reason + "x"),
    ):
        delivery = await leased(place)
        refused = await refusal_of(settle_by(place, delivery, kind=kind, **{field: beyond}))
        assert_named(refused, field, limit + 1, limit)
        await neighbour.is_served()
        if surface == "session":  # it ended, and gave the message back
            (delivery,) = await consume(place)
        await settle_by(place, delivery, kind=kind, **{field: value})

    listed = await place.wire.admin.ListDeadLetters(
        admin_pb2.ListDeadLettersRequest(topic=place.topic)
    )
    assert [reason] == [letter.reason for letter in listed.letters]
    status = await place.wire.group(place.topic)
    assert (1, 0) == (status.retry_count, status.leased_count)


@pytest.mark.parametrize("surface", ["calls", "http"])
async def test_an_outcome_names_as_many_stretches_as_a_lease_has_messages(
    place: Place, neighbour: Neighbour, surface: str
) -> None:
    most, settle_by = limits.DELIVERY_MESSAGE_COUNT_MAX, OUTCOMES[surface]
    delivery = await leased(place, most)
    each = [number for first in range(most) for number in (first, 1)]
    kind = pb.OUTCOME_ACK

    refused = await refusal_of(settle_by(place, delivery, kind=kind, places=[*each, 0, 1]))
    assert_named(refused, "count of places", most + 1, most)
    await neighbour.is_served()
    await settle_by(place, delivery, kind=kind, places=each)

    assert most == (await place.wire.group(place.topic)).acked_count


async def test_an_outcome_on_a_session_names_as_many_stretches_and_no_more(
    place: Place, neighbour: Neighbour
) -> None:
    most = limits.DELIVERY_MESSAGE_COUNT_MAX
    await place.wire.broker.Produce(
        pb.ProduceRequest(topic=place.topic, batch=b"\x0a\x00" * most, count=most)
    )
    session = await place.wire.session()
    await session.subscribe(place.topic, credit_count=most)
    delivery = await session.delivery()
    each = [number for first in range(most) for number in (first, 1)]

    refused = await session.outcome(delivery, pb.OUTCOME_ACK, places=[*each, 0, 1])
    assert_named(refused_by(refused), "count of places", most + 1, most)
    await neighbour.is_served()
    taken = await session.outcome(delivery, pb.OUTCOME_ACK, places=each)

    assert not taken.HasField("error")
    assert most == (await place.wire.group(place.topic)).acked_count


async def test_a_lease_is_extended_up_to_the_limit(place: Place, neighbour: Neighbour) -> None:
    most = limits.LEASE_MS_MAX
    delivery = await leased(place)

    async def extend(lease_ms: int) -> None:
        item = pb.Extend(token=delivery.token, lease_ms=lease_ms)
        request = pb.ExtendLeasesRequest(topic=place.topic, group="g", extends=[item])
        raise_error((await place.wire.broker.ExtendLeases(request)).extends[0].error)

    async def extend_by_http(lease_ms: int) -> None:
        async with SURFACES["http"](place) as http:
            assert isinstance(http, Http)
            item = {"token": str(delivery.token), "leaseMs": lease_ms}
            reply = await http.ask("POST", "/t/extend", json={"group": "g", "extends": [item]})
        if error := reply["extends"][0].get("error"):
            raise Refused(code_name(error["code"]), error["message"])

    for ask in (extend, extend_by_http):
        await ask(most)
        assert_named(await refusal_of(ask(most + 1)), "lease_ms", most + 1, most)
        await neighbour.is_served()


# --- dead letters -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["RedriveDeadLetters", "PurgeDeadLetters"])
async def test_as_many_dead_letters_are_named_as_a_page_has_and_no_more(
    place: Place, neighbour: Neighbour, call: str
) -> None:
    most = limits.PAGE_COUNT_MAX
    await settle(place, await leased(place, most + 1), kind=pb.OUTCOME_DEAD)
    letters: list[admin_pb2.DeadLetterPlace] = []
    request = admin_pb2.ListDeadLettersRequest(topic=place.topic, page_size=most)
    while not letters or request.page_token:
        page = await place.wire.admin.ListDeadLetters(request)
        letters += [
            admin_pb2.DeadLetterPlace(
                partition=each.letter.partition, offset=each.letter.offset
            )
            for each in page.letters
        ]
        request.page_token = page.next_page_token

    async def take(places: list[admin_pb2.DeadLetterPlace]) -> int:
        wanted = admin_pb2.TakeDeadLettersRequest(topic=place.topic, places=places)
        return (await getattr(place.wire.admin, call)(wanted)).count

    assert_named(await refusal_of(take(letters)), "places", most + 1, most)
    await neighbour.is_served()
    assert most == await take(letters[:most])
