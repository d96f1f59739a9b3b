"""
The targets of `make fuzz`, for a moment each: real encodings, and changes of them by chance.

Whatever the long runs have found stands beside the tests of the decoder that it was found in.
"""

from random import Random

import pytest

from fuzz.all import TARGETS
from fuzz.target import Target

CHANGED_COUNT = 200
ODD = (0, 1, 0x7F, 0x80, 0xFF)


def changed(random: Random, seed: bytes) -> bytes:
    """One to four changes: a byte set, bytes cut out, said twice, or put in."""
    data = bytearray(seed)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.randint(1, 8))
        match random.randrange(4):
            case 0:
                data[at:end] = bytes([random.choice(ODD)]) * (end - at)
            case 1:
                del data[at:end]
            case 2:
                data[at:at] = data[at:end]
            case _:
                data[at:at] = random.randbytes(random.randint(1, 4))
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_decoder_takes_real_encodings_and_is_content_with_changed_ones(
    target: Target,
) -> None:
    seed = 20270101
    random = Random(f"{seed} {target.name}")
    seeds = target.seeds()

    for each in seeds:
        target.one(each)
    for number in range(CHANGED_COUNT):
        data = changed(random, seeds[number % len(seeds)])
        try:
            target.one(data)
        except Exception as error:
            raise AssertionError(f"input {data!r} of seed {seed}") from error
