"""The channels of one partition: those in which something was ever produced."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from sandglass.core import keys, limits
from sandglass.core.view import Changes, View


@dataclass(slots=True)
class Channels:
    """The channels of partition `partition`, as the view holds them."""

    partition: int
    _known: set[str] | None = None
    """All of them, once somebody has asked."""

    def has_room(self, channel: str, coming: Iterable[str], view: View) -> bool:
        """
        Whether the partition may have this channel; `coming` are those of records on their
        way, known or not, and looked at only if it is new.
        """
        if self._known is None:
            self._known = {*self.names(view, count_max=None)}
        if channel in self._known:
            return True
        new = {*coming} - self._known
        return channel in new or len(self._known) + len(new) < limits.CHANNEL_COUNT_MAX

    def note(self, channel: str, changes: Changes) -> None:
        """Something is written to this channel."""
        if self._known is None or channel not in self._known:
            changes.rows[keys.channel_key(self.partition, channel)] = b""
            if self._known is not None:
                self._known.add(channel)

    def names(
        self, view: View, *, count_max: int | None = limits.CHANNEL_COUNT_MAX + 1
    ) -> list[str]:
        """
        Their names, in order; so many of them at most, or all. The dead letters' channel comes
        on top of those that producers may have.
        """
        prefix = keys.partition_prefix(b"c", self.partition)
        rows = view.range(prefix, keys.after_prefix(prefix))
        return [keys.channel_of(key) for key, _ in islice(rows, count_max)]
