"""
A topic that moves to other logs, as the members agree on it, and what its node is to do next.

A *switch* is entered when somebody wants it, and says which node carries it out: who leads
the old logs and the new ones meanwhile. What that node does has steps, each durable. Where
it stands is seen from four things alone, so that it goes on anywhere after a crash:

- the topic in the node's own log: none, served, sealed, or coming
- the cluster's entry of the topic, with its revision
- the switch
- and what is in the logs

The entry's compare-and-set is the switch itself: before it the old logs are the truth, after it
the new ones. A log is sealed for one revision of the entry, and whoever unseals it changes the
entry before. So a compare-and-set that is under way still, from whenever, can't succeed then.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from sandglass.cluster.members import key_part
from sandglass.cluster.placed import Placed, check_version
from sandglass.core.topic import PartitionRef, Topic

SWITCHES: Final = "switch."
SWITCH_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Switch:
    """
    A topic is to move from `source` to `target`, by `node`. Partitions of a target that is a
    node's own log have the number 0: that node gives them others.

    With an `heir` it moves on once it is there: to that node's own log, by another switch.
    """

    node: str
    source: Placed
    target: Placed
    heir: str = ""

    def encode(self) -> bytes:
        """The entry's value: JSON, so that a person can read it."""
        fields = {
            "version": SWITCH_VERSION,
            "node": self.node,
            "source": json.loads(self.source.encode()),
            "target": json.loads(self.target.encode()),
            "heir": self.heir,
        }
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> "Switch":
        """
        Reads an entry's value.

        Raises:
            PreconditionError: a newer program wrote it.
        """
        fields = json.loads(value)
        check_version("its switch", fields["version"], SWITCH_VERSION)
        source, target = (
            Placed.decode(json.dumps(fields[each]).encode()) for each in ("source", "target")
        )
        return cls(fields["node"], source, target, fields.get("heir", ""))


def inward(placed: Placed, home: str) -> Switch:
    """To the log of a node which has a replica of each partition, and leads them meanwhile."""
    orders = tuple(
        (home, *(each for each in names if each != home)) for names in placed.replicas
    )
    refs = tuple(PartitionRef(ref.id, 0) for ref in placed.topic.partitions)
    alone = replace(placed.topic, partitions=refs, replication_factor=1)
    target = Placed(alone, tuple((home,) for _ in refs))
    return Switch(home, replace(placed, replicas=orders), target)


class Act(Enum):
    """What a node does next about a topic."""

    NOTHING = "nothing"
    CARRY_ON = "carry on"
    """Copy, seal, copy the rest, and switch."""
    ARRIVE = "arrive"
    """It was switched to the node's own log: it is served there."""
    LEAVE = "leave"
    """It was switched away, or never came: the node's own log lets go of it."""
    UNSEAL = "unseal"
    """Nothing comes of it: the node's own log serves it again."""
    CLEAR = "clear"
    """It is done, or came to nothing: what is left over goes, and the switch with it."""


def act_of(me: str, own: Topic | None, entry: Placed | None, switch: Switch | None) -> Act:
    """What a node does next; `own` is the topic of its own log, `entry` the cluster's."""
    mine = switch if switch is not None and switch.node == me else None
    is_on_its_way = mine is not None and is_at(entry, mine.source)
    if own is None or not own.is_moving:
        if mine is None:
            return Act.NOTHING
        return Act.CARRY_ON if is_on_its_way else Act.CLEAR
    is_same = entry is not None and ids_of(entry.topic) == ids_of(own)
    is_here = entry is not None and entry.is_at_home and entry.home == me
    if own.is_coming:
        if is_same and is_here:
            return Act.ARRIVE
        # One that has other partitions is left over from a switch that came to nothing.
        return Act.CARRY_ON if is_on_its_way and is_same else Act.LEAVE
    if entry is not None and not is_here and _has_all(ids_of(entry.topic), ids_of(own)):
        return Act.LEAVE
    return Act.CARRY_ON if is_on_its_way else Act.UNSEAL


def is_at(entry: Placed | None, place: Placed) -> bool:
    """Is a topic where `place` says, whatever was changed of its settings?"""
    if entry is None or not has_come(entry, place):
        return False
    return len(entry.topic.partitions) == len(place.topic.partitions)


def has_come(entry: Placed | None, place: Placed) -> bool:
    """As above; it may have got more partitions there."""
    if entry is None or entry.is_at_home is not place.is_at_home:
        return False
    if place.is_at_home:
        is_there = entry.home == place.home
        return is_there and _has_all(ids_of(entry.topic), ids_of(place.topic))
    return _has_all(entry.topic.partitions, place.topic.partitions)


def _has_all(now: Sequence[object], before: Sequence[object]) -> bool:
    """A topic gets more partitions, and loses none."""
    return list(now[: len(before)]) == list(before)


def ids_of(topic: Topic) -> list[str]:
    """Of its partitions: they stay the same wherever it lives."""
    return [ref.id for ref in topic.partitions]


def switch_key(name: str) -> str:
    """The key of a topic's switch."""
    return SWITCHES + key_part(name)
