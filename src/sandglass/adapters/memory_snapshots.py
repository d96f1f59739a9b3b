"""`SnapshotStore` in memory: for tests and simulation."""

from collections.abc import Iterable


class MemorySnapshots:
    """`SnapshotStore` as a dict; all who hold it share it."""

    def __init__(self) -> None:
        self.objects: dict[int, dict[str, bytes]] = {}

    async def put(self, log: int, name: str, raw: bytes) -> None:
        """See `SnapshotStore.put`."""
        self.objects.setdefault(log, {})[name] = raw

    async def get(self, log: int, name: str) -> bytes | None:
        """See `SnapshotStore.get`."""
        return self.objects.get(log, {}).get(name)

    async def names(self, log: int) -> frozenset[str]:
        """See `SnapshotStore.names`."""
        return frozenset(self.objects.get(log, ()))

    async def delete(self, log: int, names: Iterable[str]) -> None:
        """See `SnapshotStore.delete`."""
        for name in names:
            self.objects.get(log, {}).pop(name, None)

    async def clear(self, log: int) -> None:
        """See `SnapshotStore.clear`."""
        self.objects.pop(log, None)
