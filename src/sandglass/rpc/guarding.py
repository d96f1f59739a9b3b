"""
The guard at the gRPC port: every call shows its token before anything is done for it.

An interceptor, so that no service can be forgotten: ours, reflection, and calls that don't
exist. Health alone is open to everybody, for whoever watches over processes has no token. The
guard holds each call, and it ends when its token is revoked, however long it would have waited.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from grpc_health.v1 import health

from sandglass.errors import UnauthenticatedError
from sandglass.rpc import calls
from sandglass.security.guard import Admission, Guard

OPEN: Final = f"/{health.SERVICE_NAME}/"
HEADER: Final = "authorization"

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Guarding(grpc.aio.ServerInterceptor):
    """Asks the guard for each call."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """See `grpc.aio.ServerInterceptor`."""
        if handler_call_details.method.startswith(OPEN):
            return await continuation(handler_call_details)
        try:
            admission = _admit(self._guard, handler_call_details.invocation_metadata)
        except UnauthenticatedError as error:
            return _refusing(error)
        handler = await continuation(handler_call_details)
        return handler if handler is None else _held(self._guard, admission, handler)


def admission_of(guard: Guard, context: calls.Context) -> Admission:
    """
    Who makes a call that was let in.

    Raises:
        UnauthenticatedError: the token was revoked just now.
    """
    return _admit(guard, context.invocation_metadata())


def _admit(guard: Guard, metadata: Iterable[tuple[str, str | bytes]] | None) -> Admission:
    return guard.admit([value for key, value in metadata or () if key == HEADER])


def _refusing(error: UnauthenticatedError) -> Handler:
    """Answers before it reads anything; so it does for calls of every kind."""

    async def refuse(_: object, context: calls.Context) -> None:
        await calls.abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _held(guard: Guard, admission: Admission, handler: Handler) -> Handler:
    """The same handler, ended when the token is revoked."""
    make, call = _kind_of(handler)

    async def handle(request: Any, context: calls.Context) -> Any:
        try:
            async with guard.held(admission):
                if not inspect.isasyncgenfunction(call):
                    return await call(request, context)
                async for reply in call(request, context):
                    await context.write(reply)
        except UnauthenticatedError as error:
            await calls.abort(context, error)

    return make(
        handle,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _kind_of(handler: Handler) -> tuple[Callable[..., Handler], Any]:
    """What makes a handler of the same kind, and the call of this one."""
    kinds = (
        (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    )
    return next((make, call) for make, call in kinds if call is not None)
