"""The node's own records: topics, partitions, epochs; and what a machine is after a restart."""

from dataclasses import replace

import pytest

from sandglass.core import limits
from sandglass.core.lease import Consumer
from sandglass.core.machine import (
    Machine,
    decode_topic,
    encode_topic,
    promise_left_ms,
    promise_until,
)
from sandglass.core.membership import admit_group
from sandglass.core.offset import INDEX_BITS, MAX
from sandglass.core.record import Cut, DeleteTopic, OpenEpoch, Promise, PutTopic
from sandglass.core.topic import PartitionRef, Topic, TopicKind, TopicSettings
from sandglass.testing.seen import take_messages
from tests.unit.core.drive import START_MS, Drive

PROMISE_MS = limits.PROMISE_MS

OTHER = Topic("b", TopicKind.TIMER, (PartitionRef("Q", 2), PartitionRef("R", 3)))


def _put(drive: Drive, topic: Topic) -> None:
    put = PutTopic(topic.name, encode_topic(topic))
    drive.apply(drive.machine.record([put], drive.moment))


def _delete(drive: Drive, topic: Topic) -> None:
    numbers = [ref.number for ref in topic.partitions]
    drive.apply(drive.machine.record([DeleteTopic(topic.name, numbers)], drive.moment))


def test_topic_is_read_as_it_was_written() -> None:
    topic = replace(OTHER, created_ms=5, settings=TopicSettings(max_deliveries=7))

    assert topic == decode_topic(encode_topic(topic))


def test_topics_and_clocks_are_there_after_a_restart() -> None:
    drive = Drive()
    _put(drive, OTHER)
    drive.go(70)
    drive.produce()

    machine = Machine.load(take_messages, drive.store)

    assert ["a", "b"] == sorted(machine.topics)
    assert [1, 2, 3] == sorted(machine.refs)
    assert (START_MS + 70, 70) == machine.clocks(drive.store)


def test_changed_settings_reach_a_partition_that_is_in_memory() -> None:
    drive = Drive()
    topic = drive.machine.topics["a"]
    before = drive.partition

    _put(drive, replace(topic, settings=TopicSettings(max_deliveries=9)))

    assert before is drive.partition
    assert 9 == before.settings.max_deliveries


def test_deleted_topic_goes_with_everything_and_its_numbers_are_not_used_again() -> None:
    drive = Drive()
    _put(drive, OTHER)
    partition = drive.machine.partition(3, drive.store)
    batch = drive.batch([0], [2], is_delay=False)
    record, _ = partition.admit_append("master", batch, drive.moment, drive.store)
    drive.apply(record)
    late, _ = partition.admit_append("master", batch, drive.moment, drive.store)

    _delete(drive, OTHER)

    rows = [key for key, _ in drive.store.range(b"", b"\xff") if key[1:5] == b"\0\0\0\3"]
    assert [] == rows
    assert not drive.machine.apply(late, drive.store)
    assert [1] == list(drive.machine.refs)
    assert 4 == Machine.load(take_messages, drive.store).next_partition


def test_each_leader_opens_a_higher_epoch_and_its_tokens_are_higher() -> None:
    drive = Drive()
    token = drive.partition.next_token

    drive.restart()

    assert 2 == drive.machine.epoch
    assert drive.partition.next_token > token


def test_epoch_that_goes_back_is_refused() -> None:
    drive = Drive()
    record = drive.machine.record([OpenEpoch(0)], drive.moment)

    with pytest.raises(AssertionError, match="epoch goes back"):
        drive.machine.apply(record, drive.store)


def test_operation_of_a_partition_in_a_record_of_the_node_is_refused() -> None:
    drive = Drive()
    record = drive.machine.record([Cut(5)], drive.moment)

    with pytest.raises(AssertionError, match="in a record of the node"):
        drive.machine.apply(record, drive.store)


def test_partition_that_is_loaded_late_counts_the_promise_as_closed_as_well() -> None:
    drive = Drive()
    drive.apply(drive.machine.record([Promise(promise_until(START_MS))], drive.moment))
    drive.go(250)
    drive.restart()
    assert {} == drive.machine.partitions

    assert START_MS + 250 << INDEX_BITS == drive.partition.closed


def test_partition_of_a_machine_that_does_not_lead_is_loaded_as_it_stands() -> None:
    drive = Drive()
    drive.produce()

    machine = Machine.load(take_messages, drive.store)

    assert 1 == machine.partition(1, drive.store).last_index
    assert 0 == machine.partition(1, drive.store).closed_at_start


def test_promise_never_goes_back() -> None:
    drive = Drive()

    for until_ms in (5000, 4000):
        drive.apply(drive.machine.record([Promise(until_ms)], drive.moment))

    assert 5000 == drive.machine.promised_ms


def test_leader_that_is_ahead_in_memory_writes_only_what_records_carry() -> None:
    drive = Drive()
    record, _ = drive.admit()
    drive.go(500)
    drive.partition.see(drive.wall_ms)
    drive.apply(record)

    machine = Machine.load(take_messages, drive.store)

    assert START_MS == machine.partition(1, drive.store).now_ms


def test_partitions_in_memory_are_led_when_the_machine_begins_to() -> None:
    drive = Drive()
    drive.produce()
    drive.machine = Machine.load(take_messages, drive.store)
    drive.machine.clocks(drive.store)

    drive.apply(drive.machine.lead(drive.moment))

    assert 2 == drive.partition.epoch


def test_epoch_that_is_to_be_opened_changes_nothing_before_it_is_applied() -> None:
    """Another leader's records still come in, below its promise: they are no mistake."""
    drive = Drive()
    replica = Machine.load(take_messages, drive.store)
    opening = replica.opening(2, drive.moment)
    drive.apply(drive.machine.record([Promise(drive.wall_ms + 2000)], drive.moment))
    replica.promised_ms = drive.wall_ms + 2000
    record, _ = drive.admit()
    drive.machine = replica

    drive.apply(record)
    drive.apply(opening)
    replica.take_over(drive.moment)

    assert (2, 2) == (replica.epoch, drive.partition.epoch)
    assert drive.wall_ms + 2000 == drive.partition.closed >> INDEX_BITS


def test_a_time_that_another_partition_has_seen_is_no_time_that_came_for_this_one() -> None:
    """The clock is set back, then a message is scheduled, then a new leader starts."""
    drive = Drive()
    _put(drive, OTHER)
    quiet = drive.machine.partition(2, drive.store)
    drive.go(3_600_000)
    drive.produce()
    drive.apply(drive.machine.record([Promise(promise_until(drive.wall_ms))], drive.moment))
    drive.wall_ms -= 3_600_000
    batch = drive.batch([drive.wall_ms + 1_800_000], [1], is_delay=False)
    record, _ = quiet.admit_append("master", batch, drive.moment, drive.store)
    drive.apply(record)

    drive.restart()
    quiet = drive.machine.partition(2, drive.store)
    made = admit_group(quiet, "master", "g", moment=drive.moment, view=drive.store)
    drive.apply(made)
    group = quiet.group("master", "g", drive.store)
    quiet.add_consumer(group, Consumer(1, 10, 1000))
    deliveries, moved = quiet.dispatch(drive.moment, MAX, drive.store)

    assert [] == deliveries
    assert 1 == len(moved)


@pytest.mark.parametrize(
    ("promised_ms", "left_ms"),
    [(0, 0), (5000, 0), (5001, 1), (5000 + PROMISE_MS, PROMISE_MS), (5001 + PROMISE_MS, 0)],
)
def test_starting_leader_waits_for_the_promise_unless_its_clock_was_stepped_back(
    promised_ms: int, left_ms: int
) -> None:
    assert left_ms == promise_left_ms(promised_ms, 5000)
