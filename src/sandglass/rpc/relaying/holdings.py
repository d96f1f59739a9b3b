"""
What a client holds of a relayed subscription, so that it can be claimed when leaders change.

Each delivery that the client was handed stands here, without its messages, until all of it has
an answered outcome, or its lease has run out. Rules

1. The client knows a delivery by the token that it was told, whatever leaders come and go: each
   takes outcomes under the token that was claimed. A leader's own name for the lease (`token`)
   is needed where it lists what it has.
2. A place is open until its outcome is answered: what is on its way to a leader that dies may
   have been taken or not, and is claimed.
3. What a leader doesn't grant is held no more. Where it comes too late for all of it, what the
   client says of it later is refused.

The code knows no network and no clock: times are monotonic milliseconds that it is told.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sandglass.core import limits
from sandglass.wire.v1 import broker_pb2 as pb

CLAIM_BYTES_MAX: Final = limits.FRAME_BYTES_MAX * 3 // 4
"""Of the claims in one Subscribe; the rest of its frame is for names and partitions."""

SWEEP_COUNT_MIN: Final = 256
"""So few deliveries aren't worth looking through for those that have run out."""


@dataclass(slots=True, eq=False)
class Holding:
    """
    A delivery: `claim` as the client would claim all of it, `token` the lease's name at the
    leader, `open` a bit for each place that has no answered outcome.

    Invariant: `open` has bits below `count` alone.
    """

    claim: pb.Claim
    count: int
    open: int
    token: int
    ends_ms: int

    @property
    def place(self) -> int:
        """Of its partition, in the topic."""
        return self.claim.partition_number

    @property
    def name(self) -> tuple[int, int]:
        """Its place, and the client's token."""
        return self.place, self.claim.token

    @property
    def places(self) -> list[int]:
        """Those that are open, as pairs of first and count."""
        bits, first, pairs = self.open, 0, list[int]()
        while bits:
            zeros = (bits & -bits).bit_length() - 1
            bits >>= zeros
            first += zeros
            ones = (~bits & (bits + 1)).bit_length() - 1
            pairs += (first, ones)
            bits >>= ones
            first += ones
        return pairs


class Holdings:
    """See the head of the file; those of one subscription."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, int], Holding] = {}
        """By the partition's place and the client's token, the oldest first."""
        self._sweep_count = SWEEP_COUNT_MIN

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, holding: Holding) -> bool:
        return self._of.get(holding.name) is holding

    def __iter__(self) -> Iterator[Holding]:
        return iter([*self._of.values()])

    # --- what comes, and goes -----------------------------------------------------------------

    def handed_on(self, wire: pb.Delivery, now_ms: int) -> None:
        """A delivery goes to the client."""
        claim = pb.Claim(
            partition_number=wire.partition_number,
            token=wire.token,
            attempt=wire.attempt,
            releases=wire.releases,
            generation=wire.generation,
            run_due_ms=wire.run_due_ms,
            run_first_index=wire.run_first_index,
            run_count=wire.run_count,
        )
        whole = (1 << wire.count) - 1
        self._add(Holding(claim, wire.count, whole, wire.token, now_ms + wire.lease_ms), now_ms)

    def claimed(self, item: pb.Claim, *, lease_ms: int, now_ms: int) -> Holding:
        """The client itself claims this."""
        known = self._of.get((item.partition_number, item.token))
        if known is not None:
            return known
        claim = pb.Claim()
        claim.CopyFrom(item)
        claim.ClearField("places")
        count = sum(item.run_count)
        wanted = _mask(item.places) if item.places else -1
        holding = Holding(
            claim, count, wanted & ((1 << count) - 1), item.token, now_ms + lease_ms
        )
        self._add(holding, now_ms)
        return holding

    def settled(self, place: int, token: int, places: Iterable[int]) -> None:
        """An outcome was taken; `places` as it had them."""
        holding = self._of.get((place, token))
        if holding is None:
            return
        pairs = [*places]
        holding.open &= ~_mask(pairs) if pairs else 0
        if not holding.open:
            del self._of[place, token]

    def has_run_out(self, place: int, token: int, now_ms: int) -> bool:
        """The client holds it still, and its lease may have ended by time."""
        holding = self._of.get((place, token))
        return holding is not None and holding.ends_ms <= now_ms

    def extended(
        self, place: int, token: int, *, lease_ms: int, begun_count: int, now_ms: int
    ) -> None:
        """The client wants a lease to last, and says how far it has got."""
        holding = self._of.get((place, token))
        if holding is not None:
            holding.ends_ms = max(holding.ends_ms, now_ms + lease_ms)
            begun_count = min(begun_count, holding.count)
            holding.claim.begun_count = max(holding.claim.begun_count, begun_count)

    def clear(self) -> None:
        """Nothing of it is wanted any more."""
        self._of.clear()

    # --- leaders ------------------------------------------------------------------------------

    def of(self, places: Collection[int]) -> list[Holding]:
        """What the client holds of these partitions."""
        return [each for each in self._of.values() if each.place in places]

    def to_claim(self, places: Collection[int], now_ms: int) -> list[Holding]:
        """
        What to claim of these partitions, as much as one Subscribe may; the rest, and what has
        run out, is held no more.
        """
        found: list[Holding] = []
        size_bytes = 0
        for holding in self.of(places):
            holding.claim.places[:] = holding.places
            size_bytes += holding.claim.ByteSize()
            is_too_much = len(found) == limits.CLAIM_COUNT_MAX or size_bytes > CLAIM_BYTES_MAX
            if is_too_much or holding.ends_ms <= now_ms:
                self._drop(holding)
            else:
                found.append(holding)
        return found

    def answered(self, holding: Holding, claimed: pb.Claimed, now_ms: int) -> None:
        """What a leader has granted of a claim."""
        holding.open &= _mask(claimed.places)
        if not claimed.token or not holding.open:
            self._drop(holding)
            return
        holding.token = claimed.token
        holding.ends_ms = now_ms + claimed.lease_ms

    def renamed(self, holding: Holding) -> None:
        """The client is told the leader's own token, and goes by that from now on."""
        known = self._of.pop(holding.name, None)
        if known is not None:
            holding.claim.token = holding.token
            self._of[holding.name] = holding

    def tokens(self) -> dict[tuple[int, int], int]:
        """The client's tokens of leases, by partition's place and leader's token."""
        return {(each.place, each.token): each.claim.token for each in self._of.values()}

    # --- private ------------------------------------------------------------------------------

    def _add(self, holding: Holding, now_ms: int) -> None:
        if len(self._of) >= self._sweep_count:
            for each in self:
                if each.ends_ms <= now_ms:
                    self._drop(each)
            self._sweep_count = max(SWEEP_COUNT_MIN, 2 * len(self._of))
        self._of[holding.name] = holding

    def _drop(self, holding: Holding) -> None:
        self._of.pop(holding.name, None)


def _mask(pairs: Iterable[int]) -> int:
    mask = 0
    places = iter(pairs)
    for first, count in zip(places, places, strict=True):
        mask |= ((1 << count) - 1) << first
    return mask
