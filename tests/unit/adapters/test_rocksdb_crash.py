"""
RocksDB under kill -9 and on a full disk: nothing but an exact prefix, nothing lost.

Run as a program, this file is the process that gets killed, or whose disk is full.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandglass.adapters.rocksdb import RocksStore
from sandglass.core.view import Changes, Row
from sandglass.errors import BusyError, NoSpaceError

LOWEST, HIGHEST = b"", b"\xff" * 16


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "view"


def rows_of(store: RocksStore) -> list[Row]:
    return list(store.range(LOWEST, HIGHEST))


def changes_at(position: int) -> Changes:
    """What the record at this position does: the same each time."""
    changes = Changes()
    if position % 100 == 0:
        changes.cut(b"k%08d" % (position - 100), b"k%08d" % (position - 20))
    for part in range(5):
        changes.rows[b"k%08d-%d" % (position, part)] = b"%d" % position * 20
    changes.rows[b"large%d" % (position % 7)] = b"%08d" % position * 1000
    changes.rows[b"k%08d-0" % (position - 3)] = None
    return changes


def expected_at(position: int) -> list[Row]:
    model: dict[bytes, bytes] = {}
    for each in range(1, position + 1):
        changes = changes_at(each)
        for first, end in changes.cuts:
            for key in [key for key in model if first <= key < end]:
                del model[key]
        for key, value in changes.rows.items():
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
    return sorted(model.items())


def test_killed_in_full_flight_it_is_an_exact_prefix(directory: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, __file__, "write", str(directory)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    flushed_position = 0
    try:
        while flushed_position < 1000:
            flushed_position = int(child.stdout.readline())
    finally:
        child.kill()
        child.wait(timeout=60)
        # The last line may be torn.
        lines = child.stdout.read().split("\n")[:-1]
        child.stdout.close()

    store = RocksStore(directory, is_new=False)

    assert store.applied_position >= max(flushed_position, *map(int, lines), 0)
    assert rows_of(store) == expected_at(store.applied_position)
    store.close()


def test_reopened_store_is_at_a_prefix_and_takes_the_rest_again(directory: Path) -> None:
    store = RocksStore(directory, is_new=True)
    for position in range(1, 51):
        store.write(changes_at(position), position)
    rows = store.range(LOWEST, HIGHEST)
    next(rows)

    store.reopen()

    assert rows_of(store) == expected_at(store.applied_position)
    for position in range(store.applied_position + 1, 61):
        store.write(changes_at(position), position)
    assert rows_of(store) == expected_at(60)
    store.close()


@pytest.mark.slow
def test_full_disk_refuses_writes_and_loses_nothing(tmp_path: Path) -> None:
    """On a small file system of its own, which takes a user namespace."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    script = 'mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@"'
    found = subprocess.run(
        [
            *(unshare, "-Urm", "sh", "-c", script, str(tmp_path)),
            *(sys.executable, __file__, "fill", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (found.stdout.split(), found.stderr) == (["full", "resumed", "reopened"], "")


def child_write(directory: Path) -> None:
    """Writes until it is killed, and says what it believes to be safe."""
    store = RocksStore(directory, is_new=True, write_buffer_bytes=1 << 19, flush_bytes=1 << 18)
    position = 0
    while True:
        position += 1
        while True:
            try:
                store.write(changes_at(position), position)
                break
            except BusyError as error:
                time.sleep(error.retry_after_ms / 1000)
        if position % 10 == 0:
            print(store.flushed_position(), flush=True)


def child_fill(folder: Path) -> None:
    """Fills its disk, makes room, fills it again."""
    store = RocksStore(folder / "view", is_new=True, write_buffer_bytes=1 << 20)
    filler = folder / "filler"

    def write_until_full() -> int:
        filler.write_bytes(b"x" * (10 << 20))
        position = store.applied_position
        while True:
            position += 1
            try:
                store.write(Changes({b"%08d" % position: b"%08d" % position * 3000}), position)
            except NoSpaceError:
                return position
            except BusyError:
                position -= 1
                time.sleep(0.005)

    def check(position: int) -> None:
        assert store.applied_position == position
        expected = [(b"%08d" % each, b"%08d" % each * 3000) for each in range(1, position + 1)]
        assert rows_of(store) == expected

    refused = write_until_full()
    check(refused - 1)
    assert store._number("background-errors")
    assert store.flushed_position() < refused
    print("full")

    filler.unlink()
    deadline = time.monotonic() + 60
    while store.applied_position < refused:
        assert time.monotonic() < deadline
        try:
            store.write(Changes({b"%08d" % refused: b"%08d" % refused * 3000}), refused)
        except BusyError:
            time.sleep(0.02)
    check(refused)
    print("resumed")

    store.write(Changes(cuts=[(LOWEST, b"%08d" % (refused // 2))]), refused)
    before = store.flushed_position()
    store.reopen()
    assert before <= store.applied_position <= refused
    store.close()
    print("reopened")


if __name__ == "__main__":
    {"write": child_write, "fill": child_fill}[sys.argv[1]](Path(sys.argv[2]))
