"""Laws of KV topics: the order of keys, and a partition against a dict."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sandglass.core import entry, keys
from sandglass.core.keyvalue import admit_delete, admit_put
from sandglass.core.message import Entries, EntryKey
from tests.unit.core.drive import Drive

TRICKY = st.lists(
    st.sampled_from([b"\0", b"\1", b"\xfe", b"\xff", b"/", b"a", b"\0\xff", b"\0\0"]),
    max_size=6,
).map(b"".join)
PARTS = TRICKY | st.binary(max_size=12)
KEYS = st.tuples(PARTS.filter(bool), PARTS)
FEW_KEYS = st.tuples(
    st.sampled_from([b"a", b"ab", b"a\0", b"\0"]), st.sampled_from([b"", b"\0", b"b"])
)


@given(KEYS, KEYS)
def test_the_order_of_rows_is_the_order_of_keys(one: EntryKey, other: EntryKey) -> None:
    prefix = keys.entries_prefix(1, "master")
    first, second = keys.entry_key(prefix, one), keys.entry_key(prefix, other)

    assert (one < other) == (first < second)
    assert (one == other) == (first == second)


@given(KEYS)
def test_a_key_comes_back_out_of_its_row(key: EntryKey) -> None:
    prefix = keys.entries_prefix(7, "side")

    row_key = keys.entry_key(prefix, key)

    assert key == keys.entry_of(prefix, row_key)
    assert prefix <= row_key < keys.after_prefix(prefix)


@given(st.text(min_size=1, max_size=5, alphabet="ab"), st.text(max_size=5, alphabet="ab"), KEYS)
def test_no_channel_holds_a_key_of_another(one: str, other: str, key: EntryKey) -> None:
    if one == other:
        return

    row_key = keys.entry_key(keys.entries_prefix(1, one), key)

    assert not row_key.startswith(keys.entries_prefix(1, other))


@given(st.data())
def test_a_partition_holds_what_a_dict_would(data: Any) -> None:
    """Also while records are on their way, and for a new leader."""
    drive, model = Drive(), dict[EntryKey, tuple[int, bytes]]()
    index = 0

    for step in range(data.draw(st.integers(1, 12))):
        wanted = data.draw(st.lists(FEW_KEYS, min_size=1, max_size=4))
        if data.draw(st.booleans()):
            messages = [b"%d-%d" % (step, n) for n in range(len(wanted))]
            batch = Entries(wanted, messages, 1)
            record, placed = admit_put(
                drive.partition, "master", batch, drive.moment, drive.store
            )
            assert index + 1 == placed.first_index
            for key, message in zip(wanted, messages, strict=True):
                index += 1
                model[key] = (index, message)
            drive.apply(record)
        else:
            record, removed = admit_delete(drive.partition, "master", wanted, drive.moment)
            drive.apply(record)
            existed = [model.pop(key, None) is not None for key in wanted]
            assert (index + 1, existed) == (removed.first_revision, removed.existed)
            index += len(wanted)
        drive.go(data.draw(st.integers(0, 2)))
        if data.draw(st.booleans()):
            drive.restart()

    found = list(entry.scan(1, "master", (b"", b""), None, drive.store))
    assert sorted(model) == [each.key for each in found]
    assert model == {each.key: (each.revision, each.message) for each in found}
    for key in set(model) | {(b"a", b""), (b"\0", b"b")}:
        one = entry.find(1, "master", key, drive.store)
        assert model.get(key) == (None if one is None else (one.revision, one.message))
    first, end = sorted([data.draw(FEW_KEYS), data.draw(FEW_KEYS)])
    ranged = [each.key for each in entry.scan(1, "master", first, end, drive.store)]
    assert [key for key in sorted(model) if first <= key < end] == ranged
