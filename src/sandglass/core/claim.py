"""
Claims: what sessions held under the leader before is theirs under the next one, too.

Leases are gone with their leader. That a session reads a group is a record, though
(`sandglass.core.record.Attach`), and so a leader that begins knows who may come back:

1. A group that somebody was attached to waits: nothing of it is handed out before all of them
   have come back and claimed, or the window is over, which begins with the leader. A group
   that nobody was attached to is served at once, and none waits for another.
2. What a session claims is leased to it anew, under a new token, as far as nothing has become
   of it: it isn't settled, no outcome for it is on its way, the group is of the same
   generation, and it hasn't been moved since, which its counts of attempts and releases tell,
   for each move raises one of them.
3. Only who was attached may claim. Who hasn't come back in time is detached by a record before
   anything is handed out: so nobody claims what was given to another under a leader between.
4. What nobody claims is due when the wait is over, and no attempt is counted.
5. A session that comes back by another way, while the leader is the same, goes on with the
   leases that it has there: nothing waits for it, and nothing was given to anybody else.

A claim covers places of a delivery: the new lease has the places of the old one, and an outcome
under the old token is taken for the new.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sandglass.core import keys, limits
from sandglass.core.dispatch import Moment
from sandglass.core.done import DoneRanges
from sandglass.core.group import Group
from sandglass.core.lease import Consumer, Lease, Places
from sandglass.core.offset import INDEX_BITS, INDEX_MAX
from sandglass.core.outcome import coming
from sandglass.core.partition import Partition
from sandglass.core.record import Attach, Detach, Range, Record
from sandglass.core.retry_rows import RetryPart
from sandglass.core.rows import read_slices
from sandglass.core.view import View
from sandglass.errors import InvalidError, LeaseLostError


@dataclass(frozen=True, slots=True)
class Claim:
    """
    A delivery that a session holds: its token, the group's generation, attempts and releases
    counted before it, its runs as the lease has them; the places that have no outcome (none for
    all), and how many were begun.
    """

    token: int
    generation: int
    attempts: int
    releases: int
    dues: tuple[int, ...]
    indexes: tuple[int, ...]
    counts: tuple[int, ...]
    places: Places
    begun: int = 0


def admit_attach(
    partition: Partition, group: Group, session: str, owner: str, moment: Moment
) -> Record:
    """A session reads a group from here on."""
    assert not group.is_dropped, f"a session comes to group {group.name}, which is going"
    partition.see(moment.wall_ms)
    return partition.record([Attach(group.number, session, owner)], moment)


def admit_detach(partition: Partition, group: Group, session: str, moment: Moment) -> Record:
    """It does so no longer."""
    partition.see(moment.wall_ms)
    return partition.record([Detach(group.number, [session])], moment)


def may_claim(group: Group, session: str, owner: str) -> bool:
    """Was this session attached to the group when the leader began, and is it waited for?"""
    return group.returning is not None and group.returning.owners.get(session) == owner


def come_back(group: Group, session: str, owner: str) -> None:
    """A session has claimed what it holds; the last one ends the wait."""
    if group.returning is not None and may_claim(group, session, owner):
        del group.returning.owners[session]
        group.is_ready = group.is_ready or not group.returning.owners


def take_claim(
    partition: Partition,
    group: Group,
    claim: Claim,
    consumer: Consumer,
    moment: Moment,
    view: View,
) -> Lease:
    """
    Leases to `consumer` what of a claim is still to be had. Its session `may_claim`.

    Returns:
        The lease: its places are those of the claim, and open are those that it was granted.

    Raises:
        LeaseLostError: nothing is.
        InvalidError: no delivery was ever like this.
    """
    assert group.returning is not None, "a claim though nobody was attached"
    lease = _lease_of(partition, group, claim, consumer, moment)
    full = lease.open
    lease.take(claim.places)
    wanted, lease.open = full & ~lease.open, 0
    parts = _Parts(partition, group, (claim.attempts, claim.releases), view)
    for first, end in _runs(claim) if _is_current(group, claim) else ():
        for low, high in parts.of(first, end):
            lease.give(low, high)
    lease.open &= wanted
    if not lease.open:
        raise LeaseLostError(f"nothing of the delivery {claim.token:x} is left to claim")
    lease.is_retry = parts.is_retry
    _begin(partition, group, claim, lease, parts)
    return lease


def go_on(
    partition: Partition, group: Group, lease: Lease, consumer: Consumer, moment: Moment
) -> None:
    """A lease that the claimant's session has here already is `consumer`'s, from now on."""
    lease.consumer = consumer.key
    partition.extend(group, lease.token, lease_ms=0, begun=lease.begun, moment=moment)


def is_settled(
    partition: Partition,
    group: Group,
    claim: Claim,
    consumer: Consumer,
    moment: Moment,
    view: View,
) -> bool:
    """
    Is all that is claimed settled for good? Then an outcome counted whose answer was lost.

    Raises:
        InvalidError: no delivery was ever like this.
    """
    if not _is_current(group, claim):
        return False
    lease = _lease_of(partition, group, claim, consumer, moment)
    full = lease.open
    lease.take(claim.places)
    lease.open ^= full
    lease.low = next(_runs(claim))[0]
    return not any(
        [*group.done.gaps(low, high), *group.retry_rows.within(low, high, view)]
        for low, high, _ in lease.ranges(lease.open_places())
    )


def _is_current(group: Group, claim: Claim) -> bool:
    """The group has not been moved since."""
    return claim.generation == group.generation


def _lease_of(
    partition: Partition, group: Group, claim: Claim, consumer: Consumer, moment: Moment
) -> Lease:
    """The lease that the claim names, with all places open, as yet in nobody's way."""
    count = sum(claim.counts)
    limits.check_range(
        count, field="count of messages", low=1, high=limits.DELIVERY_MESSAGE_COUNT_MAX
    )
    end = 0
    for first, run_end in _runs(claim):
        if first < end or run_end <= first:
            raise InvalidError("the runs of a claim stand in the order of offsets", field="run")
        end = run_end
    lease_ms = consumer.ack_timeout_ms or partition.settings_of(group).ack_timeout_ms
    return Lease(
        token=partition.next_token,
        group=group.number,
        consumer=consumer.key,
        attempts=claim.attempts,
        releases=claim.releases,
        is_retry=False,
        low=0,
        high=end,
        lease_ms=lease_ms,
        ends_ms=moment.lease_ms + lease_ms,
        dues=claim.dues,
        indexes=claim.indexes,
        counts=claim.counts,
        count=count,
        open=(1 << count) - 1,
        begun=min(claim.begun, count),
    )


def _begin(
    partition: Partition, group: Group, claim: Claim, lease: Lease, parts: "_Parts"
) -> None:
    """The lease begins, where the scans of the group pass it by."""
    assert group.returning is not None
    lease.low = parts.low(next(_runs(claim))[0])
    parts.check_gaps(claim)
    ranges = lease.ranges(lease.open_places())
    parts.check_rows(ranges)
    partition.next_token += 1
    lease.low, lease.high = ranges[0][0], ranges[-1][1]
    group.add_lease(lease)
    group.returning.renewed[claim.token] = lease.token
    group.returning.top = max(group.returning.top, lease.high)
    group.consumed = max(group.consumed, lease.high - 1)
    partition.deadlines.push(lease.ends_ms, group.number, lease.token)
    for low, high, _ in ranges:
        if lease.is_retry:
            group.returning.retries.add(low, high)
        else:
            group.pass_by(low, high)


def _runs(claim: Claim) -> Iterator[tuple[int, int]]:
    """The offsets of each run, as [first, end)."""
    for due_ms, index, count in zip(claim.dues, claim.indexes, claim.counts, strict=True):
        limits.check_range(due_ms, field="run_due_ms", low=0, high=limits.DUE_MS_MAX)
        limits.check_range(index, field="run_first_index", low=1, high=INDEX_MAX - count)
        first = due_ms << INDEX_BITS | index
        yield first, first + count


class _Parts:
    """
    What of a group's offset space may be claimed with these counts.

    Messages of the main order have none. What was moved stands in retry rows with its counts.
    """

    def __init__(
        self, partition: Partition, group: Group, counts: tuple[int, int], view: View
    ) -> None:
        self.partition, self.group, self.counts, self.view = partition, group, counts, view
        self.is_retry = self.is_redriven = False
        self._going = DoneRanges()
        for low, high in coming(partition, group):
            self._going.add(low, high)

    @property
    def prefix(self) -> bytes:
        """What the rows of the messages start with."""
        return self.group.rows_prefix(is_redriven=self.is_redriven)

    def of(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """Those of `[first, end)`, as far as messages stand there."""
        for low, high in [*self._retries(first, end), *self._main(first, end)]:
            for left, right in self._going.gaps(low, high):
                for part in read_slices(self.view, self.prefix, left, right):
                    at = part.due_ms << INDEX_BITS | part.first_index
                    yield at, at + part.count

    def _retries(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        returning = self.group.returning
        assert returning is not None
        for part in self.group.retry_rows.within(first, end, self.view):
            if self._is_unmoved(part):
                self.is_retry, self.is_redriven = True, part.is_redriven
                low, high = max(part.low, first), min(part.high, end)
                yield from returning.retries.gaps(low, high)

    def _is_unmoved(self, part: RetryPart) -> bool:
        return (part.attempts, part.releases) == self.counts

    def _main(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        if self.counts == (0, 0) and not self.is_retry:
            low = max(first, self.group.start)
            yield from self.group.passed.gaps(low, min(end, self.partition.closed_at_start + 1))

    def low(self, first: int) -> int:
        """Where the tile of the message at `first` begins: just above the one before."""
        low = self._end_before(first)
        if self.is_retry:
            part = self.group.retry_rows.at(first, self.view)
            return first if part is None else max(low, part.low)
        return min(first, self.group.passed.skip(low)[0])

    def check_gaps(self, claim: Claim) -> None:
        """Between two runs of a delivery there is nothing."""
        before: int | None = None
        for first, end in _runs(claim):
            if before is not None and self._end_before(first) > before:
                raise InvalidError(
                    "between the runs of a claim other messages stand", field="run"
                )
            before = end

    def check_rows(self, ranges: list[Range]) -> None:
        """Messages beside each other that come again are in one retry row."""
        for low, high, _ in ranges if self.is_retry else ():
            # What was cut of the row since is not among them, and may end within a range.
            left = max(low, self.partition.cut)
            part = self.group.retry_rows.at(left, self.view)
            if part is None or high > part.high:
                raise InvalidError(
                    "a claim joins what was never handed out together", field="run"
                )

    def _end_before(self, first: int) -> int:
        """Just above the message before `first`."""
        found = self.view.last(self.prefix, keys.at(self.prefix, first))
        return min(first, sum(keys.row_place(found[0]))) if found is not None else 0
