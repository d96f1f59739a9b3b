"""When a tail lets another consumer of the engine go on, and when it leaves it be."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sandglass.adapters.nats import Connection
from sandglass.adapters.tail import Found, Tail

DEADLINE_S = 60.0


class Subscription:
    async def unsubscribe(self) -> None:
        pass


@dataclass
class Engines:
    """Consumers on one engine after the other, each told what is sent to it."""

    places: list[str]
    made: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    deliver: Callable[[Any], Awaitable[None]] | None = None
    name: str = "here"
    engines: dict[str, str] = field(default_factory=dict[str, str])
    tails: set[Tail] = field(default_factory=set[Tail])
    is_up: bool = True
    pending: int = 0
    """What a consumer that is made has to tell."""

    @property
    def client(self) -> "Engines":
        return self

    def new_inbox(self) -> str:
        return "inbox"

    async def subscribe(self, inbox: str, *, cb: Any, pending_bytes_limit: int) -> Subscription:
        del inbox, pending_bytes_limit
        self.deliver = cb
        return Subscription()

    async def publish(self, subject: str) -> None:
        pass

    async def call(self, subject: str, request: Any, *, tries_s: Any) -> dict[str, Any]:
        del subject, tries_s
        self.made.append(request["config"])
        place = self.places.pop(0) if len(self.places) > 1 else self.places[0]
        cluster = {"leader": place}
        return {"name": f"c{len(self.made)}", "cluster": cluster, "num_pending": self.pending}

    heard = Connection.heard

    async def send(self, sequence: int, delivered: int) -> None:
        assert self.deliver is not None
        reply = f"$JS.ACK.s.c.1.{sequence}.{delivered}.1.0"
        await self.deliver(SimpleNamespace(data=b"x", headers={}, reply=reply, subject="s"))

    async def beat(self, delivered: int) -> None:
        assert self.deliver is not None
        headers = {"Status": "100", "Nats-Last-Consumer": str(delivered)}
        await self.deliver(SimpleNamespace(data=b"", headers=headers, reply="", subject="s"))


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandglass.adapters.tail.AGAIN_S", 0.01)


async def opened(engines: Engines, found: list[int]) -> Tail:
    async def on_found(each: Found) -> None:
        found.append(each.sequence)

    tail = Tail(cast(Connection, engines), "s", on_found, heartbeat_s=3600.0)
    await tail.open()
    return tail


async def until(check: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not check():
            await asyncio.sleep(0.001)


async def some_passes() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_tail_leaves_an_engine_that_goes_and_one_that_begins_anew() -> None:
    engines = Engines(["a", "b"], engines={"a": "1", "b": "1"})
    tail = await opened(engines, [])
    engines.heard({"a": "", "b": "1"})
    await until(lambda: len(engines.made) == 2)
    engines.heard({"a": "2", "b": "1"})  # what lies on another stays
    await some_passes()
    before = len(engines.made)

    engines.heard({"a": "2", "b": "2"})
    await until(lambda: len(engines.made) == 3)
    await tail.close()

    assert before == 2
    assert not engines.tails


async def test_a_tail_that_comes_to_lie_on_a_going_engine_tries_again() -> None:
    engines = Engines(["a", "a", "a", "b"], engines={"a": "1", "b": "1"})
    tail = await opened(engines, [])

    engines.heard({"a": "", "b": "1"})
    await until(lambda: len(engines.made) == 4)
    await some_passes()
    await tail.close()

    assert len(engines.made) == 4


async def test_an_engine_of_which_nothing_is_heard_is_believed() -> None:
    engines = Engines(["elsewhere"])
    tail = await opened(engines, [])

    engines.heard({"a": "", "b": "1"})
    await some_passes()
    await tail.close()

    assert len(engines.made) == 1


@pytest.mark.parametrize("sign", ["gap", "heartbeat"])
async def test_what_was_left_out_is_read_by_another_consumer(sign: str) -> None:
    engines, found = Engines(["a"]), list[int]()
    tail = await opened(engines, found)
    await engines.send(1, 1)
    await engines.beat(1)
    await some_passes()
    before = len(engines.made)

    await (engines.send(3, 3) if sign == "gap" else engines.beat(2))
    await until(lambda: len(engines.made) == 2)
    await engines.send(2, 1)
    await engines.send(3, 2)
    await tail.close()

    assert before == 1
    assert engines.made[1]["opt_start_seq"] == 2
    assert found == [1, 2, 3]


@pytest.mark.parametrize("places", [["a", "b", "here"], ["a"]])
async def test_what_much_comes_through_moves_to_the_engine_of_its_node_if_it_can(
    places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandglass.adapters.tail.MOVE_BYTES", 2)
    monkeypatch.setattr("sandglass.adapters.tail.MOVE_COUNT", 4)
    count = len(places) if len(places) > 1 else 1 + 4
    engines, found = Engines([*places]), list[int]()
    tail = await opened(engines, found)
    for made in range(1, count):
        await engines.send(len(found) + 1, 1)
        assert len(engines.made) == made
        await engines.send(len(found) + 1, 2)
        await until(lambda: len(engines.made) == made + 1)  # noqa: B023  # called at once

    for delivered in range(1, 10):
        await engines.send(len(found) + 1, delivered)
        await some_passes()
    await tail.close()

    assert len(engines.made) == count
    assert found == [*range(1, 2 * (count - 1) + 10)]


async def test_a_consumer_that_has_something_to_tell_and_does_not_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was made on an engine that had just gone. One that has nothing to tell is left be."""
    monkeypatch.setattr("sandglass.adapters.tail.FIRST_S", 0.01)
    engines, found = Engines(["a"], pending=3), list[int]()
    tail = await opened(engines, found)
    await until(lambda: len(engines.made) == 3)
    await engines.send(1, 1)
    count = len(engines.made)
    engines.pending = 0
    tail.suspect()
    await until(lambda: len(engines.made) == count + 1)
    patience_s = tail._patience_s
    await tail.close()

    assert patience_s == 3600.0
    assert found == [1]
    assert len(engines.made) == count + 1


async def test_a_tail_that_is_closed_is_not_made_again() -> None:
    engines = Engines(["a"], engines={"a": "1"})
    tail = await opened(engines, [])
    await tail.close()

    engines.heard({"a": ""})
    await tail.anew()

    assert len(engines.made) == 1
