"""
Sessions come back to a node that began anew: they claim, and the next leader will know them.

That a session reads a group is a record of each partition, written when it subscribes and when
that is over, never for a message. The rules stand in `sandglass.core.claim`.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from sandglass.broker.loops import Loops
from sandglass.broker.subscription import Session, Subscription
from sandglass.core import claim
from sandglass.core.claim import Claim
from sandglass.core.lease import Lease
from sandglass.errors import LeaseLostError

SLICE_COUNT: Final = 100
"""Claims that are looked at before others have the loop: about 3 ms."""


async def come_back(
    loops: Loops,
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
    for place, (number, each) in enumerate(claims):
        subscription.claimed.append(_take(loops, session, subscription, number, each))
        if place % SLICE_COUNT == SLICE_COUNT - 1:
            await asyncio.sleep(0)
    if has_more:
        return
    for number, group in subscription.groups.items():
        claim.come_back(group, subscription.reader, session.owner)
        loops.ready(number)


def _take(
    loops: Loops, session: Session, subscription: Subscription, number: int, each: Claim
) -> Lease | None:
    """None where nothing is left, or the session isn't waited for."""
    group = subscription.groups.get(number)
    known = group.lease(each.token) if group is not None else None
    if known is not None and known.consumer in session.consumer_keys:
        known.consumer = subscription.consumer.key  # it claims twice: an answer was lost
        return known
    if group is None or not claim.may_claim(group, subscription.reader, session.owner):
        subscription.late_claims.add(len(subscription.claimed))
        return None
    loop = loops.of(number)
    try:
        return claim.take_claim(
            loop.partition(number),
            group,
            each,
            subscription.consumer,
            loop.moment(),
            loop.view,
        )
    except LeaseLostError:
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


def detach(loops: Loops, session: Session) -> None:
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
        loop = loops.working(number)
        if loop is None or not loop.may_serve():
            continue  # the next leader waits for it in vain, once
        partition = loop.partition(number)
        group = partition.groups.loaded.get(group_number)
        if group is not None and not group.is_dropped:
            loop.submit(claim.admit_detach(partition, group, reader, loop.moment()))
