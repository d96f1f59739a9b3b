"""The body of a request: bounded in bytes, time and form, and read by those who want one."""

import asyncio
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from starlette.requests import ClientDisconnect, Request

from sandglass.errors import InvalidError
from sandglass.web.answers import ClientGoneError, Refusal
from sandglass.web.bounds import Bounds
from sandglass.wire import gateway
from sandglass.wire.v1 import admin_pb2

_PLAIN_CODINGS: Final = frozenset({"", "identity"})


async def read_json(request: Request) -> gateway.Fields:
    """
    The body as a JSON object.

    Raises:
        Refusal: compressed, too large, or too slow.
        InvalidError: no JSON object.
        ClientGoneError: it never came whole.
    """
    return gateway.parse(await read(request))


async def read_known(request: Request, *names: str) -> gateway.Fields:
    """
    As `read_json`, of an object that may have these fields and no others: for requests that
    would do more than was meant if a misspelt field were ignored.

    Raises:
        InvalidError: another field, too.
    """
    fields = await read_json(request)
    return check_known(fields, names, "the body")


def check_known(fields: gateway.Fields, names: Iterable[str], place: str) -> gateway.Fields:
    """
    The same fields.

    Raises:
        InvalidError: there is another one than these.
    """
    known = [*names]
    for name in fields:
        if name not in known:
            raise InvalidError(
                f"{name[:40]!r} is not known; {place} may have {', '.join(known)}", field=name
            )
    return fields


def read_page(query: Mapping[str, str]) -> tuple[int, bytes]:
    """
    `pageSize` and `pageToken` of a query. A token may come as it was given: what is a plus in
    it, a query makes a space.

    Raises:
        InvalidError: they are not what they should be.
    """
    given: gateway.Fields = {
        "pageSize": query.get("pageSize"),
        "pageToken": query.get("pageToken", "").replace(" ", "+"),
    }
    page = gateway.to_message(given, admin_pb2.ListTopicsRequest)
    return page.page_size, page.page_token


async def read(request: Request) -> bytes:
    """
    The body.

    Raises:
        Refusal, ClientGoneError: as `read_json`.
    """
    bounds: Bounds = request.state.bounds
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in _PLAIN_CODINGS:
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "content-encoding: compressed bodies are not taken; send it as it is",
        )
    limit = bounds.body_bytes_max
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > 2 * limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(bounds.body_s):
            return await _read_up_to(limit, request)
    except TimeoutError:
        raise Refusal(
            HTTPStatus.REQUEST_TIMEOUT, f"the body did not come within {bounds.body_s:g} s"
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None


async def _read_up_to(limit: int, request: Request) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    async for part in request.stream():
        size_bytes += len(part)
        # What is little more than allowed is read to its end: who is still sending would not
        # see the answer.
        if size_bytes > 2 * limit:
            break
        if size_bytes <= limit:
            parts.append(part)
    if size_bytes > limit:
        raise _too_large(limit)
    return b"".join(parts)


def _too_large(limit: int) -> Refusal:
    return Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"body is too large; the limit is {limit} bytes"
    )
