import pytest

from sandglass.core import limits
from sandglass.replication.lease import HeldLease, LeaseWatch

LENGTH_MS = limits.LEADER_LEASE_MS
MARGIN_MS = limits.LEADER_LEASE_MARGIN_MS
LOOK_MS = limits.LEADER_LOOK_MS


def look(watch: LeaseWatch, first_ms: int, end_ms: int) -> bool:
    """Looks as often as it has to, up to `end_ms`; is the lease over then?"""
    for now_ms in range(first_ms, end_ms, LOOK_MS):
        watch.left_ms(now_ms)
    return watch.is_over(end_ms)


def test_lease_is_over_once_its_revision_has_stood_for_its_length() -> None:
    watch = LeaseWatch()
    watch.saw(5, 100)

    assert not look(watch, 100, 100 + LENGTH_MS - 1)
    assert look(watch, 100 + LENGTH_MS - 1, 100 + LENGTH_MS)


def test_another_revision_begins_anew() -> None:
    watch = LeaseWatch()
    watch.saw(5, 0)
    look(watch, 0, 1000)
    watch.saw(6, 1000)

    assert not look(watch, 1000, LENGTH_MS + 999)
    assert look(watch, LENGTH_MS + 999, LENGTH_MS + 1000)


def test_the_same_revision_seen_again_changes_nothing() -> None:
    watch = LeaseWatch()
    for now_ms in range(0, LENGTH_MS, LOOK_MS):
        watch.saw(5, now_ms)

    assert watch.is_over(LENGTH_MS)


def test_watch_that_broke_counts_anew_from_what_it_sees_next() -> None:
    watch = LeaseWatch()
    watch.saw(5, 0)
    look(watch, 0, 1900)
    watch.restarted()

    assert not look(watch, 1900, 5000)

    watch.saw(5, 5000)

    assert not look(watch, 5000, 5000 + LENGTH_MS - 1)
    assert look(watch, 4999 + LENGTH_MS, 5000 + LENGTH_MS)


def test_watcher_that_was_paused_counts_anew() -> None:
    """A renewal may wait unread in its socket."""
    watch = LeaseWatch()
    watch.saw(5, 0)

    assert not watch.is_over(LENGTH_MS + 1)
    assert not look(watch, LENGTH_MS + 1, 2 * LENGTH_MS)
    assert look(watch, 2 * LENGTH_MS, 2 * LENGTH_MS + 1)


def test_nothing_seen_is_never_over() -> None:
    assert not look(LeaseWatch(), 0, 60_000)


def test_holder_serves_from_before_it_sent_and_less_than_the_length() -> None:
    lease = HeldLease()
    sent_ms = lease.sending(1000)
    assert not lease.is_valid(1001)

    lease.renewed(sent_ms)

    assert lease.is_valid(1000 + LENGTH_MS - MARGIN_MS - 1)
    assert not lease.is_valid(1000 + LENGTH_MS - MARGIN_MS)


def test_late_answer_to_an_earlier_renewal_takes_nothing_back() -> None:
    lease = HeldLease()
    lease.renewed(1000)
    lease.renewed(500)

    assert lease.is_valid(1000 + LENGTH_MS - MARGIN_MS - 1)


def test_holder_whose_renewals_failed_goes_on_with_the_next() -> None:
    lease = HeldLease()
    lease.renewed(0)
    assert not lease.is_valid(10_000)

    lease.renewed(lease.sending(10_000))

    assert lease.is_valid(10_001)


def test_lease_that_was_given_up_is_none() -> None:
    lease = HeldLease()
    lease.renewed(0)

    lease.given_up()

    assert not lease.is_valid(1)
    assert 0 == lease.left_ms(1)


def test_renewals_are_sent_at_an_interval_answered_or_not() -> None:
    lease = HeldLease()
    assert 0 == lease.renew_in_ms(77)

    lease.sending(100)

    assert limits.LEADER_RENEW_MS - 1 == lease.renew_in_ms(101)
    assert 0 == lease.renew_in_ms(100 + limits.LEADER_RENEW_MS)


@pytest.mark.parametrize("sent_ms", [0, 10, 900])
@pytest.mark.parametrize("seen_ms", [0, 40, 1500])
def test_no_watcher_may_begin_before_the_holder_has_stopped(sent_ms: int, seen_ms: int) -> None:
    lease, watch = HeldLease(), LeaseWatch()
    lease.renewed(lease.sending(sent_ms))
    watch.saw(1, sent_ms + seen_ms)

    both = [
        now_ms
        for now_ms in range(sent_ms + seen_ms, 6000, 10)
        if (watch.is_over(now_ms), lease.is_valid(now_ms)) == (True, True)
    ]

    assert [] == both
