"""A topic's entry in what the members of a cluster agree on, as a value and as bytes."""

import json
from dataclasses import dataclass
from typing import Final

from sandglass.cluster.members import key_part
from sandglass.core.machine import TOPIC_VERSION, decode_topic, encode_topic
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
        check_version("its entry", fields["version"], PLACED_VERSION)
        check_version("its row", fields["topic"]["version"], TOPIC_VERSION)
        topic = decode_topic(json.dumps(fields["topic"]).encode())
        return cls(topic, tuple(map(tuple, fields["replicas"])))


def check_version(what: str, found: int, known: int) -> None:
    """
    Raises:
        PreconditionError: a newer program wrote it.
    """
    if found > known:
        raise PreconditionError(
            f"{what} is of version {found}, this program knows up to {known}: start the newer"
            " version"
        )


def topic_key(name: str) -> str:
    """The key of a topic's entry."""
    return TOPICS + key_part(name)
