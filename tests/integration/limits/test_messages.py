"""A message and an atom as large as they may be, over every surface that takes them."""

import pytest

from sandglass.core import limits
from tests.integration.limits.asking import Neighbour, assert_named
from tests.integration.limits.surfaces import (
    PARTS_MISSING,
    SURFACES,
    Calls,
    Parts,
    Place,
    refusal_of,
)


def headers(count: int, size_bytes: int) -> tuple[tuple[str, bytes], ...]:
    """So many, of different names, with so many bytes of names and values in all."""
    each, more = divmod(size_bytes, count)
    sizes = [each + (place < more) - 2 for place in range(count)]
    return tuple((f"{place:02}", bytes(size)) for place, size in enumerate(sizes))


KEY = b"k" * limits.KEY_BYTES_MAX
MESSAGES = [
    ("key", limits.KEY_BYTES_MAX, Parts(key=KEY), Parts(key=KEY + b"k")),
    (
        "clustering_key",
        limits.KEY_BYTES_MAX,
        Parts(b"k", KEY),
        Parts(b"k", KEY + b"k"),
    ),
    ("id", limits.KEY_BYTES_MAX, Parts(id="é" * 512), Parts(id="é" * 512 + "i")),
    (
        "headers",
        limits.HEADER_COUNT_MAX,
        Parts(headers=headers(limits.HEADER_COUNT_MAX, 1000)),
        Parts(headers=headers(limits.HEADER_COUNT_MAX + 1, 1000)),
    ),
    (
        "headers",
        limits.HEADER_BYTES_MAX,
        Parts(headers=headers(limits.HEADER_COUNT_MAX, limits.HEADER_BYTES_MAX)),
        Parts(headers=headers(limits.HEADER_COUNT_MAX, limits.HEADER_BYTES_MAX + 1)),
    ),
    (
        "value",
        limits.VALUE_BYTES_MAX,
        Parts(value=b"v" * limits.VALUE_BYTES_MAX),
        Parts(value=b"v" * (limits.VALUE_BYTES_MAX + 1)),
    ),
]


@pytest.mark.parametrize("surface", SURFACES)
async def test_a_message_at_a_limit_comes_back_whole_and_a_larger_one_is_refused(
    place: Place, neighbour: Neighbour, surface: str
) -> None:
    met = [row for row in MESSAGES if row[0] not in PARTS_MISSING.get(surface, ())]
    async with SURFACES[surface](place) as used:
        for field, limit, most, more in met:
            await used.produce(most)
            refused = await refusal_of(used.produce(more))
            assert_named(refused, field, limit + 1, limit)
            await neighbour.is_served()

        assert [most for _, _, most, _ in met] == await used.take()


def atom_of(size_bytes: int, *, framing: int) -> list[Parts]:
    """
    Messages that are together so many bytes of a batch.

    Args:
        framing: bytes around a value: tags and lengths of it and of its message.
    """
    values = [b"%d" % place * 1_000_000 for place in range(4)]
    left = size_bytes - sum(len(value) + framing for value in values) - framing
    return [Parts(value=value) for value in (*values, b"5" * left)]


BATCHES = [
    (
        limits.ATOM_BYTES_MAX,
        atom_of(limits.ATOM_BYTES_MAX, framing=9),
        atom_of(limits.ATOM_BYTES_MAX + 1, framing=9),
    ),
    (
        limits.ATOM_MESSAGE_COUNT_MAX,
        [Parts()] * limits.ATOM_MESSAGE_COUNT_MAX,
        [Parts()] * (limits.ATOM_MESSAGE_COUNT_MAX + 1),
    ),
]
FIELDS_OF_BATCHES = {
    "calls": ("batch", "count"),
    "session": ("batch", "count"),
    "compatible": ("messages", "messages"),
}


@pytest.mark.parametrize("surface", FIELDS_OF_BATCHES)
async def test_an_atom_at_its_limits_is_whole_and_a_larger_one_leaves_nothing(
    place: Place, neighbour: Neighbour, surface: str
) -> None:
    """Over HTTP it can't be met: a body is full before. Our clients cut what is larger."""
    async with SURFACES[surface](place) as used:
        for (limit, most, more), field in zip(BATCHES, FIELDS_OF_BATCHES[surface], strict=True):
            assert_named(await refusal_of(used.produce(*more)), field, limit + 1, limit)
            await neighbour.is_served()
            await used.produce(*most)

    assert [*BATCHES[0][1], *BATCHES[1][1]] == await Calls(place).take()
