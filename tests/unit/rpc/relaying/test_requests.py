"""Answers to a request in parts, and what waits for a leader."""

import pytest

from sandglass.errors import BusyError, NotLeaderError, SandglassError, UnavailableError
from sandglass.rpc.relaying.requests import (
    WAITING_BYTES_MAX,
    Gathering,
    Waitings,
    may_go_elsewhere,
    refusal,
)
from sandglass.rpc.relaying.upstream import Waiting
from sandglass.wire.splitting import RequestPart
from sandglass.wire.v1 import broker_pb2 as pb

NOBODY = NotLeaderError("nobody leads it", retry_after_ms=100)


def placed(partition: str, count: int) -> pb.ProduceReply:
    item = pb.Placed(partition=partition, first_index=1, run_due_ms=[1], run_count=[count])
    return pb.ProduceReply(request_id=55, placed=[item])


def gathering_of(
    *places: list[int] | None,
) -> tuple[Gathering, list[RequestPart], list[pb.ProduceReply]]:
    parts = [RequestPart(n, each, pb.ProduceRequest()) for n, each in enumerate(places)]
    told: list[pb.ProduceReply] = []
    return Gathering(9, parts, told.append), parts, told


def test_the_answer_has_each_part_with_its_places_in_the_request() -> None:
    gathering, parts, told = gathering_of([0, 2], [1])

    gathering.part(parts[1])(placed("p1", 1))
    assert told == []
    gathering.part(parts[0])(placed("p0", 2))

    [reply] = told
    assert reply.request_id == 9
    assert {each.partition: list(each.request_places) for each in reply.placed} == {
        "p0": [0, 2],
        "p1": [1],
    }


def test_an_error_of_one_part_says_that_others_were_taken() -> None:
    gathering, parts, told = gathering_of([0], [1])

    gathering.part(parts[0])(placed("p0", 1))
    gathering.part(parts[1])(refusal(55, NOBODY))

    [reply] = told
    assert list(reply.placed) == []
    assert (reply.error.reason, reply.error.is_result_unknown) == ("NOT_LEADER", True)
    assert "1 of the request's 2 atoms were appended" in reply.error.message


def test_when_no_part_was_taken_the_result_is_known() -> None:
    gathering, parts, told = gathering_of([0], [1])

    for part in parts:
        gathering.part(part)(refusal(55, NOBODY))

    assert not told[0].error.is_result_unknown


def test_the_error_of_a_whole_request_goes_through() -> None:
    gathering, parts, told = gathering_of(None)

    gathering.part(parts[0])(refusal(55, UnavailableError("broke", is_result_unknown=True)))

    assert told[0].error.message == "broke"
    assert told[0].error.is_result_unknown


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NOBODY, True),
        (UnavailableError("stopping"), True),
        (UnavailableError("broke", is_result_unknown=True), False),
        (BusyError("full"), False),
    ],
)
def test_only_what_was_surely_not_taken_goes_elsewhere(
    error: SandglassError, expected: bool
) -> None:
    assert may_go_elsewhere(refusal(1, error)) is expected
    assert not may_go_elsewhere(placed("p", 1))


def waiting_of(
    number: int, until_ms: int, told: list[pb.ProduceReply], *, size_bytes: int = 10
) -> Waiting:
    request = pb.ProduceRequest(request_id=until_ms, batch=bytes(size_bytes))
    return Waiting(request, number, until_ms, told.append)


def test_what_waits_is_taken_in_line() -> None:
    waitings, told = Waitings(), []
    for number in (1, 2, 3):
        waitings.add(waiting_of(7, number, told))

    assert [each.until_ms for each in waitings.take(7)] == [1, 2, 3]
    assert not waitings


def test_what_waits_for_too_long_is_refused_and_the_rest_stays_in_line() -> None:
    waitings = Waitings()
    told: list[pb.ProduceReply] = []
    for until_ms in (300, 100, 200):
        waitings.add(waiting_of(7, until_ms, told))

    waitings.expire(100, lambda _: NOBODY)

    assert [(each.request_id, each.error.reason) for each in told] == [(100, "NOT_LEADER")]
    assert [each.until_ms for each in waitings.take(7)] == [300, 200]


def test_no_more_waits_than_there_is_room_for() -> None:
    waitings = Waitings()
    told: list[pb.ProduceReply] = []
    waitings.add(waiting_of(1, 1, told, size_bytes=WAITING_BYTES_MAX))

    with pytest.raises(BusyError):
        waitings.add(waiting_of(2, 2, told, size_bytes=1))
    waitings.take(1)
    waitings.add(waiting_of(2, 2, told, size_bytes=1))
