"""The client on KV topics, with a real node."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from sandglass import (
    AsyncClient,
    Client,
    InvalidError,
    Message,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from sandglass.core import limits
from sandglass.testing import Broker


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    """With a KV topic `ages` of three partitions, and a timer topic `plain`."""
    async with Broker() as broker, AsyncClient(broker.address) as connected:
        await connected.create_topic("ages", kind="kv", partitions=3)
        await connected.create_topic("plain")
        yield connected


async def test_what_was_put_is_got_until_it_is_deleted(client: AsyncClient) -> None:
    first = await client.put("ages", "ada", "36", headers={"unit": "years"}, id="mine")
    entry = await client.get("ages", "ada")

    assert entry is not None
    assert (b"ada", b"", b"36") == (entry.key, entry.clustering_key, entry.value)
    assert (first.index, first.offset, first.due_at) == (
        entry.revision,
        entry.offset,
        entry.produced_at,
    )
    assert ({"unit": b"years"}, "mine") == (entry.headers, entry.id)
    assert await client.has("ages", b"ada")
    second = await client.put("ages", b"ada", b"37")
    assert second.index > first.index
    assert await client.delete("ages", "ada")
    assert not await client.delete("ages", "ada")
    assert await client.get("ages", "ada") is None
    assert not await client.has("ages", "ada")


async def test_clustering_keys_channels_and_partitions_are_kept_apart(
    client: AsyncClient,
) -> None:
    receipt = await client.put("ages", "ada", "one", clustering_key="1")
    await client.put("ages", "ada", "two", clustering_key="1", channel="side")

    assert not await client.has("ages", "ada")
    entry = await client.get("ages", "ada", clustering_key="1", partition=receipt.partition)
    assert entry is not None
    assert b"one" == entry.value
    entry = await client.get("ages", "ada", clustering_key="1", channel="side")
    assert entry is not None
    assert b"two" == entry.value
    others = {each.id for each in (await client.show_topic("ages")).partitions}
    for partition in others - {receipt.partition}:
        assert not await client.has("ages", "ada", clustering_key="1", partition=partition)


async def test_producing_is_putting(client: AsyncClient) -> None:
    receipt = await client.produce("ages", "36", key="ada")
    summary = await client.produce_many(
        "ages", (Message(str(n), key=f"key-{n % 10}") for n in range(1000))
    )

    assert 1000 == summary.count
    entry = await client.get("ages", "ada")
    assert entry is not None
    assert (receipt.index, b"36") == (entry.revision, entry.value)
    for n in range(10):
        found = await client.get("ages", f"key-{n}")
        assert found is not None
        assert b"%d" % (990 + n) == found.value


async def test_a_scan_gives_every_entry_once_in_the_order_of_keys(client: AsyncClient) -> None:
    await client.produce_many(
        "ages",
        (Message(str(n), key=b"%05d" % n) for n in range(limits.SCAN_ENTRY_COUNT_MAX + 500)),
    )
    parts = [each.id for each in (await client.show_topic("ages")).partitions]

    of_all = [entry.key async for entry in client.scan("ages")]
    of_each = [
        [entry.key async for entry in client.scan("ages", partition=part)] for part in parts
    ]

    assert [*itertools.chain(*of_each)] == of_all
    assert [sorted(keys) for keys in of_each] == of_each
    assert sorted(of_all) == [b"%05d" % n for n in range(limits.SCAN_ENTRY_COUNT_MAX + 500)]


async def test_a_scan_goes_over_pages_that_bytes_end(client: AsyncClient) -> None:
    large = b"v" * (400 * 1024)
    for number in range(5):
        await client.put("ages", "k", large, clustering_key=str(number))

    found = [entry async for entry in client.scan("ages", key="k")]

    assert [b"0", b"1", b"2", b"3", b"4"] == [entry.clustering_key for entry in found]
    assert {large} == {entry.value for entry in found}


async def test_a_scan_by_prefix_finds_what_begins_with_it_and_nothing_else(
    client: AsyncClient,
) -> None:
    keys = [b"a", b"ab", b"abc", b"ac", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xffz"]
    for key in keys:
        await client.put("ages", key, "v")
    await client.put("ages", "ab", "v", channel="side")

    for prefix in [b"", *keys, b"\xff\xff", b"none"]:
        found = sorted([entry.key async for entry in client.scan("ages", prefix=prefix)])
        assert sorted(key for key in keys if key.startswith(prefix)) == found
    assert [b"ab"] == [entry.key async for entry in client.scan("ages", channel="side")]


async def test_a_scan_that_makes_no_sense_is_refused_at_once(client: AsyncClient) -> None:
    with pytest.raises(InvalidError, match="key and prefix are both given"):
        client.scan("ages", key="a", prefix="b")
    with pytest.raises(InvalidError, match="key is 1025 bytes"):
        client.scan("ages", key=b"x" * 1025)
    with pytest.raises(InvalidError, match="prefix is 1025 bytes"):
        client.scan("ages", prefix=b"x" * 1025)
    for wrong, error in (("none", NotFoundError), ("plain", PreconditionError)):
        with pytest.raises(error):
            async for _ in client.scan(wrong):
                pass


def test_threads_scan_as_well() -> None:
    with Broker() as broker, Client(broker.address) as client:
        client.create_topic("ages", kind="kv", partitions=2)
        client.produce_many(
            "ages", [Message("v", key=f"key-{number}") for number in range(1500)]
        )

        found = [entry.key for entry in client.scan("ages", prefix="key-1")]

        assert sorted(f"key-{n}".encode() for n in range(1500) if str(n)[0] == "1") == sorted(
            found
        )
        with pytest.raises(InvalidError):
            client.scan("ages", key="a", prefix="b")


async def test_what_is_no_kv_topic_or_no_key_is_refused(client: AsyncClient) -> None:
    for call in (client.get, client.has, client.delete):
        with pytest.raises(NotFoundError):
            await call("none", "k")
        with pytest.raises(PreconditionError, match="only with a KV topic"):
            await call("plain", "k")
        for wrong, field in (("", "key"), ("x" * 1025, "key")):
            with pytest.raises(InvalidError) as caught:
                await call("ages", wrong)
            assert field == caught.value.field
        with pytest.raises(InvalidError, match="clustering_key is 1025 bytes"):
            await call("ages", "k", clustering_key=b"x" * 1025)
        with pytest.raises(InvalidError, match="give bytes or str"):
            await call("ages", 5)  # pyright: ignore[reportArgumentType] - what is tested
    with pytest.raises(PreconditionError):
        await client.put("plain", "k", "v")
    with pytest.raises(InvalidError, match="value is"):
        await client.put("ages", "k", b"x" * (limits.VALUE_BYTES_MAX + 1))
    with pytest.raises(InvalidError, match="no time of its own"):
        await client.produce("ages", "v", key="k", delay=timedelta(seconds=1))
    with pytest.raises(InvalidError, match="ErrNoKeySet"):
        await client.produce("ages", "v")
    with pytest.raises(PreconditionError, match="KV topic"):
        async for _ in client.consume("ages", group="g"):
            pass


async def test_a_value_at_its_limit_goes_both_ways(client: AsyncClient) -> None:
    top = b"x" * limits.KEY_BYTES_MAX
    value = b"v" * limits.VALUE_BYTES_MAX

    await client.put("ages", top, value, clustering_key=top)

    entry = await client.get("ages", top, clustering_key=top)
    assert entry is not None
    assert value == entry.value


async def test_entries_outlive_the_node() -> None:
    broker = Broker()
    async with broker:
        async with AsyncClient(broker.address) as client:
            await client.create_topic("ages", kind="kv")
            await client.put("ages", "ada", "36")
        await broker.stop()
        await broker.start()
        async with AsyncClient(broker.address) as client:
            entry = await client.get("ages", "ada")
            assert entry is not None
            assert (1, b"36") == (entry.revision, entry.value)
            await broker.stop()
            with pytest.raises(UnavailableError):
                async with AsyncClient(
                    "127.0.0.1:1", timeout=timedelta(milliseconds=200)
                ) as nobody:
                    await nobody.get("ages", "ada")


async def test_the_synchronous_client_has_the_same_calls(client: AsyncClient) -> None:
    """In a thread, beside the asynchronous one."""
    [address] = client._endpoint.addresses

    def use() -> None:
        with Client(address) as threaded:
            receipt = threaded.put("ages", "ada", "36", clustering_key="age")
            entry = threaded.get("ages", "ada", clustering_key="age")
            assert entry is not None
            assert (receipt.index, b"36") == (entry.revision, entry.value)
            assert threaded.has("ages", "ada", clustering_key="age")
            assert threaded.delete("ages", "ada", clustering_key="age")
            assert threaded.get("ages", "ada", clustering_key="age") is None

    await asyncio.to_thread(use)
