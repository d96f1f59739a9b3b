"""A session's stream ends, and is cancelled while it does: what others wait for is done."""

import asyncio
import gc
import warnings
from typing import Any, cast

import grpc.aio
import pytest

from sandglass.broker.subscription import Session
from sandglass.rpc.relaying.relay import Relay
from sandglass.rpc.relaying.relays import Relays
from sandglass.rpc.session import SessionStream
from sandglass.wire.v1 import broker_pb2 as pb
from tests.unit.broker.shell import Shell, running


class Context:
    """A client that greets, and breaks its stream when it is told to."""

    def __init__(self) -> None:
        self.frames = [pb.ClientFrame(hello=pb.Hello(client_name="c")).SerializeToString()]
        self.greeted = asyncio.Event()
        self.broken = asyncio.Event()

    async def read(self) -> object:
        if self.frames:
            return self.frames.pop()
        await self.broken.wait()
        return grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue]  # not in the stubs

    async def write(self, _: bytes) -> None:
        self.greeted.set()


class FakeRelay:
    def is_own(self, _: object) -> bool:
        return True

    def repeat_grown(self) -> None: ...

    async def until_room(self) -> None: ...


class FakeRelays:
    """Other nodes take a while to be told."""

    def __init__(self) -> None:
        self.told_count = 0
        self.session: Session | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def joined(
        self, session: Session, *_: object
    ) -> tuple[FakeRelay, list[pb.OpenLease]]:
        self.session = session
        return FakeRelay(), []

    def left(self, *_: object) -> asyncio.Task[None]:
        self._tasks.append(asyncio.create_task(self._tell()))
        return self._tasks[-1]

    async def _tell(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self.told_count += 1


@pytest.mark.parametrize("passes", range(12))
async def test_who_cancels_a_stream_that_ends_is_left_all_the_same(passes: int) -> None:
    async with running(Shell()) as shell:
        context, relays = Context(), FakeRelays()
        stream = SessionStream(
            shell.broker,
            cast(Any, context),
            "connection",
            lambda _: False,
            owner="",
            relays=cast(Relays, relays),
        )
        task = asyncio.create_task(stream.run())
        await context.greeted.wait()

        context.broken.set()
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        assert relays.session is not None
        assert not relays.session.is_attached
        await shell.until(lambda: relays.told_count == 1)


@pytest.mark.parametrize("passes", range(2, 6))
async def test_who_cancels_a_stream_that_subscribes_leaves_nothing_half_begun(
    passes: int,
) -> None:
    subscribes = [pb.Subscribe(subscription_id=n, topic="t", group="g") for n in range(300)]
    async with running(Shell()) as shell:
        context = Context()
        context.frames.insert(0, pb.ClientFrame(subscribes=subscribes).SerializeToString())
        stream = SessionStream(
            shell.broker,
            cast(Any, context),
            "connection",
            lambda _: False,
            owner="",
            relays=cast(Relays, FakeRelays()),
        )
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            gc.collect()  # what others left behind
            told.clear()
            task = asyncio.create_task(stream.run())
            for _ in range(passes):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            gc.collect()

    assert not [each.message for each in told]


class SlowRelay:
    """Its other nodes don't greet; it hears that its stream is over."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.left: list[object] = []

    def is_of(self, _: Session) -> bool:
        return True

    async def attach(self, *_: object) -> None:
        self.began.set()
        await asyncio.Event().wait()

    async def detach(self, stream: object) -> None:
        self.left.append(stream)


class Caller:
    def invocation_metadata(self) -> tuple[()]:
        return ()


async def test_a_stream_that_is_cancelled_while_it_resumes_is_left_at_other_nodes() -> None:
    async with running(Shell()) as shell:
        session, _ = shell.broker.consumers.open_session("", "c")
        relays, relay, stream = Relays(shell.broker, cast(Any, None)), SlowRelay(), object()
        relays._relays[session.id] = cast(Relay, relay)

        joining = relays.joined(session, cast(Any, stream), cast(Any, Caller()))
        task = asyncio.create_task(joining)
        await relay.began.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        await shell.until(lambda: relay.left == [stream])
