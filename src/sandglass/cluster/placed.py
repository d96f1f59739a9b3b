"""A topic's entry in what the members of a cluster agree on, as a value and as bytes."""

import json
from dataclasses import dataclass
from typing import Final

from sandglass.cluster.members import key_part
from sandglass.core.machine import decode_topic, encode_topic
from sandglass.core.topic import Topic
from sandglass.errors import PreconditionError

TOPICS: Final = "topic."
PLACED_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A topic, and for each partition the members that hold it, the first to lead first."""

    topic: Topic
    replicas: tuple[tuple[str, ...], ...]

    @property
    def is_at_home(self) -> bool:
        """It has one replica: it lives in the own log of the node that it names."""
        return self.topic.replication_factor == 1

    @property
    def home(self) -> str:
        """The first of them all: of a topic with one replica, where it lives."""
        return self.replicas[0][0]

    def encode(self) -> bytes:
        """The entry's value: JSON, so that a person can read it."""
        fields = {
            "version": PLACED_VERSION,
            "topic": json.loads(encode_topic(self.topic)),
            "replicas": self.replicas,
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> "Placed":
        """
        Reads an entry's value.

        Raises:
            PreconditionError: a newer program wrote it.
        """
        fields = json.loads(value)
        if fields["version"] > PLACED_VERSION:
            raise PreconditionError(
                f"its entry is of version {fields['version']}, this program knows up to"
                f" {PLACED_VERSION}: start the newer version"
            )
        topic = decode_topic(json.dumps(fields["topic"]).encode())
        return cls(topic, tuple(map(tuple, fields["replicas"])))


def topic_key(name: str) -> str:
    """The key of a topic's entry."""
    return TOPICS + key_part(name)
