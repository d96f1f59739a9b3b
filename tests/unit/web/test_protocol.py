"""What is parsed of a body before others have their turn."""

import h11
import pytest

from sandglass.web.bounds import Bounds
from sandglass.web.protocol import PASS_EVENT_COUNT, _Paced

HEAD = b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"1\r\n \r\n"


def passes(connection: _Paced) -> list[int]:
    """Pieces of the body in each pass, until no more are there."""
    counts: list[int] = []
    while not counts or connection.is_cut:
        connection.begin_pass()
        counts.append(0)
        while isinstance(connection.next_event(), h11.Data):
            counts[-1] += 1
    return counts


def test_a_read_with_thousands_of_chunks_takes_many_passes() -> None:
    connection = _Paced(Bounds())
    connection.receive_data(HEAD + CHUNK * 1000)
    connection.begin_pass()
    assert isinstance(connection.next_event(), h11.Request)

    counts = passes(connection)

    assert 1000 == sum(counts)
    assert PASS_EVENT_COUNT == max(counts)


def test_chunks_are_counted_for_each_request_by_itself() -> None:
    connection = _Paced(Bounds(chunk_count_max=3))
    for _ in range(2):
        connection.receive_data(HEAD + CHUNK * 3 + b"0\r\n\r\n")
        connection.begin_pass()
        assert isinstance(connection.next_event(), h11.Request)
        assert [3] == passes(connection)
        connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
        connection.send(h11.EndOfMessage())
        connection.start_next_cycle()

    connection.receive_data(HEAD + CHUNK * 4)
    connection.begin_pass()
    connection.next_event()
    with pytest.raises(h11.RemoteProtocolError, match="too many chunks"):
        passes(connection)
