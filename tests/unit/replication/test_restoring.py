from dataclasses import replace
from typing import Any

import pytest

from sandglass.core import keys, limits
from sandglass.replication.making import Get
from sandglass.replication.restoring import Expect, Write
from sandglass.replication.snapshot import (
    Manifest,
    ObjectName,
    decode_part,
    digest_of,
    encode_part,
)
from tests.unit.replication.library import Library, mark_at, view


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_PART_BYTES_TARGET", 4096)


@pytest.fixture
def library() -> Library:
    """Two generations, of other rows each, and a replica with rows of its own."""
    library = Library()
    library.make(view(300, salt=1), 10)
    library.make(view(300, salt=2), 20)
    library.replica = {b"stale": b""}
    return library


def without_mark(rows: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {key: value for key, value in rows.items() if key != keys.MARK_KEY}


def test_a_replica_has_the_rows_of_the_newest_generation(library: Library) -> None:
    restored = library.restore()

    assert mark_at(20) == restored.mark == library.mark
    assert without_mark(view(300, salt=2)) == library.replica
    assert restored.size_bytes == library.manifest().size_bytes


def test_the_mark_comes_last(library: Library) -> None:
    def before(_: Any) -> None:
        assert library.mark is None

    library.before = before

    assert library.restore().mark is not None


def test_writes_are_small(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_ROW_COUNT", 7)
    monkeypatch.setattr(limits, "SNAPSHOT_SLICE_BYTES", 600)
    writes: list[Write] = []
    library.before = lambda step: writes.append(step) if isinstance(step, Write) else None
    library.restore()

    assert without_mark(view(300, salt=2)) == library.replica
    assert max(len(each.rows) for each in writes) <= 7
    assert len(writes) > 50


def test_parts_are_told_of_before_they_are_asked_for_in_their_order(library: Library) -> None:
    steps: list[Any] = []
    library.before = steps.append
    library.restore()

    (expected,) = (each for each in steps if isinstance(each, Expect))
    behind = steps[steps.index(expected) :]
    assert len(expected.parts) > 3
    assert [each.name for each in expected.parts] == [
        each.name for each in behind if isinstance(each, Get)
    ]


def part_to_lose(library: Library) -> str:
    return next(iter(library.manifest(0).names - library.manifest(1).names))


@pytest.mark.parametrize("kind", ["lost part", "bad part", "lost manifest", "bad manifest"])
def test_the_older_one_is_taken_where_the_newest_is_broken(library: Library, kind: str) -> None:
    is_part = kind.endswith("part")
    name = part_to_lose(library) if is_part else library.generations.kept[0].manifest
    if kind.startswith("lost"):
        del library.objects[name]
    else:
        library.objects[name] += b"x"

    restored = library.restore()

    assert mark_at(10) == restored.mark == library.mark
    assert without_mark(view(300, salt=1)) == library.replica


def test_a_part_that_isnt_whole_is_never_believed(library: Library) -> None:
    for generation in (0, 1):
        for part in library.manifest(generation).parts[-1:]:
            library.objects[part.name] = b""

    restored = library.restore()

    assert restored.mark is None
    assert library.mark is None
    assert library.replica == {}
    assert "position 20 part p" in restored.trouble
    assert "position 10 part p" in restored.trouble


def test_without_any_snapshot_nothing_changes() -> None:
    library = Library(replica={b"stale": b""})
    restored = library.restore()

    assert (restored.mark, restored.trouble) == (None, "there is no snapshot")
    assert library.replica == {b"stale": b""}


@pytest.mark.parametrize(
    ("wanted", "trouble"),
    [
        ({"first_sequence": 122}, "the last entry is 120, and the stream begins at 122"),
        ({"position": 20}, "the replica stands at 20"),
        ({"cluster": "c2"}, "one of log 7 of cluster 'c1'"),
        ({"log": 8}, "one of log 7 of cluster 'c1'"),
        ({"stream": "made on Tuesday"}, "now it is 'made on Tuesday'"),
    ],
)
def test_what_does_not_help_is_not_taken(
    library: Library, wanted: dict[str, Any], trouble: str
) -> None:
    restored = library.restore(**wanted)

    assert restored.mark is None
    assert trouble in restored.trouble
    assert library.replica == {b"stale": b""}


def test_a_snapshot_at_the_entry_before_the_first_covers_it(library: Library) -> None:
    assert mark_at(20) == library.restore(first_sequence=121).mark


def enter(library: Library, manifest: Manifest) -> None:
    """In place of the newest generation's."""
    raw = manifest.encode()
    name = str(ObjectName("m", 0, digest_of(raw)))
    library.objects[name] = raw
    newest, older = library.generations.kept
    generations = replace(library.generations, kept=(replace(newest, manifest=name), older))
    library.value = generations.encode()


def test_a_manifest_that_is_not_what_the_entry_says_is_not_taken(library: Library) -> None:
    enter(library, replace(library.manifest(), mark=mark_at(21)))

    assert mark_at(10) == library.restore().mark


def test_parts_that_are_not_what_the_manifest_says_are_not_taken(library: Library) -> None:
    manifest = library.manifest()
    rows = decode_part(library.objects[manifest.parts[1].name])
    raw = encode_part(rows[1:])
    name = str(ObjectName("p", 0, digest_of(raw)))
    library.objects[name] = raw
    parts = list(manifest.parts)
    parts[1] = replace(parts[1], name=name)
    enter(library, replace(manifest, parts=tuple(parts)))

    assert mark_at(10) == library.restore().mark


def test_closed_offsets_have_to_be_what_the_manifest_says(library: Library) -> None:
    enter(library, replace(library.manifest(), closed=((1, 501),)))

    assert mark_at(10) == library.restore().mark
