"""What operations bring, and how channels are named."""

import pytest

from sandglass.core.message import DEAD_LETTER_CHANNEL, channel_to_read, channel_to_write
from sandglass.core.record import Append, Cut, Delete, Put, bodies_of, index_count
from sandglass.errors import InvalidError

APPEND = Append("master", 1, 5, [9, 7], [2, 3], [b"ab", b"cde"], [True, False], [])
PUT = Put("master", 1, 5, [(b"k", b""), (b"l", b"")], [b"x", b"y"])
DELETE = Delete("master", 1, 5, [(b"k", b"")])


@pytest.mark.parametrize(
    ("operation", "count", "bodies"),
    [
        (APPEND, 5, [b"ab", b"cde"]),
        (PUT, 2, [b"x", b"y"]),
        (DELETE, 1, []),
        (Cut(7), 0, []),
    ],
)
def test_indexes_and_bodies_of_an_operation(
    operation: Append | Put | Delete | Cut, count: int, bodies: list[bytes]
) -> None:
    assert count == index_count(operation)
    assert bodies == bodies_of(operation)


def test_no_channel_is_master_and_dead_letters_are_read_only() -> None:
    assert ["master", "master", "side"] == [channel_to_write(n) for n in ("", "master", "side")]
    assert DEAD_LETTER_CHANNEL == channel_to_read(DEAD_LETTER_CHANNEL)
    for name in (DEAD_LETTER_CHANNEL, "a b"):
        with pytest.raises(InvalidError, match="channel"):
            channel_to_write(name)
