"""A real process with a KV topic, killed and stopped while clients put, get and delete."""

import asyncio
import random
from contextlib import suppress
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest

from sandglass import AsyncClient, UnavailableError
from sandglass.testing.linear import Call, explain
from sandglass.testing.process import NodeProcess

CLIENT_COUNT = 4
KEYS = ("a", "ab", "b")
STOP_S_MAX = 60
ROUND_S_MAX = 90


class Clients:
    """What several clients do side by side, and what they were told."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.calls: dict[str, list[Call]] = {key: [] for key in KEYS}
        self.revisions: dict[bytes, int] = {}
        self.is_ending = False
        self._moments = count()
        self._numbers = count(1)

    async def run(self, address: str) -> None:
        """Until `is_ending`, and the node is gone."""
        self.is_ending = False
        await asyncio.gather(*(self._one(address) for _ in range(CLIENT_COUNT)))

    @property
    def count(self) -> int:
        """Calls so far."""
        return sum(map(len, self.calls.values()))

    async def until(self, wanted: int) -> None:
        """So many calls were answered."""
        async with asyncio.timeout(ROUND_S_MAX):
            while self.count < wanted:
                await asyncio.sleep(0.005)

    async def get_all(self, address: str) -> None:
        async with AsyncClient(address) as client:
            for key in KEYS:
                await self._get(client, key)

    async def _one(self, address: str) -> None:
        # A call may come to nothing before the end, too: machines are busy.
        while not self.is_ending:
            with suppress(UnavailableError):
                async with AsyncClient(address, timeout=timedelta(milliseconds=500)) as client:
                    await self._go_on(client)

    async def _go_on(self, client: AsyncClient) -> None:
        while True:
            key = self.chance.choice(KEYS)
            acts = (self._put, self._get, self._delete)
            await self.chance.choices(acts, (4, 5, 1))[0](client, key)

    async def _put(self, client: AsyncClient, key: str) -> None:
        value = b"%d" % next(self._numbers)
        called = next(self._moments)
        try:
            receipt = await client.put("kv", key, value)
        except UnavailableError as error:
            if error.is_result_unknown:
                self.calls[key].append(Call("put", value, called, None))
            raise
        self.calls[key].append(Call("put", value, called, next(self._moments)))
        assert self.revisions.setdefault(value, receipt.index) == receipt.index

    async def _get(self, client: AsyncClient, key: str) -> None:
        called = next(self._moments)
        entry = await client.get("kv", key)
        value = None if entry is None else entry.value
        self.calls[key].append(Call("get", value, called, next(self._moments)))
        if entry is not None:
            assert self.revisions.setdefault(entry.value, entry.revision) == entry.revision

    async def _delete(self, client: AsyncClient, key: str) -> None:
        called = next(self._moments)
        try:
            existed = await client.delete("kv", key)
        except UnavailableError as error:
            if error.is_result_unknown:
                self.calls[key].append(Call("delete", None, called, None))
            raise
        self.calls[key].append(Call("delete", None, called, next(self._moments), existed))


@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_keys_are_linearizable_whatever_becomes_of_the_node(
    tmp_path: Path, end: str
) -> None:
    clients = Clients(seed=7)
    async with NodeProcess(tmp_path / "data") as node:
        async with AsyncClient(node.address) as client:
            await client.create_topic("kv", kind="kv", partitions=2)
        for _ in range(3):
            running = asyncio.create_task(clients.run(node.address))
            await clients.until(clients.count + clients.chance.randint(60, 200))
            clients.is_ending = True
            if end == "kill":
                node.kill()
                await node.wait()
            else:
                node.terminate()
                assert 0 == await node.wait(STOP_S_MAX), node.stderr
            await running
            await node.start()
            await clients.get_all(node.address)

    for key, calls in clients.calls.items():
        problem = explain(calls)
        assert not problem, f"{key}: {problem}"
