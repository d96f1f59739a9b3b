"""Settings, topics, groups and stored messages, between the wire and the broker."""

from collections.abc import Sequence

from sandglass.broker.clocks import ClockSeen
from sandglass.broker.groups import Start
from sandglass.broker.listing import Page, Place
from sandglass.broker.status import GroupStatus, PartitionStatus
from sandglass.core import limits, offset
from sandglass.core.backoff import Backoff, check_delay_count
from sandglass.core.dead_letter import Selection
from sandglass.core.message import Slice
from sandglass.core.outcome import first_place
from sandglass.core.topic import (
    GroupSettings,
    PartitionRef,
    Topic,
    TopicGroup,
    TopicKind,
    TopicSettings,
)
from sandglass.errors import InvalidError
from sandglass.wire.convert import raw_messages, slice_body
from sandglass.wire.v1 import admin_pb2

_TOKEN_PLACE_BYTES = 4


# --- from the wire ----------------------------------------------------------------------------


def kind_of(number: int) -> TopicKind:
    """
    The kind of a topic, of either protocol: they number them alike.

    Raises:
        InvalidError: there is no such kind.
    """
    return TopicKind(
        limits.check_range(number, field="kind", low=min(TopicKind), high=max(TopicKind))
    )


def changes_of(wire: admin_pb2.TopicSettings) -> dict[str, int | Backoff]:
    """What is set of a topic's settings: 0 is as it was."""
    changes: dict[str, int | Backoff] = {
        name: getattr(wire, name)
        for name in ("retention_ms", "ack_timeout_ms", "max_deliveries")
        if getattr(wire, name)
    }
    if wire.HasField("backoff"):
        changes["backoff"] = backoff_of(wire.backoff)
    return changes


def backoff_of(wire: admin_pb2.Backoff) -> Backoff:
    """
    No delay means 0, and a factor of 0 means 1.

    Raises:
        InvalidError: too many delays; there may be millions, and they are not read.
    """
    check_delay_count(len(wire.delays_ms) or 1)
    return Backoff(
        tuple(wire.delays_ms) or (0,), wire.factor or 1, wire.cap_ms, wire.jitter_percent
    )


def own_settings_of(wire: admin_pb2.GroupSettings) -> GroupSettings:
    """What is set of a group's settings."""
    return GroupSettings(
        wire.ack_timeout_ms if wire.HasField("ack_timeout_ms") else None,
        wire.max_deliveries if wire.HasField("max_deliveries") else None,
        backoff_of(wire.backoff) if wire.HasField("backoff") else None,
    )


def unset_of(names: Sequence[str]) -> tuple[str, ...]:
    """
    Names of settings that are to be the topic's again.

    Raises:
        InvalidError: one is no setting of a group.
    """
    known = admin_pb2.GroupSettings.DESCRIPTOR.fields_by_name
    limits.check_range(len(names), field="count of unset", low=0, high=len(known))
    for name in names:
        if name not in known:
            raise InvalidError(
                f"unset has {name[:40]!r}; it may have {', '.join(known)}", field="unset"
            )
    return tuple(names)


def start_of(wire: admin_pb2.GroupStart) -> Start:
    """Where a group begins."""
    return Start(wire.at_ms, is_now=wire.now)


def selection_of(wire: admin_pb2.DeadLetterFilter) -> Selection:
    """Which dead letters."""
    return Selection(wire.group, wire.channel, wire.reason)


def place_of(token: bytes) -> Place | None:
    """
    Where a page begins; None for the first.

    Raises:
        InvalidError: not a token of ours.
    """
    if not token:
        return None
    at = int.from_bytes(token[: offset.OFFSET_BYTES], "big")
    if len(token) != offset.OFFSET_BYTES + _TOKEN_PLACE_BYTES or at >= offset.MAX:
        raise InvalidError("page_token is not one that an answer gave", field="page_token")
    return Place(at, int.from_bytes(token[offset.OFFSET_BYTES :], "big") - 1)


# --- to the wire ------------------------------------------------------------------------------


def token_of(page: Page) -> bytes:
    """What leads to the next page; empty if there is none."""
    if page.next_place is None:
        return b""
    at, partition = page.next_place
    return offset.to_bytes(at) + (partition + 1).to_bytes(_TOKEN_PLACE_BYTES, "big")


def topic_to_wire(topic: Topic) -> admin_pb2.Topic:
    """A topic with its settings."""
    return admin_pb2.Topic(
        name=topic.name,
        kind=admin_pb2.TopicKind.Name(topic.kind),
        partitions=[partition.id for partition in topic.partitions],
        replication_factor=topic.replication_factor,
        settings=settings_to_wire(topic.settings),
        created_ms=topic.created_ms,
    )


def settings_to_wire(settings: TopicSettings) -> admin_pb2.TopicSettings:
    """All settings of a topic."""
    return admin_pb2.TopicSettings(
        retention_ms=settings.retention_ms,
        ack_timeout_ms=settings.ack_timeout_ms,
        max_deliveries=settings.max_deliveries,
        backoff=backoff_to_wire(settings.backoff),
    )


def backoff_to_wire(backoff: Backoff) -> admin_pb2.Backoff:
    """A backoff, whole."""
    return admin_pb2.Backoff(
        delays_ms=backoff.delays_ms,
        factor=backoff.factor,
        cap_ms=backoff.cap_ms,
        jitter_percent=backoff.jitter_percent,
    )


def group_to_wire(group: TopicGroup, effective: TopicSettings) -> admin_pb2.Group:
    """A group of the catalog, with what holds for it."""
    own = group.settings
    return admin_pb2.Group(
        topic=group.topic,
        name=group.name,
        start_ms=group.start_ms,
        created_ms=group.created_ms,
        settings=admin_pb2.GroupSettings(
            ack_timeout_ms=own.ack_timeout_ms,
            max_deliveries=own.max_deliveries,
            backoff=backoff_to_wire(own.backoff) if own.backoff is not None else None,
        ),
        effective=settings_to_wire(effective),
    )


def partition_to_wire(status: PartitionStatus) -> admin_pb2.PartitionStatus:
    """How a partition stands."""
    return admin_pb2.PartitionStatus(
        id=status.id,
        last_index=status.last_index,
        closed_offset=offset.to_bytes(status.closed_offset),
        channels=status.channels,
    )


def part_to_wire(status: GroupStatus) -> admin_pb2.GroupStatus:
    """How a group stands in one partition and channel."""
    return admin_pb2.GroupStatus(
        topic=status.topic,
        partition=status.partition,
        channel=status.channel,
        group=status.group,
        committed=offset.to_bytes(status.committed),
        consumed=offset.to_bytes(status.consumed),
        lag_count=status.lag_count,
        leased_count=status.leased_count,
        retry_count=status.retry_count,
        acked_count=status.acked_count,
        dead_count=status.dead_count,
        generation=status.generation,
        consumer_count=status.consumer_count,
        redriven_count=status.redriven_count,
        expired_count=status.expired_count,
        skipped_count=status.skipped_count,
    )


def stored_to_wire(
    ref: PartitionRef, part: Slice, *, with_message: bool
) -> admin_pb2.StoredMessage:
    """One message as it is stored."""
    body = slice_body(part.body, part.row_count, part.first, part.count)
    (raw,) = raw_messages(body)
    return admin_pb2.StoredMessage(
        partition=ref.id,
        offset=offset.to_bytes(offset.make(part.due_ms, part.first_index)),
        index=part.first_index,
        due_ms=part.due_ms,
        produced_ms=part.produced_ms,
        size_bytes=len(raw),
        message=raw if with_message else b"",
    )


def letter_to_wire(
    ref: PartitionRef, part: Slice, *, with_message: bool
) -> admin_pb2.StoredDeadLetter:
    """One dead letter, with what it was."""
    origin = part.origin
    assert origin is not None, "another message among the dead letters"
    return admin_pb2.StoredDeadLetter(
        letter=stored_to_wire(ref, part, with_message=with_message),
        group=origin.group,
        channel=origin.channel,
        attempts=origin.attempts,
        reason=origin.reason,
        original_offset=offset.to_bytes(first_place(part)),
    )


def clock_to_wire(seen: ClockSeen) -> admin_pb2.NodeClock:
    """The node's clock."""
    return admin_pb2.NodeClock(
        now_ms=seen.now_ms,
        machine_ms=seen.machine_ms,
        step_ms=seen.step_ms,
        believed_in_ms=seen.believed_in_ms,
    )
