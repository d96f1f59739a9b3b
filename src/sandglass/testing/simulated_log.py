"""The log of a simulated leader's node: what it appends goes out through a writer."""

from collections.abc import Iterator, Sequence

from sandglass.replication.writer import Writer


class ReplicatedLog:
    """The log of a leader's node: a sync is over when something more is committed."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.taken = writer.committed_position

    @property
    def last_position(self) -> int:
        """The highest position given out."""
        return self.writer.last_position

    def append(self, records: Sequence[bytes]) -> int:
        """Takes records; returns the last one's position."""
        return self.writer.append(records)

    def read(self, position: int) -> Iterator[tuple[int, bytes]]:
        """Nothing: the view is up to date when a node begins to lead."""
        del position
        return iter(())

    def sync_start(self) -> None:
        """The first half: the member publishes."""

    def sync_end(self) -> int:
        """The second half: the first part of it, or all, is committed."""
        assert self.is_synced
        self.taken = self.writer.committed_position
        return self.taken

    @property
    def is_synced(self) -> bool:
        """More is committed than before."""
        return self.writer.committed_position > self.taken

    def has_room(self) -> bool:
        """What is appended goes out at once, though other entries are under way."""
        return self.writer.room_bytes > 0
