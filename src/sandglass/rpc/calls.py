"""
What surrounds every call: bytes in, bytes out, errors as statuses.

Requests are parsed here rather than by gRPC, which would answer garbage with UNKNOWN. A
`SandglassError` becomes its status with details; anything else is a defect of ours: one log
line, INTERNAL for the caller, and the node goes on. Cancellation always passes.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from sandglass.core import limits
from sandglass.errors import (
    BusyError,
    InternalError,
    InvalidError,
    SandglassError,
)
from sandglass.wire import status

Request = TypeVar("Request")
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
SessionCall: TypeAlias = "Callable[[AsyncIterator[bytes], Context], Awaitable[None]]"
"""Reads serialized `ClientFrame`s, and writes serialized `ServerFrame`s to the context."""

Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"

_log = logging.getLogger("sandglass.rpc")


def parse(parser: Callable[[bytes], Request], raw: bytes, *, name: str) -> Request:
    """
    A request from its bytes.

    Raises:
        InvalidError: they are no such message; `name` says which was expected.
    """
    try:
        return parser(raw)
    except DecodeError as error:
        raise InvalidError(f"request is not a {name}") from error


def unary(
    parser: Callable[[bytes], Request],
    call: Callable[[Request], Awaitable[Message]],
    *,
    bytes_max: int = limits.CALL_BYTES_MAX,
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A handler of one request, up to `bytes_max`, and one reply."""
    name = _name_of(parser)

    async def handle(raw: bytes, context: Context) -> bytes:
        try:
            _check_bytes(raw, bytes_max)
            reply = await call(parse(parser, raw, name=name))
            return _checked(reply.SerializeToString())
        except Exception as error:
            await abort(context, error)
            raise AssertionError("abort raises") from error

    return grpc.unary_unary_rpc_method_handler(handle)


def stream(
    parser: Callable[[bytes], Request],
    call: Callable[[Request, str], AsyncGenerator[bytes, None]],
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """
    A handler of one request and a stream of serialized replies.

    `call` is an async generator, given the request and whose connection it came over; it is
    closed at once when the caller goes away.
    """
    name = _name_of(parser)

    async def handle(raw: bytes, context: Context) -> None:
        try:
            _check_bytes(raw, limits.CALL_BYTES_MAX)
            request = parse(parser, raw, name=name)
            async with aclosing(call(request, context.peer())) as replies:
                async for reply in replies:
                    await write(context, reply)
        except Exception as error:  # noqa: BLE001  # the top of a call: answered and logged
            await abort(context, error)

    return grpc.unary_stream_rpc_method_handler(handle)


def session(call: SessionCall) -> grpc.RpcMethodHandler[bytes, bytes]:
    """A handler of a stream each way."""

    async def handle(frames: AsyncIterator[bytes], context: Context) -> None:
        try:
            await call(frames, context)
        except Exception as error:  # noqa: BLE001  # the top of a call: answered and logged
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)


def serviced(service: ServiceDescriptor, handlers: Handlers) -> grpc.GenericRpcHandler:
    """All handlers of a service, under its full name."""
    missing = service.methods_by_name.keys() ^ handlers.keys()
    assert not missing, f"{service.full_name}: {sorted(missing)}"
    return grpc.method_handlers_generic_handler(service.full_name, dict(handlers))


async def write(context: Context, raw: bytes) -> None:
    """
    Sends a message of a stream.

    Raises:
        asyncio.CancelledError: the caller has gone, and gRPC has not told us yet.
    """
    try:
        await context.write(raw)
    except Exception as error:
        raise asyncio.CancelledError("the caller has gone") from error


async def abort(context: Context, error: Exception) -> None:
    """
    Ends a call with the status of `error`.

    Raises:
        grpc.aio.AbortError: gRPC takes it for the end of the call.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, SandglassError):
        _log.error("a call failed by a defect of the node", exc_info=error)
        error = InternalError("a defect of the node; its log says more")
    await context.abort(
        status.grpc_code_of(error),
        status.grpc_text_of(error),
        status.grpc_metadata_of(error),
    )


def _check_bytes(raw: bytes, bytes_max: int) -> None:
    if len(raw) > bytes_max:
        raise InvalidError(
            f"request is {len(raw)} bytes; the limit of this call is {bytes_max}",
            field="request",
        )


def _checked(reply: bytes) -> bytes:
    """gRPC would fail over a larger one, and tell the caller of a limit that is not its own."""
    if len(reply) > limits.REQUEST_BYTES_MAX:
        raise BusyError(
            f"the reply is {len(reply)} bytes; the limit is {limits.REQUEST_BYTES_MAX}:"
            " ask for less at a time"
        )
    return reply


def _name_of(parser: Callable[[bytes], object]) -> str:
    owner = getattr(parser, "__self__", None)
    return owner.DESCRIPTOR.full_name if owner is not None else "request"
