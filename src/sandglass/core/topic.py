"""Topics and their settings: values only."""

from dataclasses import dataclass, field
from enum import IntEnum

from sandglass.core import limits


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


@dataclass(frozen=True, slots=True)
class PartitionRef:
    """A partition: its public id (sandflake text), and its number in the keys of this node."""

    id: str
    number: int
    store: int = 0


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the catalog holds it. `created_ms` is Unix time."""

    name: str
    kind: TopicKind
    partitions: tuple[PartitionRef, ...]
    replication_factor: int = 1
    created_ms: int = 0
    settings: TopicSettings = field(default_factory=TopicSettings)
