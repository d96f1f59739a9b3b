"""
Calls for a partition that another node leads go on to that node.

Around each call of a service: when it is refused because a partition is led elsewhere, and
nothing was answered yet, the same bytes are sent to the leader, with the caller's token and
what is left of its time, and what comes back is handed on as it is. Once only: a leader that
doesn't lead any more says so to the caller. Sessions go on in parts: `sandglass.rpc.relaying`.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import grpc
import grpc.aio

from sandglass.broker.loops import is_near
from sandglass.core import limits
from sandglass.errors import NotLeaderError
from sandglass.rpc import calls

FORWARDED: Final = "sandglass-forwarded"
"""Metadata of a call that has come from another node."""

PASSED_ON: Final = frozenset({"authorization"})

_OPTIONS: Final = (
    ("grpc.max_send_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.max_receive_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.enable_retries", 0),
)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Peers:
    """Channels to other nodes, by address. `close` them."""

    def __init__(self, credentials: grpc.ChannelCredentials | None = None) -> None:
        self._credentials = credentials
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to a node."""
        channel = self._channels.get(address)
        if channel is None:
            if self._credentials is None:
                channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            else:
                channel = grpc.aio.secure_channel(address, self._credentials, options=_OPTIONS)
            self._channels[address] = channel
        return channel

    async def close(self) -> None:
        """Ends them."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close(None)


class Forwarded(grpc.GenericRpcHandler):
    """The calls of a service; those for partitions led elsewhere go to `peers`."""

    def __init__(self, service: grpc.GenericRpcHandler, peers: Peers) -> None:
        self._service = service
        self._peers = peers
        self._handlers: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """See `grpc.GenericRpcHandler`."""
        name = handler_call_details.method
        if name not in self._handlers:
            handler = self._service.service(handler_call_details)
            if handler is None:
                return None
            self._handlers[name] = self._around(name, handler)
        return self._handlers[name]

    def _around(self, method: str, handler: Handler) -> Handler:
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return handler

    def _unary(self, method: str, call: Any) -> Callable[[bytes, Any], Any]:
        async def handle(raw: bytes, context: Any) -> bytes:
            if _was_forwarded(context):
                is_near.set(True)
                return cast(bytes, await call(raw, context))
            calls.is_forwarding.set(True)
            try:
                return cast(bytes, await call(raw, context))
            except NotLeaderError as error:
                channel = cast(Any, self._peers.channel(error.leader))
                send = channel.unary_unary(method)
                try:
                    return await send(raw, metadata=_metadata(context), timeout=_left(context))
                except grpc.aio.AioRpcError as failure:
                    await _hand_on(context, failure)
                    raise AssertionError("abort raises") from failure

        return handle

    def _stream(self, method: str, call: Any) -> Callable[[bytes, Any], Any]:
        async def handle(raw: bytes, context: Any) -> None:
            if _was_forwarded(context):
                is_near.set(True)
                await call(raw, context)
                return
            calls.is_forwarding.set(True)
            try:
                await call(raw, context)
            except NotLeaderError as error:
                channel = cast(Any, self._peers.channel(error.leader))
                send = channel.unary_stream(method)
                replies = send(raw, metadata=_metadata(context), timeout=_left(context))
                try:
                    async for reply in replies:
                        await calls.write(context, cast(bytes, reply))
                except grpc.aio.AioRpcError as failure:
                    await _hand_on(context, failure)
                finally:
                    replies.cancel()

        return handle


def _was_forwarded(context: Any) -> bool:
    return any(key == FORWARDED for key, _ in context.invocation_metadata() or ())


def _metadata(context: Any) -> list[tuple[str, str]]:
    pairs = context.invocation_metadata() or ()
    return [(FORWARDED, "1"), *((key, value) for key, value in pairs if key in PASSED_ON)]


def _left(context: Any) -> float | None:
    return cast("float | None", context.time_remaining())


async def _hand_on(context: Any, failure: grpc.aio.AioRpcError) -> None:
    """Ends the call as the leader ended it."""
    trailing = tuple(cast("Any", failure.trailing_metadata() or ()))
    await context.abort(failure.code(), failure.details() or "", trailing)
