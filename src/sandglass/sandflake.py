"""
Sandflake: 128-bit ids that sort by time, in bytes and in text alike.

Layout, big endian: 48 bits of Unix milliseconds, 32 of worker, 24 of sequence, 24 of chance.
The text form is 26 characters of Crockford's alphabet, used as base32 of RFC 4648: bits are
aligned to the left and padding is dropped, so the last character carries three bits and two
zeros. (A ULID aligns to the right: the two don't read each other.)

Rules
1. Order is that of the bytes: time, then worker, sequence, chance.
2. A generator never waits. Within one millisecond the sequence counts up; in any other one, an
   earlier one too, it starts at 0. Across a step of the clock order isn't promised.
3. Clock and chance are handed in. Only `next` takes the machine's.

A small library of its own: it imports nothing of Sandglass.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

SIZE_BYTES: Final = 16
TEXT_LENGTH: Final = 26
TIME_MS_MAX: Final = (1 << 48) - 1
WORKER_MAX: Final = (1 << 32) - 1
SEQUENCE_MAX: Final = (1 << 24) - 1
CHANCE_BYTES: Final = 3

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_DIGITS: Final = {character: digit for digit, character in enumerate(_ALPHABET)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class SandflakeError(ValueError):
    """Not a sandflake: another length, a foreign character, or a part that is too large."""


@dataclass(frozen=True, slots=True, order=True)
class Sandflake:
    """
    One id. Compare with `<` and `==`; sort as it is.

    Invariant: `raw` has 16 bytes.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != SIZE_BYTES:
            raise SandflakeError(f"a sandflake has {SIZE_BYTES} bytes, not {len(self.raw)}")

    @classmethod
    def make(cls, *, time_ms: int, worker: int, sequence: int, chance: bytes) -> "Sandflake":
        """
        Puts an id together.

        Raises:
            SandflakeError: a part doesn't fit its bits.
        """
        _check_fits("time_ms", time_ms, TIME_MS_MAX)
        _check_fits("worker", worker, WORKER_MAX)
        _check_fits("sequence", sequence, SEQUENCE_MAX)
        if len(chance) != CHANCE_BYTES:
            raise SandflakeError(f"chance has {CHANCE_BYTES} bytes, not {len(chance)}")
        head = time_ms << 56 | worker << 24 | sequence
        return cls(head.to_bytes(13, "big") + chance)

    @classmethod
    def parse(cls, text: str) -> "Sandflake":
        """
        Reads the text form. Strict about length and case, lax about the two spare bits.

        Raises:
            SandflakeError: another length, or a character outside the alphabet.
        """
        if len(text) != TEXT_LENGTH:
            raise SandflakeError(
                f"a sandflake has {TEXT_LENGTH} characters, not {len(text)}: {text[:40]!r}"
            )
        number = 0
        for character in text:
            digit = _DIGITS.get(character)
            if digit is None:
                raise SandflakeError(f"{character!r} is not a character of a sandflake")
            number = number << 5 | digit
        return cls((number >> 2).to_bytes(SIZE_BYTES, "big"))

    @classmethod
    def from_json(cls, document: str) -> "Sandflake":
        """
        Reads the quoted text form.

        Raises:
            SandflakeError: not a JSON string, or not a sandflake.
        """
        try:
            text = json.loads(document)
        except (ValueError, RecursionError) as error:
            raise SandflakeError("not a JSON string") from error
        if not isinstance(text, str):
            raise SandflakeError("not a JSON string")
        return cls.parse(text)

    @property
    def time_ms(self) -> int:
        """Unix milliseconds."""
        return int.from_bytes(self.raw[:6], "big")

    @property
    def time(self) -> datetime:
        """
        The same as an aware datetime in UTC.

        Raises:
            SandflakeError: beyond the year 9999, which 48 bits reach past.
        """
        try:
            return _EPOCH + timedelta(milliseconds=self.time_ms)
        except OverflowError as error:
            raise SandflakeError(f"{self.time_ms} ms is beyond the year 9999") from error

    @property
    def worker(self) -> int:
        """The generator's number, drawn when it started."""
        return int.from_bytes(self.raw[6:10], "big")

    @property
    def sequence(self) -> int:
        """Which one of its millisecond."""
        return int.from_bytes(self.raw[10:13], "big")

    @property
    def chance(self) -> bytes:
        """Three bytes."""
        return self.raw[13:]

    def to_json(self) -> str:
        """The quoted text form."""
        return f'"{self}"'

    def __str__(self) -> str:
        number = int.from_bytes(self.raw, "big") << 2
        return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))

    def __bytes__(self) -> bytes:
        return self.raw


NIL: Final = Sandflake(bytes(SIZE_BYTES))
MAX: Final = Sandflake(b"\xff" * SIZE_BYTES)


class Generator:
    """
    Makes ids at the time of a clock. Threads may share one.

    Args:
        wall_ms: Unix milliseconds, now.
        entropy: so many bytes of chance; also draws the worker's number, once.
    """

    def __init__(self, *, wall_ms: Callable[[], int], entropy: Callable[[int], bytes]) -> None:
        self._wall_ms = wall_ms
        self._entropy = entropy
        self.renew()

    def renew(self) -> None:
        """Draws another worker's number: for a process that was forked off."""
        self._worker = int.from_bytes(self._entropy(4), "big")
        self._time_ms = -1
        self._sequence = 0
        self._lock = threading.Lock()

    def next(self) -> Sandflake:
        """The next id. A sequence that is used up starts at 0 again."""
        with self._lock:
            time_ms = self._wall_ms()
            if time_ms == self._time_ms:
                self._sequence = (self._sequence + 1) & SEQUENCE_MAX
            else:
                self._time_ms = time_ms
                self._sequence = 0
            sequence = self._sequence
        return Sandflake.make(
            time_ms=time_ms,
            worker=self._worker,
            sequence=sequence,
            chance=self._entropy(CHANCE_BYTES),
        )


class FixedTimeGenerator:
    """
    Makes ids at one time: the first has sequence 1. Threads may share one.

    Args:
        time_ms: Unix milliseconds of every id.
        entropy: as for `Generator`.
    """

    def __init__(self, time_ms: int, *, entropy: Callable[[int], bytes]) -> None:
        self._time_ms = _check_fits("time_ms", time_ms, TIME_MS_MAX)
        self._entropy = entropy
        self._worker = int.from_bytes(entropy(4), "big")
        self._sequence = 0
        self._lock = threading.Lock()

    def next(self) -> Sandflake:
        """The next id. A sequence that is used up starts at 0 again."""
        with self._lock:
            self._sequence = (self._sequence + 1) & SEQUENCE_MAX
            sequence = self._sequence
        return Sandflake.make(
            time_ms=self._time_ms,
            worker=self._worker,
            sequence=sequence,
            chance=self._entropy(CHANCE_BYTES),
        )


_machine: Final = Generator(
    wall_ms=lambda: time.time_ns() // 1_000_000,  # noqa: TID251 - this is what `next` is for
    entropy=os.urandom,  # noqa: TID251 - as above
)
os.register_at_fork(after_in_child=_machine.renew)


def next() -> Sandflake:  # noqa: A001 - the name that the library has in every language
    """The next id, by the machine's clock and chance. For all threads, and forked processes."""
    return _machine.next()


def _check_fits(name: str, number: int, limit: int) -> int:
    if not 0 <= number <= limit:
        raise SandflakeError(f"{name} is {number}; it must be 0 to {limit}")
    return number
