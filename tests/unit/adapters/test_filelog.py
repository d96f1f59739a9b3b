"""The file log's own rules; what every log has to do stands in the conformance suite."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandglass.adapters import filelog, segment
from sandglass.adapters.blanks import RESERVE_NAME, SPARE_NAME
from sandglass.adapters.filelog import FileLog
from sandglass.adapters.segment import FRAME_HEAD_BYTES, HEADER_BYTES, Header
from sandglass.errors import (
    BusyError,
    CorruptError,
    DeniedError,
    InvalidError,
    NoSpaceError,
    PreconditionError,
    UnavailableError,
)
from tests.unit.adapters.faulty_files import FaultyFiles, error

SEGMENT_BYTES = 4096
RECORD = b"r" * 1000
"""Three of them fill a segment."""

FIRST, SECOND, THIRD = "0000000001.log", "0000000002.log", "0000000003.log"


def opened(
    directory: Path,
    files: FaultyFiles | None = None,
    *,
    reserve_bytes: int = 0,
    node_id: bytes = bytes(16),
) -> FileLog:
    return FileLog(
        directory,
        node_id=node_id,
        segment_bytes=SEGMENT_BYTES,
        reserve_bytes=reserve_bytes,
        files=files,
    )


def put(log: FileLog, *records: bytes) -> int:
    log.append(records)
    return log.sync()


def all_of(log: FileLog) -> list[bytes]:
    return [record for _, record in log.read(log.first_position)]


def segments_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.log"))


# --- opening ----------------------------------------------------------------------------------


def test_a_directory_serves_one_log_at_a_time(tmp_path: Path) -> None:
    log = opened(tmp_path)

    with pytest.raises(PreconditionError) as caught:
        opened(tmp_path)

    assert str(caught.value) == f"data directory in use by another node: {tmp_path}"
    log.close()
    opened(tmp_path).close()


def test_a_log_that_does_not_open_gives_the_lock_back(tmp_path: Path) -> None:
    log = opened(tmp_path)
    put(log, b"a")
    log.close()

    with pytest.raises(PreconditionError):
        opened(tmp_path, node_id=b"another node 16b")

    opened(tmp_path).close()


def test_files_of_another_node_are_refused(tmp_path: Path) -> None:
    log = opened(tmp_path, node_id=b"1" * 16)
    put(log, b"a")
    log.close()

    with pytest.raises(PreconditionError, match=FIRST):
        opened(tmp_path, node_id=b"2" * 16)


def test_files_of_a_newer_version_are_refused_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(segment, "FORMAT_VERSION", 2)
        log = opened(tmp_path)
        put(log, b"a")
        log.close()
    before = (tmp_path / FIRST).read_bytes()

    with pytest.raises(PreconditionError, match="log format 2"):
        opened(tmp_path)

    assert (tmp_path / FIRST).read_bytes() == before


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"")

    with pytest.raises(PreconditionError, match="is not a directory"):
        opened(path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, number: int) -> None:
    class ReadOnly(FaultyFiles):
        def open_lock(self, path: Path) -> int:
            raise error(number)

    with pytest.raises(DeniedError, match=str(tmp_path)):
        opened(tmp_path, ReadOnly())


def test_names_of_new_directories_are_durable(tmp_path: Path) -> None:
    files = FaultyFiles()

    opened(tmp_path / "store-000" / "log", files).close()

    synced = [name for operation, name in files.calls if operation == "sync_directory"]
    assert synced[:2] == [tmp_path.name, "store-000"]


def test_a_missing_segment_in_the_middle_is_corruption(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for _ in range(9):
        put(log, RECORD)
    log.close()
    (tmp_path / SECOND).unlink()

    with pytest.raises(CorruptError, match=SECOND):
        opened(tmp_path)


def test_segments_that_changed_places_are_corruption(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for _ in range(9):
        put(log, RECORD)
    log.close()
    (tmp_path / FIRST).rename(tmp_path / "aside")
    (tmp_path / SECOND).rename(tmp_path / FIRST)
    (tmp_path / "aside").rename(tmp_path / SECOND)

    with pytest.raises(CorruptError, match=r"is segment"):
        opened(tmp_path)


def test_a_segment_from_another_log_shows_when_it_is_read(tmp_path: Path) -> None:
    """Same node, same number, same positions: only the chain tells them apart."""
    for name, record in (("a", b"a" * 1000), ("b", b"b" * 1000)):
        log = opened(tmp_path / name)
        for _ in range(9):
            put(log, record)
        log.close()
    (tmp_path / "b" / SECOND).replace(tmp_path / "a" / SECOND)

    log = opened(tmp_path / "a")

    with pytest.raises(CorruptError, match=f"{SECOND}.*byte 0"):
        all_of(log)
    log.close()


def test_foreign_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    for name in ("notes.txt", "1.log", "0000000001.log.bak"):
        (tmp_path / name).write_bytes(b"x")

    log = opened(tmp_path)
    put(log, b"a")
    log.close()

    assert {"notes.txt", "1.log", "0000000001.log.bak"} <= set(os.listdir(tmp_path))


def test_segments_without_anything_in_them_are_no_part_of_the_log(tmp_path: Path) -> None:
    log = opened(tmp_path)
    put(log, RECORD)
    for _ in range(6):
        log.append([RECORD])
    assert len(segments_in(tmp_path)) == 3
    log.close()

    log = opened(tmp_path)

    assert segments_in(tmp_path) == [FIRST]
    assert put(log, b"next") == 2
    assert all_of(log) == [RECORD, b"next"]
    log.close()


# --- append and sync --------------------------------------------------------------------------


def test_append_makes_no_system_call_while_the_segment_has_room(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    log.append([b"a"])
    before = list(files.calls)

    for _ in range(20):
        log.append([b"a", b"b"])

    assert files.calls == before
    log.close()


def test_many_batches_take_one_write_and_one_sync(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    put(log, b"a")
    files.calls.clear()
    for _ in range(20):
        log.append([b"a", b"b"])

    log.sync()

    assert files.calls == [("write", FIRST), ("sync", FIRST)]
    log.close()


def test_the_first_sync_of_nothing_leaves_a_mark_and_the_next_makes_no_system_call(
    tmp_path: Path,
) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    put(log, b"a")
    files.calls.clear()

    log.sync()
    log.sync()

    assert files.calls == [("write", FIRST), ("sync", FIRST)]
    put(log, b"b")
    assert all_of(log) == [b"a", b"b"]
    log.close()


def test_marks_of_a_quiet_log_take_no_room_that_was_promised(tmp_path: Path) -> None:
    """However full the segment is; and the next one continues it."""
    for size in range(SEGMENT_BYTES - HEADER_BYTES - 5 * FRAME_HEAD_BYTES, SEGMENT_BYTES, 11):
        directory = tmp_path / f"{size}"
        log = opened(directory)
        put(log, b"x" * size)
        log.sync()
        log.append([b"between"])
        log.sync()
        log.sync()
        put(log, RECORD)
        log.sync()
        log.close()

        log = opened(directory)
        assert all_of(log) == [b"x" * size, b"between", RECORD]
        log.close()


def test_damage_to_the_last_batch_of_a_quiet_log_is_no_torn_tail(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    put(log, b"a")
    put(log, b"last")
    log.sync()
    shutil.copytree(tmp_path / "log", tmp_path / "killed")
    log.close()
    path = tmp_path / "killed" / FIRST
    path.write_bytes(path.read_bytes().replace(b"last", b"lost"))

    with pytest.raises(CorruptError, match="position 2 had been durable"):
        opened(tmp_path / "killed")


def test_large_records_are_written_without_a_copy(tmp_path: Path) -> None:
    class Watching(FaultyFiles):
        def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
            written.extend(buffers)
            return super().write(fd, buffers, offset)

    written: list[bytes] = []
    log = opened(tmp_path, Watching())
    record = b"x" * 100_000

    put(log, record)

    assert any(buffer is record for buffer in written)
    log.close()


def test_short_writes_are_carried_on(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.write_bytes_max = 7
    log = opened(tmp_path, files)
    records = [b"", b"a" * 50, b"", b"b" * 200]
    put(log, *records)
    log.close()

    log = opened(tmp_path)

    assert all_of(log) == records
    log.close()


def test_more_buffers_than_one_call_takes_are_written(tmp_path: Path) -> None:
    log = opened(tmp_path)
    records = [b"" if number < 3000 else b"%06d" % number for number in range(70_000)]
    put(log, *records)
    log.close()

    log = opened(tmp_path)

    assert all_of(log) == records
    log.close()


def test_header_and_name_are_durable_before_the_first_batch(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    log.append([b"a"])
    files.calls.clear()

    log.sync()

    assert files.calls == [
        ("write", FIRST),
        ("sync", FIRST),
        ("sync_directory", tmp_path.name),
        ("write", FIRST),
        ("sync", FIRST),
    ]
    log.close()


def test_a_segment_is_durable_before_the_next_one_begins(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    for _ in range(4):
        log.append([RECORD])

    log.sync()

    steps = [call for call in files.calls if call[0] in {"write", "sync"}]
    assert steps.index(("write", SECOND)) > max(
        index for index, call in enumerate(steps) if call == ("sync", FIRST)
    )
    log.close()


def test_part_of_a_sync_that_became_durable_counts(tmp_path: Path) -> None:
    """Two segments in one sync, the second fails: what lies in the first is durable."""
    files = FaultyFiles()
    log = opened(tmp_path, files)
    for _ in range(4):
        log.append([RECORD])
    files.errors["sync"], files.skip_counts["sync"] = errno.EIO, 2

    with pytest.raises(UnavailableError):
        log.sync()

    assert log.durable_position == 3
    assert all_of(log) == [RECORD] * 3
    log.close()


@pytest.mark.parametrize("operation", ["write", "sync", "sync_directory"])
def test_after_an_error_no_file_is_written_or_synced_again(
    tmp_path: Path, operation: str
) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    log.append([b"a"])
    files.errors[operation] = errno.EIO
    with pytest.raises(UnavailableError) as caught:
        log.sync()
    assert caught.value.is_result_unknown
    assert isinstance(caught.value.__cause__, OSError)
    files.errors.clear()
    files.calls.clear()

    with pytest.raises(UnavailableError, match="restart the node"):
        log.append([b"b"])
    with pytest.raises(UnavailableError, match="restart the node"):
        log.sync()
    log.close()

    assert files.calls == []


def test_no_room_within_a_segment_is_an_error_like_any_other(tmp_path: Path) -> None:
    """The space was taken before: where that doesn't hold, nothing is known any more."""
    files = FaultyFiles()
    log = opened(tmp_path, files)
    log.append([b"a"])
    files.errors["write"] = errno.ENOSPC

    with pytest.raises(UnavailableError) as caught:
        log.sync()

    assert caught.value.is_result_unknown
    files.errors.clear()
    log.close()


def test_an_interrupted_sync_ends_the_log(tmp_path: Path) -> None:
    """What it had taken is gone: what came after it would follow a hole."""

    class Interrupted(FaultyFiles):
        def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
            raise KeyboardInterrupt

    log = opened(tmp_path, Interrupted())
    log.append([b"a"])
    with pytest.raises(KeyboardInterrupt):
        log.sync()

    with pytest.raises(UnavailableError):
        log.append([b"b"])

    log.close()


def test_one_append_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filelog, "FRAME_BYTES_MAX", FRAME_HEAD_BYTES + 4 + 100)
    log = opened(tmp_path)

    assert put(log, b"x" * 100) == 1
    with pytest.raises(InvalidError, match="one append takes up to 148") as caught:
        log.append([b"x" * 101])

    assert caught.value.field == "records"
    assert log.last_position == 1
    log.close()


def test_frames_fill_a_segment_to_the_last_byte_but_the_mark(tmp_path: Path) -> None:
    room = SEGMENT_BYTES - HEADER_BYTES - 2 * FRAME_HEAD_BYTES - 4
    for name, size, expected in (("fits", room, 1), ("not", room + 1, 2)):
        log = opened(tmp_path / name)
        put(log, b"x" * (size // 2))
        rest = size - size // 2 - FRAME_HEAD_BYTES - 4
        put(log, b"y" * rest)
        log.close()

        assert len(segments_in(tmp_path / name)) == expected
        log = opened(tmp_path / name)
        assert log.last_position == 2
        log.close()


# --- space ------------------------------------------------------------------------------------


def test_space_is_taken_when_a_segment_is_made(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append([b"a"])

    assert (tmp_path / FIRST).stat().st_size == SEGMENT_BYTES
    assert (tmp_path / FIRST).stat().st_blocks * 512 >= SEGMENT_BYTES
    log.close()


def test_a_refused_append_leaves_no_file(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    files.room_bytes = 0

    with pytest.raises(NoSpaceError, match=str(tmp_path)):
        log.append([b"a"])

    assert segments_in(tmp_path) == []
    files.room_bytes = None
    assert put(log, b"a") == 1
    log.close()


def test_a_quota_is_a_full_disk(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    files.errors["allocate"] = errno.EDQUOT

    with pytest.raises(NoSpaceError):
        log.append([b"a"])

    files.errors.clear()
    assert put(log, b"a") == 1
    log.close()


def test_the_next_segment_is_made_ahead_by_sync(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    put(log, RECORD)
    assert not (tmp_path / SPARE_NAME).exists()
    put(log, RECORD)
    assert (tmp_path / SPARE_NAME).stat().st_size == SEGMENT_BYTES
    put(log, RECORD)
    before = files.count("allocate")

    log.append([RECORD])

    assert files.count("allocate") == before
    assert segments_in(tmp_path) == [FIRST, SECOND]
    log.sync()
    assert all_of(log) == [RECORD] * 4
    log.close()


def test_trimmed_files_go_with_the_next_sync_the_oldest_first(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    for _ in range(9):
        put(log, RECORD)
    log.sync()
    files.calls.clear()

    log.trim(7)
    assert segments_in(tmp_path) == [FIRST, SECOND, THIRD]
    log.sync()

    assert segments_in(tmp_path) == [THIRD]
    assert files.calls == [
        ("remove", FIRST),
        ("sync_directory", tmp_path.name),
        ("remove", SECOND),
        ("sync_directory", tmp_path.name),
    ]
    log.close()


def test_an_append_that_finds_no_room_frees_what_was_trimmed(tmp_path: Path) -> None:
    class Small(FaultyFiles):
        def remove(self, path: Path) -> None:
            if path.exists() and self.room_bytes is not None:
                self.room_bytes += path.stat().st_size
            super().remove(path)

    files = Small()
    log = opened(tmp_path, files)
    for _ in range(6):
        put(log, RECORD)
    log.append([RECORD])
    log.sync()
    files.room_bytes = 0
    with pytest.raises(NoSpaceError):
        log.append([RECORD] * 3)
    log.trim(7)

    assert log.append([RECORD] * 3) == 10

    assert segments_in(tmp_path) == [THIRD, "0000000004.log"]
    assert log.sync() == 10
    log.close()


def test_the_reserve_is_made_at_the_start_and_takes_no_call_to_use_but_a_rename(
    tmp_path: Path,
) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files, reserve_bytes=8192)
    assert (tmp_path / RESERVE_NAME).stat().st_size == 8192
    files.room_bytes = 0

    log.append([b"ack"], may_use_reserve=True)

    assert not (tmp_path / RESERVE_NAME).exists()
    assert (tmp_path / FIRST).stat().st_size == 8192
    log.close()


def test_what_is_larger_than_the_reserve_does_not_use_it_up(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files, reserve_bytes=2048)
    files.room_bytes = 0

    with pytest.raises(NoSpaceError):
        log.append([RECORD] * 2, may_use_reserve=True)

    assert log.append([RECORD], may_use_reserve=True) == 1
    log.close()


@pytest.mark.parametrize("content", [b"", b"x" * 4096, bytes(4095) + b"x", bytes(100)])
def test_a_reserve_that_is_not_blank_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RESERVE_NAME).write_bytes(content)

    log = opened(tmp_path, reserve_bytes=4096)

    assert (tmp_path / RESERVE_NAME).read_bytes() == bytes(4096)
    log.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_the_reserve_is_taken_and_the_log_goes_on_later(
    tmp_path: Path, number: int
) -> None:
    """It is open already; what else there is of a segment opens a file."""
    files = FaultyFiles()
    log = opened(tmp_path, files, reserve_bytes=4096)
    files.errors["open"] = number

    with pytest.raises(BusyError) as caught:
        log.append([b"a"])
    log.append([b"ack"], may_use_reserve=True)
    files.errors.clear()
    put(log, b"b")

    assert type(caught.value) is BusyError
    assert all_of(log) == [b"ack", b"b"]
    log.close()


@pytest.mark.parametrize("operation", ["open", "remove"])
def test_a_spare_that_cannot_be_made_for_now_fails_no_sync(
    tmp_path: Path, operation: str
) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    put(log, RECORD)
    files.errors[operation] = errno.EMFILE

    put(log, RECORD)

    files.errors.clear()
    put(log, *[RECORD] * 4)
    assert len(all_of(log)) == 6
    log.close()


def test_what_was_trimmed_goes_later_if_it_cannot_go_now(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = opened(tmp_path, files)
    for _ in range(8):
        put(log, RECORD)
    assert (tmp_path / FIRST).exists()
    files.errors["remove"] = errno.ENOSPC
    log.trim(log.last_position)

    put(log, b"a")

    assert (tmp_path / FIRST).exists()
    files.errors.clear()
    put(log, b"b")
    assert not (tmp_path / FIRST).exists()
    assert all_of(log)[-2:] == [b"a", b"b"]
    log.close()


def test_a_log_opens_on_a_full_disk_without_a_reserve(tmp_path: Path) -> None:
    log = opened(tmp_path)
    put(log, b"a")
    log.close()
    files = FaultyFiles()
    files.room_bytes = 0

    log = opened(tmp_path, files, reserve_bytes=4096)

    assert all_of(log) == [b"a"]
    with pytest.raises(NoSpaceError):
        log.append([b"b"], may_use_reserve=True)
    log.close()


# --- lives ------------------------------------------------------------------------------------


def test_each_life_writes_to_files_of_its_own(tmp_path: Path) -> None:
    for number in range(3):
        files = FaultyFiles()
        log = opened(tmp_path, files)
        put(log, str(number).encode())
        log.close()

        mine = segments_in(tmp_path)[-1]
        written = {name for operation, name in files.calls if operation in {"write", "sync"}}
        assert written == {mine}
    assert segments_in(tmp_path) == [FIRST, SECOND, THIRD]


def test_opening_and_closing_alone_makes_no_segment(tmp_path: Path) -> None:
    log = opened(tmp_path)
    put(log, b"a")
    log.close()
    before = (tmp_path / FIRST).read_bytes()

    for _ in range(3):
        opened(tmp_path).close()

    assert segments_in(tmp_path) == [FIRST]
    assert (tmp_path / FIRST).read_bytes() == before


def test_a_finished_life_keeps_only_the_space_it_uses(tmp_path: Path) -> None:
    log = opened(tmp_path)
    put(log, b"a")
    log.close()

    log = opened(tmp_path)
    put(log, b"b")

    assert (tmp_path / FIRST).stat().st_size == HEADER_BYTES + FRAME_HEAD_BYTES + 4 + 1
    assert all_of(log) == [b"a", b"b"]
    log.close()


def test_reading_holds_no_more_than_a_chunk_or_a_batch(tmp_path: Path) -> None:
    class Watching(FaultyFiles):
        def read(self, fd: int, size_bytes: int, offset: int) -> bytes:
            sizes.append(size_bytes)
            return super().read(fd, size_bytes, offset)

    sizes: list[int] = []
    record = b"x" * 1000
    log = FileLog(tmp_path, segment_bytes=8 << 20, reserve_bytes=0, files=Watching())
    for _ in range(60):
        log.append([record] * 100)
    log.sync()
    sizes.clear()

    assert sum(1 for _ in log.read(1)) == 6000

    assert max(sizes) == 1 << 20
    log.close()


CHILD = """
import sys
from pathlib import Path
from sandglass.adapters.filelog import FileLog

log = FileLog(Path(sys.argv[1]), segment_bytes=65536, reserve_bytes=0)
print("durable", log.durable_position, flush=True)
while True:
    for _ in range(5):
        first = log.last_position + 1
        log.append([b"%d:" % (first + at) * (first % 50 + 1) for at in range(3)])
    print("durable", log.sync(), flush=True)
"""


def test_kill_in_full_flight_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    for round_number in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(50 + 30 * round_number)]
        child.kill()
        lines += [line for line in child.stdout if line.endswith("\n")]
        reported = int(lines[-1].removeprefix("durable "))
        child.stdout.close()
        child.wait(timeout=60)

        log = FileLog(tmp_path, segment_bytes=65536, reserve_bytes=0)
        found = list(log.read(1))
        log.close()

        assert [position for position, _ in found] == list(range(1, len(found) + 1))
        assert len(found) >= reported > 0
        assert len(found) % 3 == 0
        for position, record in found:
            first = position - (position - 1) % 3
            assert record == b"%d:" % position * (first % 50 + 1)


def test_header_holds_what_it_was_given() -> None:
    header = Header(7, b"n" * 16, b"f" * 8, 1 << 60, 1 << 40, 123)

    data, crc = header.encode()

    assert len(data) == HEADER_BYTES
    assert segment.decode_header(data, Path("x")) == (header, crc)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1
        assert segment.decode_header(bytes(damaged), Path("x")) is None
