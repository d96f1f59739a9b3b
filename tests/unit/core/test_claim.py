"""What sessions held under the leader before is theirs under the next one, too."""

from dataclasses import replace

import pytest

from sandglass.core.claim import (
    Claim,
    admit_attach,
    admit_detach,
    come_back,
    go_on,
    is_settled,
    may_claim,
    take_claim,
)
from sandglass.core.counting import count_unread
from sandglass.core.dispatch import Delivery
from sandglass.core.group import Group
from sandglass.core.lease import Consumer, Lease, Places
from sandglass.core.outcome import admit_offsets
from sandglass.core.record import Ending
from sandglass.errors import InvalidError, LeaseLostError
from tests.unit.core.drive import Drive, numbers_of, offset

S, OWNER = "session", "somebody"


def attach(drive: Drive, group: Group, session: str = S) -> None:
    drive.apply(admit_attach(drive.partition, group, session, OWNER, drive.moment))


def held(delivery: Delivery, places: Places | None = None) -> Claim:
    """What a client knows of a delivery."""
    lease = delivery.lease
    return Claim(
        lease.token,
        1,
        lease.attempts,
        lease.releases,
        lease.dues,
        lease.indexes,
        lease.counts,
        places or [],
    )


def take(drive: Drive, group: Group, claim: Claim) -> Lease:
    consumer = Consumer(99, 100, 1000)
    return take_claim(drive.partition, group, claim, consumer, drive.moment, drive.store)


def settled(drive: Drive, claim: Claim) -> bool:
    consumer = Consumer(99, 100, 1000)
    return is_settled(
        drive.partition, drive.group(), claim, consumer, drive.moment, drive.store
    )


def handed_out(counts: list[int]) -> tuple[Drive, list[Delivery]]:
    """Messages 1 and on, a batch each, read by the attached session; then a new leader."""
    drive = Drive()
    group = drive.group()
    attach(drive, group)
    drive.read(group)
    deliveries: list[Delivery] = []
    for count in counts:
        drive.go(1)
        drive.produce(counts=[count])
        deliveries += drive.dispatch()
    return drive, deliveries


def begun_anew(drive: Drive) -> Group:
    drive.restart(promised=drive.wall_ms + 1)
    group = drive.group()
    drive.read(group)
    return group


# --- waiting ----------------------------------------------------------------------------------


def test_a_group_waits_for_its_session_and_goes_on_once_it_has_come_back() -> None:
    drive, _ = handed_out([2])
    group = begun_anew(drive)

    assert [] == drive.take()
    assert drive.partition.wake_at()[1] == drive.machine.claims_until_ms
    assert may_claim(group, S, OWNER)
    come_back(group, S, OWNER)

    assert [1, 2] == drive.take()
    assert not may_claim(group, S, OWNER)


def test_a_wait_is_over_with_its_window_and_who_comes_later_may_not_claim() -> None:
    drive, _ = handed_out([2])
    group = begun_anew(drive)
    drive.take()

    drive.go(drive.machine.session_grace_ms)

    assert [] == drive.take()  # detached, before anything is handed out
    assert not may_claim(group, S, OWNER)
    assert [1, 2] == drive.take()
    begun_anew(drive)
    assert [1, 2] == drive.take()  # nobody is waited for any more


def test_a_group_waits_until_the_last_of_its_sessions_is_back_and_others_wait_for_none() -> (
    None
):
    drive, _ = handed_out([1])
    attach(drive, drive.group(), "other")
    drive.group("free")
    group = begun_anew(drive)
    drive.read(drive.group("free"))

    assert [1] == drive.take()
    come_back(group, S, OWNER)
    assert [] == drive.take()
    come_back(group, "nobody", OWNER)
    assert [] == drive.take()
    come_back(group, "other", OWNER)
    assert [1] == drive.take()


def test_who_left_is_not_waited_for_and_another_can_not_come_back_as_it() -> None:
    drive, _ = handed_out([1])
    group = begun_anew(drive)
    assert not may_claim(group, S, "somebody else")
    assert not may_claim(drive.group("free"), S, OWNER)

    drive.apply(admit_detach(drive.partition, group, S, drive.moment))
    begun_anew(drive)

    assert [1] == drive.take()


def test_sessions_go_with_their_group() -> None:
    drive, _ = handed_out([1])
    group = drive.group()
    drive.partition.remove_consumer(group, group.consumers[0])

    drive.drop(group)
    assert [] == list(drive.store.range(b"s", b"t"))
    drive.apply(admit_detach(drive.partition, group, S, drive.moment))  # it was on its way

    assert [] == list(drive.store.range(b"s", b"t"))


def test_a_moved_group_still_waits_and_nothing_from_before_can_be_claimed() -> None:
    drive, (delivery,) = handed_out([2])
    group = begun_anew(drive)

    drive.seek(group)

    assert [] == drive.take()
    with pytest.raises(LeaseLostError):
        take(drive, group, held(delivery))
    come_back(group, S, OWNER)
    assert [1, 2] == drive.take()


# --- by another way, under the same leader ----------------------------------------------------


def test_a_lease_that_goes_on_by_another_way_begins_anew_and_keeps_its_token() -> None:
    drive, (one,) = handed_out([2])
    group, lease = drive.group(), one.lease
    drive.go(400)

    go_on(drive.partition, group, lease, Consumer(99, 100, 1000), drive.moment)
    drive.go(400)
    drive.expire()

    assert (99, drive.steady_ms + 100) == (lease.consumer, lease.ends_ms)
    drive.end(one, Ending.ACKED)
    assert 2 == group.acked_count


@pytest.mark.parametrize(
    ("acked", "claimed", "expected"),
    [
        ([(0, 6)], [], True),
        ([(0, 3)], [], False),
        ([(0, 3)], [(0, 3)], True),
        ([(0, 3)], [(1, 3)], False),
        ([(4, 2)], [(5, 1)], True),
    ],
)
def test_what_is_settled_is_known_from_what_is_not(
    acked: Places, claimed: Places, *, expected: bool
) -> None:
    drive, (_, one) = handed_out([2, 6])
    drive.end(one, Ending.ACKED, acked)

    assert expected == settled(drive, held(one, claimed))


@pytest.mark.parametrize("ending", [Ending.NACKED, Ending.RELEASED])
def test_what_was_given_back_is_not_settled(ending: Ending) -> None:
    drive, (one,) = handed_out([2])
    drive.end(one, ending, delay_ms=0 if ending is Ending.NACKED else None)

    assert not settled(drive, held(one))


def test_nothing_from_before_a_seek_is_settled() -> None:
    drive, (one,) = handed_out([2])
    drive.end(one, Ending.ACKED)
    assert settled(drive, held(one))

    drive.seek(drive.group())

    assert not settled(drive, held(one))


# --- what is granted --------------------------------------------------------------------------


def test_what_is_claimed_is_leased_under_a_new_token_and_the_rest_is_handed_out() -> None:
    drive, (one, two, three) = handed_out([2, 3, 1])
    group = begun_anew(drive)

    lease = take(drive, group, held(two))
    come_back(group, S, OWNER)

    assert lease.token > three.lease.token
    assert (3, 0b111, 99) == (lease.count, lease.open, lease.consumer)
    assert [numbers_of(each.slices) for each in drive.dispatch()] == [[1, 2], [6]]
    assert group.lease_at(one.lease.low) is None


@pytest.mark.parametrize("is_old_token", [False, True])
def test_an_outcome_is_taken_under_the_new_token_and_under_the_old_one(
    *, is_old_token: bool
) -> None:
    drive, (one, two) = handed_out([2, 3])
    group = begun_anew(drive)
    lease = take(drive, group, held(two))
    take(drive, group, held(one))
    come_back(group, S, OWNER)

    told = two if is_old_token else replace(two, lease=lease)
    drive.end(replace(told, group=group), Ending.ACKED)
    drive.end(replace(one, group=group), Ending.ACKED, [(0, 1)])
    ends_ms = drive.partition.extend(
        group, one.lease.token, lease_ms=9000, begun=1, moment=drive.moment
    )

    assert [] == drive.take()
    assert (4, drive.steady_ms + 9000) == (group.acked_count, ends_ms)
    begun_anew(drive)
    drive.go(drive.machine.session_grace_ms)
    drive.take()
    assert [2] == drive.take()


def test_of_a_delivery_only_the_places_that_are_asked_for_and_left_are_granted() -> None:
    drive, (one,) = handed_out([6])
    drive.end(one, Ending.ACKED, [(0, 2)])
    drive.end(one, Ending.NACKED, [(5, 1)], delay_ms=0)
    group = begun_anew(drive)

    lease = take(drive, group, held(one, [(1, 2), (4, 2)]))
    come_back(group, S, OWNER)

    assert 0b010100 == lease.open
    assert sorted([4, 6]) == sorted(drive.take())
    with pytest.raises(LeaseLostError):
        drive.end(replace(one, group=group), Ending.ACKED, [(3, 1)])
    drive.end(replace(one, group=group), Ending.ACKED)
    assert 4 == group.acked_count


def test_a_claim_is_kept_by_its_lease_and_comes_again_when_that_is_over() -> None:
    drive, (one,) = handed_out([2])
    group = begun_anew(drive)
    take(drive, group, held(one))
    come_back(group, S, OWNER)
    assert [] == drive.take()

    drive.go(500)
    drive.expire()

    assert [(2, [1, 2])] == [
        (each.attempt, numbers_of(each.slices)) for each in drive.dispatch()
    ]


def test_the_second_who_claims_a_message_does_not_get_it() -> None:
    drive, (one,) = handed_out([2])
    group = begun_anew(drive)
    take(drive, group, held(one, [(0, 1)]))

    assert 0b10 == take(drive, group, held(one)).open
    with pytest.raises(LeaseLostError):
        take(drive, group, held(one))


def test_what_has_an_outcome_on_its_way_can_not_be_claimed() -> None:
    drive, (one,) = handed_out([2])
    group = begun_anew(drive)
    first = offset(one.lease.dues[0], one.lease.indexes[0])
    on_its_way, _ = admit_offsets(
        drive.partition, group, [first], Ending.ACKED, drive.moment, drive.store
    )

    assert 1 == len(on_its_way)
    assert 0b10 == take(drive, group, held(one)).open


# --- what was moved ---------------------------------------------------------------------------


def retried() -> tuple[Drive, Delivery]:
    """Four messages that came a second time, and then a new leader."""
    drive, (one,) = handed_out([4])
    drive.end(one, Ending.NACKED)
    (again,) = drive.dispatch()
    assert again.lease.is_retry
    return drive, again


def test_what_came_again_is_claimed_out_of_its_retry_row() -> None:
    drive, again = retried()
    group = begun_anew(drive)

    lease = take(drive, group, held(again, [(1, 2)]))
    come_back(group, S, OWNER)

    assert (True, 1, 0b0110) == (lease.is_retry, lease.attempts, lease.open)
    assert [1, 4] == drive.take()
    drive.end(replace(again, group=group), Ending.NACKED, [(1, 1)])
    drive.go(1)
    assert [2] == drive.take()
    drive.end(replace(again, group=group), Ending.ACKED)
    assert 1 == group.acked_count
    assert [] == drive.take()


def test_a_retry_row_that_is_wholly_claimed_gives_nothing() -> None:
    drive, again = retried()
    group = begun_anew(drive)
    take(drive, group, held(again))
    come_back(group, S, OWNER)

    assert [] == drive.take()
    drive.end(replace(again, group=group), Ending.ACKED)
    assert drive.committed(group) > again.lease.high - 1


@pytest.mark.parametrize("is_retry", [True, False])
def test_of_a_delivery_whose_older_messages_were_cut_the_others_are_claimed(
    *, is_retry: bool
) -> None:
    """What is left of its retry row begins where the cut ended."""
    drive = Drive()
    attach(drive, drive.group())
    for _ in range(3):
        drive.go(1)
        drive.produce(counts=[1])
    drive.read(drive.group())
    (given,) = drive.dispatch()
    if is_retry:
        drive.end(given, Ending.NACKED)
        (given,) = drive.dispatch()
    drive.apply(drive.partition.admit_cut(given.lease.dues[1] << 64, drive.moment))
    group = begun_anew(drive)

    lease = take(drive, group, held(given))
    come_back(group, S, OWNER)

    assert (is_retry, 0b110) == (lease.is_retry, lease.open)
    assert [] == drive.take()
    drive.end(replace(given, group=group), Ending.ACKED)
    assert (1, 2, 0) == (group.expired_count, group.acked_count, group.retry_count)
    assert drive.committed(group) > given.lease.high - 1


def test_what_was_moved_since_can_not_be_claimed() -> None:
    drive, (one,) = handed_out([2])
    drive.end(one, Ending.RELEASED)
    group = begun_anew(drive)

    with pytest.raises(LeaseLostError):
        take(drive, group, held(one))


# --- what no delivery was like ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"counts": (0, 2)}, "run"),
        ({"dues": (9, 5)}, "run"),
        ({"counts": (1, 10_000)}, "count of messages"),
        ({"dues": (-1, 5)}, "run_due_ms"),
        ({"indexes": (0, 2)}, "run_first_index"),
        ({"places": [(2, 2)]}, "places"),
    ],
)
def test_a_claim_that_is_none_is_refused(wrong: dict[str, object], field: str) -> None:
    drive, (one, two) = handed_out([1, 2])
    group = begun_anew(drive)
    lease = one.lease
    good = replace(
        held(one),
        dues=lease.dues + two.lease.dues,
        indexes=lease.indexes + two.lease.indexes,
        counts=(1, 2),
    )

    with pytest.raises(InvalidError) as caught:
        take(drive, group, replace(good, **wrong))

    assert field == caught.value.field
    assert 0b111 == take(drive, group, good).open


def test_a_claim_does_not_reach_over_messages_of_others() -> None:
    drive, (one, _, three) = handed_out([1, 1, 1])
    group = begun_anew(drive)
    claim = replace(
        held(one),
        dues=one.lease.dues + three.lease.dues,
        indexes=one.lease.indexes + three.lease.indexes,
        counts=(1, 1),
    )

    with pytest.raises(InvalidError, match="other messages stand"):
        take(drive, group, claim)

    come_back(group, S, OWNER)
    assert [1, 2, 3] == drive.take()


def test_a_claim_does_not_join_retry_rows() -> None:
    drive, (one,) = handed_out([2])
    drive.end(one, Ending.NACKED, [(0, 1)], delay_ms=0)
    drive.end(one, Ending.NACKED, delay_ms=10)
    group = begun_anew(drive)

    with pytest.raises(InvalidError, match="never handed out together"):
        take(drive, group, replace(held(one), attempts=1))


def test_a_claim_of_messages_that_never_were_is_lost() -> None:
    drive, (one,) = handed_out([1])
    group = begun_anew(drive)
    later = tuple(due_ms + 5000 for due_ms in one.lease.dues)

    for claim in (replace(held(one), dues=later), replace(held(one), attempts=1)):
        with pytest.raises(LeaseLostError):
            take(drive, group, claim)


def test_what_is_cut_or_claimed_counts_neither_as_unread_nor_twice() -> None:
    drive, (_, two) = handed_out([2, 2])
    group = begun_anew(drive)
    take(drive, group, held(two))

    assert (2, 2) == count_unread(
        drive.partition, group, drive.moment, drive.store, row_count_max=10
    )
    cut = drive.partition.admit_cut(two.lease.dues[0] << 64, drive.moment)
    drive.apply(cut)
    come_back(group, S, OWNER)

    assert [] == drive.take()
    assert 2 == group.expired_count
    assert two.lease.dues[0] << 64 == group.done.floor
