from itertools import pairwise

import pytest

from sandglass.core import limits
from sandglass.replication.entry import decode
from sandglass.replication.reader import Mark, Reader
from sandglass.replication.writer import Outcome, Outgoing, Phase, Writer, next_epoch
from tests.unit.replication.stream import A, B, C, Stream, sends

UNKNOWN, NEVER, COMMITTED = Outcome.UNKNOWN, Outcome.NEVER, Outcome.COMMITTED


def acknowledge(stream: Stream, writer: Writer, *outgoing: Outgoing) -> None:
    """The stream takes these, and says so."""
    for each in outgoing:
        sequence = stream.publish(each)
        assert sequence is not None
        writer.acknowledged(each, sequence)


# --- the fence --------------------------------------------------------------------------------


@pytest.mark.parametrize(("catalog", "log"), [(4, 2), (2, 4), (4, 4)])
def test_new_epoch_is_above_catalog_and_log(catalog: int, log: int) -> None:
    assert 5 == next_epoch(catalog_epoch=catalog, mark=Mark(epoch=log))


def test_writer_of_an_epoch_that_the_log_has_seen_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="has seen"):
        Writer(A, 4, Mark(epoch=4))


def test_writer_leads_once_its_fence_was_read_back() -> None:
    stream = Stream()
    writer = stream.candidate(A)
    fence = writer.fence(b"open")
    stream.store(fence)

    assert Phase.FENCING is writer.phase
    assert fence.expected_last_sequence is None

    stream.read_to(writer)

    assert Phase.LEADING is writer.phase
    assert 1 == writer.committed_position == writer.last_position


def test_nothing_is_appended_before_the_fence_was_read_back() -> None:
    writer = Stream().candidate(A)

    with pytest.raises(AssertionError, match="doesn't lead"):
        writer.append([b"one"])


def test_fence_is_the_same_when_it_is_sent_again() -> None:
    writer = Stream().candidate(A)

    assert writer.fence(b"open") is writer.fence(b"open, later")


def test_answers_to_a_fence_say_nothing() -> None:
    stream = Stream()
    writer = stream.candidate(A)
    fence = writer.fence(b"open")

    writer.acknowledged(fence, 7)
    writer.failed(fence, "timeout")

    assert Phase.FENCING is writer.phase


def test_what_the_old_leader_stored_before_the_fence_counts_and_comes_first() -> None:
    stream = Stream()
    old = stream.leader(A)
    writer = stream.candidate(B)
    stream.store(sends(old, b"one")[0])
    stream.store(writer.fence(b"open 2"))

    stream.read_to(writer)

    assert Phase.LEADING is writer.phase
    assert 3 == writer.committed_position


def test_candidate_that_reads_a_higher_fence_is_deposed() -> None:
    stream = Stream()
    writer, other = stream.candidate(A), stream.candidate(B, catalog_epoch=1)
    stream.store(other.fence(b"open 2"))
    stream.store(writer.fence(b"open 1"))

    stream.read_to(writer)

    assert Phase.DEPOSED is writer.phase


def test_candidate_whose_epoch_was_opened_by_another_first_is_deposed() -> None:
    stream = Stream()
    writer, other = stream.candidate(A), stream.candidate(B)
    stream.store(other.fence(b"open"))
    stream.store(writer.fence(b"open"))

    stream.read_to(writer)
    stream.read_to(other)

    assert Phase.DEPOSED is writer.phase
    assert Phase.LEADING is other.phase


def test_observing_with_something_left_out_is_a_mistake() -> None:
    stream = Stream()
    stream.leader(A)
    writer = stream.candidate(B)
    stream.store(writer.fence(b"open 2"))
    late = Writer(C, 9, Mark())
    reader = Reader()

    with pytest.raises(AssertionError, match="left out"):
        late.observe(stream.feed(reader)[-1])


# --- packing ----------------------------------------------------------------------------------


def test_entries_carry_what_waits_up_to_the_target() -> None:
    stream = Stream()
    writer = stream.leader(A)
    record = bytes(100_000)
    for _ in range(5):
        writer.append([record])

    outgoing = writer.pack()

    assert [2, 2, 1] == [len(decode(1, each.raw).records) for each in outgoing]
    assert all(len(each.raw) <= limits.ENTRY_BYTES_TARGET for each in outgoing)
    assert [2, 3, 4] == [each.sequence for each in outgoing]
    assert [3, 5, 6] == [each.last_position for each in outgoing]


def test_records_appended_together_stay_in_one_entry() -> None:
    writer = Stream().leader(A)
    writer.append([bytes(100_000)])
    writer.append([bytes(100_000)] * 3)

    outgoing = writer.pack()

    assert [1, 3] == [len(decode(1, each.raw).records) for each in outgoing]


def test_largest_record_goes_alone_and_a_larger_one_is_a_mistake() -> None:
    writer = Stream().leader(A)
    head = len(sends(writer, b"")[0].raw)
    largest = bytes(limits.ENTRY_BYTES_MAX - head)

    (outgoing,) = sends(writer, largest)

    assert limits.ENTRY_BYTES_MAX == len(outgoing.raw)
    with pytest.raises(AssertionError, match="an entry of"):
        writer.append([largest + b"!"])


def test_nothing_appended_is_nothing() -> None:
    writer = Stream().leader(A)

    assert 1 == writer.append([])
    assert [] == writer.pack()
    assert writer.is_idle
    assert writer.oldest is None


def test_entries_under_way_are_bounded_by_count() -> None:
    stream = Stream()
    writer = stream.leader(A)
    under_way = sends(writer, *[b"x"] * (limits.ENTRY_FLIGHT_COUNT_MAX + 2))

    assert limits.ENTRY_FLIGHT_COUNT_MAX == len(under_way)
    assert under_way[0] is writer.oldest

    acknowledge(stream, writer, under_way[0])

    assert [2] == [len(decode(1, each.raw).records) for each in writer.pack()]


def test_entries_under_way_are_bounded_by_bytes() -> None:
    writer = Stream().leader(A)
    large = bytes(limits.ENTRY_FLIGHT_BYTES_MAX // 2)

    assert 2 == len(sends(writer, large, large, large))


def test_room_is_what_would_be_sent_at_once() -> None:
    writer = Stream().leader(A)
    free = writer.room_bytes
    (sent,) = sends(writer, b"sent")
    with_one = writer.room_bytes
    writer.append([b"waits"])
    behind_others = writer.room_bytes
    writer.pack()
    writer.failed(sent, "no answer")

    assert free == min(
        limits.ENTRY_FLIGHT_COUNT_MAX * limits.ENTRY_BYTES_TARGET, limits.ENTRY_FLIGHT_BYTES_MAX
    )
    assert 0 < with_one < free
    assert 0 == behind_others
    assert Phase.DOUBT is writer.phase
    assert 0 == writer.room_bytes


def test_no_room_is_left_when_as_many_are_under_way_as_may_be() -> None:
    writer = Stream().leader(A)
    sends(writer, *[b"x"] * limits.ENTRY_FLIGHT_COUNT_MAX)

    assert 0 == writer.room_bytes


def test_entries_follow_each_other_and_say_what_is_known() -> None:
    stream = Stream()
    writer = stream.leader(A)
    one, two = sends(writer, b"one", b"two")
    acknowledge(stream, writer, one)
    (three,) = sends(writer, b"three")

    entries = [decode(1, each.raw) for each in (one, two, three)]

    assert [1, 2, 3] == [entry.n for entry in entries]
    assert [0, 0, 1] == [entry.known for entry in entries]
    assert all(after.chain != before.chain for before, after in pairwise(entries))
    for outgoing in (two, three):
        acknowledge(stream, writer, outgoing)
    assert [b"one", b"two", b"three"] == [record for _, record in stream.records()[1:]]


# --- in order ---------------------------------------------------------------------------------


def test_entry_is_committed_once_all_before_it_are() -> None:
    stream = Stream()
    writer = stream.leader(A)
    one, two, three = sends(writer, b"one", b"two", b"three")

    writer.acknowledged(two, 3)
    assert 1 == writer.committed_position

    writer.acknowledged(one, 2)
    assert 3 == writer.committed_position

    writer.acknowledged(three, 4)
    assert 4 == writer.committed_position
    assert writer.is_idle


def test_mark_of_the_writer_is_that_of_every_reader() -> None:
    stream = Stream()
    writer = stream.leader(A)
    acknowledge(stream, writer, *sends(writer, b"one", b"two"))
    reader = Reader()
    stream.feed(reader)

    assert reader.mark == writer.mark


def test_nothing_behind_an_error_is_committed() -> None:
    """The known-bad fence: the one that was refused made room for those behind it."""
    stream = Stream()
    writer = stream.leader(A)
    one, two, three = sends(writer, b"one", b"two", b"three")
    acknowledge(stream, writer, one)
    other = stream.leader(B)
    assert stream.publish(two) is None

    assert stream.publish(three) == three.sequence
    writer.failed(two, "wrong last sequence")
    writer.acknowledged(three, three.sequence)

    assert Phase.DOUBT is writer.phase
    assert "n = 2: wrong last sequence" == writer.doubt
    assert 2 == writer.committed_position
    assert [COMMITTED, UNKNOWN, UNKNOWN] == [writer.outcome(each) for each in (2, 3, 4)]
    stream.read_to(writer)
    assert Phase.DEPOSED is writer.phase
    assert [COMMITTED, NEVER, NEVER] == [writer.outcome(each) for each in (2, 3, 4)]
    assert other.mark == stream.candidate(C).mark


def test_entry_stored_elsewhere_is_a_surprise_and_not_committed() -> None:
    stream = Stream()
    writer = stream.leader(A)
    (one,) = sends(writer, b"one")

    writer.acknowledged(one, 7)

    assert Phase.DOUBT is writer.phase
    assert 1 == writer.committed_position
    assert "n = 1 was stored at 7, expected 2" == writer.doubt


def test_answers_in_doubt_still_commit_what_is_before_the_error() -> None:
    stream = Stream()
    writer = stream.leader(A)
    one, two, three = sends(writer, b"one", b"two", b"three")

    writer.failed(two, "timeout")
    writer.acknowledged(three, 4)
    writer.acknowledged(one, 2)

    assert 2 == writer.committed_position
    assert Phase.DOUBT is writer.phase


def test_answer_to_what_was_committed_says_nothing() -> None:
    stream = Stream()
    writer = stream.leader(A)
    (one,) = sends(writer, b"one")
    acknowledge(stream, writer, one)

    writer.acknowledged(one, 9)
    writer.failed(one, "timeout")

    assert Phase.LEADING is writer.phase


# --- doubt ------------------------------------------------------------------------------------


def test_in_doubt_records_are_taken_and_nothing_is_packed() -> None:
    writer = Stream().leader(A)
    (one,) = sends(writer, b"one")
    writer.failed(one, "timeout")

    assert [] == sends(writer, b"two")
    assert [UNKNOWN, NEVER] == [writer.outcome(each) for each in (2, 3)]
    assert not writer.is_idle


def test_retry_sends_what_is_unanswered_as_it_was() -> None:
    stream = Stream()
    writer = stream.leader(A)
    one, two, three = sends(writer, b"one", b"two", b"three")
    for outgoing in (one, two, three):
        stream.publish(outgoing)
    writer.acknowledged(two, 3)
    writer.failed(one, "timeout")

    again = writer.retry(age_ms=limits.DUPLICATE_WINDOW_MS // 2)

    assert [one, three] == again
    assert Phase.LEADING is writer.phase
    writer.acknowledged(one, 2)
    writer.acknowledged(three, 4)
    assert 4 == writer.committed_position


def test_what_the_engine_may_have_forgotten_is_not_sent_again_blindly() -> None:
    writer = Stream().leader(A)
    writer.failed(sends(writer, b"one")[0], "timeout")

    assert writer.retry(age_ms=limits.DUPLICATE_WINDOW_MS // 2 + 1) is None
    assert Phase.DOUBT is writer.phase


def test_after_a_surprise_only_a_look_at_the_log_helps() -> None:
    writer = Stream().leader(A)
    writer.acknowledged(sends(writer, b"one")[0], 7)

    assert writer.retry(age_ms=0) is None


def test_reading_finds_what_was_stored_and_resolve_sends_the_rest() -> None:
    stream = Stream()
    writer = stream.leader(A)
    one, two = sends(writer, b"one", b"two")
    stream.publish(one)
    writer.failed(one, "timeout")

    reader = stream.read_to(writer)
    again = writer.resolve(reader)

    assert 2 == writer.committed_position
    assert [two] == again
    acknowledge(stream, writer, *again)
    assert 3 == writer.committed_position


def test_entry_whose_place_was_taken_gets_another_and_those_behind_it_other_ids() -> None:
    """Another's late fence lands where n = 2 was to go; n = 3 and 4 fit again."""
    stream = Stream()
    loser = stream.candidate(C)
    writer = stream.leader(A)
    one, two, three, four = sends(writer, b"one", b"two", b"three", b"four")
    acknowledge(stream, writer, one)
    stream.store(loser.fence(b"late"))
    assert stream.publish(two) is None
    assert stream.publish(three) == three.sequence
    writer.failed(two, "wrong last sequence")

    again = writer.resolve(stream.read_to(writer))

    assert [5, 6, 7] == [each.sequence for each in again]
    assert [two.message_id, four.message_id] == [again[0].message_id, again[2].message_id]
    assert three.message_id != again[1].message_id
    assert [each.raw for each in (two, three, four)] == [each.raw for each in again]
    acknowledge(stream, writer, *again)
    assert [b"one", b"two", b"three", b"four"] == [raw for _, raw in stream.records()[1:]]
    assert 5 == writer.committed_position


def test_entry_that_stands_at_another_place_goes_out_under_another_id() -> None:
    writer = (stream := Stream()).leader(A)
    (one,) = sends(writer, b"one")
    writer.acknowledged(one, 7)

    (again,) = writer.resolve(stream.read_to(writer))

    assert one.message_id != again.message_id


def test_answers_to_what_was_sent_before_resolve_say_nothing() -> None:
    stream = Stream()
    loser = stream.candidate(C)
    writer = stream.leader(A)
    (one,) = sends(writer, b"one")
    stream.store(loser.fence(b"late"))
    writer.failed(one, "wrong last sequence")
    writer.resolve(stream.read_to(writer))

    writer.failed(one, "timeout")
    writer.acknowledged(one, 2)

    assert Phase.LEADING is writer.phase
    assert 1 == writer.committed_position


def test_entries_after_resolve_go_behind_the_end_that_was_read() -> None:
    stream = Stream()
    loser = stream.candidate(C)
    writer = stream.leader(A)
    (one,) = sends(writer, b"one")
    stream.publish(one)
    stream.store(loser.fence(b"late"))
    writer.failed(one, "timeout")
    assert [] == writer.resolve(stream.read_to(writer))

    (two,) = sends(writer, b"two")

    assert 4 == two.sequence


def test_resolving_without_having_observed_what_was_read_is_a_mistake() -> None:
    stream = Stream()
    writer = stream.leader(A)
    (one,) = sends(writer, b"one")
    stream.publish(one)
    writer.failed(one, "timeout")
    reader = Reader(writer.mark)
    stream.feed(reader)

    with pytest.raises(AssertionError, match="not all was observed"):
        writer.resolve(reader)


def test_reading_along_commits_what_is_there() -> None:
    stream = Stream()
    writer = stream.leader(A)
    (one,) = sends(writer, b"one")
    stream.publish(one)

    stream.read_to(writer)

    assert 2 == writer.committed_position
    assert 0 == writer.flight_bytes


def test_deposed_writer_stays_deposed_and_takes_nothing() -> None:
    stream = Stream()
    writer = stream.leader(A)
    writer.append([b"one"])
    stream.leader(B)
    stream.read_to(writer)
    mark = writer.mark
    stream.leader(C)

    stream.read_to(writer)

    assert Phase.DEPOSED is writer.phase
    assert mark == writer.mark
    assert NEVER is writer.outcome(2)
    assert writer.is_idle
    with pytest.raises(AssertionError, match="doesn't lead"):
        writer.append([b"two"])
