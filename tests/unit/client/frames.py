"""A session under test, with the node's side played by hand. No I/O, no clock."""

from typing import Any

from sandglass.client.events import Event, Produce
from sandglass.client.lease import Lease
from sandglass.client.session import Session
from sandglass.client.subscription import Subscription
from sandglass.wire.v1 import broker_pb2 as pb

HEARTBEAT_MS = 1000
GRACE_MS = 2000
PARTITION = "0000000000000000000000000A"


class Table:
    """A session and its node. `now_ms` is whatever the test says."""

    def __init__(self) -> None:
        self.session = Session(client_name="test", on_work=self.work)
        self.now_ms = 1_000_000
        self.tokens = 0

    def work(self) -> None:
        """Tests ask the session itself."""

    def open(
        self,
        *,
        is_resumed: bool = False,
        open_leases: Any = (),
        open_lease_count: int = 0,
        node_name: str = "node",
    ) -> list[Event]:
        """The node greets."""
        return self.receive(
            welcome=pb.Welcome(
                session_id="s1",
                is_resumed=is_resumed,
                session_grace_ms=GRACE_MS,
                heartbeat_ms=HEARTBEAT_MS,
                node_name=node_name,
                open_leases=open_leases,
                open_lease_count=open_lease_count,
            )
        )

    def receive(self, **fields: Any) -> list[Event]:
        return self.session.received(pb.ServerFrame(**fields), self.now_ms)

    def frame(self) -> pb.ClientFrame:
        """The next frame; an empty one if there is none."""
        return pb.ClientFrame.FromString(self.session.next_frame(self.now_ms) or b"")

    def frames(self) -> list[pb.ClientFrame]:
        """All frames that wait."""
        found: list[pb.ClientFrame] = []
        while (raw := self.session.next_frame(self.now_ms)) is not None:
            found.append(pb.ClientFrame.FromString(raw))
        return found

    def tick(self, passed_ms: int) -> list[Event]:
        self.now_ms += passed_ms
        return self.session.tick(self.now_ms)

    def break_off(self) -> list[Event]:
        return self.session.broken(self.now_ms, cause="cut")

    def subscribe(
        self, *, credit: int = 100, credit_bytes: int = 1_000_000, is_extending: bool = True
    ) -> Subscription:
        """An active subscription."""
        request = pb.Subscribe(
            topic="t", group="g", credit_count=credit, credit_bytes=credit_bytes
        )
        subscription = self.session.subscribe(request, is_extending=is_extending)
        self.frames()
        self.activate(subscription)
        return subscription

    def activate(self, subscription: Subscription) -> list[Event]:
        return self.receive(
            subscribed=[pb.Subscribed(subscription_id=subscription.id, partitions=[PARTITION])]
        )

    def deliver(self, subscription: Subscription, count: int, *, lease_ms: int = 9000) -> Lease:
        """Hands out `count` messages of one byte, and gives the lease."""
        self.tokens += 1
        batch = pb.MessageBatch(messages=[pb.Message(value=b"x")] * count)
        self.receive(
            deliveries=[
                pb.Delivery(
                    subscription_id=subscription.id,
                    token=self.tokens,
                    attempt=1,
                    batch=batch.SerializeToString(),
                    count=count,
                    run_due_ms=[500],
                    run_first_index=[1],
                    run_count=[count],
                    run_produced_ms=[400],
                    lease_ms=lease_ms,
                )
            ]
        )
        return subscription.leases[0, self.tokens]


def produce(size_bytes: int = 10, *, deadline_ms: int = 2_000_000) -> Produce:
    """A request of one message."""
    batch = pb.MessageBatch(messages=[pb.Message(value=bytes(size_bytes))])
    return Produce(
        topic="t",
        partition="",
        channel="",
        batch=batch.SerializeToString(),
        count=1,
        deadline_ms=deadline_ms,
        owner="owner",
    )
