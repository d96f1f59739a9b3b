"""`Placement` in memory: for tests and simulation. Several may share one bucket."""

from collections.abc import Callable, Mapping

from sandglass.errors import ConflictError
from sandglass.ports import Entry


class MemoryPlacement:
    """`Placement` as a dict; what is set is known to all who hold it, at once."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._revisions: dict[str, int] = {}
        self._followers: list[Callable[[str], None]] = []

    @property
    def entries(self) -> Mapping[str, Entry]:
        """See `Placement.entries`."""
        return self._entries

    @property
    def revision(self) -> int:
        """See `Placement.revision`."""
        return self._revision

    async def reached(self, revision: int) -> None:
        """See `Placement.reached`: it is at once."""
        assert revision <= self._revision, "nobody has made it"

    def follow(self, on_change: Callable[[str], None]) -> None:
        """See `Placement.follow`."""
        self._followers.append(on_change)

    async def set(self, key: str, value: bytes, revision: int | None = None) -> int:
        """See `Placement.set`."""
        self._check(key, revision)
        self._revision += 1
        self._revisions[key] = self._revision
        self._entries[key] = Entry(key, value, self._revision)
        self._tell(key)
        return self._revision

    async def delete(self, key: str, revision: int | None = None) -> None:
        """See `Placement.delete`."""
        self._check(key, revision)
        self._revision += 1
        self._revisions.pop(key, None)
        self._entries.pop(key, None)
        self._tell(key)

    def _check(self, key: str, revision: int | None) -> None:
        if revision is not None and revision != self._revisions.get(key, 0):
            raise ConflictError(f"{key} is of revision {self._revisions.get(key, 0)}")

    def _tell(self, key: str) -> None:
        for follower in self._followers:
            follower(key)
