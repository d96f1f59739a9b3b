"""Streams that other servers are to hold once one has been taken out of the group."""

from typing import Any, cast

import pytest

from sandglass.adapters.engine_streams import unsettled_count
from sandglass.adapters.nats import Connection

CURRENT = {"current": True}
LATE = {"current": False}
AWAY = {"current": False, "offline": True}


class Engine:
    """It lists two streams a page."""

    def __init__(self, *streams: dict[str, Any], missing: int = 0) -> None:
        self.streams = streams
        self.missing = [f"M{n}" for n in range(missing)]

    async def call(self, subject: str, request: dict[str, int]) -> dict[str, Any]:
        assert subject == "STREAM.LIST"
        offset = request["offset"]
        return {
            "total": len(self.streams),
            "streams": [*self.streams[offset : offset + 2]] or None,
            **({"missing": self.missing} if self.missing and not offset else {}),
        }


def stream(leader: str, replica_count: int, **replicas: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": {"num_replicas": replica_count},
        "cluster": {
            "leader": leader,
            "replicas": [{"name": name, **each} for name, each in replicas.items()],
        },
    }


async def unsettled(engine: Engine, server_count: int = 3) -> int:
    return await unsettled_count(cast(Connection, engine), "gone", server_count)


@pytest.mark.parametrize(
    "settled",
    [
        stream("a", 3, b=CURRENT, c=CURRENT),
        stream("a", 3, b=CURRENT, c=AWAY),
        stream("a", 1),
    ],
)
async def test_streams_that_others_hold_are_not_waited_for(settled: dict[str, Any]) -> None:
    assert 0 == await unsettled(Engine(settled, settled, settled))


async def test_no_more_servers_are_wanted_than_are_left() -> None:
    assert 0 == await unsettled(Engine(stream("a", 3, b=CURRENT)), 2)


@pytest.mark.parametrize(
    "waiting",
    [
        stream("a", 3, b=CURRENT, c=LATE),
        stream("a", 3, b=CURRENT, gone=AWAY),
        stream("gone", 1),
        stream("", 3, b=CURRENT, c=CURRENT),
        stream("a", 3, b=CURRENT),
    ],
)
async def test_streams_that_are_still_brought_to_others_are_counted(
    waiting: dict[str, Any],
) -> None:
    settled = stream("a", 3, b=CURRENT, c=CURRENT)

    assert 2 == await unsettled(Engine(settled, settled, waiting, waiting))


async def test_streams_of_which_nothing_is_heard_are_counted() -> None:
    assert 3 == await unsettled(Engine(stream("a", 1), missing=3))


async def test_an_engine_without_streams_is_settled() -> None:
    assert 0 == await unsettled(Engine())
