"""
Bearer tokens, and the file that knows them by their hashes.

A token is `sg_` and 43 characters, 256 bits of chance in URL-safe base64. Whoever has it is let
in. The file holds a line for each, and of the token only its hash:

    # comments and empty lines mean nothing, and stay where they are
    mailer sha256:7d865e959b2466918c9863afca942d0fb89d7c9ac0c99bafc3749504ded97730

The name says who comes, and a session belongs to it. While a token is renewed, its name has two
lines, the newer one below.

Plain SHA-256, without salt or stretching: those are for passwords, which can be guessed. Nobody
guesses 256 bits, whatever the hash costs, and it is computed for each call (decision 0006).
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from sandglass.core import limits
from sandglass.errors import ConflictError, InvalidError, NotFoundError
from sandglass.security.files import read_file, replace_file

TOKEN_BYTES: Final = 32
TOKEN_PREFIX: Final = "sg_"
"""So that a token is known for one where it shouldn't be: in a log, in a repository."""

_LINE: Final = re.compile(rb"(\S+)[ \t]+sha256:([0-9a-f]{64})")

Tokens = Mapping[bytes, str]
"""The digests of tokens, and their names."""


def new_token(chance: bytes) -> str:
    """A token made of `TOKEN_BYTES` bytes that nobody can guess."""
    assert len(chance) == TOKEN_BYTES
    return TOKEN_PREFIX + base64.urlsafe_b64encode(chance).rstrip(b"=").decode()


def digest_of(token: str) -> bytes:
    """What the file holds of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def read_tokens(path: Path) -> Tokens:
    """
    The tokens of a file, which has to be its owner's alone.

    Raises:
        NotFoundError: it isn't there, or can't be read.
        PreconditionError: others have a right to it.
        InvalidError: it is too large, or as `parse_tokens`.
    """
    return parse_tokens(_content(path), source=str(path))


def add_token(path: Path, name: str, token: str) -> None:
    """
    Puts a token's hash into a file, which is made where there is none.

    Raises:
        ConflictError: the name is taken.
        SandglassError: as `read_tokens` and `replace_file`.
    """
    source, digest = str(path), digest_of(token)
    replace_file(
        path, lambda content: with_token(content, name, digest, source=source), read=_content
    )


def renew_token(path: Path, name: str, token: str) -> None:
    """
    Gives a name that has a token another one: both are let in, until the older is removed.

    Raises:
        NotFoundError: there is none of this name, or no file.
        ConflictError: it is being renewed already.
        SandglassError: as `read_tokens` and `replace_file`.
    """
    _check_there(path)
    source, digest = str(path), digest_of(token)
    replace_file(
        path, lambda content: with_renewed(content, name, digest, source=source), read=_content
    )


def remove_token(path: Path, name: str, *, is_older_alone: bool = False) -> None:
    """
    Takes what a name has out of a file; with `is_older_alone` the newest of its tokens stays.

    Raises:
        NotFoundError: there is none of this name, or no file.
        SandglassError: as `read_tokens` and `replace_file`.
    """
    _check_there(path)
    source = str(path)
    replace_file(
        path,
        lambda content: without_token(
            content, name, source=source, is_older_alone=is_older_alone
        ),
        read=_content,
    )


def parse_tokens(content: bytes, *, source: str) -> Tokens:
    """
    The tokens of a file.

    Args:
        source: what to call the file in an error.

    Raises:
        InvalidError: a line is none, or says again what one above it said. The error names the
            line and never shows it: somebody may have written the token itself there.
    """
    tokens: dict[bytes, str] = {}
    names: Counter[str] = Counter()
    for number, name, digest in _entries(content, source):
        names[name] += 1
        if names[name] > limits.TOKEN_PER_NAME_COUNT_MAX:
            raise _wrong(source, number, f"the name {name!r} stands there twice already")
        if digest in tokens:
            raise _wrong(source, number, f"{name!r} has the same token as {tokens[digest]!r}")
        tokens[digest] = name
    if len(tokens) > limits.TOKEN_COUNT_MAX:
        raise InvalidError(
            f"{source} holds {len(tokens)} tokens; the limit is {limits.TOKEN_COUNT_MAX}",
            field="token_file",
        )
    return tokens


def with_token(content: bytes, name: str, digest: bytes, *, source: str) -> bytes:
    """
    The file with one token more.

    Raises:
        ConflictError: the name is taken.
        InvalidError: no such name, too many tokens, or the file is wrong.
    """
    limits.check_name(name, field="name")
    if name in parse_tokens(content, source=source).values():
        raise ConflictError(
            f"{source} has a token {name!r} already: remove it, or choose another name"
        )
    return _with_line(content, name, digest, source)


def with_renewed(content: bytes, name: str, digest: bytes, *, source: str) -> bytes:
    """
    The file with a second token of a name.

    Raises:
        NotFoundError: there is none of this name.
        ConflictError: there are two already.
        InvalidError: too many tokens, or the file is wrong.
    """
    found = _lines_of(content, name, source)
    if len(found) == limits.TOKEN_PER_NAME_COUNT_MAX:
        raise ConflictError(
            f"{source} has {len(found)} tokens {name!r}: remove the older one first"
        )
    return _with_line(content, name, digest, source)


def without_token(
    content: bytes, name: str, *, source: str, is_older_alone: bool = False
) -> bytes:
    """
    The file without what a name has, or without all but the newest; other lines stay as they
    are.

    Raises:
        NotFoundError: there is none of this name, or none that is older.
        InvalidError: the file is wrong.
    """
    found = _lines_of(content, name, source)
    if is_older_alone:
        found.pop()
        if not found:
            raise NotFoundError(f"{source} has one token {name!r} alone, and none older")
    lines = content.splitlines(keepends=True)
    return b"".join(line for number, line in enumerate(lines, 1) if number not in found)


def _lines_of(content: bytes, name: str, source: str) -> list[int]:
    """The numbers of the lines of a name, the newest last; at least one."""
    found = [number for number, each, _ in _entries(content, source) if each == name]
    if not found:
        raise NotFoundError(f"{source} has no token {name!r}")
    return found


def _with_line(content: bytes, name: str, digest: bytes, source: str) -> bytes:
    if content and not content.endswith(b"\n"):
        content += b"\n"
    added = content + f"{name} sha256:{digest.hex()}\n".encode()
    parse_tokens(added, source=source)
    return added


def _check_there(path: Path) -> None:
    if not path.exists():
        raise NotFoundError(f"there is no token file {path}")


def _content(path: Path) -> bytes:
    return read_file(
        path, what="token file", bytes_max=limits.TOKEN_FILE_BYTES_MAX, is_private=True
    )


def _entries(content: bytes, source: str) -> list[tuple[int, str, bytes]]:
    """Line number, name, and digest of each token."""
    found: list[tuple[int, str, bytes]] = []
    for number, line in enumerate(content.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith(b"#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise _wrong(
                source, number, "a line is NAME sha256:HEX, 64 digits in small letters"
            )
        try:
            name = limits.check_name(match[1].decode("ascii", "replace"), field="token_file")
        except InvalidError:
            raise _wrong(source, number, "the name is none") from None
        found.append((number, name, bytes.fromhex(match[2].decode())))
    return found


def _wrong(source: str, number: int, rule: str) -> InvalidError:
    return InvalidError(f"line {number} of {source}: {rule}", field="token_file")
