import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandglass.core import routing

VECTORS = [
    # hash of the key, then its place among 3, 10, 50 and 1000
    (0x85555565F6597889, (0, 5, 15, 927)),
    (0x164041031D760E6A, (1, 1, 48, 750)),
    (0x6278FC9E070EE067, (0, 8, 31, 990)),
    (0x533F6046EB7F610E, (1, 9, 34, 34)),
    (0, (0, 0, 0, 0)),
]


@pytest.mark.parametrize(("key_hash", "expected"), VECTORS)
def test_known_hashes_go_where_the_first_sandglass_put_them(key_hash, expected):
    places = tuple(routing.place_of(key_hash, count) for count in (3, 10, 50, 1000))

    assert expected == places


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 1024))
def test_a_place_lies_within_the_list(key_hash, count):
    assert 0 <= routing.place_of(key_hash, count) < count


@given(st.integers(0, (1 << 64) - 1), st.integers(1, 1023))
def test_when_the_list_grows_a_key_stays_or_moves_to_the_new_place(key_hash, count):
    assert routing.place_of(key_hash, count + 1) in {routing.place_of(key_hash, count), count}


def test_places_are_even():
    counts = [0] * 8
    for number in range(8000):
        key_hash = (number * 0x9E3779B97F4A7C15) % (1 << 64)
        counts[routing.place_of(key_hash, 8)] += 1

    assert all(800 < count < 1200 for count in counts)


@pytest.mark.parametrize(("key_hash", "count"), [(0, 0), (-1, 3), (1 << 64, 3)])
def test_a_hash_of_64_bits_and_a_partition_are_needed(key_hash, count):
    with pytest.raises(AssertionError):
        routing.place_of(key_hash, count)
