from collections.abc import Callable
from typing import Any

import pytest

from sandglass.core import keys, limits
from sandglass.core.offset import OFFSET_BYTES
from sandglass.core.partition import _META
from sandglass.errors import CorruptError, UnavailableError
from sandglass.replication.making import Delete, Enter, Get, Put, closed_in, garbage_of
from sandglass.replication.snapshot import ObjectName, digest_of
from tests.unit.replication.library import Library, mark_at, view


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_PART_BYTES_TARGET", 4096)


@pytest.fixture
def library() -> Library:
    return Library()


def test_a_manifest_has_all_that_a_reader_knows(library: Library) -> None:
    made = library.make(view(300), 10)

    assert made is not None
    manifest = library.manifest()
    assert mark_at(10) == manifest.mark
    assert ((1, 500),) == manifest.closed
    assert {*library.objects} == manifest.names | {library.generations.kept[0].manifest}
    assert made.sent_count == len(library.objects)
    assert made.sent_bytes == sum(map(len, library.objects.values()))


def test_what_is_unchanged_is_not_sent_again(library: Library) -> None:
    rows = view(3000)
    first = library.make(rows, 10)
    rows[keys.NODE_KEY] = b"changed"
    second = library.make(rows, 20)

    assert first is not None
    assert second is not None
    assert second.sent_count == 2  # the part with that row, and the manifest
    assert second.sent_bytes < first.sent_bytes / 20


def test_the_stream_is_trimmed_behind_the_older_of_two(library: Library) -> None:
    library.make(view(100), 10)
    assert library.trimmed == 0
    library.make(view(101), 20)
    assert library.trimmed == mark_at(10).sequence
    library.make(view(102), 30)
    assert library.trimmed == mark_at(20).sequence

    assert [30, 20] == [each.position for each in library.generations.kept]


def test_only_what_two_generations_need_stays(library: Library) -> None:
    for position in (10, 20, 30, 40):
        library.make(view(300, salt=position), position)

    used = library.manifest(0).names | library.manifest(1).names
    used |= {each.manifest for each in library.generations.kept}
    assert used == {*library.objects}


def test_what_is_no_newer_is_not_made(library: Library) -> None:
    library.make(view(100), 10)

    assert library.make(view(200), 10) is None
    assert [10] == [each.position for each in library.generations.kept]


def on(kind: type, act: Callable[[Any], None]) -> Callable[[Any], None]:
    """Acts once, before the first step of a kind."""
    left = [act]

    def before(step: Any) -> None:
        if isinstance(step, kind) and left:
            left.pop()(step)

    return before


def test_of_two_makers_one_enters_its_generation_and_harms_not_the_other(
    library: Library,
) -> None:
    library.make(view(300), 10)
    slow = library.making(view(300, salt=1), 20)
    rival = Library(library.objects, library.value, library.revision)

    def overtake(_: Enter) -> None:
        assert rival.make(view(300, salt=2), 30) is not None
        library.value, library.revision = rival.value, rival.revision

    library.before = on(Enter, overtake)

    assert library.drive(slow) is None
    assert [30, 10] == [each.position for each in library.generations.kept]
    assert library.manifest(0).names <= {*library.objects}


def test_a_late_deletion_takes_nothing_that_a_later_generation_has(library: Library) -> None:
    """Content that came back stands under another name than the one that is about to go."""
    library.make(view(300, salt=1), 10)
    library.make(view(300, salt=2), 20)
    late: list[Delete] = []
    library.before = on(Delete, late.append)
    library.make(view(300, salt=3), 30)  # what was at 10 goes
    library.make(view(300, salt=1), 40)
    for name in late[0].names:
        library.objects.pop(name, None)

    assert library.manifest(0).names <= {*library.objects}
    assert library.restore().mark == mark_at(40)


def test_an_attempt_goes_on_where_one_on_the_same_revision_broke_off(library: Library) -> None:
    rows = view(3000)
    broken = library.making(rows, 10)
    sent = None
    while len(library.put_names) < 10:
        sent = library.carry_out(broken.send(sent))
    broken.close()
    whole, damaged = library.put_names[0], library.put_names[1]
    library.objects[damaged] = b"damaged"
    library.put_names.clear()

    library.make(rows, 20)

    assert whole not in library.put_names
    assert damaged in library.put_names
    assert library.restore().mark == mark_at(20)


def test_what_was_not_kept_as_it_was_sent_is_noticed(library: Library) -> None:
    def damage(step: Get) -> None:
        library.objects[step.name] = b"damaged"

    library.before = on(Get, damage)

    with pytest.raises(CorruptError, match="was not kept as it was sent"):
        library.make(view(300), 10)
    assert library.value is None


def test_a_part_that_went_meanwhile_is_noticed(library: Library) -> None:
    rows = view(3000)
    library.make(rows, 10)
    # Of messages: what changes below is in other parts.
    lost = next(part.name for part in library.manifest().parts if part.low.startswith(b"m"))

    def lose(_: Put) -> None:
        del library.objects[lost]

    library.before = on(Put, lose)
    rows[keys.channel_key(1, "other")] = b""
    rows[keys.NODE_KEY] = b"changed"

    with pytest.raises(UnavailableError, match="went meanwhile"):
        library.make(rows, 20)


@pytest.mark.parametrize("is_manifest", [False, True])
def test_a_generation_that_lost_an_object_counts_no_more(
    library: Library, is_manifest: bool
) -> None:
    library.make(view(300, salt=1), 10)
    library.make(view(300, salt=2), 20)
    lost = library.generations.kept[0].manifest
    if not is_manifest:
        lost = next(iter(library.manifest(0).names - library.manifest(1).names))
    del library.objects[lost]
    library.make(view(300, salt=2), 30)

    assert [30, 10] == [each.position for each in library.generations.kept]
    assert library.trimmed == mark_at(10).sequence
    assert library.manifest().names <= {*library.objects}


def test_generations_of_another_stream_count_no_more(library: Library) -> None:
    library.make(view(300), 10)
    library.drive(library.making(view(300), 20, stream="made on Tuesday"))

    assert [20] == [each.position for each in library.generations.kept]
    assert library.trimmed == 0


def test_foreign_objects_are_left_alone() -> None:
    old, new = (str(ObjectName("p", stamp, digest_of(b"x"))) for stamp in (4, 5))

    assert {old} == garbage_of([old, new, "foreign"], used=frozenset(), revision=5)
    assert frozenset() == garbage_of([old], used=frozenset([old]), revision=5)


def test_closed_offsets_are_those_that_partitions_write() -> None:
    offset = (500).to_bytes(OFFSET_BYTES, "big")
    row = _META.pack(1, offset, 2, 3, 4, 5, offset, 6, offset)

    assert [(9, 500)] == closed_in([(keys.partition_key(9), row), (keys.NODE_KEY, b"{}")])
