"""
Calls go where partitions are led, so that any node takes any call.

What concerns one partition is carried out by its leader: here, or there, as the same request.
What concerns several is cut into requests for those that one node leads each, all of which go
out at once, and whoever asked puts the replies together.

1. A call that comes from another node is carried out here or refused: it goes no further.
2. Refused by a node that leads no more, nothing was carried out: for a moment it is tried
   again, where the partition is led then. After that the error names the partition, and the
   node that led it.
3. A reply is waited for as long as the node that is to give it is there. The caller's own time
   ends it, too, as it ends any call.
4. If some parts of a change were carried out and others not, its error says that the result is
   unknown.
5. A stream goes on behind the last message that it has given, where the partition is led then.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from sandglass.broker.loops import Loops
from sandglass.core.topic import PartitionRef
from sandglass.errors import (
    NotLeaderError,
    SandglassError,
    UnauthenticatedError,
    UnavailableError,
)
from sandglass.wire.v1 import admin_pb2

AGAIN_S: Final = 0.1
CALL_TRY_COUNT: Final = 6
"""
Half a second: as long as a leader takes that hands over. Requests lie in memory meanwhile.
"""

STREAM_TRY_COUNT: Final = 150
"""15 s: an election of the engine takes up to ten."""

TOLD_S: Final = 1.0
"""How long a change of the catalog waits for other nodes to hear of it."""

LOOK_S: Final = 0.25
"""So often a node is looked at whose reply is waited for."""

Asked = TypeVar("Asked", bound=Message)
Reply = TypeVar("Reply")
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Call(Generic[Reply]):
    """A call of a service, by its path; `parse` reads a reply."""

    path: str
    parse: Callable[[bytes], Reply]
    is_change: bool = False
    may_wait: bool = False
    """It may take long for nothing being there: others are not to stand behind it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes the call that runs: another node, or somebody with a token (a whole header)."""

    is_node: bool = False
    authorization: str = ""


caller: Final[ContextVar[Caller]] = ContextVar("caller", default=Caller())  # noqa: B039  # frozen


class Peers(Protocol):
    """The way to other nodes, by address."""

    async def call(
        self, address: str, path: str, request: bytes, who: Caller, *, may_wait: bool
    ) -> bytes:
        """
        Carries out a call there.

        Raises:
            SandglassError: as that node says, or gRPC of the way to it.
        """
        ...

    def stream(
        self, address: str, path: str, request: bytes, who: Caller
    ) -> AsyncGenerator[bytes, None]:
        """As `call`, for one with a stream of replies."""
        ...

    def forget(self, address: str) -> None:
        """The node there has gone: calls to it end, and later ones look for it anew."""
        ...


def call_of(
    service: ServiceDescriptor,
    name: str,
    parse: Callable[[bytes], Reply],
    *,
    is_change: bool = False,
    may_wait: bool = False,
) -> Call[Reply]:
    """A call of a service, by its name."""
    assert name in service.methods_by_name, name
    return Call(f"/{service.full_name}/{name}", parse, is_change, may_wait)


SHOW_CLOCK: Final = call_of(
    admin_pb2.DESCRIPTOR.services_by_name["Admin"],
    "ShowClock",
    admin_pb2.ShowClockReply.FromString,
)


class Leaders:
    """
    Without `peers` the node is alone: everything is carried out here. All calls run in the
    event loop's thread.
    """

    def __init__(self, loops: Loops | None = None, peers: Peers | None = None) -> None:
        assert (loops is None) is (peers is None), "a node alone, or one with peers"
        self._loops = loops
        self._peers = peers
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_alone(self) -> bool:
        """The call that runs is carried out here or nowhere."""
        return self._peers is None or caller.get().is_node

    def are_here(self, refs: Iterable[PartitionRef]) -> bool:
        """Does this node lead these, or is there nobody else to ask?"""
        loops = self._loops
        if self.is_alone or loops is None:
            return True
        return all(loops.is_here(ref.number) for ref in refs)

    def renewed(self, ref: PartitionRef) -> PartitionRef:
        """See `Loops.renewed`."""
        return ref if self._loops is None else self._loops.renewed(ref)

    def address(self, ref: PartitionRef) -> str:
        """
        Where a partition is led; empty for here.

        Raises:
            NotLeaderError: nowhere, as far as is known here.
            UnavailableError: the one node on which it lives is not there.
            NotFoundError: its topic was deleted.
        """
        if self.are_here([ref]):
            return ""
        assert self._loops is not None
        error = self._loops.whereabouts(ref.number)
        if not isinstance(error, NotLeaderError) or not error.leader:
            raise error
        return error.leader

    async def tell_all(self) -> None:
        """
        Returns once all nodes that are there know what is known here of topics and groups, or
        after a moment: whoever has made one uses it at any node then. Calls to other nodes
        bring along how much is known here, so that any call will do.
        """
        peers, loops = self._peers, self._loops
        if peers is None or loops is None or loops.shared is None:
            return
        who, request = caller.get(), admin_pb2.ShowClockRequest().SerializeToString()
        told = [
            asyncio.ensure_future(
                peers.call(address, SHOW_CLOCK.path, request, who, may_wait=False)
            )
            for address in loops.others()
        ]
        if told:
            _, slow = await asyncio.wait(told, timeout=TOLD_S)
            for each in slow:
                each.cancel()
            await asyncio.gather(*told, return_exceptions=True)

    # --- one partition ------------------------------------------------------------------------

    async def ask(
        self, call: Call[Reply], request: Asked, here: Callable[[Asked], Awaitable[Reply]]
    ) -> Reply:
        """
        Carries out a call that concerns one partition.

        Raises:
            SandglassError: as the leader says; an `UnavailableError` if it has gone.
        """

        async def once() -> Reply:
            try:
                return await here(request)
            except NotLeaderError as error:
                if self.is_alone or not error.leader:
                    raise
                address = error.leader
            return await self.ask_at(address, call, request)

        return await self.again(once)

    async def again(self, once: Callable[[], Awaitable[Reply]]) -> Reply:
        """
        What `once` answers, where it is refused for want of a leader some more times. What may
        have been carried out in part isn't tried again.

        Raises:
            SandglassError: as `once` does.
        """
        tries_left = CALL_TRY_COUNT
        while True:
            tries_left -= 1
            try:
                return await once()
            except NotLeaderError as error:
                if self.is_alone or tries_left <= 0 or error.is_result_unknown:
                    raise
            await asyncio.sleep(AGAIN_S)

    async def ask_at(self, address: str, call: Call[Reply], request: Message) -> Reply:
        """
        The reply of another node.

        Raises:
            SandglassError: as that node says; an `UnavailableError` if it has gone.
        """
        assert self._peers is not None
        asking = asyncio.ensure_future(
            self._peers.call(
                address,
                call.path,
                request.SerializeToString(),
                caller.get(),
                may_wait=call.may_wait,
            )
        )
        try:
            while not (await asyncio.wait({asking}, timeout=LOOK_S))[0]:
                self._check_there(address, is_change=call.is_change)
            return call.parse(asking.result())
        except SandglassError as error:
            raise self._named(error, address, is_change=call.is_change) from error
        finally:
            asking.cancel()

    # --- several ------------------------------------------------------------------------------

    async def ask_parts(
        self,
        call: Call[Reply],
        refs: Iterable[PartitionRef],
        make: Callable[[list[PartitionRef]], Asked],
        here: Callable[[Asked], Awaitable[Reply]],
    ) -> list[tuple[list[PartitionRef], Reply]]:
        """
        Carries out a call that concerns several partitions; `make` makes the request for some
        of them. What one node leads is asked for together.

        Raises:
            SandglassError: the first of what leaders said; an `UnavailableError` if one has
                gone.
        """
        return _checked(call, await self.try_parts(call, refs, make, here))

    async def try_parts(
        self,
        call: Call[Reply],
        refs: Iterable[PartitionRef],
        make: Callable[[list[PartitionRef]], Asked],
        here: Callable[[Asked], Awaitable[Reply]],
    ) -> list[tuple[list[PartitionRef], Reply | SandglassError]]:
        """
        As `ask_parts`, with errors in their places. What has no leader is tried again, unless
        some of it may have been carried out.
        """
        left = [*dict.fromkeys(refs)]
        found: list[tuple[list[PartitionRef], Reply | SandglassError]] = []
        tries_left = CALL_TRY_COUNT
        while left:
            tries_left -= 1
            again: list[PartitionRef] = []
            for some, answer in await self._try_once(call, left, make, here):
                if not isinstance(answer, NotLeaderError) or self.is_alone:
                    found.append((some, answer))
                elif tries_left and not answer.is_result_unknown:
                    again += some
                else:
                    found.append((some, _without_leader(answer)))
            if again:
                await asyncio.sleep(AGAIN_S)
            left = [*map(self.renewed, again)]
        return found

    async def try_items(
        self,
        call: Call[Reply],
        refs: Sequence[PartitionRef | None],
        make: Callable[[list[int]], Asked],
        here: Callable[[Asked], Awaitable[Reply]],
    ) -> list[tuple[list[int], Reply | SandglassError]]:
        """
        Carries out a call that has many items, each for the partition at its place in `refs`:
        `make` makes the request for some of them, by their places. What is for none is carried
        out here.
        """
        # By its id: a partition whose topic moves meanwhile gets another number.
        places: dict[str, list[int]] = {}
        for place, ref in enumerate(refs):
            places.setdefault("" if ref is None else ref.id, []).append(place)

        def places_of(some: list[PartitionRef]) -> list[int]:
            return sorted(place for ref in some for place in places[ref.id])

        found: list[tuple[list[int], Reply | SandglassError]] = []
        strays = places.get("")
        if strays is not None:
            found.append((strays, await here(make(strays))))
        known = {ref.id: ref for ref in refs if ref is not None}.values()
        for some, answer in await self.try_parts(
            call, known, lambda some: make(places_of(some)), here
        ):
            found.append((places_of(some), answer))
        return found

    async def ask_items(
        self,
        call: Call[Reply],
        refs: Sequence[PartitionRef],
        make: Callable[[list[int]], Asked],
        here: Callable[[Asked], Awaitable[Reply]],
    ) -> list[tuple[list[int], Reply]]:
        """
        As `try_items`.

        Raises:
            SandglassError: as `ask_parts`.
        """
        return _checked(call, await self.try_items(call, refs, make, here))

    async def _try_once(
        self,
        call: Call[Reply],
        refs: list[PartitionRef],
        make: Callable[[list[PartitionRef]], Asked],
        here: Callable[[Asked], Awaitable[Reply]],
    ) -> list[tuple[list[PartitionRef], Reply | SandglassError]]:
        by_address: dict[str, list[PartitionRef]] = {}
        found: list[tuple[list[PartitionRef], Reply | SandglassError]] = []
        for ref in refs:
            try:
                by_address.setdefault(self.address(ref), []).append(ref)
            except SandglassError as error:
                found.append(([ref], error))
        answers = await asyncio.gather(
            *[
                self.ask_at(address, call, make(some)) if address else here(make(some))
                for address, some in by_address.items()
            ],
            return_exceptions=True,
        )
        for some, answer in zip(by_address.values(), answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, SandglassError):
                raise answer
            found.append((some, answer))
        return found

    # --- streams ------------------------------------------------------------------------------

    async def stream(
        self,
        call: Call[bytes],
        ref: PartitionRef,
        request: Asked,
        here: Callable[[Asked], AsyncGenerator[bytes, None]],
        go_on: Callable[[Asked, bytes], tuple[Asked, Callable[[bytes], bool]]],
    ) -> AsyncGenerator[bytes, None]:
        """
        What a partition's leader answers, one leader after another: `go_on` makes of a request
        and the last reply the request for what comes behind it, and what of that is wanted.

        Raises:
            SandglassError: as `ask`, after a longer wait for a leader.
        """
        is_wanted: Callable[[bytes], bool] = _is_any
        tries_left = STREAM_TRY_COUNT
        while True:
            last: bytes | None = None
            try:
                address = self.address(ref)
                replies = self._stream_at(address, call, request) if address else here(request)
                async with aclosing(replies):
                    async for reply in replies:
                        if is_wanted(reply):
                            last, tries_left = reply, STREAM_TRY_COUNT
                            yield reply
                return
            except (NotLeaderError, UnavailableError) as error:
                if last is not None:
                    request, is_wanted = go_on(request, last)
                tries_left -= 1
                if tries_left <= 0 or not self.is_elsewhere(ref, error):
                    raise
            await asyncio.sleep(AGAIN_S)
            ref = self.renewed(ref)

    def is_elsewhere(self, ref: PartitionRef, error: SandglassError) -> bool:
        """May what has failed by `error` be tried again, where the partition is led then?"""
        if self.is_alone:
            return False
        return isinstance(error, NotLeaderError | _GoneError) or not self.are_here([ref])

    async def _stream_at(
        self, address: str, call: Call[bytes], request: Message
    ) -> AsyncGenerator[bytes, None]:
        assert self._peers is not None
        raw = request.SerializeToString()
        replies = self._peers.stream(address, call.path, raw, caller.get())
        async with aclosing(replies):
            while (reply := await self._next_of(replies, address)) is not None:
                yield reply

    async def _next_of(
        self, replies: AsyncGenerator[bytes, None], address: str
    ) -> bytes | None:
        """The next reply of a node, for as long as it is there; None at the end."""
        reading = asyncio.ensure_future(anext(replies, None))
        try:
            while not (await asyncio.wait({reading}, timeout=LOOK_S))[0]:
                self._check_there(address, is_change=False)
            return reading.result()
        except SandglassError as error:
            raise self._named(error, address, is_change=False) from error
        finally:
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})

    # --- what nobody waits for ----------------------------------------------------------------

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs on its own, until it ends or the node does."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Ends what runs on its own."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- errors -------------------------------------------------------------------------------

    def _check_there(self, address: str, *, is_change: bool) -> None:
        assert self._loops is not None
        assert self._peers is not None
        node = self._loops.node_at(address)
        if node is None or not node.is_alive:
            self._peers.forget(address)
            name = address if node is None else f"{node.name}, at {address},"
            raise _GoneError(f"node {name} has gone", is_result_unknown=is_change)

    def _named(self, error: SandglassError, address: str, *, is_change: bool) -> SandglassError:
        """An error of another node; its name where the error says nothing of it."""
        error.is_result_unknown = error.is_result_unknown and is_change
        if not isinstance(error, UnavailableError | UnauthenticatedError):
            return error
        if isinstance(error, _GoneError):
            return error
        assert self._loops is not None
        node = self._loops.node_at(address)
        name = address if node is None else f"{node.name}, at {address}"
        kind = UnauthenticatedError if isinstance(error, UnauthenticatedError) else _GoneError
        return kind(
            f"node {name}: {error.message}",
            field=error.field,
            retry_after_ms=error.retry_after_ms,
            is_result_unknown=error.is_result_unknown,
        )


class _GoneError(UnavailableError):
    """Another node did not answer, or said that it cannot."""


ALONE: Final = Leaders()
"""For surfaces of a node that is in no cluster."""


def whole(parts: Sequence[tuple[list[PartitionRef], Reply]]) -> list[Reply]:
    """The replies alone."""
    return [reply for _, reply in parts]


def ids_of(refs: Iterable[PartitionRef]) -> list[str]:
    """Their public names, as requests have them."""
    return [ref.id for ref in refs]


def _checked(
    call: Call[Reply], found: Sequence[tuple[list[Part], Reply | SandglassError]]
) -> list[tuple[list[Part], Reply]]:
    """All replies; or the first error, which says if others have carried out their part."""
    replies: list[tuple[list[Part], Reply]] = []
    errors: list[SandglassError] = []
    for some, answer in found:
        if isinstance(answer, SandglassError):
            errors.append(answer)
        else:
            replies.append((some, answer))
    if not errors:
        return replies
    error = errors[0]
    if call.is_change and replies:
        error.is_result_unknown = True
    raise error


def _is_any(_: bytes) -> bool:
    return True


def _without_leader(error: NotLeaderError) -> UnavailableError:
    """Of one part of a call: nobody is to go anywhere with the whole of it."""
    return UnavailableError(
        error.message,
        retry_after_ms=error.retry_after_ms,
        is_result_unknown=error.is_result_unknown,
    )
