"""
Who may come back to a group under a leader that begins, and what they have claimed.

Volatile, as leases are; the rules stand in `sandglass.core.claim`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sandglass.core import keys
from sandglass.core.done import DoneRanges
from sandglass.core.retry_rows import RetryPart
from sandglass.core.view import View


@dataclass(slots=True)
class Returning:
    """Of a group that sessions were attached to when its leader began."""

    owners: dict[str, str]
    """Sessions that have not come back yet, and whose they are. While there are some, the group
    waits."""
    renewed: dict[int, int] = field(default_factory=dict[int, int])
    """Old tokens, and those of the leases that go on."""
    retries: DoneRanges = field(default_factory=lambda: DoneRanges(-1))
    """Parts of retry rows that are claimed: their scan passes them by, until they leave."""
    top: int = 0
    """Above all that was claimed."""

    def unclaimed(self, part: RetryPart) -> Iterator[RetryPart]:
        """What of a retry row nobody has claimed."""
        for low, high in self.retries.gaps(part.low, part.high):
            yield replace(part, low=low, high=high)


def returning_to(partition: int, group: int, view: View) -> Returning | None:
    """Those who are attached to a group, as the view says; None if nobody is."""
    prefix = keys.group_prefix(b"s", partition, group)
    rows = view.range(prefix, keys.after_prefix(prefix))
    owners = {keys.session_of(key): owner.decode() for key, owner in rows}
    return Returning(owners) if owners else None
