"""Calls of which the partitions move to other logs while they are asked."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest
from google.protobuf.message import Message

from sandglass.broker.loops import Loops
from sandglass.broker.node_loop import NodeLoop
from sandglass.broker.shared_catalog import SharedCatalog
from sandglass.core.topic import PartitionRef
from sandglass.errors import NotLeaderError, UnavailableError
from sandglass.surface.keyvalue import GET
from sandglass.surface.leaders import Caller, Leaders, Peers
from sandglass.surface.producing import PRODUCE_COMPATIBLE
from sandglass.wire.compat import sandglass_pb2 as compat
from sandglass.wire.v1 import keyvalue_pb2, raw_pb2

BEFORE = [PartitionRef("p", 5), PartitionRef("q", 6)]
AFTER = {"p": PartitionRef("p", 7), "q": PartitionRef("q", 8)}


class Deaf:
    """The way to nodes of which one never answers, and one refuses."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def call(
        self, address: str, path: str, request: bytes, who: Caller, *, may_wait: bool
    ) -> bytes:
        self.asked.append(address)
        if address == "deaf":
            await asyncio.Event().wait()
        if address == "stopping":
            raise UnavailableError("it stops")
        return b""


async def test_all_are_told_and_who_does_not_answer_is_waited_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sandglass.surface.leaders.TOLD_S", 0.01)
    loops = Loops(cast(NodeLoop, SimpleNamespace()))
    loops.shared = cast(SharedCatalog, object())
    loops.others = lambda: ["other", "deaf", "stopping"]
    peers = Deaf()

    await Leaders(loops, cast(Peers, peers)).tell_all()

    assert ["other", "deaf", "stopping"] == peers.asked


async def test_items_go_where_their_partitions_are_by_their_new_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are refused once, as by a log that is sealed, and known by new numbers then."""
    leaders = Leaders(cast(Loops, object()), cast(Peers, object()))
    monkeypatch.setattr(leaders, "renewed", lambda ref: AFTER[ref.id])
    monkeypatch.setattr(leaders, "address", lambda _: "")
    asked: list[list[int]] = []

    async def here(request: Message) -> raw_pb2.RawEntries:
        asked.append([int(key.key) for key in cast(keyvalue_pb2.GetRequest, request).keys])
        if len(asked) == 1:
            raise NotLeaderError("it is on its way to another log")
        return raw_pb2.RawEntries()

    def make(places: list[int]) -> keyvalue_pb2.GetRequest:
        return keyvalue_pb2.GetRequest(
            keys=[keyvalue_pb2.Key(key=b"%d" % place) for place in places]
        )

    refs = [BEFORE[0], BEFORE[1], BEFORE[0]]
    found = await leaders.ask_items(GET, refs, make, here)

    assert [[0, 1, 2]] == [places for places, _ in found]
    assert [[0, 1, 2], [0, 1, 2]] == asked


async def test_what_may_have_been_carried_out_in_part_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of several atoms was refused by a log that is sealed, and the others were taken."""
    leaders = Leaders(cast(Loops, object()), cast(Peers, object()))
    monkeypatch.setattr(leaders, "renewed", lambda ref: AFTER[ref.id])
    monkeypatch.setattr(leaders, "address", lambda _: "")
    asked: list[Message] = []

    async def here(request: Message) -> compat.ProduceResponse:
        asked.append(request)
        raise NotLeaderError("1 of 2 atoms were appended", is_result_unknown=True)

    def make(places: list[int]) -> compat.ProduceMessageRequest:
        return compat.ProduceMessageRequest(topic="t")

    with pytest.raises(UnavailableError, match="1 of 2 atoms") as several:
        await leaders.ask_items(PRODUCE_COMPATIBLE, BEFORE, make, here)
    with pytest.raises(NotLeaderError, match="1 of 2 atoms"):
        await leaders.again(lambda: here(make([])))

    assert several.value.is_result_unknown
    assert 2 == len(asked)
