"""Topics, the groups of a topic, and the settings of both: values only."""

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

from sandglass.core import backoff, limits
from sandglass.core.backoff import AT_ONCE, Backoff


class TopicKind(IntEnum):
    """How a topic is ordered."""

    TIMER = 0
    KV = 1


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What may be set per topic; times in ms."""

    retention_ms: int = limits.RETENTION_MS_DEFAULT
    ack_timeout_ms: int = limits.ACK_TIMEOUT_MS_DEFAULT
    max_deliveries: int = limits.MAX_DELIVERIES_DEFAULT
    backoff: Backoff = AT_ONCE

    def check(self) -> None:
        """
        Raises:
            InvalidError: a value outside its range.
        """
        limits.check_range(
            self.retention_ms,
            field="retention_ms",
            low=limits.RETENTION_MS_MIN,
            high=limits.RETENTION_MS_MAX,
        )
        limits.check_range(
            self.ack_timeout_ms,
            field="ack_timeout_ms",
            low=limits.ACK_TIMEOUT_MS_MIN,
            high=limits.LEASE_MS_MAX,
        )
        limits.check_range(
            self.max_deliveries,
            field="max_deliveries",
            low=1,
            high=limits.MAX_DELIVERIES_MAX,
        )
        self.backoff.check()

    @classmethod
    def of_fields(cls, found: dict[str, Any]) -> "TopicSettings":
        """Settings as JSON has them."""
        values = dict(found)
        if "backoff" in found:  # else it is of before there was one
            values["backoff"] = backoff.from_fields(found["backoff"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """What a group has of its own; None is as its topic has it."""

    ack_timeout_ms: int | None = None
    max_deliveries: int | None = None
    backoff: Backoff | None = None

    def over(self, topic: TopicSettings) -> TopicSettings:
        """What holds for the group: its own settings, else those of its topic."""
        return TopicSettings(
            topic.retention_ms,
            topic.ack_timeout_ms if self.ack_timeout_ms is None else self.ack_timeout_ms,
            topic.max_deliveries if self.max_deliveries is None else self.max_deliveries,
            topic.backoff if self.backoff is None else self.backoff,
        )

    def changed(self, change: "GroupSettings", unset: tuple[str, ...]) -> "GroupSettings":
        """These with what `change` has; those in `unset` are the topic's again."""
        found: dict[str, Any] = {
            each.name: None
            if each.name in unset
            else getattr(self if getattr(change, each.name) is None else change, each.name)
            for each in fields(self)
        }
        return GroupSettings(**found)

    @classmethod
    def of_fields(cls, found: dict[str, Any]) -> "GroupSettings":
        """Settings as JSON has them."""
        own = found["backoff"]
        values: dict[str, Any] = {**found, "backoff": own and backoff.from_fields(own)}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class PartitionRef:
    """A partition: its public id (sandflake text), and its number in the keys of this node."""

    id: str
    number: int
    store: int = 0


@dataclass(frozen=True, slots=True)
class Topic:
    """
    A topic as the catalog holds it. `created_ms` is Unix time.

    While one `is_moving`, nobody is served from the log that says so: it is on its way to
    another (`seal`), or from another to this one (`is_coming`).
    """

    name: str
    kind: TopicKind
    partitions: tuple[PartitionRef, ...]
    replication_factor: int = 1
    created_ms: int = 0
    settings: TopicSettings = field(default_factory=TopicSettings)
    seal: int = 0
    """Revision of the cluster's entry of the topic for which the log is sealed: it stays so for
    as long as the entry has that revision. 0: it isn't."""
    is_coming: bool = False
    """Its rows are being copied to this log."""

    @property
    def is_moving(self) -> bool:
        """Nobody is served from this log."""
        return self.seal != 0 or self.is_coming


@dataclass(frozen=True, slots=True)
class TopicGroup:
    """
    A group as the catalog holds it: for all partitions and channels of its topic.

    `start_ms` is Unix time, 0 for the beginning: where the group begins in a partition that it
    reaches later. While `is_going`, its parts are being deleted, and nobody can read it.
    """

    topic: str
    name: str
    start_ms: int = 0
    created_ms: int = 0
    settings: GroupSettings = field(default_factory=GroupSettings)
    is_going: bool = False
