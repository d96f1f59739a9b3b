"""Entries of a KV topic in a partition: put, replaced, deleted, read."""

import pytest

from sandglass.core import entry, keys, limits
from sandglass.core.counting import has_below
from sandglass.core.keyvalue import admit_delete, admit_put
from sandglass.core.message import Entries, Entry, EntryKey, Placed, Removed
from sandglass.core.record import Record
from sandglass.core.retract import retract
from sandglass.errors import BusyError
from tests.unit.core.drive import START_MS, Drive, offset

A, AB, B = (b"a", b""), (b"ab", b""), (b"b", b"")


def entries(*pairs: tuple[EntryKey, bytes]) -> Entries:
    messages = [message for _, message in pairs]
    return Entries([key for key, _ in pairs], messages, sum(map(len, messages)))


def put_later(
    drive: Drive, *pairs: tuple[EntryKey, bytes], channel: str = "master"
) -> tuple[Record, Placed]:
    return admit_put(drive.partition, channel, entries(*pairs), drive.moment, drive.store)


def put(drive: Drive, *pairs: tuple[EntryKey, bytes], channel: str = "master") -> Placed:
    record, placed = put_later(drive, *pairs, channel=channel)
    drive.apply(record)
    return placed


def delete_later(drive: Drive, *wanted: EntryKey) -> tuple[Record, Removed]:
    return admit_delete(drive.partition, "master", list(wanted), drive.moment)


def delete(drive: Drive, *wanted: EntryKey) -> Removed:
    record, removed = delete_later(drive, *wanted)
    drive.apply(record)
    return removed


def find(drive: Drive, key: EntryKey, channel: str = "master") -> Entry | None:
    return entry.find(1, channel, key, drive.store)


def scan(
    drive: Drive, first: EntryKey = (b"", b""), end: EntryKey | None = None
) -> list[EntryKey]:
    return [each.key for each in entry.scan(1, "master", first, end, drive.store)]


def test_what_was_put_last_stands_under_a_key_with_its_revision() -> None:
    drive = Drive()
    put(drive, (A, b"one"))
    drive.go(5)

    placed = put(drive, (A, b"two"))

    assert Placed("P", 2, [START_MS + 5], [1]) == placed
    found = find(drive, A)
    assert Entry(A, 2, START_MS + 5, b"two") == found
    assert found is not None
    assert offset(START_MS + 5, 2) == found.offset


def test_a_key_is_exact_and_so_is_its_clustering_key_and_channel() -> None:
    drive = Drive()
    put(drive, (AB, b"x"), ((b"a", b"b"), b"y"))

    assert find(drive, A) is None
    assert find(drive, (b"ab", b"b")) is None
    assert find(drive, AB, "side") is None
    assert [(b"a", b"b"), AB] == scan(drive)
    asked = [(AB, "master"), (A, "master"), (AB, "side")]
    assert [True, False, False] == [
        entry.holds(1, channel, key, drive.store) for key, channel in asked
    ]


def test_of_equal_keys_in_a_request_the_last_one_stays() -> None:
    drive = Drive()

    put(drive, (A, b"one"), (B, b"other"), (A, b"two"))

    assert Entry(A, 3, START_MS, b"two") == find(drive, A)
    assert 3 == drive.partition.last_index


def test_a_delete_says_what_was_there_and_takes_a_revision_for_each_key() -> None:
    drive = Drive()
    put(drive, (A, b"one"))

    removed = delete(drive, A, B, A)

    assert (2, [True, False, False]) == (removed.first_revision, removed.existed)
    assert find(drive, A) is None
    assert 5 == put(drive, (A, b"two")).first_index


def test_a_delete_on_its_way_counts_what_was_put_before_it() -> None:
    drive = Drive()
    first, _ = put_later(drive, (A, b"one"))
    second, removed = delete_later(drive, A)

    drive.apply(first)
    assert [] == removed.existed
    drive.apply(second)

    assert (2, [True]) == (removed.first_revision, removed.existed)


def test_nothing_is_read_before_it_is_applied() -> None:
    drive = Drive()
    record, _ = put_later(drive, (A, b"one"))

    assert find(drive, A) is None
    assert [] == scan(drive)
    drive.apply(record)
    assert find(drive, A) is not None


def test_a_scan_is_half_open_and_in_order_of_key_then_clustering_key() -> None:
    drive = Drive()
    names = [(b"a", b""), (b"a", b"\0"), (b"a", b"z"), (b"a\0", b""), (b"ab", b""), (b"b", b"")]
    put(drive, *((name, b"x") for name in reversed(names)))

    assert names == scan(drive)
    assert names[1:4] == scan(drive, names[1], names[4])
    assert [] == scan(drive, names[2], names[2])
    assert [] == scan(drive, names[3], names[1])


def test_revisions_and_entries_are_those_of_a_new_leader_too() -> None:
    drive = Drive()
    put(drive, (A, b"one"), (B, b"two"))
    delete(drive, B)
    drive.wall_ms -= 400

    drive.restart()

    assert Entry(A, 1, START_MS, b"one") == find(drive, A)
    assert find(drive, B) is None
    placed = put(drive, (B, b"three"))
    assert Placed("P", 4, [START_MS], [1]) == placed, "now stands still"


def test_a_channel_is_noted_by_a_put_and_not_by_a_delete() -> None:
    drive = Drive()

    delete(drive, A)
    assert [] == drive.partition.channels.names(drive.store)
    put(drive, (A, b"x"), channel="side")

    assert ["side"] == drive.partition.channels.names(drive.store)


def test_channels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    drive = Drive()
    monkeypatch.setattr(limits, "CHANNEL_COUNT_MAX", 1)
    put(drive, (A, b"x"))

    with pytest.raises(BusyError, match="channels"):
        put(drive, (A, b"x"), channel="side")

    put(drive, (A, b"y"))


def test_retention_takes_no_entry() -> None:
    drive = Drive()
    put(drive, (A, b"x"))
    drive.go(1_000_000)

    assert not has_below(drive.partition, offset(drive.wall_ms, 0), drive.store)
    record = drive.partition.admit_cut(offset(drive.wall_ms, 0), drive.moment)
    assert record is not None
    drive.apply(record)

    assert find(drive, A) is not None


def test_entries_go_with_their_topic() -> None:
    assert ord("k") in keys.PARTITION_KINDS


# --- what is taken back -----------------------------------------------------------------------


def test_a_put_that_is_taken_back_gives_its_revisions_to_what_came_after_it() -> None:
    drive = Drive()
    put(drive, (B, b"before"))
    refused, _ = put_later(drive, (A, b"never"), (B, b"never"))
    later, removed = delete_later(drive, A, B)

    moved = retract(drive.partition, [refused])

    assert [id(later)] == list(moved)
    drive.apply(moved[id(later)])
    assert (2, [False, True]) == (removed.first_revision, removed.existed)
    assert 4 == put(drive, (A, b"x")).first_index


def test_what_moves_stays_above_what_is_closed() -> None:
    drive = Drive()
    refused, _ = put_later(drive, (A, b"never"), (B, b"never"))
    later, _ = put_later(drive, (A, b"x"))
    drive.partition.closed = offset(START_MS, 2)

    moved = retract(drive.partition, [refused])

    drive.apply(moved[id(later)])
    assert Entry(A, 1, START_MS + 1, b"x") == find(drive, A)


def test_a_delete_is_carried_out_where_nobody_waits_for_its_answer() -> None:
    """As a replica or a recovery does."""
    drive = Drive()
    put(drive, ((b"k", b""), b"x"))
    record, removed = delete_later(drive, (b"k", b""))
    drive.restart()

    drive.apply(record)

    assert find(drive, (b"k", b"")) is None
    assert removed.existed == []
