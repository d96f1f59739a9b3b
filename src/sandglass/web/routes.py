"""The routes: what there is, by path and method. The OpenAPI document is checked against it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from sandglass.broker.broker import Broker
from sandglass.surface.leaders import ALONE, Leaders
from sandglass.web.groups import Groups
from sandglass.web.keyvalue import Keys
from sandglass.web.leases import Leases
from sandglass.web.letters import Letters
from sandglass.web.probes import Probes
from sandglass.web.stream import Streams
from sandglass.web.topics import Topics

Endpoint = Callable[[Request], Awaitable[Any]]
"""From a request to an ASGI application that answers it."""

NO_HEAD: Final = "/topics/{topic}/{partition}"
"""Paths from here on hand out messages: a HEAD would lease what nobody is given."""


@dataclass(frozen=True, slots=True)
class Desks:
    """What answers the routes, subject by subject."""

    topics: Topics
    groups: Groups
    leases: Leases
    letters: Letters
    keys: Keys
    probes: Probes


def desks(broker: Broker, streams: Streams, probes: Probes, leaders: Leaders = ALONE) -> Desks:
    """All of them, over one broker."""
    return Desks(
        Topics(broker, streams, leaders),
        Groups(broker, leaders),
        Leases(broker, leaders),
        Letters(broker, leaders),
        Keys(broker, leaders),
        probes,
    )


def table(at: Desks) -> dict[str, dict[str, Endpoint]]:
    """
    By path and method. Of two paths that a request could mean, the first counts: `groups`,
    `dead` and the like are no ids of partitions, which have 26 characters.
    """
    return _of_topics(at) | _of_partitions(at) | _of_the_node(at)


def _of_topics(at: Desks) -> dict[str, dict[str, Endpoint]]:
    topic = "/topics/{topic}"
    group = f"{topic}/groups/{{group}}"
    return {
        "/topics": {"GET": at.topics.list_topics, "POST": at.topics.create_topic},
        topic: {
            "GET": at.topics.show_topic,
            "POST": at.topics.produce,
            "PATCH": at.groups.set_topic,
            "DELETE": at.topics.delete_topic,
        },
        f"{topic}/schedule": {"POST": at.topics.schedule},
        f"{topic}/pending": {"GET": at.letters.list_pending},
        f"{topic}/pending/count": {"GET": at.letters.count_pending},
        f"{topic}/consume": {"POST": at.leases.consume},
        f"{topic}/settle": {"POST": at.leases.settle},
        f"{topic}/extend": {"POST": at.leases.extend},
        f"{topic}/groups": {"GET": at.topics.list_groups, "POST": at.groups.create},
        group: {"PATCH": at.groups.change, "DELETE": at.groups.delete},
        f"{group}/seek": {"POST": at.groups.seek},
        f"{topic}/dead": {"GET": at.letters.list_dead},
        f"{topic}/dead/count": {"GET": at.letters.count_dead},
        f"{topic}/dead/redrive": {"POST": at.letters.redrive},
        f"{topic}/dead/purge": {"POST": at.letters.purge},
        f"{topic}/kv/get": {"POST": at.keys.get},
        f"{topic}/kv/has": {"POST": at.keys.has},
        f"{topic}/kv/put": {"POST": at.keys.put},
        f"{topic}/kv/delete": {"POST": at.keys.delete},
        f"{topic}/kv/scan": {"POST": at.keys.scan},
        f"{topic}/kv/{{key}}": {
            "GET": at.keys.show,
            "PUT": at.keys.store,
            "DELETE": at.keys.remove,
        },
    }


def _of_partitions(at: Desks) -> dict[str, dict[str, Endpoint]]:
    partition = NO_HEAD
    return {
        partition: {"GET": at.topics.consume, "POST": at.topics.produce},
        f"{partition}/ack": {"POST": at.topics.ack},
        f"{partition}/nack": {"POST": at.topics.nack},
        f"{partition}/schedule": {"POST": at.topics.schedule},
        f"{partition}/{{consumerGroupName}}/{{consumerName}}": {"GET": at.topics.consume},
    }


def _of_the_node(at: Desks) -> dict[str, dict[str, Endpoint]]:
    return {
        "/livez": {"GET": at.probes.livez},
        "/readyz": {"GET": at.probes.readyz},
        "/metrics": {"GET": at.probes.metrics},
        "/openapi.json": {"GET": at.probes.openapi},
        "/docs": {"GET": at.probes.page},
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
