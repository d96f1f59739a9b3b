"""
The gate: what every request passes, in this order, before any route sees it.

1. The head is within its bounds: 431, 414 for the path alone; 505 for another version. A
   length together with chunks is refused: 400. A proxy in front of us may go by the other one,
   and see the next request elsewhere. So is a path or query that isn't UTF-8: below us what
   isn't becomes a character that stands for nothing, and two keys would be one.
2. Host names this node: 421. Otherwise a stranger's name that points here could be used.
3. The request comes from no page of another site: 403. There is no CORS: no page of another
   site is ever let in, and none may read an answer.
4. The node is not going down: 503.
5. Whoever calls is known: 401. The probes are for everybody.

Then the route has `request_s`, streams apart; a stream is held by the guard, and ends when
its token is revoked. Whatever it raises becomes an answer here, once.
A connection is closed after the answer if its request didn't pass, or was not read to its end:
nobody knows then where the next one begins.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import nullcontext
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sandglass.errors import (
    InternalError,
    SandglassError,
    UnauthenticatedError,
    UnavailableError,
)
from sandglass.ports import Clock
from sandglass.security.guard import Guard
from sandglass.surface.leaders import Caller, caller
from sandglass.web.answers import ClientGoneError, Refusal, refused
from sandglass.web.bounds import Bounds
from sandglass.web.hosts import Hosts

PROBES: Final = frozenset({"/livez", "/readyz"})
"""Open to everybody, tokens or not, and also while the node goes down."""

VERSIONS: Final = frozenset({"1.0", "1.1"})

_log = logging.getLogger("sandglass.web")


class Gate:
    """
    An ASGI application around the routes.

    `counted` is told the status of each answer. `guard` is None where nobody is asked.
    """

    def __init__(
        self,
        routes: ASGIApp,
        *,
        bounds: Bounds,
        hosts: Hosts,
        clock: Clock,
        counted: Callable[[int], None],
        guard: Guard | None = None,
    ) -> None:
        self._routes = routes
        self._bounds = bounds
        self._hosts = hosts
        self._clock = clock
        self._counted = counted
        self._guard = guard
        self.is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        passage = _Passage(scope, receive, send, self._clock.wall_ms(), self._counted)
        try:
            self._check(scope)
            passage.is_let_in = True
            async with asyncio.timeout(self._bounds.request_s) as deadline:
                scope["state"] |= {"deadline": deadline, "bounds": self._bounds}
                await self._routes(scope, passage.receive, passage.send)
        except ClientGoneError:
            passage.count(499)
        except TimeoutError:
            await passage.refuse(
                UnavailableError(
                    f"no answer within {self._bounds.request_s:g} s", is_result_unknown=True
                )
            )
        except (SandglassError, Refusal) as error:
            await passage.refuse(error)
        except Exception as error:  # noqa: BLE001  # the top of a request: answered and logged
            _log.error("a request failed by a defect of the node", exc_info=error)
            await passage.refuse(InternalError("a defect of the node; its log says more"))

    def _check(self, scope: Scope) -> None:
        headers = _Headers(scope)
        self._check_head(scope, headers)
        host = headers.one("host")
        if not self._hosts.is_known(host):
            raise Refusal(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"host {host[:100]!r} is not a name of this node; allow it by http_hosts",
            )
        if not self._hosts.is_own_page(headers.one("origin"), headers.one("sec-fetch-site")):
            raise Refusal(
                HTTPStatus.FORBIDDEN, "origin: pages of other sites are not let in here"
            )
        if scope["path"] in PROBES:
            return
        if self.is_draining:
            raise UnavailableError("the node is stopping", retry_after_ms=1000)
        caller.set(Caller(authorization=headers.one("authorization")))
        scope["state"]["held"] = nullcontext
        if self._guard is not None:
            admission = self._guard.admit(headers.all("authorization"))
            scope["state"]["held"] = partial(self._guard.held, admission)

    def _check_head(self, scope: Scope, headers: "_Headers") -> None:
        if scope["http_version"] not in VERSIONS:
            raise Refusal(
                HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this is HTTP/1.1 (or 1.0), no other"
            )
        limit = self._bounds.header_count_max
        if len(headers.pairs) > limit:
            raise Refusal(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"headers are {len(headers.pairs)}; the limit is {limit}",
            )
        if headers.all("content-length") and headers.all("transfer-encoding"):
            raise Refusal(
                HTTPStatus.BAD_REQUEST,
                "content-length and transfer-encoding are both there; give one",
            )
        for name in ("raw_path", "query_string"):
            if not _is_text(scope[name]):
                raise Refusal(HTTPStatus.BAD_REQUEST, "path and query must be UTF-8")
        line_bytes = len(scope["raw_path"]) + len(scope["query_string"])
        size_bytes = line_bytes + sum(
            len(name) + len(value) + 4 for name, value in headers.pairs
        )
        limit = self._bounds.head_bytes_max
        if size_bytes > limit:
            code = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            if line_bytes > limit // 2:
                code = HTTPStatus.REQUEST_URI_TOO_LONG
            raise Refusal(code, f"head is {size_bytes} bytes; the limit is {limit}")


def _is_text(raw: bytes) -> bool:
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return False
    return True


class _Headers:
    def __init__(self, scope: Scope) -> None:
        self.pairs: list[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: str) -> list[str]:
        raw = name.encode()
        return [value.decode("latin-1") for each, value in self.pairs if each == raw]

    def one(self, name: str) -> str:
        """Empty if there is none; what is there twice is joined, and so is no name of ours."""
        return ", ".join(self.all(name))


class _Passage:
    """One request on its way: whether it was read to its end, and answered."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        wall_ms: int,
        counted: Callable[[int], None],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._date = formatdate(wall_ms // 1000, usegmt=True).encode()
        self._counted = counted
        self.is_let_in = False
        self._is_started = False
        self._is_read = not any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
            for name, value in scope["headers"]
        )

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._is_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._is_started = True
            self._counted(message["status"])
            headers = [*message.get("headers", ()), (b"date", self._date)]
            headers += [
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ]
            if not self._is_read or not self.is_let_in:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, error: SandglassError | Refusal) -> None:
        """Answers with an error, if nothing was answered yet; otherwise it breaks off."""
        if self._is_started:
            return
        response: Response = refused(error)
        if isinstance(error, UnauthenticatedError):
            response.headers["www-authenticate"] = "Bearer"
        await response(self._scope, self.receive, self.send)

    def count(self, code: int) -> None:
        """An answer that nobody took."""
        if not self._is_started:
            self._counted(code)
