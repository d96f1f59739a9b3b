"""
Any number of leaders over one stream, in any order that the engine allows: late publishes, lost
and late answers, repeats, fences that cross. What was told to be committed is what everybody
reads, and everybody reads the same, wherever they begin.
"""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from sandglass.replication.entry import WRITER_BYTES, Entry, EntryKind, decode, encode
from sandglass.replication.reader import Mark, Reader
from sandglass.replication.writer import Outcome, Outgoing, Phase, Writer
from tests.unit.replication.stream import Stream

COUNTS = st.integers(0, 2**64 - 1)
CHAINS = st.integers(0, 2**32 - 1)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(EntryKind))
    n = 0 if kind is EntryKind.FENCE else draw(st.integers(1, 2**64 - 1))
    return Entry(
        kind,
        draw(st.binary(min_size=WRITER_BYTES, max_size=WRITER_BYTES)),
        draw(COUNTS),
        n,
        draw(st.integers(0, n)),
        draw(COUNTS),
        draw(CHAINS),
        tuple(draw(st.lists(st.binary(max_size=40), min_size=1, max_size=5))),
    )


@given(entries())
def test_every_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert entry == decode(1, encode(entry))


@given(
    COUNTS,
    COUNTS,
    COUNTS,
    CHAINS,
    COUNTS,
    st.binary(max_size=WRITER_BYTES),
    st.sampled_from(["", "made first", "2026-11-26T14:00:00Z", "\u00fc"]),
    CHAINS,
)
def test_every_mark_is_read_as_it_was_written(
    sequence: int,
    epoch: int,
    n: int,
    chain: int,
    position: int,
    writer: bytes,
    stream: str,
    checksum: int,
) -> None:
    mark = Mark(sequence, epoch, n, chain, position, writer, stream, checksum)

    assert mark == Mark.decode(mark.encode())


@dataclass
class Cluster:
    """Leaders that come and go, and a stream; `act` does one thing, by number."""

    stream: Stream = field(default_factory=Stream)
    writers: list[Writer] = field(default_factory=list[Writer])
    under_way: list[tuple[Writer, Outgoing]] = field(
        default_factory=list[tuple[Writer, Outgoing]]
    )
    stored: dict[str, int] = field(default_factory=dict[str, int])
    """What the engine remembers of message ids."""
    told: dict[int, tuple[bytes, ...]] = field(default_factory=dict[int, tuple[bytes, ...]])
    """Records of entries that were told to be committed, by their last position."""
    sent: dict[tuple[bytes, int], tuple[bytes, ...]] = field(
        default_factory=dict[tuple[bytes, int], tuple[bytes, ...]]
    )
    count: int = 0

    def act(self, what: str, which: int) -> None:
        if what == "begin" or not self.writers:
            self.begin()
            return
        # The newest are the ones that matter; the others are late.
        writer = self.writers[-1 - which % min(len(self.writers), 3)]
        match what:
            case "send":
                if writer.phase is Phase.FENCING:
                    self.stream.read_to(writer)
                self.send(writer, which)
            case "arrive":
                self.arrive(which)
            case "in order":
                self.arrive(0)
            case "lose":
                self.lose(which)
            case "forget":
                self.stored.clear()
            case _:
                self.doubt(writer, which)
        for each in self.writers:
            self.tell(each)

    def begin(self) -> None:
        self.count += 1
        writer = self.stream.candidate(b"%016d" % self.count)
        self.writers.append(writer)
        self.under_way.append((writer, writer.fence(b"open %d" % self.count)))

    def send(self, writer: Writer, which: int) -> None:
        if writer.phase in {Phase.LEADING, Phase.DOUBT}:
            for _ in range(1 + which % 3):
                self.count += 1
                writer.append([b"%d" % self.count])
            self.publish(writer, writer.pack())

    def publish(self, writer: Writer, outgoing: list[Outgoing]) -> None:
        for each in outgoing:
            self.under_way.append((writer, each))
            self.sent[writer.writer, each.n] = decode(0, each.raw).records

    def arrive(self, which: int) -> None:
        """One of what is under way gets to the engine; the answer comes, or doesn't."""
        if not self.under_way:
            return
        writer, outgoing = self.under_way.pop(which % len(self.under_way))
        sequence = self.stored.get(outgoing.message_id) or self.stream.publish(outgoing)
        if sequence is not None:
            self.stored[outgoing.message_id] = sequence
        if which % 7 == 6:
            writer.failed(outgoing, "no answer")
        elif sequence is None:
            writer.failed(outgoing, "wrong last sequence")
        else:
            writer.acknowledged(outgoing, sequence)

    def lose(self, which: int) -> None:
        if self.under_way:
            writer, outgoing = self.under_way.pop(which % len(self.under_way))
            writer.failed(outgoing, "no answer")

    def doubt(self, writer: Writer, which: int) -> None:
        if writer.phase is Phase.FENCING:
            self.under_way.append((writer, writer.fence(b"")))
        if writer.phase is not Phase.DOUBT:
            return
        again = writer.retry(age_ms=0) if which % 2 else None
        if again is None:
            reader = self.stream.read_to(writer)
            assert reader.frozen is None
            again = writer.resolve(reader) if writer.phase is Phase.DOUBT else []
        self.publish(writer, again)

    def tell(self, writer: Writer) -> None:
        """Whoever waits for what is committed is told."""
        if writer.mark.writer == writer.writer and writer.mark.n:
            self.told[writer.mark.position] = self.sent[writer.writer, writer.mark.n]


WHAT = (
    ["begin"]
    + 4 * ["send"]
    + 2 * ["arrive"]
    + 6 * ["in order"]
    + ["lose", "forget"]
    + 2 * ["doubt"]
)
ACTS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 30)), min_size=40, max_size=80)


@given(ACTS)
def test_what_was_told_to_be_committed_is_what_everybody_reads(
    acts: list[tuple[str, int]],
) -> None:
    cluster = Cluster()
    for what, which in acts:
        cluster.act(what, which)

    reader = Reader()
    accepted = cluster.stream.feed(reader)

    assert reader.frozen is None
    read = {each.mark.position: each.entry.records for each in accepted}
    assert cluster.told == {position: read.get(position) for position in cluster.told}


@given(ACTS)
def test_reader_that_begins_at_any_mark_agrees_with_one_from_the_beginning(
    acts: list[tuple[str, int]],
) -> None:
    cluster = Cluster()
    for what, which in acts:
        cluster.act(what, which)
    accepted = cluster.stream.feed(Reader())
    whole = [record for each in accepted for record in each.records()]

    for mark in [each.mark for each in accepted]:
        assert whole[mark.position :] == cluster.stream.records(Mark.decode(mark.encode()))


@given(ACTS)
def test_a_deposed_leader_knows_what_became_of_everything(acts: list[tuple[str, int]]) -> None:
    cluster = Cluster()
    for what, which in acts:
        cluster.act(what, which)
    cluster.begin()
    cluster.stream.store(cluster.under_way.pop()[1])

    for writer in cluster.writers[:-1]:
        cluster.stream.read_to(writer)

        assert Phase.DEPOSED is writer.phase
        mine = [
            each
            for each in cluster.stream.feed(Reader())
            if each.mark.writer == writer.writer and each.mark.n
        ]
        for position in range(1, writer.last_position + 1):
            if position > writer.mark.position:
                assert Outcome.NEVER is writer.outcome(position)
        assert all(each.mark.position <= writer.mark.position for each in mine)
