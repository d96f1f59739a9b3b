"""
Sessions come back to a node that began anew, or by another way: they claim, and the next leader
will know them.

That a session reads a group is a record of each partition, written when it subscribes and when
that is over, never for a message. The rules stand in `sandglass.core.claim`.

A client's session may reach this node by way of others, one after the other. Each of those
opens a session of its own here, which reads for the client's. The last one that comes has what
those before it held.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sandglass.broker.loops import Loops
from sandglass.broker.subscription import Session, Subscription
from sandglass.core import claim
from sandglass.core.claim import Claim
from sandglass.core.lease import Lease
from sandglass.errors import ConflictError, LeaseLostError

SLICE_COUNT: Final = 100
"""Claims that are looked at before others have the loop: about 3 ms."""


class Readers:
    """Which sessions of this node read for which: for themselves, as a rule."""

    def __init__(self) -> None:
        self._sessions: dict[str, dict[str, Session]] = {}

    def join(self, session: Session, reader: str, connection: int) -> None:
        """
        A session reads for `reader`, over one of that one's connections.

        Raises:
            ConflictError: that one came by another way since, over a later connection.
        """
        if any(each.readers[reader] > connection for each in self.others(session, reader)):
            raise ConflictError(
                f"session {reader} goes on by way of another node", field="reader"
            )
        session.readers[reader] = max(connection, session.readers.get(reader, 0))
        self._sessions.setdefault(reader, {})[session.id] = session

    def leave(self, session: Session) -> None:
        """A session reads no more."""
        for reader in session.readers:
            sessions = self._sessions.get(reader, {})
            if sessions.get(session.id) is session:
                del sessions[session.id]
            if not sessions:
                self._sessions.pop(reader, None)
        session.readers.clear()

    def others(self, session: Session, reader: str) -> list[Session]:
        """The sessions besides this one that read for `reader`, under the same name."""
        sessions = self._sessions.get(reader, {}).values()
        return [
            each for each in sessions if each is not session and each.owner == session.owner
        ]


async def come_back(
    loops: Loops,
    readers: Readers,
    session: Session,
    subscription: Subscription,
    claims: Sequence[tuple[int, Claim]],
    *,
    has_more: bool,
) -> None:
    """
    Leases to a subscription what its session claims, each with the number of its partition. The
    groups wait for the session no longer, unless it `has_more` to claim.

    Raises:
        InvalidError: a claim is none.
    """
    others = readers.others(session, subscription.reader)
    keys = set[int]().union(*[each.consumer_keys for each in (session, *others)])
    for place, (number, each) in enumerate(claims):
        subscription.claimed.append(_take(loops, session, subscription, keys, number, each))
        if place % SLICE_COUNT == SLICE_COUNT - 1:
            await asyncio.sleep(0)
    if has_more:
        return
    for number, group in subscription.groups.items():
        claim.come_back(group, subscription.reader, session.owner)
        loops.ready(number)


def _take(
    loops: Loops,
    session: Session,
    subscription: Subscription,
    keys: set[int],
    number: int,
    each: Claim,
) -> Lease | None:
    """None where nothing is left, or nobody waits for the session: late, if not settled."""
    group = subscription.groups.get(number)
    if group is None:
        subscription.late_claims.add(len(subscription.claimed))
        return None
    loop, consumer = loops.of(number), subscription.consumer
    partition, moment = loop.partition(number), loop.moment()
    known = group.lease(each.token)
    if known is not None and known.consumer in keys:
        # It comes by another way, or claims twice since an answer was lost.
        claim.go_on(partition, group, known, consumer, moment)
        return known
    if claim.may_claim(group, subscription.reader, session.owner):
        with suppress(LeaseLostError):
            return claim.take_claim(partition, group, each, consumer, moment, loop.view)
    if not claim.is_settled(partition, group, each, consumer, moment, loop.view):
        subscription.late_claims.add(len(subscription.claimed))
    return None


async def attach(loops: Loops, session: Session, subscription: Subscription) -> None:
    """The groups know the session, durably."""
    waits: list[asyncio.Future[None]] = []
    for number, group in subscription.groups.items():
        key = (number, group.number, subscription.reader)
        if group.is_dropped or key in session.attached:
            continue
        session.attached[key] = None
        loop = loops.of(number)
        record = claim.admit_attach(
            loop.partition(number), group, subscription.reader, session.owner, loop.moment()
        )
        waits.append(asyncio.ensure_future(loop.commit(record)))
    if waits:
        await asyncio.gather(*waits)


def detach(loops: Loops, readers: Readers, session: Session) -> None:
    """Groups that the session reads no longer forget it. Nobody waits for the records."""
    read = {
        (number, group.number, subscription.reader)
        for subscription in session.subscriptions.values()
        for number, group in subscription.groups.items()
        if not session.is_closed
    }
    for key in [key for key in session.attached if key not in read]:
        number, group_number, reader = key
        del session.attached[key]
        if any(key in other.attached for other in readers.others(session, reader)):
            continue  # it reads on by another way
        loop = loops.working(number)
        if loop is None or not loop.may_serve():
            continue  # the next leader waits for it in vain, once
        partition = loop.partition(number)
        group = partition.groups.loaded.get(group_number)
        if group is not None and not group.is_dropped:
            loop.submit(claim.admit_detach(partition, group, reader, loop.moment()))
