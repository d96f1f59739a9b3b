"""What a client holds of a relayed subscription, as far as a relay knows."""

import pytest

from sandglass.core import limits
from sandglass.rpc.relaying import holdings as module
from sandglass.rpc.relaying.holdings import Holdings
from sandglass.wire.v1 import broker_pb2 as pb

LEASE_MS = 1000


def delivery(token: int, *, place: int = 0, counts: tuple[int, ...] = (6,)) -> pb.Delivery:
    return pb.Delivery(
        partition_number=place,
        token=token,
        attempt=2,
        releases=3,
        generation=4,
        count=sum(counts),
        run_due_ms=[100 * number for number, _ in enumerate(counts)],
        run_first_index=[10 * number + 1 for number, _ in enumerate(counts)],
        run_count=counts,
        lease_ms=LEASE_MS,
    )


def holding(*tokens: int) -> Holdings:
    found = Holdings()
    for token in tokens:
        found.handed_on(delivery(token), 0)
    return found


def claimed(held: Holdings, *places: int, now_ms: int = 0) -> list[pb.Claim]:
    return [each.claim for each in held.to_claim(places or (0,), now_ms)]


def test_a_claim_says_what_the_delivery_said() -> None:
    held = Holdings()
    wire = delivery(7, place=2, counts=(4, 2))
    held.handed_on(wire, 0)

    (claim,) = claimed(held, 2)

    for name in ("partition_number", "token", "attempt", "releases", "generation"):
        assert getattr(wire, name) == getattr(claim, name)
    for name in ("run_due_ms", "run_first_index", "run_count"):
        assert getattr(wire, name) == getattr(claim, name)
    assert [0, 6] == claim.places
    assert [] == claimed(held, 0, 1)


def test_places_with_an_answered_outcome_are_not_claimed() -> None:
    held = holding(1, 2)

    held.settled(0, 1, [1, 2, 5, 1])
    held.settled(0, 2, [])
    held.settled(0, 9, [])

    (claim,) = claimed(held)
    assert [0, 1, 3, 2] == claim.places
    held.settled(0, 1, [0, 1, 3, 2])
    assert 0 == len(held)


def test_what_was_granted_is_held_and_the_rest_is_not() -> None:
    held = holding(1, 2, 3)
    one, two, three = held.to_claim({0}, 0)

    held.answered(one, pb.Claimed(token=70, places=[1, 3], lease_ms=500), 2000)
    held.answered(two, pb.Claimed(), 2000)
    held.answered(three, pb.Claimed(is_late=True), 2000)

    assert [one] == list(held)
    assert ([1, 3], 70, 1, 2500) == (one.places, one.token, one.claim.token, one.ends_ms)


def test_the_next_leader_is_told_the_clients_token_and_lists_its_own() -> None:
    held = holding(1)
    (one,) = held.to_claim({0}, 0)
    held.answered(one, pb.Claimed(token=70, places=[0, 6], lease_ms=LEASE_MS), 0)

    (again,) = claimed(held)

    assert 1 == again.token
    assert {(0, 70): 1} == held.tokens()
    held.renamed(one)
    held.settled(0, 70, [0, 5])
    assert {(0, 70): 70} == held.tokens()
    assert [5, 1] == one.places


def test_what_has_run_out_is_not_claimed_and_what_was_extended_is() -> None:
    held = holding(1, 2)
    held.extended(0, 2, lease_ms=LEASE_MS, begun_count=9, now_ms=1)
    held.extended(0, 2, lease_ms=1, begun_count=2, now_ms=1)
    held.extended(0, 9, lease_ms=1, begun_count=2, now_ms=1)

    (claim,) = claimed(held, now_ms=LEASE_MS)

    assert (2, 6) == (claim.token, claim.begun_count)
    assert 1 == len(held)


def test_no_more_is_claimed_than_one_subscribe_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLAIM_COUNT_MAX", 2)
    held = holding(1, 2, 3)

    assert [1, 2] == [each.token for each in claimed(held)]
    assert 2 == len(held), "the rest is due again"
    monkeypatch.setattr(module, "CLAIM_BYTES_MAX", claimed(held)[0].ByteSize())
    assert [1] == [each.token for each in claimed(held)]


def test_the_clients_own_claims_are_held_for_the_places_that_it_names() -> None:
    held = Holdings()
    item = pb.Claim(token=5, run_due_ms=[1], run_first_index=[1], run_count=[4], places=[1, 2])

    one = held.claimed(item, lease_ms=LEASE_MS, now_ms=0)
    again = held.claimed(item, lease_ms=LEASE_MS, now_ms=0)
    item.token = 6
    item.ClearField("places")
    whole = held.claimed(item, lease_ms=LEASE_MS, now_ms=0)

    assert one is again
    assert ([1, 2], [0, 4]) == (one.places, whole.places)


def test_what_nobody_settles_is_forgotten_when_it_has_run_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SWEEP_COUNT_MIN", 8)
    held = Holdings()

    for number in range(1000):
        held.handed_on(delivery(number), number * LEASE_MS // 4)

    assert len(held) <= module.SWEEP_COUNT_MIN + 8
