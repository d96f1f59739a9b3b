"""
The way to other nodes, and what calls of theirs bring along.

A call that goes on to another node has the caller's token with it, and how much the node that
sends it knows of the cluster's catalog: whoever gets it waits until it knows as much, so that
a topic or group that was made at one node is there at all that are asked for it.
Sessions go on in parts: `sandglass.rpc.relaying`.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final, cast

import grpc
import grpc.aio

from sandglass.broker.loops import Loops, is_near
from sandglass.core import limits
from sandglass.rpc.wrapped import Handler, Wrapped
from sandglass.surface.leaders import Caller, caller
from sandglass.wire import status

FORWARDED: Final = "sandglass-forwarded"
"""Metadata of a call that has come from another node: the revision of the catalog it knows."""

AUTHORIZATION: Final = "authorization"
PASSED_ON: Final = frozenset({AUTHORIZATION})
"""Of the caller's metadata."""

KNOWN_S_MAX: Final = 2.0
"""So long a call waits for the catalog; then it is carried out by what is known."""

_OPTIONS: Final = (
    ("grpc.max_send_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.max_receive_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.enable_retries", 0),
    # Each channel has a connection of its own, also to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    # A node that was away is looked for again at once: it may lead by then.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Peers:
    """
    Channels to other nodes, by address. `close` them.

    Calls that may wait, and streams, have a connection of their own: when it carries as many as
    a connection may, others don't stand behind them.
    """

    def __init__(self, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._credentials = credentials
        self._channels: dict[tuple[str, bool], grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.revision: Callable[[], int] = lambda: 0
        """Of the cluster's catalog, as this node knows it."""

    def channel(self, address: str, *, may_wait: bool = False) -> grpc.aio.Channel:
        """The channel to a node."""
        channel = self._channels.get((address, may_wait))
        if channel is None:
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            else:
                channel = grpc.aio.secure_channel(address, self._credentials, options=_OPTIONS)
            self._channels[address, may_wait] = channel
        return channel

    async def call(
        self, address: str, path: str, request: bytes, who: Caller, *, may_wait: bool
    ) -> bytes:
        """See `sandglass.surface.leaders.Peers`."""
        send = cast(Any, self.channel(address, may_wait=may_wait)).unary_unary(path)
        try:
            return await send(request, metadata=self._metadata(who))
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error) from error

    async def stream(
        self, address: str, path: str, request: bytes, who: Caller
    ) -> AsyncGenerator[bytes, None]:
        """See `sandglass.surface.leaders.Peers`."""
        send = cast(Any, self.channel(address, may_wait=True)).unary_stream(path)
        replies = send(request, metadata=self._metadata(who))
        try:
            async for reply in cast("AsyncIterator[bytes]", replies):
                yield reply
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error) from error
        finally:
            replies.cancel()

    def forget(self, address: str) -> None:
        """
        See `sandglass.surface.leaders.Peers`. A connection to a machine that has vanished would
        take calls for minutes after it is back.
        """
        for may_wait in (False, True):
            channel = self._channels.pop((address, may_wait), None)
            if channel is not None:
                task = asyncio.create_task(channel.close(None))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Closes all channels to other nodes."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close(None)
        await asyncio.gather(*self._closing)

    def _metadata(self, who: Caller) -> list[tuple[str, str]]:
        pairs = [(FORWARDED, str(self.revision()))]
        return pairs + ([(AUTHORIZATION, who.authorization)] if who.authorization else [])


def known(service: grpc.GenericRpcHandler, loops: Loops) -> grpc.GenericRpcHandler:
    """The calls of a service, each with what is known of its caller."""
    return Wrapped(service, lambda handler: _known(handler, loops))


def _known(handler: Handler, loops: Loops) -> Handler:
    make: Any = grpc.unary_unary_rpc_method_handler
    call: Any = handler.unary_unary
    if call is None:
        make, call = grpc.unary_stream_rpc_method_handler, handler.unary_stream
    if call is None:
        return handler

    async def handle(request: Any, context: Any) -> Any:
        await _know(loops, dict(context.invocation_metadata() or ()))
        return await call(request, context)

    return make(
        handle,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


async def _know(loops: Loops, metadata: dict[str, Any]) -> None:
    """Who calls; and what that node knows, if it is one, is known here afterwards."""
    revision = metadata.get(FORWARDED)
    authorization = str(metadata.get(AUTHORIZATION, ""))
    caller.set(Caller(is_node=revision is not None, authorization=authorization))
    if revision is None:
        return
    is_near.set(True)
    shared = loops.shared
    if shared is not None and revision.isascii() and revision.isdigit():
        with suppress(TimeoutError):
            async with asyncio.timeout(KNOWN_S_MAX):
                await shared.reached(int(revision[:18]))
