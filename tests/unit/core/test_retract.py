"""Admissions that are undone, because the log has no room for them."""

from sandglass.core.record import Record
from tests.unit.core.drive import Drive, offset


def test_what_is_taken_back_leaves_no_gap() -> None:
    drive = Drive()
    drive.produce()
    refused, _ = drive.admit(counts=[3])

    assert {} == drive.partition.retract(refused)

    placed = drive.produce()
    assert 2 == placed.first_index
    assert 2 == sum(part.count for part in drive.fetch())


def test_what_is_taken_back_holds_back_no_reader() -> None:
    drive = Drive()
    drive.produce()
    refused, _ = drive.admit()
    drive.go(1)
    before = drive.partition.read_bound()

    drive.partition.retract(refused)

    assert before < offset(drive.wall_ms, 0) <= drive.partition.read_bound()


def _with_a_dead_letter_behind(drive: Drive, *dues: int) -> tuple[Record, Record, Record]:
    """An append that finds no room; then a dead letter and an ack, all on their way."""
    group = drive.group()
    drive.read(group)
    drive.produce()
    drive.produce()
    first, second = drive.dispatch()[:2] if len(drive.deliver(2)) == 2 else drive.split()
    refused, _ = drive.admit(*dues)
    return refused, first, second
