"""A node in this process with small bounds, so that tests of limits are short."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sandglass.testing import Broker
from sandglass.web import server
from sandglass.web.bounds import Bounds

PLAIN = Bounds()


@pytest.fixture
def bounds() -> dict[str, Any]:
    """What a test wants other than it is."""
    return {}


@pytest.fixture
async def broker(
    bounds: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Broker]:
    made: Callable[..., Bounds] = lambda: replace(PLAIN, **bounds)  # noqa: E731
    monkeypatch.setattr(server, "Bounds", made)
    async with Broker() as started:
        yield started


@pytest.fixture
async def http(broker: Broker) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://{broker.http_address}", timeout=60
    ) as client:
        yield client


@pytest.fixture
async def path(http: httpx.AsyncClient) -> str:
    """Of the partition of a topic `t`."""
    config = {"name": "t", "numPartitions": 1, "replicationFactor": 1}
    assert 200 == (await http.post("/topics", json=config)).status_code
    return "/topics/t/" + (await http.get("/topics/t")).json()["partitions"][0]
