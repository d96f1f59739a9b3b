"""
Large replies count as what waits for clients to take it, until they have gone; and a connection
that has taken none of them for long is given no more.

Streams and sessions see to that themselves; a unary call has ended for its handler when the
reply begins its way, so it is done around them, for all calls of a service.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
from typing import Any, Final

import grpc
import grpc.aio

from sandglass.broker.outgoing import Outgoing
from sandglass.errors import BusyError
from sandglass.rpc import calls
from sandglass.rpc.wrapped import Handler, Wrapped

LARGE_BYTES: Final = 64 * 1024
"""Smaller ones are bounded by the number of calls."""


def paced(service: grpc.GenericRpcHandler, outgoing: Outgoing) -> grpc.GenericRpcHandler:
    """The calls of a service, whose large replies are held as `outgoing`."""
    return Wrapped(service, lambda handler: _paced(handler, outgoing))


def _paced(handler: Handler, outgoing: Outgoing) -> Handler:
    call = handler.unary_unary
    if call is None:
        return handler

    async def handle(request: Any, context: Any) -> Any:
        if outgoing.is_scarce:
            try:
                await outgoing.wait_for(context.peer())
            except BusyError as error:
                await calls.abort(context, error)
        reply = await call(request, context)
        if len(reply) > LARGE_BYTES:
            _hold(outgoing, context.peer(), len(reply))
        return reply

    return grpc.unary_unary_rpc_method_handler(
        handle,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _hold(outgoing: Outgoing, connection: str, size_bytes: int) -> None:
    """Until the task of the call ends: it sends the reply, and waits until it has gone."""
    task = asyncio.current_task()
    assert task is not None
    flow = outgoing.flow(connection)
    task.add_done_callback(lambda _: flow.close())
    flow.fit(size_bytes)
