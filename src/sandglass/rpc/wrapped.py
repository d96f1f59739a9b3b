"""The calls of a service with something around each of them."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Wrapped(grpc.GenericRpcHandler):
    """`around` is asked once for each call of the service."""

    def __init__(
        self, service: grpc.GenericRpcHandler, around: Callable[[Handler], Handler]
    ) -> None:
        self._service = service
        self._around = around
        self._handlers: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """See `grpc.GenericRpcHandler`."""
        name = handler_call_details.method
        if name not in self._handlers:
            handler = self._service.service(handler_call_details)
            if handler is None:
                return None
            self._handlers[name] = self._around(handler)
        return self._handlers[name]
