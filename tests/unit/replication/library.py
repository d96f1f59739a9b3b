"""Objects, an entry and a replica in memory, and who carries out the steps of snapshots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sandglass.core import keys
from sandglass.core.view import Row
from sandglass.replication import making, restoring
from sandglass.replication.making import Made, Source
from sandglass.replication.reader import Mark
from sandglass.replication.restoring import Restored, Wanted
from sandglass.replication.snapshot import Generations, Manifest, digest_of, is_whole

CLUSTER = "c1"
LOG = 7
STREAM = "made on Monday"


def mark_at(position: int) -> Mark:
    return Mark(position + 100, 3, position, 9, position, b"w" * 16, STREAM, 5)


def view(count: int, *, size_bytes: int = 100, salt: int = 0) -> dict[bytes, bytes]:
    """Message rows, one a minute, and the rows beside them."""
    rows = {
        keys.row_key(keys.rows_prefix(1, "master"), 60_000 * number, number + 1, 1): bytes(
            (salt + number + at) % 251 for at in range(size_bytes)
        )
        for number in range(count)
    }
    return rows | {
        keys.channel_key(1, "master"): b"",
        keys.partition_key(1): bytes(8) + (500).to_bytes(14, "big") + bytes(60),
        keys.NODE_KEY: b"{}",
        keys.MARK_KEY: b"the mark's own row",
    }


@dataclass
class Library:
    """`before` is called with each step before it is carried out."""

    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    value: bytes | None = None
    revision: int = 0
    trimmed: int = 0
    replica: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    mark: Mark | None = None
    before: Callable[[Any], None] = lambda _: None
    put_names: list[str] = field(default_factory=list[str])

    @property
    def generations(self) -> Generations:
        return Generations.decode(self.value)

    def manifest(self, generation: int = 0) -> Manifest:
        return Manifest.decode(self.objects[self.generations.kept[generation].manifest])

    def make(self, rows: dict[bytes, bytes], position: int) -> Made | None:
        return self.drive(self.making(rows, position))

    def making(
        self, rows: dict[bytes, bytes], position: int, stream: str = STREAM
    ) -> making.Making:
        left = [sorted(rows.items())[at : at + 50] for at in range(0, len(rows), 50)]
        mark = mark_at(position)
        mark = replace(mark, stream=stream)
        take: Callable[[], Sequence[Row]] = lambda: left.pop(0) if left else []  # noqa: E731
        source = Source(CLUSTER, LOG, mark, 1000, take)
        return making.make(source, self.generations, self.revision)

    def restore(self, **wanted: Any) -> Restored:
        fields = {
            "cluster": CLUSTER,
            "log": LOG,
            "position": 0,
            "first_sequence": 1,
            "stream": STREAM,
        }
        return self.drive(restoring.restore(Wanted(**(fields | wanted)), self.generations))

    def drive(self, steps: Any) -> Any:
        """To the end."""
        sent = None
        while True:
            try:
                step = steps.send(sent)
            except StopIteration as end:
                return end.value
            self.before(step)
            sent = self.carry_out(step)

    def carry_out(self, step: Any) -> Any:
        match step:
            case making.Digest():
                return digest_of(step.raw)
            case making.ListNames():
                return frozenset(self.objects)
            case making.Put():
                self.put_names.append(step.name)
                self.objects[step.name] = step.raw
            case making.Get():
                raw = self.objects.get(step.name)
                return raw if raw is not None and is_whole(step.name, raw) else None
            case making.Enter():
                if step.revision != self.revision:
                    return 0
                self.revision, self.value = self.revision + 3, step.value
                return self.revision
            case making.Trim():
                self.trimmed = step.sequence
            case making.Delete():
                for name in step.names:
                    del self.objects[name]
            case restoring.Wipe():
                self.replica, self.mark = {}, None
            case restoring.Write():
                self.replica |= dict(step.rows)
            case restoring.Finish():
                self.mark = step.mark
            case _:
                assert isinstance(step, making.Rest | restoring.Expect)
        return None
