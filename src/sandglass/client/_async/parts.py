"""The parts of an open client, and who tells whom what happened."""

from collections.abc import Callable

from sandglass.client._async.connection import Connection, Endpoint
from sandglass.client._async.consumer import Consuming
from sandglass.client._async.keyvalue import KeyValue
from sandglass.client._async.producer import Producer
from sandglass.client._async.unary import Unary
from sandglass.client.events import Changed, Event, Expired, Extended, Produced, Settled
from sandglass.errors import UnavailableError


class Parts:
    """What a client is made of while it is open; `is_closed` afterwards."""

    def __init__(self, endpoint: Endpoint, name: str, *, wall_ms: Callable[[], int]) -> None:
        self.connection = Connection(
            endpoint,
            client_name=name,
            on_event=self._on_event,
            before_frame=self._before_frame,
            after_turn=self._after_turn,
        )
        self._addresses = endpoint.addresses
        self.unary = Unary(endpoint)
        self.keyvalue = KeyValue(self.unary)
        self.producer = Producer(self.connection, endpoint, wall_ms=wall_ms)
        self.consuming = Consuming(self.connection, endpoint)
        self.after_turn: Callable[[], None] = lambda: None
        """Called when what a frame brought has been handed on, and now and then."""
        self.is_closed = False

    @property
    def waits_for(self) -> str:
        """The node that we wait for, for people: where, and why; empty while one answers."""
        connection = self.connection
        because = connection.cause if connection.is_seeking else self.unary.waits_because
        return f"a node at {', '.join(self._addresses)}: {because}" if because else ""

    async def close(self) -> None:
        """See `AsyncClient.close`."""
        try:
            await self.producer.drain()
            await self.consuming.flush()
        finally:
            self.is_closed = True
            self.producer.close()
            await self.connection.close()
            closed = UnavailableError("the client is closed")
            for event in self.connection.session.refused(closed):
                self._on_event(event)
            await self.unary.close()
        self.consuming.raise_refused()

    def _on_event(self, event: Event) -> None:
        match event:
            case Produced():
                self.producer.on_produced(event)
            case Settled():
                self.consuming.on_settled(event)
            case Changed():
                self.consuming.on_changed(event)
            case Extended():
                self.consuming.on_extended(event)
            case Expired():
                self.producer.on_expired(event)

    def _before_frame(self) -> None:
        self.producer.before_frame()

    def _after_turn(self) -> None:
        self.producer.tick()
        self.consuming.after_turn()
        self.after_turn()
