"""
Calls of one request and one reply, to whichever node answers.

A call goes to the node that answered last, and on to the next address when it cannot be
reached, until its time is over; or until it is known that nobody is there (`Absence`). A call
that was sent and got no answer is repeated only if it reads.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from sandglass.client import failure
from sandglass.client._async.connection import BACKOFF_S_MAX, BACKOFF_S_MIN, Endpoint
from sandglass.client.entry import metadata_of
from sandglass.errors import NotLeaderError, SandglassError, UnavailableError

_PACKAGE: Final = "/sandglass.v1."

Reply = TypeVar("Reply")


class Unary:
    """Calls of the services `Admin` and `KeyValue`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.waits_because = ""
        """Why the last call is still without an answer; empty once it has one."""
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._turn = 0

    async def call(
        self,
        method: str,
        request: Message,
        parse: Callable[[bytes], Reply],
        *,
        service: str = "Admin",
        is_read: bool = False,
    ) -> Reply:
        """
        Calls a method of a service.

        Raises:
            UnavailableError: nobody answered in time, or nobody is there.
            SandglassError: what the node answered.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._endpoint.timeout_ms / 1000
        failures = 0
        cause = ""
        self.waits_because = "no answer yet"
        while True:
            left_s = deadline_s - loop.time()
            if left_s <= 0:
                raise self._endpoint.unavailable(cause or "no answer")
            address = self._endpoint.addresses[self._turn % len(self._endpoint.addresses)]
            try:
                raw = await self._once(address, f"{service}/{method}", request, left_s)
                self.waits_because = ""
                self._endpoint.absence.served()
                return parse(raw)
            except grpc.aio.AioRpcError as error:
                cause = self._endpoint.cause_of(error)
                if self._endpoint.absence.is_hopeless(address, error):
                    raise self._endpoint.nobody(cause) from error
                is_unsent = failure.is_unsent(error)
                known = self._judge(error, cause, is_unsent=is_unsent, is_read=is_read)
                if known is not None:
                    raise known from error
            except TimeoutError:
                cause = "no answer"
            self.waits_because = cause
            self._turn += 1
            failures += 1
            pause_s = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2 ** min(failures - 1, 10))
            left_s = max(0.0, deadline_s - loop.time())
            await asyncio.sleep(min(left_s, pause_s * random.uniform(0.5, 1.0)))

    async def close(self) -> None:
        """Closes the connections."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close(None)

    async def _once(
        self, address: str, method: str, request: Message, timeout_s: float
    ) -> bytes:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = self._endpoint.open(address)
        if len(self._endpoint.addresses) > 1:
            await _connect(channel, min(timeout_s, self._endpoint.greeting_s))
        call = cast(
            "Callable[..., Awaitable[bytes]]",
            channel.unary_unary(_PACKAGE + method, None, None),  # pyright: ignore[reportUnknownMemberType] - stubs
        )
        metadata = metadata_of(self._endpoint.entry.current_token())
        return await call(request.SerializeToString(), timeout=timeout_s, metadata=metadata)

    def _judge(
        self, error: grpc.aio.AioRpcError, cause: str, *, is_unsent: bool, is_read: bool
    ) -> SandglassError | None:
        """The error to raise, or None to try the next address."""
        if is_unsent:
            return None
        answer = failure.from_rpc(error)
        if isinstance(answer, NotLeaderError):
            return None  # nothing was carried out, and another node may know better
        if not isinstance(answer, UnavailableError):
            return answer
        if is_read and not answer.is_result_unknown:
            return None
        if failure.is_told(error):
            return answer
        return self._endpoint.unavailable(cause, is_result_unknown=True)


async def _connect(channel: grpc.aio.Channel, timeout_s: float) -> None:
    """
    Waits until a channel is connected, or was refused.

    Raises:
        TimeoutError: somebody took the connection, and says nothing. Nothing was sent.
    """
    waiting = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)
    async with asyncio.timeout(timeout_s):
        while (state := channel.get_state(try_to_connect=True)) in waiting:
            await channel.wait_for_state_change(state)
