"""Sandflake ids: vectors, order, and the two generators."""

import itertools
import os
import threading
import time

import pytest

from sandglass import sandflake
from sandglass.sandflake import FixedTimeGenerator, Generator, Sandflake, SandflakeError

VECTORS = [
    ("00" * 16, "0" * 26),
    ("ff" * 16, "Z" * 25 + "W"),
    ("000102030405060708090a0b0c0d0e0f", "000G40R40M30E209185GR38E1W"),
    ("015c4733dc1401020304000005070809", "05E4ECYW2G0G40R40000A1R814"),
]


def zeros(count: int) -> bytes:
    return bytes(count)


def ticking(times_ms: list[int]) -> Generator:
    return Generator(wall_ms=iter(times_ms).__next__, entropy=zeros)


@pytest.mark.parametrize(("raw", "text"), VECTORS)
def test_bytes_and_text_are_two_forms_of_one_id(raw: str, text: str) -> None:
    flake = Sandflake(bytes.fromhex(raw))

    assert text == str(flake)
    assert flake == Sandflake.parse(text)
    assert flake == Sandflake.from_json(flake.to_json())
    assert bytes.fromhex(raw) == bytes(flake)


def test_parts_are_where_the_layout_says() -> None:
    flake = Sandflake.make(
        time_ms=1495843200020, worker=0x01020304, sequence=5, chance=b"\x07\x08\x09"
    )

    assert VECTORS[3] == (flake.raw.hex(), str(flake))
    assert "2017-05-27T00:00:00.020000+00:00" == flake.time.isoformat()
    assert (0x01020304, 5, b"\x07\x08\x09") == (flake.worker, flake.sequence, flake.chance)


def test_two_spare_bits_of_the_text_are_ignored() -> None:
    assert sandflake.MAX == Sandflake.parse("Z" * 26)
    assert sandflake.NIL == Sandflake.parse("0" * 25 + "1")


@pytest.mark.parametrize(
    "text", ["", "0" * 25, "0" * 27, "0" * 25 + "a", *("0" * 25 + each for each in "ILOU")]
)
def test_other_lengths_lower_case_and_foreign_letters_are_refused(text: str) -> None:
    with pytest.raises(SandflakeError):
        Sandflake.parse(text)


@pytest.mark.parametrize("size", [0, 15, 17])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(SandflakeError, match="16 bytes"):
        Sandflake(bytes(size))


@pytest.mark.parametrize("document", ["", "7", "{", "null", '"0"', "[" * 100_000])
def test_json_that_is_no_sandflake_is_refused(document: str) -> None:
    with pytest.raises(SandflakeError):
        Sandflake.from_json(document)


@pytest.mark.parametrize(
    ("time_ms", "worker", "sequence", "chance"),
    [
        (1 << 48, 0, 0, bytes(3)),
        (-1, 0, 0, bytes(3)),
        (0, 1 << 32, 0, bytes(3)),
        (0, 0, 1 << 24, bytes(3)),
        (0, 0, 0, bytes(4)),
    ],
)
def test_a_part_that_does_not_fit_is_refused(
    time_ms: int, worker: int, sequence: int, chance: bytes
) -> None:
    with pytest.raises(SandflakeError):
        Sandflake.make(time_ms=time_ms, worker=worker, sequence=sequence, chance=chance)


def test_the_greatest_parts_make_the_greatest_id() -> None:
    greatest = Sandflake.make(
        time_ms=sandflake.TIME_MS_MAX,
        worker=sandflake.WORKER_MAX,
        sequence=sandflake.SEQUENCE_MAX,
        chance=b"\xff" * 3,
    )

    assert sandflake.MAX == greatest
    with pytest.raises(SandflakeError, match="9999"):
        _ = greatest.time


def test_order_is_time_worker_sequence_chance_in_bytes_and_text() -> None:
    parts = itertools.product((1, 2), (1, 2), (1, 2), (b"\0\0\1", b"\0\0\2"))

    flakes = [
        Sandflake.make(time_ms=time_ms, worker=worker, sequence=sequence, chance=chance)
        for time_ms, worker, sequence, chance in parts
    ]

    assert flakes == sorted(flakes)
    assert flakes == sorted(flakes, key=str)


@pytest.mark.parametrize(
    ("times_ms", "sequences"),
    [
        ([10, 10, 10], [0, 1, 2]),
        ([10, 10, 11, 11], [0, 1, 0, 1]),
        ([10, 10, 9, 9, 10], [0, 1, 0, 1, 0]),
    ],
)
def test_sequence_counts_within_a_millisecond_and_starts_anew_in_any_other(
    times_ms: list[int], sequences: list[int]
) -> None:
    generator = ticking(times_ms)

    flakes = [generator.next() for _ in times_ms]

    assert sequences == [flake.sequence for flake in flakes]
    assert times_ms == [flake.time_ms for flake in flakes]


def test_worker_is_drawn_once_and_chance_each_time() -> None:
    draws = itertools.count(1)
    generator = Generator(
        wall_ms=lambda: 5, entropy=lambda count: next(draws).to_bytes(count, "big")
    )

    flakes = [generator.next() for _ in range(3)]

    assert [1, 1, 1] == [flake.worker for flake in flakes]
    assert [2, 3, 4] == [int.from_bytes(flake.chance, "big") for flake in flakes]


def test_fixed_time_generator_starts_at_one() -> None:
    generator = FixedTimeGenerator(77, entropy=zeros)

    flakes = [generator.next() for _ in range(3)]

    assert [(77, 1), (77, 2), (77, 3)] == [(each.time_ms, each.sequence) for each in flakes]


@pytest.mark.parametrize("kind", ["clock", "fixed"])
def test_a_used_up_sequence_starts_at_zero(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = FixedTimeGenerator(77, entropy=zeros)
    clock = Generator(wall_ms=lambda: 77, entropy=zeros)
    generator = fixed if kind == "fixed" else clock
    generator.next()
    monkeypatch.setattr(generator, "_sequence", sandflake.SEQUENCE_MAX - 1)

    assert [sandflake.SEQUENCE_MAX, 0, 1] == [generator.next().sequence for _ in range(3)]


def test_a_million_ids_share_no_millisecond_and_sequence() -> None:
    """As fast as a generator goes: some 10,000 ids within each millisecond."""
    generator = ticking([each // 10_000 for each in range(1_000_000)])

    # The first 13 bytes less the worker's, which is always the same.
    heads = {generator.next().raw[:13] for _ in range(1_000_000)}

    assert 1_000_000 == len(heads)


@pytest.mark.parametrize(
    ("step_us", "count", "sequence"), [(1, 20, 20), (250, 3, 3), (250, 7, 3), (1000, 1, 0)]
)
def test_sequence_counts_steps_within_a_millisecond(
    step_us: int, count: int, sequence: int
) -> None:
    """A clock of microseconds goes on by steps, from the start of a millisecond."""
    times_ms = [5 + step_us * each // 1000 for each in range(count + 1)]
    generator = ticking(times_ms)

    flakes = [generator.next() for _ in times_ms]

    assert sequence == flakes[-1].sequence


def test_a_second_id_is_greater_in_bytes_and_text() -> None:
    for first, second in zip(
        [sandflake.next() for _ in range(100)],
        [sandflake.next() for _ in range(100)],
        strict=True,
    ):
        assert first < second
        assert first.raw < second.raw
        assert str(first) < str(second)


def test_ids_of_the_machine_have_its_time_and_one_worker() -> None:
    before_ms = time.time_ns() // 1_000_000

    flakes = [sandflake.next() for _ in range(1000)]

    after_ms = time.time_ns() // 1_000_000
    assert all(before_ms <= flake.time_ms <= after_ms for flake in flakes)
    assert 1 == len({flake.worker for flake in flakes})
    assert 1000 == len({flake.raw[:13] for flake in flakes})


def test_threads_share_the_machines_generator() -> None:
    found: list[sandflake.Sandflake] = []

    def work() -> None:
        found.extend(sandflake.next() for _ in range(2000))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 8000 == len({(flake.time_ms, flake.sequence) for flake in found})


def test_a_forked_process_is_another_worker() -> None:
    generator = Generator(wall_ms=lambda: 5, entropy=os.urandom)
    before = generator.next()

    generator.renew()

    assert before.worker != generator.next().worker
