"""
Simulated consumers: they come and go, take what credit allows, drain, and lose their sessions.

Credit goes round by the broker's own `ReadyList`: a starved group that is not offered any shows
as messages that never come.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from itertools import count

from sandglass.broker.ready_list import ReadyList
from sandglass.core import outcome
from sandglass.core.claim import admit_attach, admit_detach
from sandglass.core.dispatch import Delivery, Moment
from sandglass.core.group import Group
from sandglass.core.lease import Consumer
from sandglass.core.message import DEAD_LETTER_CHANNEL
from sandglass.core.partition import Partition
from sandglass.core.topic import Topic
from sandglass.testing.seen import GroupHistory, Hold, Violation
from sandglass.testing.simulated_outcomes import Outcomes, Task
from sandglass.testing.world import CHANNELS, IDLE, World

CLIENT_COUNT = 6

TASK_COUNT = 12
"""Deliveries that a client remembers."""


@dataclass(slots=True)
class Client:
    """A consumer of one group of a topic; a `Reader`."""

    consumer: Consumer
    group: str
    channel: str
    topic: str
    is_diligent: bool = False
    held: tuple[int, int] | None = None
    """Its credit, while its session is broken and may come back."""
    targets: dict[int, int] | None = None
    """Partitions that it still has to drain, and how far; None if it stays."""
    groups: dict[int, Group] = field(default_factory=dict[int, Group])
    waiting: OrderedDict[int, None] = field(default_factory=OrderedDict[int, None])
    offer_count: int = 0
    is_closed: bool = False
    session: str = ""
    """None for those who are there at the end."""
    tasks: list[Task] = field(default_factory=list[Task])
    """The last that it was given."""


@dataclass(slots=True)
class Consumers:
    """All that are there now."""

    world: World
    outcomes: Outcomes
    clients: dict[int, Client] = field(default_factory=dict[int, Client])
    away: dict[str, Client] = field(default_factory=dict[str, Client])
    """By session: those whose node is gone, and who may come back."""
    on_other_way: Callable[[Client], None] = field(default=lambda _: None)
    """Told a client whose session comes back by another way, to the same leader."""
    _ready_list: ReadyList = field(init=False)
    _keys: "count[int]" = field(default_factory=lambda: count(1))
    _sessions: "count[int]" = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self._ready_list = ReadyList(self.clients, self._ready)

    # --- coming and going ---------------------------------------------------------------------

    def join(self, topic: Topic) -> None:
        """A consumer comes for a group of a topic, in all partitions that have the group."""
        chance = self.world.chance
        lot = chance.random()
        channel = CHANNELS[0] if lot < 0.65 else CHANNELS[1]
        client = Client(
            Consumer(
                next(self._keys),
                chance.choice((1, 2, 3, 5, 12, 100)),
                chance.choice((7, 60, 300, 4000, 100_000)),
                chance.choice((0, 60, 250)),
            ),
            chance.choice(("first", "second")),
            channel,
            topic.name,
            session=f"s{next(self._sessions)}",
        )
        if lot > 0.9:
            client.channel, client.group = DEAD_LETTER_CHANNEL, "second"
        if chance.random() < 0.15:
            self._plan_drain(client)
        self.begin(client)

    def join_diligent(self, topic: Topic) -> None:
        """Consumers that take and ack all that is there, for every group."""
        numbers = {ref.number for ref in topic.partitions}
        groups = {
            (known.channel, known.name): None
            for known in self.world.known_groups()
            if known.partition in numbers
        }
        for channel, name in groups:
            consumer = Consumer(next(self._keys), 100_000, 1 << 26)
            self.begin(Client(consumer, name, channel, topic.name, is_diligent=True))

    def next_key(self) -> int:
        """Of a consumer that comes."""
        return next(self._keys)

    def begin(self, client: Client) -> None:
        """It reads its group, in all partitions that have it."""
        self.clients[client.consumer.key] = client
        for partition, group in self.groups_of(client):
            self._read(client, partition, group)

    def _read(self, client: Client, partition: Partition, group: Group) -> None:
        client.groups[partition.number] = group
        if client.session:
            moment = self.world.see()
            attach = admit_attach(partition, group, client.session, "", moment)
            self.world.node.submit(attach, moment)
        partition.add_consumer(group, client.consumer)
        self._ready(partition.number)

    def _ready(self, number: int) -> None:
        self.world.node.ready[number] = None
        self.world.kick()

    def join_all(self) -> None:
        """A group is new: those who want it read it."""
        for client in list(self.clients.values()):
            for partition, group in self.groups_of(client):
                if client.consumer not in group.consumers and client.targets is None:
                    self._read(client, partition, group)

    def come_and_go(self) -> None:
        """Somebody comes, leaves, is away for a while, or comes by another way."""
        chance = self.world.chance
        if not self.world.node.is_serving or not self.world.topics:
            return
        topic = self.world.topics[chance.choice(list(self.world.topics))]
        is_shy = topic.name == IDLE and chance.random() < 0.8
        if len(self.clients) < CLIENT_COUNT and not is_shy:
            self.join(topic)
        if len(self.clients) > 3 and chance.random() < 0.4:
            client = self.clients[chance.choice(list(self.clients))]
            lot = chance.random()
            if lot < 0.5:
                self.leave(client)
            elif lot < 0.75 or not client.session or client.targets is not None:
                self._break(client)
            elif client.held is None:
                self.on_other_way(client)

    def leave(self, client: Client) -> None:
        """The session of a consumer has ended."""
        self._forget(client)
        moment = self.world.see()
        for partition, group in self.groups_of(client):
            if client.session:
                detach = admit_detach(partition, group, client.session, moment)
                self.world.node.submit(detach, moment)
            partition.remove_consumer(group, client.consumer)
            tokens = [
                token
                for token, lease in group.leases.items()
                if lease.consumer == client.consumer.key
            ]
            for token in tokens:
                self._check_begun(partition.number, group, token)
            left = deque(tokens)
            while left:
                for record in outcome.admit_break(
                    partition, group, left, moment, self.world.node.view
                ):
                    self.world.node.submit(record, moment)
        self.world.kick()

    def _break(self, client: Client) -> None:
        """A session breaks: nothing is handed out to it, and it may come back."""
        consumer = client.consumer
        if client.held is not None:
            return
        client.held = (consumer.credit_count, consumer.credit_bytes)
        consumer.credit_count = consumer.credit_bytes = 0
        self.world.after(self.world.chance.choice((5, 60, 300)), lambda: self._resume(client))

    def _resume(self, client: Client) -> None:
        if client.consumer.key not in self.clients or client.held is None:
            return
        if not self.world.node.is_serving:
            self.world.after(20, lambda: self._resume(client))
            return
        if self.world.chance.random() < 0.3:
            self.leave(client)
            return
        self.world.report.resumed_count += 1
        client.consumer.credit_count, client.consumer.credit_bytes = client.held
        client.held = None
        self._offer(client)

    def _forget(self, client: Client) -> None:
        client.is_closed = True
        del self.clients[client.consumer.key]

    def forget_all(self) -> None:
        """The process is gone, and every session with it; some come back to the next."""
        for client in self.clients.values():
            if client.session and client.targets is None:
                self.away[client.session] = client
        self.clients.clear()
        self._ready_list = ReadyList(self.clients, self._ready)

    def forget_topic(self, topic: Topic) -> None:
        """A topic is deleted: its consumers are told, and go."""
        for client in [each for each in self.clients.values() if each.topic == topic.name]:
            self._forget(client)
        self._ready_list.deleted(ref.number for ref in topic.partitions)

    def groups_of(self, client: Client) -> list[tuple[Partition, Group]]:
        """Where it reads, or would."""
        found: list[tuple[Partition, Group]] = []
        topic = self.world.topics.get(client.topic)
        for ref in topic.partitions if topic is not None else ():
            seen = self.world.history.partitions[ref.number]
            known = seen.find_group(client.channel, client.group)
            partition = self.world.node.partition(ref.number)
            if partition is not None and known is not None:
                group = partition.group(client.channel, client.group, self.world.node.view)
                found.append((partition, group))
        return found

    def _check_begun(self, number: int, group: Group, token: int) -> None:
        lease = group.leases[token]
        known = self.world.history.partitions[number].groups[group.number]
        for hold in known.held.values():
            if hold.token == token and hold.begun != lease.begun:
                raise Violation(f"I8: begun is {lease.begun}, but {hold.begun} was said")

    # --- drains -------------------------------------------------------------------------------

    def _plan_drain(self, client: Client) -> None:
        """What is readable now is to be handed out; then the consumer goes."""
        moment = self.world.see()
        promised = self.world.node.promised(moment)
        client.targets = {}
        for partition, group in self.groups_of(client):
            client.targets[partition.number] = partition.readable(promised)
            group.scanned_to = 0

    def look_at_drains(self, moment: Moment) -> None:
        """Partitions have had a turn: is a drain over?"""
        numbers = self.world.node.dispatched
        for client in [each for each in self.clients.values() if each.targets is not None]:
            targets = client.targets
            assert targets is not None
            for partition, group in self.groups_of(client):
                target = targets.get(partition.number)
                if target is None or partition.number not in numbers:
                    continue
                if client.consumer.has_credit and group.is_drained(target):
                    del targets[partition.number]
                    known = self.world.history.partitions[partition.number]
                    self.world.history.drained(
                        known.groups[group.number], target, moment.steady_ms
                    )
            if not targets:
                self.world.report.drained_count += 1
                self.leave(client)

    def check_drains(self, moment: Moment) -> None:
        """The node rests: a drain that has credit is over, but where claims are waited for."""
        for client in self.clients.values():
            if not client.targets or not client.consumer.has_credit:
                continue
            for partition, _ in self.groups_of(client):
                is_waiting = moment.lease_ms < partition.claims_until_ms
                if partition.number in client.targets and not is_waiting:
                    raise Violation(f"I5: a drain of {client.group} hangs at {client.targets}")

    # --- credit -------------------------------------------------------------------------------

    def look_at_lines(self, deliveries: list[Delivery]) -> None:
        """After a turn: who has found no credit stands in line."""
        fed: dict[int, set[int]] = {}
        for delivery in deliveries:
            fed.setdefault(delivery.partition, set()).add(delivery.group.number)
        for number in self.world.node.dispatched:
            partition = self.world.node.partition(number)
            if partition is not None:
                self._ready_list.dispatched(partition, fed.get(number, ()))

    def _offer(self, client: Client) -> None:
        """As the broker does where credit comes."""
        self._ready_list.offer(client)
        for number in client.targets or ():
            self._ready(number)

    # --- messages -----------------------------------------------------------------------------

    def deliver(self, delivery: Delivery, moment: Moment) -> None:
        """A consumer is given messages."""
        numbers = self.world.history.deliver(delivery, moment, self.world.now_ms)
        group, client = delivery.group, self.clients.get(delivery.consumer.key)
        if client is None:
            return  # it left while the end of its topic was on its way
        if client.held is not None:
            raise Violation(f"messages {numbers} are handed out to a session that broke")
        task = Task(
            delivery.partition,
            group.channel,
            group.name,
            delivery.lease.token,
            numbers,
            group.generation,
            copy(delivery.lease),
        )
        client.tasks = [*client.tasks[-TASK_COUNT:], task]
        if client.is_diligent:
            self.world.after(1, lambda: self.outcomes.ack(task))
        else:
            self.outcomes.plan(task)

    def check_credit(self, deliveries: list[Delivery]) -> None:
        """After a turn: of each consumer's last delivery one message may exceed the bytes."""
        for delivery in {each.consumer.key: each for each in deliveries}.values():
            consumer, part = delivery.consumer, delivery.slices[-1]
            if consumer.credit_count < 0:
                raise Violation("a consumer was given more than its credit")
            width = len(part.body) // part.row_count
            if consumer.credit_bytes < 0 and (
                delivery.lease.count > 1 or consumer.credit_bytes + width <= 0
            ):
                raise Violation("a consumer was given more bytes than its credit")

    def give_back(self, _: GroupHistory, hold: Hold) -> None:
        """A message has left a lease: its credit comes back, if its consumer is there still."""
        client = self.clients.get(hold.consumer)
        if client is None:
            return
        if client.held is not None:
            client.held = (client.held[0] + 1, client.held[1] + hold.width)
            return
        client.consumer.credit_count += 1
        client.consumer.credit_bytes += hold.width
        self._offer(client)
