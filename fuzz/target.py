"""
What a target is: a decoder, bytes that it takes, and what must hold for any others.

A target is one function of bytes. It hands them to its decoder and is content with two ends: a
value that passes the target's own checks, or the one error that the decoder documents. Whatever
else is raised, a failed check above all, is a find.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """
    A decoder under fire.

    `seeds` are real encodings, made at each run: what the fuzzer begins with. `bytes_max` is
    the longest input it tries: the shortest that still reaches every branch is the fastest.
    """

    name: str
    one: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    bytes_max: int = 4096


def check(is_so: bool, what: str) -> None:
    """
    Raises:
        AssertionError: something that must hold does not: a find.
    """
    if not is_so:
        raise AssertionError(what)


def text_of(data: bytes) -> str:
    """Any text: what is no UTF-8 becomes half characters, as on a command line."""
    return data.decode("utf-8", "surrogateescape")
