"""What operators ask for, as values: settings, groups, dead letters, what is pending."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sandglass.client.message import Message, span_ms
from sandglass.core import limits, offset
from sandglass.errors import InvalidError
from sandglass.wire.v1 import admin_pb2, broker_pb2

_NOTHING: Final = timedelta(0)


@dataclass(frozen=True, slots=True)
class Backoff:
    """
    How long a message waits after a failed attempt.

    `delays` has one for each attempt. Beyond it the last one is multiplied by `factor` for each
    further attempt, up to `cap`; chance takes off up to `jitter` (0 to 1) of what comes out.
    """

    delays: tuple[timedelta, ...] = (_NOTHING,)
    factor: int = 1
    cap: timedelta | None = None
    jitter: float = 0.0


NO_BACKOFF: Final = Backoff()
"""Due again at once."""

BackoffLike = Backoff | timedelta | Sequence[timedelta]
"""A fixed delay, a list of delays, or more."""


@dataclass(frozen=True, slots=True)
class Group:
    """
    A group of a topic, for all partitions and channels.

    `start` is where it begins in partitions that it reaches later, None for the beginning.
    `ack_timeout`, `max_deliveries` and `backoff` are what holds for it; `own` names those that
    are its own and not its topic's.
    """

    topic: str
    name: str
    start: datetime | None
    created_at: datetime
    ack_timeout: timedelta
    max_deliveries: int
    backoff: Backoff
    own: frozenset[str]


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it is stored; `message` only if it was asked for."""

    partition: str
    offset: str
    index: int
    due_at: datetime
    produced_at: datetime
    size_bytes: int
    message: Message | None


@dataclass(frozen=True, slots=True)
class StoredDeadLetter:
    """A dead letter, and what it was. `letter.due_at` is when it died."""

    letter: StoredMessage
    group: str
    channel: str
    attempts: int
    reason: str
    original_offset: str


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Dead letters, and what leads to the next page; empty at the end."""

    letters: tuple[StoredDeadLetter, ...]
    next_page_token: bytes


@dataclass(frozen=True, slots=True)
class PendingPage:
    """Messages that come next, and what leads to the next page; empty at the end."""

    messages: tuple[StoredMessage, ...]
    next_page_token: bytes


@dataclass(frozen=True, slots=True)
class DeadLetterCount:
    """How many dead letters there are, how large, and how many of each (group, channel)."""

    count: int
    size_bytes: int
    groups: dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Taken:
    """Dead letters redriven or purged; those of groups that are gone are skipped."""

    count: int
    skipped_count: int


@dataclass(frozen=True, slots=True)
class Pending:
    """Messages whose time is still to come; there may be more, if it is a lower bound."""

    count: int
    is_lower_bound: bool
    next_due_at: datetime | None


# --- to the wire ------------------------------------------------------------------------------


def check_partitions(count: int) -> int:
    """
    How many a topic is to have.

    Raises:
        InvalidError: outside its range.
    """
    high = limits.PARTITION_COUNT_MAX
    return limits.check_range(count, field="partitions", low=1, high=high)


def check_replication(factor: int | None) -> int:
    """
    How many nodes are to hold each partition; 0 for none given.

    Raises:
        InvalidError: outside its range.
    """
    if factor is None:
        return 0
    high = limits.REPLICATION_FACTOR_MAX
    return limits.check_range(factor, field="replication_factor", low=1, high=high)


def put_retention(settings: admin_pb2.TopicSettings, retention: timedelta | None) -> None:
    """
    Sets it, if it is given.

    Raises:
        InvalidError: outside its range.
    """
    if retention is not None:
        low, high = limits.RETENTION_MS_MIN, limits.RETENTION_MS_MAX
        settings.retention_ms = span_ms(retention, field="retention", low=low, high=high)


def put_settings(
    settings: admin_pb2.TopicSettings | admin_pb2.GroupSettings,
    ack_timeout: timedelta | None,
    max_deliveries: int | None,
    backoff: BackoffLike | None,
) -> None:
    """
    Sets what is given of the settings that topics and groups have.

    Raises:
        InvalidError: a value outside its range.
    """
    if ack_timeout is not None:
        low, high = limits.ACK_TIMEOUT_MS_MIN, limits.LEASE_MS_MAX
        settings.ack_timeout_ms = span_ms(ack_timeout, field="ack_timeout", low=low, high=high)
    if max_deliveries is not None:
        settings.max_deliveries = limits.check_range(
            max_deliveries, field="max_deliveries", low=1, high=limits.MAX_DELIVERIES_MAX
        )
    if backoff is not None:
        settings.backoff.CopyFrom(backoff_to_wire(backoff))


def backoff_to_wire(backoff: BackoffLike) -> admin_pb2.Backoff:
    """
    Raises:
        InvalidError: a delay, factor or jitter outside its limits.
    """
    if isinstance(backoff, timedelta):
        backoff = Backoff((backoff,))
    elif not isinstance(backoff, Backoff):
        backoff = Backoff(tuple(backoff))
    high = limits.NACK_DELAY_MS_MAX
    if not 0 <= backoff.jitter <= 1:
        raise InvalidError(
            f"backoff.jitter is {backoff.jitter}; it must be 0 to 1", field="backoff.jitter"
        )
    count_max = limits.BACKOFF_DELAY_COUNT_MAX
    if not 1 <= len(backoff.delays) <= count_max:
        raise InvalidError(
            f"backoff.delays has {len(backoff.delays)} delays; it must have 1 to {count_max}",
            field="backoff.delays",
        )
    return admin_pb2.Backoff(
        delays_ms=[
            span_ms(delay, field="backoff", low=0, high=high) for delay in backoff.delays
        ],
        factor=limits.check_range(
            backoff.factor, field="backoff.factor", low=1, high=limits.BACKOFF_FACTOR_MAX
        ),
        cap_ms=0
        if backoff.cap is None
        else span_ms(backoff.cap, field="backoff.cap", low=1, high=high),
        jitter_percent=round(backoff.jitter * 100),
    )


# --- from the wire ----------------------------------------------------------------------------


def backoff_of(wire: admin_pb2.Backoff) -> Backoff:
    """The value of a backoff on the wire."""
    return Backoff(
        tuple(timedelta(milliseconds=each) for each in wire.delays_ms) or (_NOTHING,),
        wire.factor or 1,
        timedelta(milliseconds=wire.cap_ms) if wire.cap_ms else None,
        wire.jitter_percent / 100,
    )


def known_of(wire: admin_pb2.Group) -> Group:
    """The value of a group on the wire."""
    holds = wire.effective
    own = {name.removesuffix("_ms") for name in _own_names(wire.settings)}
    return Group(
        topic=wire.topic,
        name=wire.name,
        start=offset.to_datetime(wire.start_ms) if wire.start_ms else None,
        created_at=offset.to_datetime(wire.created_ms),
        ack_timeout=timedelta(milliseconds=holds.ack_timeout_ms),
        max_deliveries=holds.max_deliveries,
        backoff=backoff_of(holds.backoff),
        own=frozenset(own),
    )


def _own_names(settings: admin_pb2.GroupSettings) -> list[str]:
    return [field.name for field, _ in settings.ListFields()]


def stored_of(wire: admin_pb2.StoredMessage) -> StoredMessage:
    """The value of a stored message on the wire."""
    return StoredMessage(
        partition=wire.partition,
        offset=wire.offset.hex(),
        index=wire.index,
        due_at=offset.to_datetime(wire.due_ms),
        produced_at=offset.to_datetime(wire.produced_ms),
        size_bytes=wire.size_bytes,
        message=_message_of(wire.message) if wire.message else None,
    )


def letter_of(wire: admin_pb2.StoredDeadLetter) -> StoredDeadLetter:
    """The value of a dead letter on the wire."""
    return StoredDeadLetter(
        letter=stored_of(wire.letter),
        group=wire.group,
        channel=wire.channel,
        attempts=wire.attempts,
        reason=wire.reason,
        original_offset=wire.original_offset.hex(),
    )


def count_of(wire: admin_pb2.CountDeadLettersReply) -> DeadLetterCount:
    """The value of a count on the wire."""
    groups = {(each.group, each.channel): each.count for each in wire.groups}
    return DeadLetterCount(wire.count, wire.size_bytes, groups)


def pending_of(wire: admin_pb2.CountPendingReply) -> Pending:
    """The value of a count on the wire."""
    due_ms = wire.next_due_ms
    return Pending(
        wire.count, wire.is_lower_bound, offset.to_datetime(due_ms) if due_ms else None
    )


def _message_of(raw: bytes) -> Message:
    wire = broker_pb2.Message.FromString(raw)
    headers = {each.name: each.value for each in wire.headers}
    return Message(wire.value, wire.key, wire.clustering_key, headers, wire.id)


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """
    A node of a cluster; addresses are host:port, the last one empty without HTTP. `version` is
    that of Sandglass. `durability` is `always` if its engine syncs what it acknowledges,
    `unknown` if that can't be seen, and empty if the node didn't answer.
    """

    name: str
    grpc_address: str
    http_address: str
    is_alive: bool
    is_drained: bool = False
    version: str = ""
    durability: str = ""


@dataclass(frozen=True, slots=True)
class ClusterReplica:
    """
    What a node holds of a partition: `position` in records, and `lag_count`, how many the
    leader has beyond it; None where one of the two didn't answer, as `state` is empty then.
    """

    node: str
    state: str
    position: int
    lag_count: int | None


@dataclass(frozen=True, slots=True)
class ClusterPartition:
    """
    A partition of a topic. `leader` is empty while none leads; `replicas` are nodes, the one
    that should lead first, and `held` says how far each is. One with a single replica is led by
    the node on which it lives, and `held` is empty.
    """

    topic: str
    partition: str
    leader: str
    epoch: int
    replicas: tuple[str, ...]
    held: tuple[ClusterReplica, ...] = ()

    def held_by(self, node: str) -> ClusterReplica | None:
        """What a node holds of it; None if nothing."""
        return next((each for each in self.held if each.node == node), None)


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """
    A cluster, as its nodes know it. `cluster_id` is empty where there is none; `trouble` says
    why the node that was asked has not joined. Without a quorum nothing that the members agree
    on can be changed.
    """

    cluster_id: str
    trouble: str
    nodes: tuple[ClusterNode, ...]
    partitions: tuple[ClusterPartition, ...]
    warnings: tuple[str, ...]
    has_quorum: bool = False

    @property
    def durability(self) -> str:
        """`always` if all nodes that are there say so; else `unknown`."""
        said = {node.durability for node in self.nodes if node.is_alive}
        return "always" if said == {"always"} else "unknown"


def cluster_of(wire: admin_pb2.ShowClusterReply) -> ClusterStatus:
    """The value of a cluster on the wire."""
    nodes = tuple(
        ClusterNode(
            each.name,
            each.grpc_address,
            each.http_address,
            each.is_alive,
            each.is_drained,
            each.version,
            each.durability,
        )
        for each in wire.nodes
    )
    partitions = tuple(
        ClusterPartition(
            each.topic,
            each.partition,
            each.leader,
            each.epoch,
            tuple(each.replicas),
            tuple(map(_replica_of, each.held)),
        )
        for each in wire.partitions
    )
    return ClusterStatus(
        wire.cluster_id,
        wire.trouble,
        nodes,
        partitions,
        tuple(wire.warnings),
        wire.has_quorum,
    )


def _replica_of(wire: admin_pb2.ClusterReplica) -> ClusterReplica:
    lag_count = wire.lag_count if wire.HasField("lag_count") else None
    return ClusterReplica(wire.node, wire.state, wire.position, lag_count)


@dataclass(frozen=True, slots=True)
class NodeClock:
    """
    The clock by which a node leads (`now`), and its machine's. A forward `step` of the latter
    that the node doesn't believe yet is believed after `believed_in`, if it stays; both are 0
    where there is none.
    """

    now: datetime
    machine: datetime
    step: timedelta
    believed_in: timedelta


def clock_of(wire: admin_pb2.NodeClock) -> NodeClock:
    """The value of a clock on the wire."""
    return NodeClock(
        offset.to_datetime(wire.now_ms),
        offset.to_datetime(wire.machine_ms),
        timedelta(milliseconds=wire.step_ms),
        timedelta(milliseconds=wire.believed_in_ms),
    )
