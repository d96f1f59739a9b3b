"""The model of the engine keeps its two promises, and forgets what it may forget."""

from sandglass.core import limits
from sandglass.replication.writer import Outgoing
from sandglass.testing.simulated_engine import Answer, Engine, Stream
from sandglass.testing.world import World

WINDOW_MS = limits.DUPLICATE_WINDOW_MS


def outgoing(n: int, sequence: int, raw: bytes = b"x") -> Outgoing:
    return Outgoing(n, raw, f"id-{n}", sequence, last_position=n)


def test_what_expects_another_end_is_refused_and_not_stored() -> None:
    stream = Stream("s")
    stream.publish(outgoing(0, 0), 0)

    refused = stream.publish(outgoing(1, 1), 0)
    stored = stream.publish(outgoing(1, 2), 0)

    assert (Answer(0), False) == refused
    assert (Answer(2), True) == stored


def test_what_expects_nothing_fits_anywhere() -> None:
    stream = Stream("s")
    stream.publish(outgoing(0, 0), 0)

    assert (Answer(2), True) == stream.publish(outgoing(5, 0), 0)


def test_repeat_is_answered_with_the_first_place_as_long_as_its_id_is_known() -> None:
    stream = Stream("s")
    stream.publish(outgoing(1, 1), 0)

    assert (Answer(1), False) == stream.publish(outgoing(1, 1), WINDOW_MS)
    assert (Answer(2), True) == stream.publish(outgoing(1, 0), WINDOW_MS + 1)


def test_repeat_is_refused_where_the_expected_end_is_looked_at_first() -> None:
    stream = Stream("s", is_fit_first=True)
    stream.publish(outgoing(1, 1), 0)

    assert (Answer(0), False) == stream.publish(outgoing(1, 1), 1)
    assert (Answer(1), False) == stream.publish(outgoing(1, 0), 1)


def test_trimmed_and_rewound_streams_show_what_is_left() -> None:
    engine = Engine(World(1))
    for n in range(1, 6):
        engine.stream.publish(outgoing(n, n, b"%d" % n), 0)

    engine.trim(2)
    engine.rewind(1)

    stream = engine.stream
    assert (3, 4) == (stream.first_sequence, stream.last_sequence)
    assert [None, b"3", b"4", None] == [stream.at(sequence) for sequence in (2, 3, 4, 5)]


def test_stream_made_anew_has_another_name() -> None:
    engine = Engine(World(1))
    before = engine.stream.name
    engine.make_anew()

    assert before != engine.stream.name
    assert 0 == engine.stream.last_sequence
