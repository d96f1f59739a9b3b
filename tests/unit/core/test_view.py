"""`Changes` and `Overlay`, compared with a plain dict."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.core.view import Changes, Overlay, Row
from tests.store_model import carry_out

LOWEST, HIGHEST = b"", b"\xff" * 4


class CountingView:
    """A sorted dict that counts what is read of it."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows
        self.read_count = 0

    def get(self, key: bytes) -> bytes | None:
        self.read_count += 1
        return self.rows.get(key)

    def has(self, key: bytes) -> bool:
        return self.get(key) is not None

    def range(self, first: bytes, end: bytes) -> Iterator[Row]:
        for row in sorted(self.rows.items()):
            if first <= row[0] < end:
                self.read_count += 1
                yield row

    def last(self, first: bytes, end: bytes) -> Row | None:
        self.read_count += 1
        return max((row for row in self.rows.items() if first <= row[0] < end), default=None)


KEYS = st.text("abc", max_size=3).map(str.encode)
VALUES = st.one_of(st.none(), st.binary(max_size=2))


@st.composite
def changes_made(draw: st.DrawFn) -> Changes:
    """As the core makes them: cuts and rows in any order, by way of the methods."""
    changes = Changes()
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.integers(0, 3)):
            changes.rows[draw(KEYS)] = draw(VALUES)
        else:
            changes.cut(draw(KEYS), draw(KEYS))
    return changes


@given(
    below=st.dictionaries(KEYS, st.binary(max_size=2)),
    first=changes_made(),
    later=changes_made(),
)
def test_merged_changes_do_what_both_do_one_after_the_other(
    below: dict[bytes, bytes], first: Changes, later: Changes
) -> None:
    expected = dict(below)
    carry_out(first, expected)
    carry_out(later, expected)

    first.merge(later)
    carry_out(first, below)

    assert below == expected


@given(
    below=st.dictionaries(KEYS, st.binary(max_size=2)),
    layers=st.lists(changes_made(), max_size=4),
    reads=st.lists(st.tuples(KEYS, KEYS), max_size=5),
)
def test_overlay_agrees_with_a_dict(
    below: dict[bytes, bytes], layers: list[Changes], reads: list[tuple[bytes, bytes]]
) -> None:
    model = dict(below)
    overlay = Overlay(CountingView(below))

    for changes in [Changes(), *layers]:
        overlay.lay(changes)
        carry_out(changes, model)

        for first, end in [*reads, (LOWEST, HIGHEST)]:
            expected = sorted(row for row in model.items() if first <= row[0] < end)
            assert list(overlay.range(first, end)) == expected
            assert overlay.last(first, end) == (expected[-1] if expected else None)
            assert overlay.get(first) == model.get(first)
            assert overlay.has(first) == (first in model)

    carry_out(overlay.take(), below)
    assert below == model


def test_overlay_is_clear_after_take() -> None:
    overlay = Overlay(CountingView({b"a": b"1"}))
    overlay.lay(Changes({b"b": b"2"}))

    taken = overlay.take()

    assert taken.rows == {b"b": b"2"}
    assert list(overlay.range(LOWEST, HIGHEST)) == [(b"a", b"1")]
    assert overlay.last(LOWEST, HIGHEST) == (b"a", b"1")


def test_what_was_taken_does_not_change_with_the_next_record() -> None:
    overlay = Overlay(CountingView({}))
    overlay.lay(Changes({b"a": b"1"}))
    taken = overlay.take()

    overlay.lay(Changes({b"b": b"2"}))

    assert taken.rows == {b"a": b"1"}


def test_laid_changes_may_be_changed_afterwards() -> None:
    overlay = Overlay(CountingView({}))
    changes = Changes({b"a": b"1"})
    overlay.lay(changes)

    changes.rows[b"b"] = b"2"
    changes.cut(b"a", b"b")

    assert list(overlay.range(LOWEST, HIGHEST)) == [(b"a", b"1")]


def test_empty_cut_is_no_change() -> None:
    changes = Changes({b"a": b"1"})

    changes.cut(b"b", b"a")
    changes.cut(b"a", b"a")

    assert changes.cuts == []
    assert changes.rows == {b"a": b"1"}


def test_changes_are_true_when_there_are_any() -> None:
    cut = Changes()
    cut.cut(b"a", b"b")

    assert not Changes()
    assert Changes({b"a": None})
    assert cut


def test_reads_step_over_a_cut_at_once() -> None:
    below = CountingView({b"%04d" % number: b"v" for number in range(1000)})
    overlay = Overlay(below)
    changes = Changes()
    changes.cut(b"0001", b"0500")
    changes.cut(b"0400", b"9")
    overlay.lay(changes)

    assert overlay.last(LOWEST, HIGHEST) == (b"0000", b"v")
    assert list(overlay.range(LOWEST, HIGHEST)) == [(b"0000", b"v")]
    assert below.read_count <= 5


def test_last_does_not_look_below_what_is_laid() -> None:
    """A row laid at the end, as an append does: the rows before it are no matter."""
    below = CountingView({b"a": b"1", b"b": b"2"})
    overlay = Overlay(below)
    overlay.lay(Changes({b"c": b"3", b"d": None}))

    assert overlay.last(LOWEST, HIGHEST) == (b"c", b"3")
    assert below.read_count == 1


def test_range_reads_no_further_than_it_is_asked() -> None:
    below = CountingView({b"%04d" % number: b"v" for number in range(1000)})
    overlay = Overlay(below)
    overlay.lay(Changes({b"0000x": b"laid"}))

    rows = overlay.range(LOWEST, HIGHEST)

    assert [next(rows), next(rows)] == [(b"0000", b"v"), (b"0000x", b"laid")]
    assert below.read_count <= 2


def test_range_is_over_with_the_next_lay() -> None:
    overlay = Overlay(CountingView({b"a": b"1"}))
    overlay.lay(Changes({b"b": b"2"}))
    rows = overlay.range(LOWEST, HIGHEST)
    next(rows)

    overlay.lay(Changes({b"c": b"3"}))

    with pytest.raises(AssertionError, match="over with the next change"):
        next(rows)
