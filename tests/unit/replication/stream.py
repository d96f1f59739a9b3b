"""A stream in a list, with who reads and writes it: what tests of a replicated log share."""

from dataclasses import dataclass, field

from sandglass.replication.reader import Accepted, Mark, Reader
from sandglass.replication.writer import Outgoing, Phase, Writer

STREAM = "made on Monday"
A, B, C = (letter * 16 for letter in (b"a", b"b", b"c"))


@dataclass
class Stream:
    """Stores what it is sent; sequences are 1, 2, 3, ..."""

    raws: list[bytes] = field(default_factory=list[bytes])

    @property
    def last(self) -> int:
        return len(self.raws)

    def store(self, outgoing: Outgoing) -> int:
        """Stores it, whatever it expects; returns the sequence."""
        self.raws.append(outgoing.raw)
        return self.last

    def publish(self, outgoing: Outgoing) -> int | None:
        """Stores it if it fits; None: refused."""
        expected = outgoing.expected_last_sequence
        return self.store(outgoing) if expected in {None, self.last} else None

    def feed(self, reader: Reader) -> list[Accepted]:
        """Lets a reader read on to the end."""
        is_same = reader.check_stream(first_sequence=1, last_sequence=self.last, stream=STREAM)
        taken = (
            [
                reader.take(sequence, self.raws[sequence - 1])
                for sequence in range(reader.sequence + 1, self.last + 1)
            ]
            if is_same
            else []
        )
        return [accepted for accepted in taken if accepted is not None]

    def records(self, mark: Mark | None = None) -> list[tuple[int, bytes]]:
        """What a reader that begins at `mark` accepts."""
        accepted = self.feed(Reader(mark or Mark()))
        return [record for each in accepted for record in each.records()]

    def candidate(self, writer: bytes, *, catalog_epoch: int = 0) -> Writer:
        """One that has read everything."""
        reader = Reader()
        self.feed(reader)
        return Writer(writer, max(catalog_epoch, reader.mark.epoch) + 1, reader.mark)

    def read_to(self, writer: Writer) -> Reader:
        """Lets a writer observe all from its mark on; returns the reader."""
        reader = Reader(writer.mark)
        for accepted in self.feed(reader):
            writer.observe(accepted)
        return reader

    def leader(self, writer: bytes) -> Writer:
        """One whose fence was read back."""
        leader = self.candidate(writer)
        self.store(leader.fence(b"open %d" % leader.epoch))
        self.read_to(leader)
        assert leader.phase is Phase.LEADING
        return leader


def sends(writer: Writer, *records: bytes) -> list[Outgoing]:
    """An entry for each record."""
    outgoing: list[Outgoing] = []
    for record in records:
        writer.append([record])
        outgoing += writer.pack()
    return outgoing
