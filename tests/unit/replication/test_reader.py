from dataclasses import replace
from typing import Any

import pytest

from sandglass.errors import CorruptError
from sandglass.replication.entry import Entry, EntryKind, checksum_of, decode, encode
from sandglass.replication.reader import Accepted, Freeze, Mark, Reader
from tests.unit.replication.stream import STREAM, A, B, Stream, sends


def led() -> Stream:
    """A fence and three entries, n = 1 to 3 at sequences 2 to 4."""
    stream = Stream()
    for outgoing in sends(stream.leader(A), b"one", b"two", b"three"):
        stream.store(outgoing)
    return stream


def changed(stream: Stream, sequence: int, **fields: Any) -> Entry:
    """An entry of the stream with other fields, stored in its place."""
    entry = replace(decode(sequence, stream.raws[sequence - 1]), **fields)
    stream.raws[sequence - 1] = encode(entry)
    return entry


def read(stream: Stream, mark: Mark | None = None) -> tuple[Reader, list[Accepted]]:
    reader = Reader(mark or Mark())
    return reader, stream.feed(reader)


def frozen(stream: Stream, kind: Freeze, mark: Mark | None = None) -> str:
    """Why a reader of this stream is frozen, which has to be of this kind."""
    reader, _ = read(stream, mark)
    assert reader.frozen is not None
    assert kind is reader.frozen.kind
    assert reader.frozen.needs_snapshot == (kind is Freeze.TRIMMED)
    return reader.frozen.reason


def test_entries_of_one_leader_are_accepted_in_order() -> None:
    stream = led()

    reader, accepted = read(stream)

    records = [record for each in accepted for record in each.records()]
    assert [(1, b"open 1"), (2, b"one"), (3, b"two"), (4, b"three")] == records
    checksum = checksum_of(stream.raws[3])
    assert Mark(4, 1, 3, reader.mark.chain, 4, A, STREAM, checksum) == reader.mark
    assert accepted[-1].mark == reader.mark


def test_positions_count_records_and_not_entries() -> None:
    stream = Stream()
    leader = stream.leader(A)
    leader.append([b"one", b"two"])
    leader.append([b"three"])
    (outgoing,) = leader.pack()
    stream.store(outgoing)

    assert [(2, b"one"), (3, b"two"), (4, b"three")] == stream.records()[1:]
    assert 4 == outgoing.last_position


# --- what is dropped --------------------------------------------------------------------------


def test_entry_of_a_deposed_leader_is_dropped() -> None:
    stream = Stream()
    late = sends(stream.leader(A), b"one", b"two")
    stream.leader(B)
    for outgoing in late:
        stream.store(outgoing)

    reader, _ = read(stream)

    assert [(1, b"open 1"), (2, b"open 2")] == stream.records()
    assert 2 == reader.dropped.stale
    assert reader.frozen is None


def test_of_two_fences_with_one_epoch_the_first_counts_and_so_does_its_writer() -> None:
    stream = Stream()
    first, second = stream.candidate(A), stream.candidate(B)
    assert first.epoch == second.epoch
    stream.store(first.fence(b"first"))
    stream.store(second.fence(b"second"))
    second.observe(read(stream)[1][0])
    stream.read_to(first)
    stream.store(sends(first, b"of the first")[0])

    assert [(1, b"first"), (2, b"of the first")] == stream.records()


def test_entry_of_the_writer_that_lost_its_epoch_is_dropped() -> None:
    stream = led()
    entry = Entry(EntryKind.RECORDS, B, 1, 4, 3, 5, read(stream)[0].mark.chain, (b"x",))
    stream.raws.append(encode(entry))

    reader, accepted = read(stream)

    assert 4 == len(accepted)
    assert 1 == reader.dropped.stale


def test_repeat_is_dropped() -> None:
    stream = led()
    stream.raws += stream.raws[:3]

    reader, accepted = read(stream)

    assert 4 == len(accepted)
    assert 3 == reader.dropped.repeated


def test_entry_before_its_turn_is_dropped_and_remembered_until_it_is_accepted() -> None:
    stream = Stream()
    one, two, three = sends(stream.leader(A), b"one", b"two", b"three")
    stream.store(two)
    stream.store(three)

    reader, _ = read(stream)

    assert {2, 3} == reader.early
    assert 2 == reader.dropped.early
    assert reader.frozen is None

    for outgoing in (one, two):
        stream.store(outgoing)
    stream.feed(reader)

    assert {3} == reader.early

    stream.store(three)
    stream.feed(reader)

    assert set() == reader.early
    assert [(2, b"one"), (3, b"two"), (4, b"three")] == stream.records()[1:]


def test_fence_makes_earlier_entries_never_come() -> None:
    stream = Stream()
    _, two = sends(stream.leader(A), b"one", b"two")
    stream.store(two)
    reader, _ = read(stream)
    stream.leader(B)

    stream.feed(reader)

    assert set() == reader.early
    assert 2 == reader.mark.epoch


def test_sequence_that_was_looked_at_is_passed_over() -> None:
    stream = led()
    reader, _ = read(stream)

    assert reader.take(2, b"rubbish") is None
    assert reader.frozen is None


# --- what freezes -----------------------------------------------------------------------------


def test_damaged_entry_freezes_and_is_named() -> None:
    stream = led()
    stream.raws[2] = stream.raws[2][:-1] + b"!"

    assert "entry 3 of" in frozen(stream, Freeze.DAMAGED)


def test_frozen_reader_never_goes_on_by_itself() -> None:
    stream = led()
    whole = list(stream.raws)
    stream.raws[2] = b"rubbish"
    reader, _ = read(stream)
    stream.raws = whole
    reason = reader.frozen

    assert [] == stream.feed(reader)
    assert reader.take(3, whole[2]) is None
    assert not reader.check_stream(first_sequence=1, last_sequence=4, stream=STREAM)
    assert reason == reader.frozen
    assert 2 == reader.mark.sequence


def test_gap_behind_which_the_writer_knew_something_accepted_freezes() -> None:
    stream = led()
    changed(stream, 4, known=2)
    del stream.raws[2]

    said = frozen(stream, Freeze.MISSING)

    assert "n = 3 of epoch 1 says that 2 was accepted; here 1 is the last" in said


def test_epoch_without_its_fence_freezes() -> None:
    stream = led()
    leader = stream.leader(B)
    stream.store(sends(leader, b"x")[0])
    del stream.raws[4]

    assert "epoch 2 was never opened, 1 was" in frozen(stream, Freeze.MISSING)


def test_other_chain_freezes() -> None:
    stream = led()
    changed(stream, 3, records=(b"another",))

    assert "entry 4: n = 3 of epoch 1 follows another" in frozen(stream, Freeze.CHAIN)


def test_other_position_freezes() -> None:
    stream = led()
    changed(stream, 4, position=9)

    assert "begins at position 9, expected 4" in frozen(stream, Freeze.CHAIN)


def test_fence_whose_writer_had_read_more_freezes() -> None:
    stream = led()
    stream.leader(B)
    del stream.raws[3]

    said = frozen(stream, Freeze.MISSING)

    assert "had read up to position 4; here 3 is the last" in said


def test_fence_whose_writer_had_read_something_else_freezes() -> None:
    stream = led()
    stream.leader(B)
    changed(stream, 4, records=(b"another",))

    assert "entry 5: epoch 2 follows another history" in frozen(stream, Freeze.CHAIN)


def test_fence_counts_wherever_it_lands() -> None:
    """The old leader's entries came in between."""
    stream = Stream()
    leader = stream.leader(A)
    candidate = stream.candidate(B)
    stream.store(sends(leader, b"one")[0])
    stream.store(candidate.fence(b"open 2"))

    assert [(1, b"open 1"), (2, b"one"), (3, b"open 2")] == stream.records()


def test_sequence_that_was_left_out_needs_a_snapshot() -> None:
    stream = led()
    reader = Reader()
    reader.check_stream(first_sequence=1, last_sequence=4, stream=STREAM)
    reader.take(1, stream.raws[0])

    assert reader.take(4, stream.raws[3]) is None
    assert reader.frozen is not None
    assert reader.frozen.needs_snapshot
    assert "sequences 2 to 3 are not there" == reader.frozen.reason


# --- the stream as a whole --------------------------------------------------------------------


def check(reader: Reader, first: int, last: int, stream: str = STREAM) -> Freeze | None:
    is_same = reader.check_stream(first_sequence=first, last_sequence=last, stream=stream)
    assert is_same == (reader.frozen is None)
    return None if reader.frozen is None else reader.frozen.kind


def test_stream_that_goes_on_where_reading_ended_is_the_same() -> None:
    reader, _ = read(led())

    assert check(Reader(reader.mark), 1, 4) is None
    assert check(Reader(reader.mark), 5, 4) is None
    assert check(Reader(reader.mark), 5, 9) is None


def test_shorter_stream_freezes() -> None:
    reader, _ = read(led())

    assert Freeze.SHORTER is check(Reader(reader.mark), 1, 3)


def test_stream_shorter_than_what_was_dropped_from_it_freezes() -> None:
    stream = led()
    stream.raws.append(stream.raws[1])
    reader, _ = read(stream)

    assert Freeze.SHORTER is check(reader, 1, 4)


def test_stream_made_anew_freezes() -> None:
    reader, _ = read(led())

    assert Freeze.ANEW is check(Reader(reader.mark), 1, 4, "made on Tuesday")


def test_stream_trimmed_beyond_the_mark_needs_a_snapshot() -> None:
    reader, _ = read(led())

    assert Freeze.TRIMMED is check(Reader(reader.mark), 6, 9)
    assert Freeze.TRIMMED is check(Reader(), 2, 9)


def test_rewound_stream_that_grew_again_freezes_a_reader_that_had_read_more() -> None:
    stream = led()
    mark = read(stream)[0].mark
    del stream.raws[3]
    leader = stream.leader(B)
    for outgoing in sends(leader, b"x", b"y"):
        stream.store(outgoing)

    assert "epoch 2 was never opened" in frozen(stream, Freeze.MISSING, mark)


def test_stream_that_grew_again_to_the_same_length_shows_by_what_stands_at_the_mark() -> None:
    stream = led()
    mark = read(stream)[0].mark
    reader, other = Reader(mark), Reader(mark)

    same = reader.check_stream(
        first_sequence=1, last_sequence=4, stream=STREAM, at_mark=stream.raws[3]
    )
    changed(stream, 4, records=(b"another",))
    is_same = other.check_stream(
        first_sequence=1, last_sequence=4, stream=STREAM, at_mark=stream.raws[3]
    )

    assert (True, False) == (same, is_same)
    assert other.frozen is not None
    assert "sequence 4 holds another entry than it did" == other.frozen.reason


# --- marks ------------------------------------------------------------------------------------


def test_mark_is_read_as_it_was_written() -> None:
    mark = read(led())[0].mark

    assert mark == Mark.decode(mark.encode())
    assert Mark() == Mark.decode(Mark().encode())
    assert Mark() == Mark.decode(None)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 1}',
        b'{"version": 1, "writer": "xy"}',
        Mark().encode().replace(b'"version": 1', b'"version": 2'),
        Mark().encode().replace(b'"n"', b'"m"'),
    ],
)
def test_row_that_is_no_mark_is_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptError, match="mark cannot be read"):
        Mark.decode(raw)


def test_reader_that_begins_at_a_mark_keeps_the_floor_of_its_epoch() -> None:
    stream = Stream()
    late = sends(stream.leader(A), b"one")
    stream.leader(B)
    mark = read(stream)[0].mark
    stream.store(late[0])

    assert [] == stream.records(mark)
