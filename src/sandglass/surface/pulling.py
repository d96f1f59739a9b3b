"""
Consuming by one call from partitions that several nodes lead.

They are asked one after the other for what is ready, each for what the call has still room
for: another one first each time. If none has anything, and the call may wait, all are asked at
once to wait. When one has something, the others are let go by the call's name, and answer with
what they have by then; none is cancelled, for what it had just handed out would lie there until
its lease ends. What is more than was asked for is given back, uncounted.

A node that doesn't answer is passed over while others have something. If none has, the call
fails: it is not to look as if there were nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Final

from sandglass.core import limits
from sandglass.core.topic import PartitionRef
from sandglass.errors import SandglassError
from sandglass.surface.leaders import Leaders, call_of, ids_of
from sandglass.wire.v1 import broker_pb2 as pb

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["Broker"]
CONSUME: Final = call_of(_SERVICE, "Consume", pb.ConsumeReply.FromString)
WAIT: Final = call_of(_SERVICE, "Consume", pb.ConsumeReply.FromString, may_wait=True)
LET_GO_S: Final = 0.02
"""After so long without an answer a waiting call is let go again: it may have come late."""

_turns = count()


class Pulling:
    """
    One call. `here` carries out what this node leads, `settle` outcomes of whatever partition.
    """

    def __init__(
        self,
        leaders: Leaders,
        request: pb.ConsumeRequest,
        *,
        here: Callable[[pb.ConsumeRequest], Awaitable[pb.ConsumeReply]],
        settle: Callable[[pb.SettleRequest], Awaitable[pb.SettleReply]],
        new_id: Callable[[], str],
    ) -> None:
        self._leaders = leaders
        self._request = request
        self._here = here
        self._settle = settle
        self._new_id = new_id
        self._count_max = request.count_max or limits.PULL_COUNT_DEFAULT
        self._bytes_max = request.bytes_max or limits.PULL_BYTES_MAX

    async def take(self, refs: Sequence[PartitionRef]) -> pb.ConsumeReply:
        """
        What is ready, or comes first.

        Raises:
            SandglassError: nothing is, and somebody did not say so.
        """
        parts, errors = self._parts(refs)
        if len(parts) == 1 and not errors:
            ((address, some),) = parts
            room = (self._count_max, self._bytes_max)
            wait_ms = self._request.wait_ms
            return await self._ask(address, self._request_for(some, room, wait_ms=wait_ms))
        found = pb.ConsumeReply()
        first = next(_turns) % len(parts) if parts else 0
        for address, some in parts[first:] + parts[:first]:
            room = self._room(found)
            if room is None:
                return found
            try:
                reply = await self._ask(address, self._request_for(some, room))
            except SandglassError as error:
                errors.append(error)
                continue
            found.deliveries.extend(reply.deliveries)
        if found.deliveries:
            return found
        if errors:
            raise errors[0]
        if self._request.wait_ms > 0:
            found = await self._wait(parts)
        return found

    def _parts(
        self, refs: Sequence[PartitionRef]
    ) -> tuple[list[tuple[str, list[PartitionRef]]], list[SandglassError]]:
        parts: dict[str, list[PartitionRef]] = {}
        errors: list[SandglassError] = []
        for ref in refs:
            try:
                parts.setdefault(self._leaders.address(ref), []).append(ref)
            except SandglassError as error:
                errors.append(error)
        return [*parts.items()], errors

    def _room(self, found: pb.ConsumeReply) -> tuple[int, int] | None:
        count_left = self._count_max - sum(each.count for each in found.deliveries)
        bytes_left = self._bytes_max - sum(len(each.batch) for each in found.deliveries)
        return (count_left, bytes_left) if count_left > 0 and bytes_left > 0 else None

    def _request_for(
        self, refs: list[PartitionRef], room: tuple[int, int], *, wait_ms: int = 0
    ) -> pb.ConsumeRequest:
        request = pb.ConsumeRequest()
        request.CopyFrom(self._request)
        request.partitions[:] = ids_of(refs)
        request.count_max, request.bytes_max = room
        request.wait_ms = wait_ms
        return request

    async def _ask(self, address: str, request: pb.ConsumeRequest) -> pb.ConsumeReply:
        if not address:
            return await self._here(request)
        call = WAIT if request.wait_ms else CONSUME
        return await self._leaders.ask_at(address, call, request)

    # --- waiting ------------------------------------------------------------------------------

    async def _wait(self, parts: list[tuple[str, list[PartitionRef]]]) -> pb.ConsumeReply:
        room = (self._count_max, self._bytes_max)
        asking: dict[asyncio.Task[pb.ConsumeReply], tuple[str, str]] = {}
        for address, some in parts:
            request = self._request_for(some, room, wait_ms=self._request.wait_ms)
            request.pull_id = self._new_id()
            task = asyncio.create_task(self._ask(address, request))
            asking[task] = address, request.pull_id
        try:
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            while left := [task for task in asking if not task.done()]:
                for task in left:
                    await self._let_go(*asking[task])
                await asyncio.wait(left, timeout=LET_GO_S)
        finally:
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
        return await self._first_of([*asking])

    async def _let_go(self, address: str, pull_id: str) -> None:
        with suppress(SandglassError):
            await self._ask(address, pb.ConsumeRequest(pull_id=pull_id, is_let_go=True))

    async def _first_of(self, asked: list[asyncio.Task[pb.ConsumeReply]]) -> pb.ConsumeReply:
        """What they have been given, up to what was asked for."""
        found = pb.ConsumeReply()
        over: list[pb.Delivery] = []
        errors: list[SandglassError] = []
        for task in asked:
            error = task.exception()
            if isinstance(error, SandglassError):
                errors.append(error)
                continue
            for delivery in task.result().deliveries:
                room = self._room(found)
                fits = room is not None and delivery.count <= room[0]
                (found.deliveries if fits else over).append(delivery)
        if over:
            await self._give_back(over)
        if errors and not found.deliveries:
            raise errors[0]
        return found

    async def _give_back(self, over: list[pb.Delivery]) -> None:
        outcomes = [
            pb.Outcome(
                partition_number=each.partition_number,
                token=each.token,
                kind=pb.OUTCOME_RELEASE,
            )
            for each in over
        ]
        await self._settle(
            pb.SettleRequest(
                topic=self._request.topic,
                channel=self._request.channel,
                group=self._request.group,
                outcomes=outcomes,
            )
        )
