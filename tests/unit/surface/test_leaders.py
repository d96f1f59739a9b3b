"""Calls of which the partitions move to other logs while they are asked."""

from typing import cast

import pytest
from google.protobuf.message import Message

from sandglass.broker.loops import Loops
from sandglass.core.topic import PartitionRef
from sandglass.errors import NotLeaderError
from sandglass.surface.keyvalue import GET
from sandglass.surface.leaders import Leaders, Peers
from sandglass.wire.v1 import keyvalue_pb2, raw_pb2

BEFORE = [PartitionRef("p", 5), PartitionRef("q", 6)]
AFTER = {"p": PartitionRef("p", 7), "q": PartitionRef("q", 8)}


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
