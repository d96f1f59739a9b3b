"""What goes to the client of a session, gathered into frames."""

import asyncio

import pytest

from sandglass.broker.outgoing import Outgoing
from sandglass.core import limits
from sandglass.rpc.outbox import ITEM_BYTES, Outbox
from sandglass.wire.v1 import broker_pb2 as pb


@pytest.fixture
def outgoing() -> Outgoing:
    return Outgoing()


@pytest.fixture
def outbox(outgoing: Outgoing) -> Outbox:
    return Outbox(outgoing.flow("connection"))


def _reply(request_id: int) -> pb.OutcomeReply:
    return pb.OutcomeReply(request_id=request_id)


def _delivery(token: int, size_bytes: int = 10) -> pb.Delivery:
    return pb.Delivery(token=token, batch=b"x" * size_bytes)


def _frames(outbox: Outbox) -> list[pb.ServerFrame]:
    frames: list[pb.ServerFrame] = []
    while (frame := outbox.next_frame()) is not None:
        frames.append(frame)
        outbox.written()
    return frames


def test_all_that_fits_shares_a_frame(outbox: Outbox) -> None:
    outbox.deliver(_delivery(7))
    outbox.answer(_reply(1))
    outbox.answer(pb.ProduceReply(request_id=2))
    outbox.end(pb.SubscriptionEnded(subscription_id=3))

    (frame,) = _frames(outbox)

    assert [1] == [reply.request_id for reply in frame.outcomes]
    assert [2] == [reply.request_id for reply in frame.produces]
    assert [7] == [delivery.token for delivery in frame.deliveries]
    assert [3] == [ended.subscription_id for ended in frame.ended]
    assert outbox.next_frame() is None


def test_a_frame_is_cut_between_answers(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = _reply(1).ByteSize() + ITEM_BYTES
    monkeypatch.setattr(limits, "FRAME_BYTES_MAX", 2 * size_bytes)
    for request_id in (1, 2, 3):
        outbox.answer(_reply(request_id))
    was_full = outbox.is_full

    found = [[reply.request_id for reply in frame.outcomes] for frame in _frames(outbox)]

    assert [[1, 2], [3]] == found
    assert was_full
    assert not outbox.is_full


def test_an_end_is_told_after_all_that_was_handed_out(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_BYTES_MAX", 100)
    outbox.end(pb.SubscriptionEnded(subscription_id=3))
    for token in (1, 2):
        outbox.deliver(_delivery(token, size_bytes=90))

    frames = _frames(outbox)

    assert [[1], [2]] == [[each.token for each in frame.deliveries] for frame in frames]
    assert [0, 1] == [len(frame.ended) for frame in frames]


def test_deliveries_count_as_held_until_they_are_written(
    outbox: Outbox, outgoing: Outgoing
) -> None:
    outbox.deliver(_delivery(1, size_bytes=30))
    held = [outgoing.size_bytes]

    outbox.next_frame()
    outbox.deliver(_delivery(2, size_bytes=5))
    held.append(outgoing.size_bytes)
    outbox.written()
    held.append(outgoing.size_bytes)
    outbox.drop_deliveries()

    assert [30, 35, 5, 0] == [*held, outgoing.size_bytes]


def test_what_is_held_is_told_after_the_welcome_in_frames_of_its_own(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OPEN_LEASE_COUNT_MAX", 2)
    leases = [pb.OpenLease(token=token) for token in range(5)]

    outbox.welcome(pb.Welcome(session_id="s"), leases)
    first, second, third = _frames(outbox)

    assert ("s", 5) == (first.welcome.session_id, first.welcome.open_lease_count)
    assert [0, 1] == [lease.token for lease in first.welcome.open_leases]
    assert [[2, 3], [4]] == [
        [lease.token for lease in frame.open_leases] for frame in (second, third)
    ]


async def test_who_sends_more_waits_until_the_full_frames_are_taken(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAME_BYTES_MAX", 1)
    for request_id in (1, 2):
        outbox.answer(_reply(request_id))
    waiting = asyncio.create_task(outbox.until_room())
    await asyncio.sleep(0)
    was_waiting = not waiting.done()

    outbox.next_frame()
    await waiting

    assert was_waiting
