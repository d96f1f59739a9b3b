"""What a command line gives: contents of files, arguments as bytes, headers, keys."""

import base64
import binascii
import sys
from pathlib import Path

from sandglass.core import limits
from sandglass.errors import InvalidError


def key_bytes(text: str, field: str, *, is_hex: bool, is_base64: bool) -> bytes:
    """
    A key as it was written: as text, in hexadecimal digits, or in base64.

    Raises:
        InvalidError: it is not what it is said to be; `field` is what it is called.
    """
    try:
        if is_hex:
            return bytes.fromhex(text)
        if is_base64:
            return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        form = "hexadecimal" if is_hex else "base64"
        raise InvalidError(f"{field} is not {form}", field=field) from None
    return encoded(text, field)


def content_of(file: str) -> bytes:
    """
    The whole of a file, or of stdin for `-`; a byte more than is allowed is enough to be
    refused.

    Raises:
        InvalidError: it cannot be read.
    """
    size_bytes = limits.VALUE_BYTES_MAX + 1
    try:
        if file == "-":
            return sys.stdin.buffer.read(size_bytes)
        with Path(file).open("rb") as opened:
            return opened.read(size_bytes)
    except OSError as error:
        raise InvalidError(f"--file {file}: {error.strerror or error}", field="file") from error


def encoded(text: str, field: str) -> bytes:
    """
    Arguments that are no UTF-8 come as bytes in disguise, and leave as the same bytes.

    Raises:
        InvalidError: it is no text; `field` is what it is called.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidError(f"{field} has half a character in it", field=field) from None


def headers_of(given: list[str]) -> dict[str, str]:
    """
    Headers from `NAME=VALUE` each.

    Raises:
        InvalidError: one has no name or no `=`.
    """
    headers: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise InvalidError(f"--header is {each!r}; it must be NAME=VALUE", field="header")
        headers[name] = value
    return headers
