"""KV topics behind the loop: what is read when, and bad days."""

import asyncio

import pytest

from sandglass.core import limits
from sandglass.core.message import Entries, EntryKey, Removed
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.errors import (
    InternalError,
    NoSpaceError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from tests.unit.broker.shell import Answer, Shell

A, B, C = (b"a", b""), (b"b", b""), (b"c", b"")


class Keys:
    """A KV topic of one partition on a shell."""

    def __init__(self, shell: Shell, topic: Topic) -> None:
        self.shell = shell
        self.topic = topic

    @property
    def ref(self) -> PartitionRef:
        return self.topic.partitions[0]

    def put_later(self, *keys: EntryKey, message: bytes = b"x") -> Answer:
        answer = Answer()
        batch = Entries(list(keys), [message] * len(keys), len(keys))
        self.shell.broker.produce_nowait(self.ref, "", batch, answer.take_placed)
        return answer

    async def put(self, *keys: EntryKey, message: bytes = b"x") -> int:
        answer = self.put_later(*keys, message=message)
        await self.shell.until(lambda: answer.told)
        assert [None] == answer.told
        assert answer.placed is not None
        return answer.placed.first_index

    def delete_later(self, *keys: EntryKey) -> tuple[Removed, Answer]:
        answer = Answer()
        removed = self.shell.broker.keyvalue.delete_nowait(
            self.ref, "", list(keys), answer.take
        )
        return removed, answer

    def find(self, key: EntryKey) -> bytes | None:
        entry = self.shell.broker.keyvalue.find(self.ref, "", key)
        return None if entry is None else entry.message


async def keys_of(shell: Shell, settings: TopicSettings | None = None) -> Keys:
    topic = await shell.broker.catalog.create_topic("kv", kind=TopicKind.KV, settings=settings)
    return Keys(shell, topic)


async def test_a_read_shows_what_was_answered_and_nothing_that_is_not_durable(
    shell: Shell,
) -> None:
    keys = await keys_of(shell)
    await keys.put(A, message=b"one")
    shell.log.hold_sync()
    answer = keys.put_later(A, message=b"two")
    for _ in range(20):
        await asyncio.sleep(0)

    assert (b"one", []) == (keys.find(A), answer.told)
    shell.log.release_sync()
    await shell.until(lambda: answer.told)

    assert b"two" == keys.find(A)


async def test_what_was_answered_is_there_after_a_crash_and_the_rest_is_not(
    shell: Shell,
) -> None:
    """While a sync is held, what comes after it never reaches the log."""
    keys = await keys_of(shell)
    await keys.put(A, message=b"kept")
    shell.log.hold_sync()
    keys.put_later(B)
    for _ in range(20):
        await asyncio.sleep(0)
    lost = keys.put_later(A, message=b"lost")

    await shell.crash()

    assert (b"kept", []) == (keys.find(A), lost.told)
    assert 3 == await keys.put(C)


async def test_a_delete_behind_a_put_that_is_on_its_way_finds_it(shell: Shell) -> None:
    keys = await keys_of(shell)
    keys.put_later(A)

    removed = await shell.broker.keyvalue.delete(keys.ref, "", [A, B])

    assert (2, [True, False]) == (removed.first_revision, removed.existed)
    assert keys.find(A) is None


async def test_on_a_full_disk_puts_are_refused_and_deletes_go_on(shell: Shell) -> None:
    keys = await keys_of(shell)
    await keys.put(A, B)
    shell.log.is_full = True

    put = keys.put_later(C, C)
    removed, answer = keys.delete_later(A, C)
    await shell.until(lambda: answer.told and put.told)

    assert isinstance(put.told[0], NoSpaceError)
    assert (3, [True, False]) == (removed.first_revision, removed.existed)
    with pytest.raises(NoSpaceError):
        keys.put_later(C)
    removed, answer = keys.delete_later(B)
    await shell.until(lambda: answer.told)
    assert (5, [True]) == (removed.first_revision, removed.existed)
    shell.log.is_full = False
    await shell.advance(2000)
    assert 6 == await keys.put(C)


async def test_retention_leaves_a_kv_topic_alone(shell: Shell) -> None:
    keys = await keys_of(shell, TopicSettings(retention_ms=limits.RETENTION_MS_MIN))
    await keys.put(A)

    await shell.advance(10_000)

    assert b"x" == keys.find(A)
    assert 0 == shell.loop.partition(keys.ref.number).cut


async def test_no_group_is_made_on_a_kv_topic(shell: Shell) -> None:
    keys = await keys_of(shell)
    shell.topic = keys.topic

    with pytest.raises(PreconditionError, match="KV topic"):
        await shell.consume()

    assert [] == [each async for each in shell.broker.status.parts(keys.topic)]


async def test_pages_hold_so_many_entries_or_bytes_and_say_where_they_end(
    shell: Shell,
) -> None:
    keys = await keys_of(shell)
    await keys.put(*((b"%02d" % n, b"") for n in range(5)), message=b"x" * 100)

    def page(count_max: int, bytes_max: int) -> tuple[list[bytes], EntryKey | None]:
        entries, after = shell.broker.keyvalue.page(
            keys.ref, "", (b"", b""), None, count_max=count_max, bytes_max=bytes_max
        )
        return [each.key[0] for each in entries], after

    assert ([b"00", b"01"], (b"02", b"")) == page(2, 1000)
    assert ([b"00", b"01"], (b"02", b"")) == page(9, 204)
    assert ([b"00"], (b"01", b"")) == page(9, 203)
    assert ([b"00"], (b"01", b"")) == page(9, 1)
    assert ([b"%02d" % n for n in range(5)], None) == page(5, 1000)


async def test_all_entries_come_though_others_change_meanwhile(shell: Shell) -> None:
    keys = await keys_of(shell)
    wanted = [(b"%04d" % n, b"") for n in range(0, 2 * limits.SCAN_ENTRY_COUNT_MAX + 2, 2)]
    await keys.put(*wanted)

    found: list[EntryKey] = []
    async for entries in shell.broker.keyvalue.entries(keys.ref, ""):
        found += [each.key for each in entries]
        await keys.put((b"%04d" % (2 * len(found) - 5), b""), message=b"behind")

    assert wanted == found


async def test_a_partition_that_stands_still_shows_nothing(shell: Shell) -> None:
    keys = await keys_of(shell)
    await keys.put(A)
    shell.loop.stopped[keys.ref.number] = "partition stands still: says the test"

    with pytest.raises(InternalError):
        keys.find(A)


async def test_a_node_whose_sync_failed_shows_nothing(shell: Shell) -> None:
    keys = await keys_of(shell)
    await keys.put(A)
    shell.log.fail_sync()
    keys.put_later(A)
    await shell.until(lambda: shell.failures)

    with pytest.raises(UnavailableError):
        keys.find(A)


async def test_a_deleted_topic_is_not_found(shell: Shell) -> None:
    keys = await keys_of(shell)
    await keys.put(A)
    number = keys.ref.number

    await shell.broker.catalog.delete_topic("kv")

    with pytest.raises(NotFoundError):
        keys.find(A)
    assert [] == list(shell.loop.view.range(b"k", b"l")), number
