"""Routes that say how the node is: probes, metrics, and what there is to call."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from sandglass.web.answers import answer
from sandglass.web.openapi import DOCUMENT
from sandglass.web.page import PAGE

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NO_SCRIPTS: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


class Probes:
    """
    Each method answers one route.

    Args:
        troubled: why the node should get no traffic now; empty if it may.
        scraped: the metrics as text.
    """

    def __init__(
        self, troubled: Callable[[], str], scraped: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._troubled = troubled
        self._scraped = scraped

    async def livez(self, _: Request) -> Response:
        """The process runs, and its loop turns."""
        return PlainTextResponse("ok")

    async def readyz(self, _: Request) -> Response:
        """It may get traffic."""
        trouble = self._troubled()
        return PlainTextResponse(trouble or "ok", 503 if trouble else 200)

    async def metrics(self, _: Request) -> Response:
        """For Prometheus."""
        return Response(await self._scraped(), media_type=METRICS_TYPE)

    async def openapi(self, _: Request) -> Response:
        """The OpenAPI document."""
        return answer(DOCUMENT)

    async def page(self, _: Request) -> Response:
        """The document as a page, made here: no scripts, and nothing from elsewhere."""
        return HTMLResponse(PAGE, headers={"content-security-policy": _NO_SCRIPTS})
