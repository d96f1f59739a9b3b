"""
The groups of one partition: by number, and by channel and name.

They stand in the view; those that somebody has asked for are in memory, too, and stay there.
"""

from dataclasses import dataclass, field
from itertools import islice

from sandglass.core import keys, limits
from sandglass.core.group import Group
from sandglass.core.record import Attach, CreateGroup, Detach
from sandglass.core.returning import returning_to
from sandglass.core.view import Changes, Overlay, View


@dataclass(slots=True)
class GroupTable:
    """The groups of partition `partition`."""

    partition: int
    loaded: dict[int, Group] = field(default_factory=dict[int, Group])
    """Those in memory, by number."""
    creating: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """(channel, name) of those whose record is on its way."""
    is_led: bool = False
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])

    def lead(self) -> None:
        """The partition is led from now on: each group knows who may come back to it."""
        self.is_led = True
        self.loaded.clear()

    def at(self, number: int, view: View) -> Group:
        """The group of this number, which exists."""
        group = self.loaded.get(number)
        if group is None:
            group = self.loaded[number] = Group.load(self.partition, number, view)
            if self.is_led:
                group.returning = returning_to(self.partition, number, view)
        return group

    def named(self, channel: str, name: str, view: View) -> Group | None:
        """A group by its name; one that is about to end counts no longer."""
        number = self._number(channel, name, view)
        group = self.at(number, view) if number else None
        return None if group is None or group.is_dropped else group

    def peek(self, channel: str, name: str, view: View) -> Group | None:
        """A group, only to be looked at: one that isn't in memory doesn't stay there."""
        raw = view.get(keys.group_name_key(self.partition, channel, name))
        if raw is None:
            return None
        number = int.from_bytes(raw, "big")
        return self.loaded.get(number) or Group.load(self.partition, number, view)

    def has(self, channel: str, name: str, view: View) -> bool:
        """There is such a group, or it is on its way."""
        return bool(self._number(channel, name, view)) or (channel, name) in self.creating

    def of(self, channel: str | None, view: View) -> list[Group]:
        """The groups that read a channel, or all."""
        prefix = keys.partition_prefix(b"g", self.partition)
        if channel is not None:
            prefix += channel.encode() + b"\0"
        numbers = [
            int.from_bytes(raw, "big")
            for _, raw in view.range(prefix, keys.after_prefix(prefix))
        ]
        return [self.at(number, view) for number in sorted(numbers)]

    def names(
        self, view: View, *, count_max: int = limits.GROUP_COUNT_MAX
    ) -> list[tuple[str, str]]:
        """(channel, name) of every group, or of the first so many."""
        prefix = keys.partition_prefix(b"g", self.partition)
        rows = view.range(prefix, keys.after_prefix(prefix))
        return [keys.group_of(key) for key, _ in islice(rows, count_max)]

    # --- as records say -----------------------------------------------------------------------

    def apply_create(self, operation: CreateGroup, cut: int, changes: Changes) -> None:
        """A group begins, above what is cut."""
        group = Group.create(self.partition, operation)
        group.done.raise_floor(cut)
        group.cursor = group.done.floor
        self.loaded[group.number] = group
        self._numbers[group.channel, group.name] = group.number
        self.creating.discard((group.channel, group.name))
        key = keys.group_name_key(self.partition, group.channel, group.name)
        changes.rows[key] = group.number.to_bytes(4, "big")
        group.write(changes)

    def apply_drop(self, number: int, scratch: Overlay) -> None:
        """A group ends, and all that it has in the view."""
        group = self.at(number, scratch)
        group.cut_state(scratch)
        sessions = keys.group_prefix(b"s", self.partition, number)
        scratch.cut(sessions, keys.after_prefix(sessions))
        for key in (
            keys.group_prefix(b"h", self.partition, number),
            keys.group_name_key(self.partition, group.channel, group.name),
        ):
            scratch.changes.rows[key] = None
        del self.loaded[number]
        self._numbers.pop((group.channel, group.name), None)

    def apply_attach(self, operation: Attach, scratch: Overlay) -> None:
        """A session reads a group from here on."""
        self.at(operation.group, scratch)
        key = keys.session_key(self.partition, operation.group, operation.session)
        scratch.changes.rows[key] = operation.owner.encode()

    def apply_detach(self, operation: Detach, changes: Changes) -> None:
        """Sessions read a group no longer, which may be gone meanwhile."""
        for session in operation.sessions:
            key = keys.session_key(self.partition, operation.group, session)
            changes.rows[key] = None

    def _number(self, channel: str, name: str, view: View) -> int:
        number = self._numbers.get((channel, name))
        if number is None:
            raw = view.get(keys.group_name_key(self.partition, channel, name))
            if raw is None:
                return 0
            number = self._numbers[channel, name] = int.from_bytes(raw, "big")
        return number
