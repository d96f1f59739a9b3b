"""The relays of a node's sessions: they last as long as the sessions do, streams or not."""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import asyncio
from functools import partial
from typing import Any, Final, cast

from sandglass.broker.broker import Broker
from sandglass.broker.subscription import Session
from sandglass.core.topic import Topic
from sandglass.rpc.calls import Context
from sandglass.rpc.forwarding import FORWARDED, PASSED_ON, Peers
from sandglass.rpc.relaying.links import Downstream
from sandglass.rpc.relaying.relay import Relay
from sandglass.wire.v1 import broker_pb2 as pb

SESSION_METHOD: Final = "/sandglass.v1.Broker/Session"
LATE_S: Final = 0.5
"""After a session's grace: the broker has ended it by then."""


class Relays:
    """All calls run in the event loop's thread."""

    def __init__(self, broker: Broker, peers: Peers) -> None:
        self._broker = broker
        self._peers = peers
        self._relays: dict[str, Relay] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        broker.loops.on_moved.append(self._moved)
        broker.loops.on_changed.append(self._changed)

    async def joined(
        self, session: Session, stream: Downstream, context: Context
    ) -> tuple[Relay, list[pb.OpenLease]]:
        """A session's relay, for the stream that it has now; and what it holds elsewhere."""
        dial = partial(self._dial, _metadata(context))
        relay = self._relays.get(session.id)
        if relay is not None and not relay.is_of(session):
            # The session of this id was over, and begins anew.
            await relay.close()
            relay = None
        if relay is None:
            relay = Relay(self._broker, session, dial, stream)
            self._relays[session.id] = relay
            return relay, []
        try:
            return relay, await relay.attach(stream, dial)
        except BaseException:
            self.left(relay, stream, session)
            raise

    def left(self, relay: Relay, stream: Downstream, session: Session) -> asyncio.Task[None]:
        """The session's stream is over: other nodes are told, whoever waits for it or not."""
        task = asyncio.create_task(self._left(relay, stream, session), name="session-left")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return task

    async def _left(self, relay: Relay, stream: Downstream, session: Session) -> None:
        if session.is_closed:
            if self._relays.get(session.id) is relay:
                del self._relays[session.id]
            await relay.close()
            return
        await relay.detach(stream)
        asyncio.get_running_loop().call_later(
            self._broker.consumers.session_grace_ms / 1000 + LATE_S,
            self._forget,
            relay,
            session,
        )

    def _forget(self, relay: Relay, session: Session) -> None:
        if session.is_closed and self._relays.get(session.id) is relay:
            del self._relays[session.id]

    def _dial(self, metadata: list[tuple[str, str]], address: str) -> Any:
        open_stream = cast(Any, self._peers.channel(address, may_wait=True)).stream_stream(
            SESSION_METHOD, None, pb.ServerFrame.FromString
        )
        return open_stream(metadata=metadata)

    def _moved(self, number: int) -> None:
        for relay in [*self._relays.values()]:
            relay.moved(number)

    def _changed(self, topic: Topic) -> None:
        for relay in [*self._relays.values()]:
            relay.changed(topic)


def was_forwarded(context: Context) -> bool:
    """Does another node open this stream? Then it goes no further."""
    return any(key == FORWARDED for key, _ in _pairs(context))


def _metadata(context: Context) -> list[tuple[str, str]]:
    passed_on = ((key, value) for key, value in _pairs(context) if key in PASSED_ON)
    return [(FORWARDED, "1"), *passed_on]


def _pairs(context: Context) -> list[tuple[str, str]]:
    return list(cast(Any, context.invocation_metadata()) or ())
