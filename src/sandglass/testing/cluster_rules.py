"""
The rules of a replicated log that the simulation must miss, as `rules.py` has those of a node.

`expected-last-sequence` isn't one of ours: it is what remains when nothing but the engine's
`Nats-Expected-Last-Sequence` keeps a deposed leader out, which looks like a fence, and is none.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sandglass.core import codec
from sandglass.core.partition import Partition
from sandglass.replication.entry import decode
from sandglass.replication.lease import HeldLease
from sandglass.replication.reader import Mark, Reader
from sandglass.replication.snapshot import Generations, Manifest
from sandglass.replication.writer import Outgoing, Phase, Writer
from sandglass.testing import simulated_cluster, simulated_snapshots
from sandglass.testing.rules import Rules, lead_unpromised
from sandglass.testing.simulated_engine import Answer, Stream
from sandglass.testing.simulated_log import ReplicatedLog
from sandglass.testing.simulated_member import Member
from sandglass.testing.simulated_snapshots import Library


def _never(*_: object) -> bool:
    return False


def _acknowledge_each(acknowledged: Callable[..., None]) -> Callable[..., None]:
    """Whatever is stored counts, and all before it is taken for stored."""

    def acknowledge(self: Writer, outgoing: Outgoing, sequence: int) -> None:
        for flight in self._flights:
            if flight.entry.n <= outgoing.n:
                flight.is_stored = True
        acknowledged(self, outgoing, sequence)

    return acknowledge


def _publish_without_id(publish: Callable[..., Any]) -> Callable[..., Any]:
    def published(self: Stream, outgoing: Outgoing, now_ms: int) -> tuple[Answer, bool]:
        self.ids.pop(outgoing.message_id, None)
        return publish(self, outgoing, now_ms)

    return published


def _serve_unread(fence: Callable[..., None]) -> Callable[..., None]:
    """The fence is taken to stand where the stream ended when it was sent."""

    def fenced(self: Member) -> None:
        writer = self.writer
        if writer is None or writer.phase is not Phase.FENCING:
            return
        fence(self)
        outgoing = writer._fence
        assert outgoing is not None
        before, sequence = self.replica.reader.mark, self.replica.reader.sequence
        reader = Reader(replace(before, sequence=sequence))
        accepted = reader.take(sequence + 1, outgoing.raw)
        assert accepted is not None
        (record,) = decode(0, outgoing.raw).records
        self.replica.view.lay(
            self.replica.machine.apply(codec.decode(record), self.replica.view)
        )
        self.replica.applied += 1
        self.replica.reader = reader
        self._observe(accepted)

    return fenced


def _encode_without_floor(encode: Callable[[Manifest], bytes]) -> Callable[[Manifest], bytes]:
    def encoded(self: Manifest) -> bytes:
        bare = replace(self.mark, epoch=0, n=0, writer=b"")
        return encode(replace(self, mark=bare))

    return encoded


def _newest_sequence(self: Generations) -> int:
    return self.kept[0].sequence if self.kept else 0


_NEWEST_SEQUENCE: Any = property(_newest_sequence)


def _whole(*_: object) -> bool:
    return True


def _valid_for_ever(self: HeldLease, now_ms: int) -> bool:
    del now_ms
    return self._until_ms is not None


def _left_with_margin(self: HeldLease, now_ms: int) -> int:
    return 0 if self._until_ms is None else max(0, self._until_ms + self.margin_ms - now_ms)


def _accept_early(self: Reader, entry: Any) -> tuple[object, str] | None:
    """Whatever is not dropped follows."""
    del self, entry
    return None


def _begin_at_any_stream(self: Reader, **of_stream: Any) -> bool:
    if not self.mark.stream:
        self.mark = replace(self.mark, stream=of_stream["stream"])
    return self.frozen is None


def _mark_of_reader(self: Member) -> bytes:
    """Where the log stood when this leader began."""
    mark: Mark = self.replica.reader.mark
    return mark.encode()


def _all_committed(self: ReplicatedLog) -> int:
    """Whatever was appended counts as soon as anything is committed."""
    self.taken = self.writer.last_position
    return self.taken


CLUSTER_RULES: Rules = {
    "stale": (
        "an entry of a lower epoch than the last fence's counts for nothing",
        lambda: [(Reader, "_is_stale", _never)],
    ),
    "repeated": (
        "an entry that was accepted counts no second time",
        lambda: [(Reader, "_is_repeated", _never)],
    ),
    "early": (
        "an entry before its turn is dropped, not followed",
        lambda: [(Reader, "_is_early", _never), (Reader, "_wrongness", _accept_early)],
    ),
    "gap": (
        "an entry before its turn is no reason to stop for ever",
        lambda: [(Reader, "_is_early", _never)],
    ),
    "chain": (
        "what doesn't follow freezes its reader",
        lambda: [(Reader, "_wrongness", _accept_early)],
    ),
    "stream": (
        "a stream that is shorter, or another one, freezes its reader",
        lambda: [(Reader, "check_stream", _begin_at_any_stream)],
    ),
    "order": (
        "an entry is committed once all before it are, each at its sequence",
        lambda: [(Writer, "acknowledged", _acknowledge_each(Writer.acknowledged))],
    ),
    "window": (
        "of several entries under way those are answered that are committed, and no others",
        lambda: [(ReplicatedLog, "sync_end", _all_committed)],
    ),
    "message-id": (
        "what is sent again is stored once",
        lambda: [(Stream, "publish", _publish_without_id(Stream.publish))],
    ),
    "fence": (
        "a leader serves once it has read its own fence",
        lambda: [(Member, "_fence", _serve_unread(Member._fence))],
    ),
    "lease": (
        "a leader serves within its lease",
        lambda: [(HeldLease, "is_valid", _valid_for_ever)],
    ),
    "margin": (
        "a leader stops before a watcher's clock may say that its lease is over",
        lambda: [(HeldLease, "left_ms", _left_with_margin)],
    ),
    "floor": (
        "a snapshot carries the floor of the epochs",
        lambda: [(Manifest, "encode", _encode_without_floor(Manifest.encode))],
    ),
    "older": (
        "the stream is trimmed behind the older of two snapshots",
        lambda: [(Generations, "trim_sequence", _NEWEST_SEQUENCE)],
    ),
    "verify": (
        "an object is believed if its bytes are those that its name says",
        lambda: [(simulated_snapshots, "is_whole", _whole)],
    ),
    "compare": (
        "a snapshot is entered in place of the entry that its maker has read",
        lambda: [(Library, "_fits", _whole)],
    ),
    "mark": (
        "a mark stands with the rows of its entry",
        lambda: [(Member, "_mark", _mark_of_reader)],
    ),
    "outdated": (
        "a client drops deliveries of a lower epoch than one that it has seen",
        lambda: [(simulated_cluster, "is_outdated", _never)],
    ),
    "promise": (
        "a leader that takes over counts what was promised as closed",
        lambda: [(Partition, "lead", lead_unpromised(Partition.lead))],
    ),
    "expected-last-sequence": (
        "the engine's own check is a fence",
        lambda: [
            (Reader, "_is_dropped", _never),
            (Reader, "_wrongness", _accept_early),
            (Writer, "acknowledged", _acknowledge_each(Writer.acknowledged)),
        ],
    ),
}
"""Name of a rule, what it says, and what to replace to be without it."""
