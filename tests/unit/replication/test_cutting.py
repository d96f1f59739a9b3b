import pytest

from sandglass.core import keys, limits
from sandglass.core.view import Row
from sandglass.replication.cutting import CutPart, Cutter
from sandglass.replication.snapshot import decode_part
from tests.unit.replication.library import view

TARGET = 4096


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_PART_BYTES_TARGET", TARGET)


def cut(rows: dict[bytes, bytes], slice_count: int = 7) -> list[CutPart]:
    cutter, ordered = Cutter(), sorted(rows.items())
    parts: list[CutPart] = []
    for at in range(0, len(ordered), slice_count):
        parts += cutter.take(ordered[at : at + slice_count])
    return parts + cutter.end()


def rows_in(parts: list[CutPart]) -> list[Row]:
    return [row for part in parts for row in decode_part(part.raw)]


def test_parts_hold_all_rows_in_order() -> None:
    rows = view(1000)
    parts = cut(rows)

    assert sorted(rows.items()) == rows_in(parts)
    assert [part.low for part in parts] == [decode_part(part.raw)[0][0] for part in parts]
    assert [part.row_count for part in parts] == [len(decode_part(part.raw)) for part in parts]
    assert Cutter().end() == []


def test_slices_of_rows_make_no_difference() -> None:
    rows = view(1000)

    assert cut(rows, 3) == cut(rows, 400)


@pytest.mark.parametrize("size_bytes", [10, 100, 1000, 3000])
def test_parts_are_about_as_large_as_they_should_be(size_bytes: int) -> None:
    parts = cut(view(800_000 // (size_bytes + 40), size_bytes=size_bytes))

    sizes = [len(part.raw) for part in parts]
    assert max(sizes) <= 2 * TARGET + 20
    assert TARGET / 2 < sum(sizes) / len(sizes) < 1.6 * TARGET


def test_a_row_beyond_the_largest_size_stands_alone() -> None:
    rows = view(3)
    middle = sorted(key for key in rows if key.startswith(b"m"))[1]
    rows[middle] = bytes(5 * TARGET)

    parts = cut(rows)

    assert [part.row_count for part in parts if part.low == middle] == [1]


def test_a_change_changes_the_parts_beside_it_and_no_others() -> None:
    rows = view(3000)
    before = {part.raw for part in cut(rows)}
    places = sorted(key for key in rows if key.startswith(b"m"))
    for key in places[:200]:  # retention has cut these
        del rows[key]
    rows[keys.row_key(keys.rows_prefix(1, "master"), 60_000 * 1500 + 1, 9000, 1)] = b"new"
    rows[keys.partition_key(1)] = bytes(8) + (501).to_bytes(14, "big")

    changed = [part for part in cut(rows) if part.raw not in before]

    assert len(before) > 60
    assert len(changed) <= 5


def test_messages_share_no_part_with_other_rows() -> None:
    parts = cut(view(3))

    kinds = ["".join({chr(row[0][0]) for row in decode_part(part.raw)}) for part in parts]
    assert kinds[1] == "m"
    assert len(kinds) == 3
