"""Places of a lease, and the parts of its tile that they stand for."""

import gc

from sandglass.core.lease import TOKEN_BITS, Lease, first_token, merged
from tests.unit.core.drive import Drive


def _lease() -> Lease:
    """Three messages from 110 on, two from 120 on; the tile is [100, 130)."""
    return Lease(
        token=9,
        group=1,
        consumer=1,
        attempts=0,
        releases=0,
        is_retry=False,
        low=100,
        high=130,
        lease_ms=10,
        ends_ms=10,
        dues=(0, 0),
        indexes=(110, 120),
        counts=(3, 2),
        count=5,
        open=0b11111,
    )


def test_tokens_of_partitions_begin_at_places_of_their_own_within_their_epoch() -> None:
    ids = [f"06H1M2N4B7007XJA0000{number:06}" for number in range(1000)]

    firsts = sorted(first_token(7, each) for each in ids)

    assert {7} == {first >> TOKEN_BITS for first in firsts}
    assert len(ids) == len(set(firsts))
    assert 1 << TOKEN_BITS - 1 > firsts[-1] - (7 << TOKEN_BITS)
    assert first_token(8, ids[0]) > firsts[-1]


def test_all_places_cover_the_whole_tile() -> None:
    lease = _lease()

    assert [(100, 130, 5)] == lease.ranges(lease.take([]))
    assert 0 == lease.open


def test_gap_before_a_message_belongs_to_it() -> None:
    assert [(113, 121, 1)] == _lease().ranges([(3, 1)])


def test_end_of_the_tile_belongs_to_the_last_message() -> None:
    assert [(121, 130, 1)] == _lease().ranges([(4, 1)])


def test_ranges_that_touch_are_one() -> None:
    assert [(111, 121, 3)] == _lease().ranges([(1, 2), (3, 1)])


def test_open_places_are_stretches() -> None:
    lease = _lease()
    lease.take([(1, 1), (4, 1)])

    assert [(0, 1), (2, 2)] == lease.open_places()


def test_place_of_an_offset_is_found_or_none() -> None:
    lease = _lease()

    found = [lease.place_of(offset) for offset in (109, 110, 112, 113, 120, 121, 122)]

    assert [None, 0, 2, None, 3, 4, None] == found


def test_stretches_are_sorted_and_joined() -> None:
    assert [(0, 3), (5, 1)] == merged([(5, 1), (1, 2), (0, 1)])
    assert [(4, 2)] == merged([(4, 2)])


def test_messages_that_are_closed_are_open_no_more_and_no_others() -> None:
    lease = _lease()

    lease.close(111, 120)

    assert [(0, 1), (3, 2)] == lease.open_places()


def test_the_collector_of_cycles_does_not_look_into_a_lease() -> None:
    """A hundred thousand leases are so many objects for it, and not four times as many."""
    drive = Drive()
    drive.read(drive.group())
    drive.produce(0, 1, 2)
    drive.go(5)
    (delivery,) = drive.dispatch()
    lease = delivery.lease

    gc.collect()

    columns = (lease.dues, lease.indexes, lease.counts)
    assert [3, 3, 3] == [len(each) for each in columns]
    assert not any(map(gc.is_tracked, columns))
