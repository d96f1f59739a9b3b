"""
The credit of one subscription, divided among the nodes that lead its partitions.

Nobody knows which of them has messages, and what is given to one that has none lies idle there.
So half of the credit is laid out in equal shares, and the rest goes where a share is used up.

What a client has granted is never exceeded: a part is given at least 1 while the client has
room, which may be more than the room when there are more parts than messages of credit, and
what then comes too much is held back. Rules, for messages and for bytes alike:

1. A part's share is the largest grant that was seen, divided by twice the number of parts. It
   is topped up when half of it is used.
2. What the client has granted, less what is held back and what lies with the parts, is free.
   Top-ups come from there.
3. When nothing is free, a part that has nothing left is given 1 while the client has room; so
   often that all parts together have at most one less than their number too much.
4. As long as a client grants anew what it has settled a quarter of, as ours do, a part that has
   messages is never left without credit by others that have none: by rule 1 they hold half.

The code knows no wire: parts are the caller's, by any key.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final

SHARE_BYTES_MAX: Final = 1024 * 1024
"""What may come from one part, beyond one message, while the client reads nothing."""


@dataclass(slots=True)
class Kind:
    """
    One kind of credit, in messages or in bytes.

    `room` is what the client may still be sent. `lent` is what each part may still send; it may
    be below 0, since a message larger than the bytes left is sent all the same.
    """

    room: int
    largest: int
    share_max: int
    held: int = 0
    lent: dict[Hashable, int] = field(default_factory=dict[Hashable, int])

    @property
    def free(self) -> int:
        """See rule 2; below 0 while parts have too much."""
        return self.room - self.held - sum(self.lent.values())

    def grant(self, amount: int) -> None:
        """The client has more room."""
        self.room += amount
        self.largest = max(self.largest, amount)

    def due_to(self, part: Hashable) -> int:
        """What a part is to be given now; it counts as given."""
        count = len(self.lent)
        share = max(1, min(self.share_max, self.largest // (2 * count)))
        lent, free = self.lent[part], self.free
        if lent > share // 2 or self.room <= 0:
            return 0
        given = max(0, min(share - lent, free))
        least = 1 - lent
        if given < least:
            given = least if free - least > -count else 0
        self.lent[part] += given
        return given


class Purse:
    """Both kinds of credit of a subscription, which begins with `count` and `size_bytes`."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self.counts = Kind(count, count, count or 1)
        self.bytes = Kind(size_bytes, size_bytes, SHARE_BYTES_MAX)
        self.counts.share_max = 1 << 62

    @property
    def room(self) -> tuple[int, int]:
        """What the client may still be sent: messages, bytes."""
        return self.counts.room, self.bytes.room

    def grant(self, count: int, size_bytes: int) -> None:
        """The client has more room."""
        self.counts.grant(count)
        self.bytes.grant(size_bytes)

    def join(self, part: Hashable) -> None:
        """There is one more part; it has nothing yet."""
        for kind in (self.counts, self.bytes):
            kind.lent[part] = 0

    def leave(self, part: Hashable) -> None:
        """What lies with a part comes back; it isn't there any more."""
        for kind in (self.counts, self.bytes):
            kind.lent.pop(part, None)

    def forget(self, part: Hashable) -> None:
        """Nobody knows what a part still has: it is given its share anew."""
        for kind in (self.counts, self.bytes):
            kind.lent[part] = 0

    def came(self, part: Hashable, count: int, size_bytes: int) -> None:
        """A delivery has come from a part; it is held back until it is handed on."""
        for kind, amount in ((self.counts, count), (self.bytes, size_bytes)):
            if part in kind.lent:
                kind.lent[part] -= amount
            kind.held += amount

    def may_hand_on(self, count: int) -> bool:
        """Has the client room for a delivery of so many messages?"""
        return self.counts.room >= count and self.bytes.room > 0

    def handed_on(self, count: int, size_bytes: int) -> None:
        """What was held back has gone to the client."""
        for kind, amount in ((self.counts, count), (self.bytes, size_bytes)):
            kind.held -= amount
            kind.room -= amount

    def gave_back(self, count: int, size_bytes: int) -> None:
        """What was held back has gone back to where it came from."""
        for kind, amount in ((self.counts, count), (self.bytes, size_bytes)):
            kind.held -= amount

    def top_up(self, parts: Iterable[Hashable]) -> list[tuple[Hashable, int, int]]:
        """What is to be granted now, to which of these parts: (part, messages, bytes)."""
        first = sorted(parts, key=self.counts.lent.__getitem__)
        found = [(part, self.counts.due_to(part), self.bytes.due_to(part)) for part in first]
        return [each for each in found if each[1] or each[2]]
