"""
Outcomes that come one by one and say the same of one delivery: they are settled together.

A record of its own for each message costs some 35 µs, and what waits for it. So messages that
fail one by one share records, as if their client had named them in one outcome; each is still
answered by itself.
"""

from collections.abc import Hashable, Iterable, Iterator
from itertools import groupby, islice
from typing import Final

from sandglass.core.lease import Places
from sandglass.surface.consume import places_of
from sandglass.wire.v1 import broker_pb2 as pb

TOGETHER_COUNT_MAX: Final = 250
"""As many as a session takes at a time; see `sandglass.rpc.session`."""


def alike(items: Iterable[pb.Outcome]) -> Iterator[list[pb.Outcome]]:
    """Neighbours that differ in their request and their places alone, in order."""
    for key, neighbours in groupby(items, _key):
        count_max = 1 if key is None else TOGETHER_COUNT_MAX
        while some := list(islice(neighbours, count_max)):
            yield some


def all_places(items: list[pb.Outcome]) -> Places:
    """
    The places of outcomes that are `alike`.

    Raises:
        InvalidError: those of one of them are no places.
    """
    if len(items) == 1:
        return places_of(items[0])
    return [place for item in items for place in places_of(item)]


def _key(item: pb.Outcome) -> Hashable:
    """None for all that is open: that is an outcome for whatever the others have left."""
    if not item.places:
        return None
    delay_ms = item.delay_ms if item.HasField("delay_ms") else None
    place = (item.subscription_id, item.partition_number, item.token)
    return (*place, item.kind, delay_ms, item.reason)
