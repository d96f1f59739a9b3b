"""
Simulated sessions come back to a node that began anew, and claim what they hold; or to the same
one by another way, and go on with it.

What they are granted is checked on the spot: all that is still to be had, and nothing else.
That nobody else is given it meanwhile is what the history checks at each delivery.
"""

from dataclasses import dataclass, replace

from sandglass.core import claim
from sandglass.core.claim import Claim
from sandglass.core.group import Group
from sandglass.core.lease import Lease
from sandglass.core.partition import Partition
from sandglass.errors import LeaseLostError
from sandglass.testing.seen import GroupHistory, Hold, Violation
from sandglass.testing.simulated_consumers import Client, Consumers
from sandglass.testing.simulated_node import GRACE_MS
from sandglass.testing.simulated_outcomes import Outcomes, Task
from sandglass.testing.world import World

LATE_MS = GRACE_MS + 150


@dataclass(slots=True)
class Claims:
    """`come_back` is called when a node begins to serve."""

    world: World
    consumers: Consumers
    outcomes: Outcomes

    def __post_init__(self) -> None:
        self.consumers.on_other_way = self._by_another_way

    def come_back(self) -> None:
        """Most of those who were there before come: soon, or late."""
        if self.world.is_healed:
            return
        chance = self.world.chance
        for session in list(self.consumers.away):
            if chance.random() < 0.15:
                del self.consumers.away[session]
            else:
                delay_ms = chance.choice((0, 3, 20, 60, GRACE_MS - 5, LATE_MS))
                self._come(session, delay_ms)

    def _come(self, session: str, delay_ms: int) -> None:
        self.world.after(delay_ms, lambda: self._return(session))

    def _return(self, session: str) -> None:
        if self.world.is_healed or session not in self.consumers.away:
            return
        if not self.world.node.is_serving:
            self._come(session, 20)
            return
        before = self.consumers.away.pop(session)
        client = self._again(before)
        for partition, group in self.consumers.groups_of(client):
            known = self.world.history.partitions[partition.number].groups[group.number]
            may_claim = claim.may_claim(group, session, "")
            is_in_time = self.world.see().lease_ms < partition.claims_until_ms
            is_awaited = session in known.awaited
            if is_awaited != may_claim and (may_claim or is_in_time):
                raise Violation(f"I7: {session} may claim, or may not, of {known.name}")
            for task in before.tasks:
                if may_claim and task.partition == partition.number:
                    self._claim(client, partition, group, known, task)
            claim.come_back(group, session, "")
            known.awaited.pop(session, None)
        self.consumers.begin(client)

    def _claim(
        self,
        client: Client,
        partition: Partition,
        group: Group,
        known: GroupHistory,
        task: Task,
    ) -> None:
        """All of a delivery, or the end of it: the client can't know what became of it."""
        old, chance = task.lease, self.world.chance
        assert old is not None
        first = chance.choice((0, 0, 0, chance.randint(0, old.count - 1)))
        wanted = task.numbers[first:]
        expected = [each for each in wanted if self._may_have(known, task, old, each)]
        try:
            lease = claim.take_claim(
                partition,
                group,
                _claim_of(task, old, first),
                client.consumer,
                self.world.see(),
                self.world.node.view,
            )
        except LeaseLostError:
            lease = None
        granted = [] if lease is None else _open_numbers(task, lease)
        if granted != expected:
            raise Violation(
                f"I7: of {wanted}, {granted} were granted to {client.session} by {known.name},"
                f" not {expected}"
            )
        if lease is not None:
            self.world.report.claimed_count += len(granted)
            self._hold(client, partition, known, task, lease)

    def _again(self, before: Client) -> Client:
        """The same consumer of the same session, as it is known from now on."""
        consumer = replace(
            before.consumer,
            key=self.consumers.next_key(),
            credit_count=self.world.chance.choice((1, 3, 12)),
            credit_bytes=4000,
        )
        return Client(
            consumer, before.group, before.channel, before.topic, session=before.session
        )

    def _by_another_way(self, before: Client) -> None:
        """What it claims is its own again; the rest is given back with the way before."""
        chance, client = self.world.chance, self._again(before)
        groups = {found[0].number: found for found in self.consumers.groups_of(before)}
        for task in before.tasks:
            if task.partition in groups and chance.random() < 0.8:
                self._go_on(before, client, *groups[task.partition], task)
        before.session = ""  # the groups still know it
        self.consumers.leave(before)
        for task in client.tasks:
            lease = groups[task.partition][1].lease(task.token)
            if lease is None or lease.consumer != client.consumer.key:
                raise Violation(f"I7: {task.numbers} are given back with the way before")
        self.consumers.begin(client)

    def _go_on(
        self, before: Client, client: Client, partition: Partition, group: Group, task: Task
    ) -> None:
        moment = self.world.see()
        known = self.world.history.partitions[partition.number].groups[group.number]
        lease = group.lease(task.token)
        if lease is not None and lease.consumer == before.consumer.key:
            claim.go_on(partition, group, lease, client.consumer, moment)
            for hold in known.held.values():
                if hold.token == lease.token:
                    hold.consumer, hold.ends_ms = lease.consumer, lease.ends_ms
            self.world.report.rerouted_count += 1
            self.world.node.ready[partition.number] = None
            client.tasks.append(task)
        elif task.lease is not None and self._is_settled(client, partition, group, task):
            seen = self.world.history.partitions[task.partition]
            for number in task.numbers:
                is_there = self.world.history.sent[number].offset >= seen.cut
                if is_there and not known.is_settled(number):
                    raise Violation(f"I7: {number} is settled for {known.name}, it is said")

    def _is_settled(
        self, client: Client, partition: Partition, group: Group, task: Task
    ) -> bool:
        assert task.lease is not None
        return claim.is_settled(
            partition,
            group,
            _claim_of(task, task.lease, 0),
            client.consumer,
            self.world.see(),
            self.world.node.view,
        )

    def _may_have(self, known: GroupHistory, task: Task, lease: Lease, number: int) -> bool:
        seen = self.world.history.partitions[task.partition]
        message = self.world.history.sent[number]
        is_there = message.offset >= seen.cut and seen.is_there(known, message)
        if known.seeks or task.generation != known.generation or not is_there:
            return False
        if number in known.held or number in known.ending or number in seen.going:
            return False
        counts = (known.attempts.get(number, 0), known.releases.get(number, 0))
        return not known.is_settled(number) and counts == (lease.attempts, lease.releases)

    def _hold(
        self,
        client: Client,
        partition: Partition,
        known: GroupHistory,
        task: Task,
        lease: Lease,
    ) -> None:
        seen = self.world.history.partitions[partition.number]
        if lease.token <= seen.last_token:
            raise Violation(f"I7: token {lease.token:x} after {seen.last_token:x}")
        seen.last_token = lease.token
        known.renewed[task.token] = lease.token
        for place, number in enumerate(task.numbers):
            if lease.open >> place & 1:
                width = len(self.world.history.sent[number].body)
                known.held[number] = Hold(
                    number,
                    lease.token,
                    place,
                    lease.consumer,
                    lease.ends_ms,
                    width,
                    lease.begun,
                )
        self.world.history.trace.append(f"claim {lease.token:x} {_open_numbers(task, lease)}")
        self.world.node.ready[partition.number] = None
        # Half of them had their outcome on its way, under the old token.
        anew = replace(task, lease=lease, token=lease.token)
        client.tasks.append(anew)
        self.outcomes.plan(task if self.world.chance.random() < 0.5 else anew)


def _claim_of(task: Task, lease: Lease, first: int) -> Claim:
    return Claim(
        task.token,
        task.generation,
        lease.attempts,
        lease.releases,
        lease.dues,
        lease.indexes,
        lease.counts,
        [(first, lease.count - first)] if first else [],
        lease.begun,
    )


def _open_numbers(task: Task, lease: Lease) -> list[int]:
    return [number for place, number in enumerate(task.numbers) if lease.open >> place & 1]
