"""Claims of a session, and what became of them: sandglass.v1 to values and back."""

from collections.abc import Iterator

from sandglass.broker.subscription import Subscription
from sandglass.core import limits
from sandglass.core.claim import Claim
from sandglass.core.topic import Topic
from sandglass.errors import InvalidError
from sandglass.surface.consume import partition_at, places_of
from sandglass.wire.v1 import broker_pb2 as pb


def claims_of(topic: Topic, item: pb.Subscribe) -> list[tuple[int, Claim]]:
    """
    What a subscription claims, with the number of each one's partition.

    Raises:
        InvalidError: there are too many, or one is none.
    """
    limits.check_range(
        len(item.claims), field="count of claims", low=0, high=limits.CLAIM_COUNT_MAX
    )
    return [
        (partition_at(topic, each.partition_number).number, _claim(each))
        for each in item.claims
    ]


def _claim(item: pb.Claim) -> Claim:
    counts = {len(item.run_due_ms), len(item.run_first_index), len(item.run_count)}
    if len(counts) > 1 or 0 in counts:
        raise InvalidError(
            "a claim has at least one run, and each its three columns", field="run"
        )
    return Claim(
        item.token,
        item.generation or 1,
        max(0, item.attempt - 1),
        item.releases,
        tuple(item.run_due_ms),
        tuple(item.run_first_index),
        tuple(item.run_count),
        places_of(item),
        item.begun_count,
    )


def claimed_to_wire(subscription: Subscription) -> Iterator[pb.Claimed]:
    """What became of the claims of a subscription that has just begun, in their order."""
    for place, lease in enumerate(subscription.claimed):
        if lease is None:
            yield pb.Claimed(is_late=place in subscription.late_claims)
            continue
        claimed = pb.Claimed(token=lease.token, lease_ms=lease.lease_ms)
        for first, count in lease.open_places():
            claimed.places.extend((first, count))
        yield claimed
    subscription.claimed.clear()
