"""
The file log after crashes and damage: what had been durable is all there, or the log says where
it is not. Nothing else may happen.
"""

import errno
import shutil
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from sandglass.adapters.filelog import FileLog
from sandglass.adapters.files import Files
from sandglass.adapters.segment import (
    FRAME_HEAD_BYTES,
    HEADER_BYTES,
    Frame,
    FrameReader,
    decode_header,
    encode_frame,
)
from sandglass.errors import CorruptError, NoSpaceError, UnavailableError
from tests.unit.adapters.faulty_files import FaultyFiles, PowerCutError, PowerFiles

SEGMENT_BYTES = 2048
FIRST, SECOND = "0000000001.log", "0000000002.log"


class FastFiles(FaultyFiles):
    """Syncs nothing: thousands of logs are opened here."""

    def sync(self, fd: int) -> None:
        self._enter("sync", self._names[fd])

    def sync_directory(self, path: Path) -> None:
        self._enter("sync_directory", path.name)


def opened(
    directory: Path, files: FaultyFiles | None = None, *, reserve_bytes: int = 0
) -> FileLog:
    return FileLog(
        directory,
        segment_bytes=SEGMENT_BYTES,
        reserve_bytes=reserve_bytes,
        files=files or FastFiles(),
    )


def batch(number: int) -> list[bytes]:
    return [b"%d/%d" % (number, part) * 3 for part in range(1 + number % 3)]


def crashed(directory: Path, *syncs: int) -> tuple[list[bytes], int, list[int]]:
    """
    A log of one segment whose process has ended, with so many batches in each sync.

    Returns its records, the position before the last sync, and where the batches begin.
    """
    working = directory.with_name(directory.name + "-working")
    log = opened(working)
    records: list[bytes] = []
    starts: list[int] = []
    at, before = HEADER_BYTES, 0
    for batch_count in syncs:
        before = log.durable_position
        for _ in range(batch_count):
            records += batch(len(starts))
            log.append(batch(len(starts)))
            starts.append(at)
            at += FRAME_HEAD_BYTES + sum(4 + len(record) for record in batch(len(starts) - 1))
        log.sync()
    shutil.copytree(working, directory)
    log.close()
    shutil.rmtree(working)
    return records, before, [*starts, at]


def found_in(directory: Path) -> list[bytes] | CorruptError:
    """What the log holds, or why it does not say. No other outcome is allowed."""
    try:
        log = opened(directory)
    except CorruptError as exc:
        return exc
    try:
        assert log.first_position == 1
        found = [record for _, record in log.read(1)]
        assert log.durable_position == log.last_position == len(found)
        return found
    except CorruptError as exc:
        return exc
    finally:
        log.close()


class Damaged:
    """The same log again and again, each time with other damage."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._contents = {
            path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()
        }

    def content(self, name: str = FIRST) -> bytes:
        return self._contents[name]

    def found_with(self, content: bytes, name: str = FIRST) -> list[bytes] | CorruptError:
        shutil.rmtree(self._directory)
        self._directory.mkdir()
        for other, data in self._contents.items():
            (self._directory / other).write_bytes(data)
        (self._directory / name).write_bytes(content)
        return found_in(self._directory)


def assert_place(outcome: list[bytes] | CorruptError, name: str, offset: int) -> None:
    assert isinstance(outcome, CorruptError)
    assert name in str(outcome)
    assert f"at byte {offset}" in str(outcome)


# --- torn tails -------------------------------------------------------------------------------


@pytest.mark.parametrize("filling", ["zeros", "noise"])
def test_last_sync_torn_at_any_byte_loses_nothing_before_it(
    tmp_path: Path, filling: str
) -> None:
    """What stands is a whole number of its batches, from the first on."""
    records, before, starts = crashed(tmp_path / "log", 3, 1, 2, 2)
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()
    ends = {len([r for n in range(count) for r in batch(n)]) for count in range(len(starts))}
    noise = Random(1).randbytes(len(content))

    for cut in range(starts[-3], starts[-1] + 1):
        rest = bytes(len(content) - cut) if filling == "zeros" else noise[cut:]
        found = damaged.found_with(content[:cut] + rest)

        assert isinstance(found, list)
        assert len(found) >= before
        assert len(found) in ends
        assert found == records[: len(found)]
    assert found == records


def test_a_file_cut_off_at_any_byte_is_corruption(tmp_path: Path) -> None:
    """Its whole space was durable before the first batch: no crash makes it shorter."""
    _, _, starts = crashed(tmp_path / "log", 1, 1, 2)
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()

    for cut in [*range(starts[-3], starts[-1]), len(content) - 1]:
        assert_place(damaged.found_with(content[:cut]), FIRST, cut)


def test_a_later_batch_without_an_earlier_one_of_the_same_sync_is_dropped(
    tmp_path: Path,
) -> None:
    """The kernel may have kept the second and not the first."""
    records, before, starts = crashed(tmp_path / "log", 2, 2)
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()
    hole = bytes(starts[3] - starts[2])

    found = damaged.found_with(content[: starts[2]] + hole + content[starts[3] :])

    assert found == records[:before]


def test_what_was_dropped_never_comes_back(tmp_path: Path) -> None:
    _, before, starts = crashed(tmp_path / "log", 2, 2)
    path = tmp_path / "log" / FIRST
    content = path.read_bytes()
    path.write_bytes(content[: starts[2]] + b"\1" + content[starts[2] + 1 :])

    log = opened(tmp_path / "log")
    assert log.last_position == before
    log.append([b"new"])
    log.sync()
    log.close()
    # The lost page turns up again after all.
    path.write_bytes(content)

    found = found_in(tmp_path / "log")
    assert isinstance(found, list)
    assert found[before:] == [b"new"]


# --- damage below the mark --------------------------------------------------------------------


def test_damage_below_the_mark_is_named_with_its_place(tmp_path: Path) -> None:
    _, _, starts = crashed(tmp_path / "log", 1, 1, 1, 1)
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()

    for number in range(3):
        at = starts[number] + FRAME_HEAD_BYTES + 5
        outcome = damaged.found_with(content[:at] + b"\xff" + content[at + 1 :])

        assert_place(outcome, FIRST, starts[number])


def test_a_hole_below_the_mark_is_corruption(tmp_path: Path) -> None:
    _, _, starts = crashed(tmp_path / "log", 1, 1, 1, 1)
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()

    outcome = damaged.found_with(
        content[: starts[1]] + bytes(starts[2] - starts[1]) + content[starts[2] :]
    )

    assert_place(outcome, FIRST, starts[1])


def test_batches_that_are_repeated_or_left_out_show(tmp_path: Path) -> None:
    _, _, starts = crashed(tmp_path / "log", 1, 1, 1, 1, 1)
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()
    parts = [content[a:b] for a, b in pairwise(starts)]

    for order in ([0, 1, 1, 2, 3, 4], [0, 2, 3, 4], [0, 2, 1, 3, 4]):
        changed = content[: starts[0]] + b"".join(parts[number] for number in order)
        outcome = damaged.found_with(changed.ljust(SEGMENT_BYTES, b"\0"))

        assert isinstance(outcome, CorruptError)


def test_a_mark_beyond_two_damaged_places_still_proves(tmp_path: Path) -> None:
    _, _, starts = crashed(tmp_path / "log", 1, 1, 1, 1, 1)
    damaged = Damaged(tmp_path / "log")
    changed = bytearray(damaged.content())
    changed[starts[1] + 20] ^= 1
    changed[starts[2] : starts[2] + 16] = bytes(16)
    changed[starts[3] + 50] ^= 1

    assert_place(damaged.found_with(bytes(changed)), FIRST, starts[1])


@pytest.mark.parametrize("shift", [-1, 0, 1, 6, 11, 12, 13])
def test_a_mark_is_found_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int
) -> None:
    """Also across the border of two chunks."""
    _, _, starts = crashed(tmp_path / "log", 1, 1)
    chunk_bytes = starts[1] - starts[0] - 1 + shift
    monkeypatch.setattr("sandglass.adapters.segment._CHUNK_BYTES", chunk_bytes)
    damaged = Damaged(tmp_path / "log")
    changed = bytearray(damaged.content())
    changed[starts[0] : starts[0] + 12] = bytes(12)

    assert_place(damaged.found_with(bytes(changed)), FIRST, starts[0])


def test_a_batch_that_does_not_continue_the_one_before_shows(tmp_path: Path) -> None:
    """A write that went to another place: whole, in its place by position, of another chain."""
    log = opened(tmp_path / "log")
    for number in range(60):
        log.append(batch(number))
        log.sync()
    log.close()
    damaged = Damaged(tmp_path / "log")
    names = sorted(path.name for path in (tmp_path / "log").glob("*.log"))

    for name in (names[0], names[-1]):
        content = damaged.content(name)
        changed = with_other_chain(content, 1)
        place = frames_in(content)[1].offset
        assert_place(damaged.found_with(changed, name), name, place)


def test_a_batch_of_another_chain_at_the_end_is_dropped(tmp_path: Path) -> None:
    records, before, _ = crashed(tmp_path / "log", 2, 1)
    damaged = Damaged(tmp_path / "log")

    found = damaged.found_with(with_other_chain(damaged.content(), 2))

    assert found == records[:before]


def with_other_chain(content: bytes, number: int) -> bytes:
    """The file with one frame made anew, as if another had stood before it."""
    place = frames_in(content)[number]
    forged, _ = encode_frame(
        [record for _, record in place.records()],
        file_id=content[place.offset + 4 : place.offset + 12],
        previous=place.previous ^ 1,
        first_position=place.first_position,
        mark=place.mark,
    )
    return content[: place.offset] + b"".join(forged) + content[place.end :]


def test_after_a_clean_stop_any_bit_may_flip(tmp_path: Path) -> None:
    """All is proven then: the whole log is there, or the damage is named."""
    log = opened(tmp_path / "log")
    records: list[bytes] = []
    for number in range(12):
        records += batch(number)
        log.append(batch(number))
        log.sync()
    log.close()
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()
    chance = Random(2)
    corrupt_count = 0

    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << chance.randrange(8)
        outcome = damaged.found_with(bytes(changed))
        if isinstance(outcome, CorruptError):
            assert FIRST in str(outcome)
            corrupt_count += 1
        else:
            assert outcome == records
    used = len(content.rstrip(b"\0"))
    assert corrupt_count >= used - 2 * FRAME_HEAD_BYTES


@pytest.mark.parametrize("seed", range(4))
def test_after_a_crash_damage_anywhere_loses_nothing_that_a_mark_proves(
    tmp_path: Path, seed: int
) -> None:
    """Several segments, one to three damaged places in any of them."""
    log = opened(tmp_path / "working")
    records: list[bytes] = []
    proven = 0
    for number in range(60):
        records += batch(number)
        log.append(batch(number))
        if number % 2:
            proven = log.durable_position
            log.sync()
    shutil.copytree(tmp_path / "working", tmp_path / "log")
    log.close()
    damaged = Damaged(tmp_path / "log")
    names = sorted(path.name for path in (tmp_path / "log").glob("*.log"))
    assert len(names) > 2
    chance = Random(seed)

    for _ in range(250):
        name = chance.choice(names)
        changed = bytearray(damaged.content(name))
        used = len(changed.rstrip(b"\0"))
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(used)
            size = chance.choice([1, 1, 4, 64, 512])
            noise = chance.choice([bytes(size), chance.randbytes(size)])
            changed[at : at + size] = noise[: len(changed) - at]
        outcome = damaged.found_with(bytes(changed), name)
        if isinstance(outcome, CorruptError):
            assert ".log" in str(outcome)
            assert "byte" in str(outcome)
        else:
            assert outcome == records[: len(outcome)]
            if len(outcome) < proven:
                # Whatever proved it was overwritten too.
                assert name == names[-1]
                assert not any_mark_above(bytes(changed), len(outcome))


class BytesFiles(Files):
    """One file that is only its bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def read(self, fd: int, size_bytes: int, offset: int) -> bytes:
        return self._content[offset : offset + size_bytes]


def any_mark_above(content: bytes, position: int) -> bool:
    """Does a batch that is whole say that more than `position` had been durable?"""
    return any(frame.mark > position for frame in frames_in(content))


def frames_in(content: bytes) -> list[Frame]:
    """The frames of a file that are whole."""
    found = decode_header(content[:HEADER_BYTES], Path("x"))
    assert found is not None
    reader = FrameReader(
        BytesFiles(content), -1, file_id=found[0].file_id, end_bytes=len(content)
    )
    return list(reader.scattered(HEADER_BYTES))


def test_damage_in_an_earlier_segment_shows_when_it_is_read(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    for number in range(60):
        log.append(batch(number))
        log.sync()
    log.close()
    path = tmp_path / "log" / FIRST
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 20] ^= 1
    path.write_bytes(content)

    log = opened(tmp_path / "log")

    with pytest.raises(CorruptError, match=rf"{FIRST}: damaged at byte {HEADER_BYTES}"):
        next(log.read(1))
    log.close()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    files = FastFiles()
    log = opened(tmp_path / "log", files)
    log.append([b"a"])
    log.sync()
    files.errors["read"] = errno.EIO

    with pytest.raises(CorruptError, match=FIRST):
        next(log.read(1))

    files.errors.clear()
    log.close()


def test_a_damaged_header_is_corruption_once_there_is_anything_behind_it(
    tmp_path: Path,
) -> None:
    crashed(tmp_path / "log", 1)
    damaged = Damaged(tmp_path / "log")
    content = damaged.content()

    for at in range(HEADER_BYTES):
        changed = bytearray(content)
        changed[at] ^= 0xEE
        assert_place(damaged.found_with(bytes(changed)), FIRST, 0)
        torn = content[:at] + bytes(SEGMENT_BYTES - at)
        assert damaged.found_with(torn) == []


# --- what the last life left behind -----------------------------------------------------------


def test_what_no_mark_proves_is_copied_and_synced_before_it_is_shown(tmp_path: Path) -> None:
    records, _, _ = crashed(tmp_path / "log", 2, 3)
    files = FastFiles()

    log = opened(tmp_path / "log", files)

    steps = [call for call in files.calls if call[0] not in {"read", "remove"}]
    assert steps[:2] == [("open", "copy"), ("allocate", "copy")]
    assert steps[2:] == [
        *[("write", "copy")] * 4,
        ("sync", "copy"),
        ("rename", SECOND),
        ("sync_directory", "log"),
        ("truncate", FIRST),
    ]
    assert [record for _, record in log.read(1)] == records
    log.close()


def test_after_a_clean_stop_nothing_is_copied(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    log.append([b"a"])
    log.sync()
    log.close()
    files = FastFiles()

    log = opened(tmp_path / "log", files)

    assert files.count("open") == files.count("write") == files.count("sync") == 0
    assert log.durable_position == 1
    log.close()


@pytest.mark.parametrize(
    "operation", ["allocate", "write", "sync", "rename", "sync_directory", "truncate"]
)
def test_a_copy_that_fails_loses_nothing(tmp_path: Path, operation: str) -> None:
    records, _, _ = crashed(tmp_path / "log", 2, 3)
    files = FastFiles()
    files.errors[operation] = errno.EIO
    if operation == "write":
        files.skip_counts["write"] = 2
    with pytest.raises(UnavailableError):
        opened(tmp_path / "log", files)

    assert found_in(tmp_path / "log") == records


def test_half_a_copy_is_removed(tmp_path: Path) -> None:
    records, _, _ = crashed(tmp_path / "log", 2, 3)
    assert found_in(tmp_path / "log") == records
    (tmp_path / "log" / "copy").write_bytes(b"half")
    (tmp_path / "log" / "spare").write_bytes(b"half")

    assert found_in(tmp_path / "log") == records

    assert not (tmp_path / "log" / "copy").exists()
    assert not (tmp_path / "log" / "spare").exists()


def test_a_copy_takes_the_reserve_when_the_disk_is_full(tmp_path: Path) -> None:
    records, before, _ = crashed(tmp_path / "log", 2, 3)
    opened_files = FastFiles()
    opened_files.room_bytes = 1024

    log = opened(tmp_path / "log", opened_files, reserve_bytes=1024)

    assert len(records) > before
    assert [record for _, record in log.read(1)] == records
    with pytest.raises(NoSpaceError):
        log.append([b"a"])
    log.close()


def test_a_copy_without_any_room_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    records, _, _ = crashed(tmp_path / "log", 2, 3)
    files = FastFiles()
    files.room_bytes = 0

    with pytest.raises(NoSpaceError):
        opened(tmp_path / "log", files)

    assert found_in(tmp_path / "log") == records


def test_a_large_unproven_batch_is_copied_to_a_large_segment(tmp_path: Path) -> None:
    log = opened(tmp_path / "working")
    log.append([b"x" * 50_000])
    log.sync()
    shutil.copytree(tmp_path / "working", tmp_path / "log")
    log.close()

    assert found_in(tmp_path / "log") == [b"x" * 50_000]
    assert found_in(tmp_path / "log") == [b"x" * 50_000]


def test_a_close_that_cannot_leave_its_mark_says_so_and_loses_nothing(tmp_path: Path) -> None:
    files = FastFiles()
    log = opened(tmp_path / "log", files)
    log.append([b"a"])
    log.sync()
    files.errors["sync"] = errno.EIO

    with pytest.raises(UnavailableError):
        log.close()

    assert found_in(tmp_path / "log") == [b"a"]


# --- power cuts -------------------------------------------------------------------------------


class Run:
    """
    Lives of one log, each ended by a power cut in the middle of any file operation.

    Invariant: `records[:durable]` is what the log has ever said to be durable.
    """

    def __init__(self, directory: Path, seed: int) -> None:
        self.chance = Random(seed)
        self.directory = directory
        self.records: list[bytes] = []
        self.durable = 0
        self.needed = 1
        self.life = 0
        (directory / "0").mkdir(parents=True)

    def live(self) -> None:
        """Opens what the last life left, works, and is cut off."""
        files = PowerFiles()
        files.adopt(self.directory / str(self.life))
        if self.chance.random() < 0.8:
            files.left_count = self.chance.choice([self.chance.randint(0, 30), 200])
        log = None
        try:
            log = self.open(files)
            self.check(log)
            for _ in range(self.chance.randint(1, 60)):
                self.step(log)
            if self.chance.random() < 0.5:
                log.close()
        except PowerCutError:
            pass
        if log is not None:
            self.durable = max(self.durable, log.durable_position)
        files.left_count = None
        self.life += 1
        files.cut_power(self.chance, self.directory / str(self.life))
        if log is not None:
            log.close()
        shutil.rmtree(self.directory / str(self.life - 1))

    def open(self, files: PowerFiles) -> FileLog:
        path = self.directory / str(self.life)
        return FileLog(path, segment_bytes=1024, reserve_bytes=1024, files=files)

    def check(self, log: FileLog) -> None:
        last = log.last_position
        assert self.durable <= last == log.durable_position <= len(self.records)
        assert log.first_position <= self.needed
        found = list(log.read(log.first_position))
        del self.records[last:]
        expected = list(enumerate(self.records, 1))
        assert found == expected[log.first_position - 1 :]
        self.durable = last

    def step(self, log: FileLog) -> None:
        kind = self.chance.random()
        if kind < 0.6:
            batch = [
                self.chance.randbytes(self.chance.choice([0, 3, 20, 100, 700]))
                for _ in range(self.chance.randint(1, 3))
            ]
            # Before the call: it may have been taken when the power goes.
            self.records += batch
            log.append(batch)
        elif kind < 0.95:
            log.sync()
            self.durable = log.durable_position
        else:
            self.needed = max(self.needed, self.chance.randint(0, self.durable + 1))
            log.trim(self.needed)


@pytest.mark.parametrize("seed", range(60))
def test_power_cuts_lose_nothing_that_was_durable(tmp_path: Path, seed: int) -> None:
    """
    Goal: no order of writes reaching the disk, other than that which syncs enforce, matters.

    Method: a disk that keeps any blocks of what was not synced, cut at any file operation, over
    several lives, the recovery of one being cut as well.
    """
    run = Run(tmp_path / "run", seed)
    for _ in range(8):
        run.live()
    log = run.open(PowerFiles.over(run.directory / str(run.life)))
    run.check(log)
    log.close()
