"""
The rules that the simulation must miss: each can be taken out, for as long as a context lasts.

A rule that could be taken out without a history going wrong would either not be needed or not
be tested. Nothing of this is in the core: functions are replaced from outside.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from sandglass.adapters.memory_log import MemoryLog
from sandglass.broker.ready_list import ReadyList
from sandglass.core import dispatch, keys, partition, retract
from sandglass.core.dispatch import Moment
from sandglass.core.done import DoneRanges
from sandglass.core.group import Group
from sandglass.core.lease import Consumer
from sandglass.core.message import Slice
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.core.record import CreateGroup, Operation
from sandglass.testing.claim_rules import CLAIM_RULES, Rules
from sandglass.testing.simulated_node import SimulatedNode


def _read_bound_of_applied(self: Partition) -> int:
    return self.now_ms << INDEX_BITS | self.last_index


def _read_bound_of_assigned(self: Partition) -> int:
    bound = self.now_ms << INDEX_BITS | self.assigned_index
    return self.in_flight.bound(bound)


def lead_unpromised(
    lead: Callable[..., None],
) -> Callable[[Partition, int, int, int], None]:
    """`Partition.lead`, without what was promised."""

    def led(self: Partition, epoch: int, promised: int, wall_ms: int) -> None:
        before, self.promised = self.promised, 0
        lead(self, epoch, 0, wall_ms)
        self.promised = before

    return led


def _unclosed(read: Callable[..., Any]) -> Callable[..., Any]:
    def unclosed(self: Partition, *args: Any) -> Any:
        closed = self.closed
        result = read(self, *args)
        self.closed = closed
        return result

    return unclosed


def _begin_far_lease(begin: Callable[..., None]) -> Callable[..., None]:
    def begun(
        group: Group,
        consumer: Consumer,
        slices: list[Slice],
        count: int,
        turn: dispatch.Turn,
        **rest: Any,
    ) -> None:
        begin(group, consumer, slices, count, turn, **rest)
        lease = turn.deliveries[-1].lease
        if not lease.is_retry:
            prefix = keys.rows_prefix(group.partition, group.channel)
            ahead = turn.view.range(keys.at(prefix, lease.high), keys.after_prefix(prefix))
            for key, _ in ahead:
                lease.high = max(lease.high, keys.row_place(key)[0])
                break

    return begun


def _load_from_start(load: Callable[..., Group]) -> Callable[..., Group]:
    def loaded(*args: Any) -> Group:
        group = load(*args)
        group.cursor = group.start
        return group

    return loaded


def _lead_and_serve(lead: Callable[..., None]) -> Callable[..., None]:
    def led(self: SimulatedNode, wall_ms: int, monotonic_ms: int) -> None:
        lead(self, wall_ms, monotonic_ms)
        self.is_open = True

    return led


def _append_undurable(append: Callable[..., bool]) -> Callable[..., bool]:
    def appended(self: SimulatedNode) -> bool:
        if append(self):
            with patch.object(self.log, "sync_end", lambda: self.log.last_position):
                self.sync_end()
            assert isinstance(self.log, MemoryLog)
            self.log._syncing = None
        return False

    return appended


def _promised_though_voiding(self: SimulatedNode, moment: Moment) -> int:
    return 0 if self.is_behind(moment) else self.machine.promised_ms << INDEX_BITS


def _shift_no_group(shifted: Callable[..., Operation]) -> Callable[..., Operation]:
    def shift(operation: Operation, *rest: int) -> Operation:
        is_group = isinstance(operation, CreateGroup)
        return operation if is_group else shifted(operation, *rest)

    return shift


RULES: Rules = {
    "inflight": (
        "reads stay below what is admitted and not yet applied",
        lambda: [(Partition, "read_bound", _read_bound_of_applied)],
    ),
    "applied": (
        "reads go by the last index applied, not by the last one assigned",
        lambda: [(Partition, "read_bound", _read_bound_of_assigned)],
    ),
    "promise": (
        "a starting leader counts what was promised as closed",
        lambda: [(Partition, "lead", lead_unpromised(Partition.lead))],
    ),
    "closed": (
        "what was read is closed",
        lambda: [
            (Partition, "dispatch", _unclosed(Partition.dispatch)),
            (Partition, "fetch", _unclosed(Partition.fetch)),
        ],
    ),
    "move": (
        "a message that waits for the clock is moved, not handed out",
        lambda: [(dispatch, "wait_ms", lambda *_: 0)],
    ),
    "tile": (
        "no tile reaches ahead to the next row",
        lambda: [(dispatch, "_begin_lease", _begin_far_lease(vars(dispatch)["_begin_lease"]))],
    ),
    "retry-bound": (
        "the scan of retry rows passes no move in flight",
        lambda: [(Group, "retry_end", lambda _, steady_ms: steady_ms + 1)],
    ),
    "clamp": (
        "a move's due time is above the retry cursor",
        lambda: [(Group, "retry_clamp", lambda _, until_ms: until_ms)],
    ),
    "done": (
        "what is done is skipped after a restart",
        lambda: [
            (Group, "load", staticmethod(_load_from_start(Group.load))),
            (DoneRanges, "skip", lambda _, offset: (offset, None)),
        ],
    ),
    "sync": (
        "nothing is applied or answered before it is durable",
        lambda: [(SimulatedNode, "append", _append_undurable(SimulatedNode.append))],
    ),
    "voiding": (
        "a promise that is being voided counts no more",
        lambda: [(SimulatedNode, "promised", _promised_though_voiding)],
    ),
    "start-shifts": (
        "a group's start goes down with the indexes that a full disk gives back",
        lambda: [
            (retract, "_shifted", _shift_no_group(vars(retract)["_shifted"])),
        ],
    ),
    "generation": (
        "what was leased before a group was moved can't be settled any more",
        lambda: [(Group, "drop_leases", lambda _: None)],
    ),
    "letter": (
        "a dead letter goes with what is redriven or purged",
        lambda: [(partition, "apply_purge", lambda *_: None)],
    ),
    "offer": (
        "credit that comes is offered to the groups that wait for it",
        lambda: [(ReadyList, "offer", lambda *_: None)],
    ),
    "drain": (
        "a drain ends when what was ready at its start has been handed out",
        lambda: [(Group, "is_drained", lambda *_: False)],
    ),
    "epoch": (
        "a leader hands nothing out before its epoch is durable",
        lambda: [(SimulatedNode, "lead", _lead_and_serve(SimulatedNode.lead))],
    ),
    **CLAIM_RULES,
}
"""Name of a rule, what it says, and what to replace to be without it."""


@contextmanager
def without(rule: str, rules: Rules = RULES) -> Iterator[None]:
    """Inside, `rule` doesn't hold; an empty name takes nothing out."""
    replacements = rules[rule][1]() if rule else []
    with ExitStack() as stack:
        for owner, name, function in replacements:
            stack.enter_context(patch.object(owner, name, function))
        yield
