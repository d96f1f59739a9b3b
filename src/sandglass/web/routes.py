"""The routes: what there is, by path and method. The OpenAPI document is checked against it."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from sandglass.web.keyvalue import Keys
from sandglass.web.probes import Probes
from sandglass.web.topics import Topics

Endpoint = Callable[[Request], Awaitable[Any]]
"""From a request to an ASGI application that answers it."""

NO_HEAD: Final = "/topics/{topic}/{partition}"
"""Paths from here on hand out messages: a HEAD would lease what nobody is given."""


def table(topics: Topics, keys: Keys, probes: Probes) -> dict[str, dict[str, Endpoint]]:
    """
    By path and method. Of two paths that a request could mean, the first counts: `groups`,
    `schedule` and `kv` are no ids of partitions, which have 26 characters.
    """
    partition = "/topics/{topic}/{partition}"
    return {
        "/topics": {"GET": topics.list_topics, "POST": topics.create_topic},
        "/topics/{topic}": {
            "GET": topics.show_topic,
            "POST": topics.produce,
            "DELETE": topics.delete_topic,
        },
        "/topics/{topic}/groups": {"GET": topics.list_groups},
        "/topics/{topic}/schedule": {"POST": topics.schedule},
        **{
            f"/topics/{{topic}}/kv/{call}": {"POST": endpoint}
            for call, endpoint in (
                ("get", keys.get),
                ("has", keys.has),
                ("put", keys.put),
                ("delete", keys.delete),
                ("scan", keys.scan),
            )
        },
        "/topics/{topic}/kv/{key}": {
            "GET": keys.show,
            "PUT": keys.store,
            "DELETE": keys.remove,
        },
        partition: {"GET": topics.consume, "POST": topics.produce},
        f"{partition}/ack": {"POST": topics.ack},
        f"{partition}/nack": {"POST": topics.nack},
        f"{partition}/schedule": {"POST": topics.schedule},
        f"{partition}/{{consumerGroupName}}/{{consumerName}}": {"GET": topics.consume},
        "/livez": {"GET": probes.livez},
        "/readyz": {"GET": probes.readyz},
        "/metrics": {"GET": probes.metrics},
        "/openapi.json": {"GET": probes.openapi},
        "/docs": {"GET": probes.page},
    }


def router(paths: dict[str, dict[str, Endpoint]]) -> Router:
    """An ASGI application that finds the route of a request."""
    routes: list[Route] = []
    for path, by_method in paths.items():
        route = Route(path, _Chosen(by_method), methods=[*by_method])
        if path.startswith(NO_HEAD) and route.methods is not None:
            route.methods.discard("HEAD")
        routes.append(route)
    return Router(routes, redirect_slashes=False, default=_not_found)


class _Chosen:
    """The endpoint of a path, by the method of the request."""

    def __init__(self, by_method: dict[str, Endpoint]) -> None:
        self._by_method = by_method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        endpoint = self._by_method["GET" if method == "HEAD" else method]
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("Not Found", 404)(scope, receive, send)
