"""Which outcomes are settled together."""

from typing import Any

import pytest

from sandglass.core import limits
from sandglass.rpc.outcomes import TOGETHER_COUNT_MAX, alike, all_places
from sandglass.wire.v1 import broker_pb2 as pb


def _nack(place: int, **fields: Any) -> pb.Outcome:
    given = {"token": 5, "subscription_id": 1, "places": [place, 1], **fields}
    return pb.Outcome(request_id=place + 1, kind=pb.OUTCOME_NACK, **given)


def test_neighbours_that_differ_in_request_and_places_alone_go_together() -> None:
    items = [_nack(0), _nack(1), _nack(4)]

    assert [items] == [*alike(items)]
    assert [(0, 1), (1, 1), (4, 1)] == all_places(items)


@pytest.mark.parametrize(
    "fields",
    [
        {"token": 6},
        {"subscription_id": 2},
        {"partition_number": 1},
        {"delay_ms": 0},
        {"reason": "other"},
        {"places": []},
    ],
)
def test_what_says_something_else_goes_by_itself(fields: dict[str, Any]) -> None:
    items = [_nack(0), _nack(1, **fields), _nack(2)]

    assert [[0], [1], [2]] == [[item.request_id - 1 for item in some] for some in alike(items)]


def test_all_that_is_open_is_settled_alone_each_time() -> None:
    items = [_nack(0, places=[]), _nack(1, places=[])]

    assert [[items[0]], [items[1]]] == [*alike(items)]
    assert [] == all_places(items[:1])


def test_no_more_go_together_than_a_session_takes_at_a_time() -> None:
    items = [_nack(place) for place in range(TOGETHER_COUNT_MAX + 1)]

    assert [TOGETHER_COUNT_MAX, 1] == [len(some) for some in alike(items)]


def test_a_frame_of_as_many_open_leases_as_may_be_is_small_enough() -> None:
    largest = pb.OpenLease(
        subscription_id=(1 << 64) - 1, partition_number=(1 << 32) - 1, token=(1 << 64) - 1
    )

    frame = pb.ServerFrame(open_leases=[largest] * limits.OPEN_LEASE_COUNT_MAX)

    assert frame.ByteSize() < limits.FRAME_BYTES_MAX
