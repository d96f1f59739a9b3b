"""
The rules of topics that move, which the simulation must miss, as `rules.py` has a node's.

Nothing of this is in what is simulated: functions are replaced from outside.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sandglass.broker import moving
from sandglass.broker.moving import Written, commit
from sandglass.broker.node_loop import NodeLoop
from sandglass.cluster import reconciling
from sandglass.cluster.catalog import ClusterCatalog
from sandglass.cluster.coming import make_log
from sandglass.cluster.placed import Placed, topic_key
from sandglass.cluster.switch import Switch
from sandglass.cluster.switching import Switching, Way
from sandglass.core import claim, dead_letter, keys
from sandglass.core.machine import encode_topic
from sandglass.core.message import Slice
from sandglass.core.partition import Partition
from sandglass.core.record import PutTopic
from sandglass.core.view import Changes
from sandglass.testing.claim_rules import Rules

Copy = Callable[[Switching, list[Way]], Any]


async def _seal_nothing(self: Switching, name: str, _: object) -> int:
    entry = self._entry(name)
    assert entry is not None
    return entry.revision


def _copy_unsealed(copy: Copy) -> Copy:
    """What has changed between the last copy and the seal stays behind."""

    async def copied(self: Switching, ways: list[Way]) -> int:
        if any(way.source.is_moving(way.number) for way in ways):
            return 0
        return await copy(self, ways)

    return copied


def _is_coming(self: NodeLoop, number: int) -> bool:
    found = self.machine.refs.get(number)
    return found is not None and found[0].is_coming


def _is_sealed(self: NodeLoop, number: int) -> bool:
    found = self.machine.refs.get(number)
    return number in self.sealing or (found is not None and found[0].seal != 0)


async def _switch_whatever(self: Switching, name: str, placed: Placed, _: int) -> bool:
    await self._placement.set(topic_key(name), placed.encode())
    return True


async def _unseal_alone(self: Switching, name: str) -> bool:
    served = replace(self._own.machine.topics[name], seal=0)
    await commit(self._own, PutTopic(name, encode_topic(served)))
    self._published(name)
    return True


def _make_first(begin: Callable[..., Any]) -> Callable[..., Any]:
    """The new logs are there before their switch."""

    async def begun(self: ClusterCatalog, name: str, switch: Switch) -> None:
        topic = switch.target.topic
        for ref in topic.partitions if not switch.target.is_at_home else ():
            await make_log(self, ref.number, topic.replication_factor, epoch=100_000)
        await begin(self, name, switch)

    return begun


def _send_rows(send: Callable[..., Any]) -> Callable[..., Any]:
    """What is there, and not what is gone."""

    async def sent(target: NodeLoop, to: int, changed: moving.Changed) -> None:
        await send(target, to, [each for each in changed if each[1] is not None])

    return sent


def _note_rows(note: Callable[..., None]) -> Callable[..., None]:
    """What is put, and not the ranges in which rows go."""

    def noted(self: Written, changes: Changes) -> None:
        note(self, Changes(changes.rows))

    return noted


def _letters_of(_: Partition, letters: Sequence[Slice]) -> list[Slice]:
    return list(letters)


_WITHOUT_ENTRIES: Any = keys.MOVED_KINDS.replace(b"k", b"")
_SINGLE_WITHOUT_ENTRIES: Any = moving.SINGLE.replace(b"k", b"")
_WITHOUT_RETRIES: Any = keys.MOVED_KINDS.replace(b"r", b"")
_WHOLE_WITHOUT_RETRIES: Any = moving.WHOLE.replace(b"r", b"")


def _never(*_: object) -> bool:
    return False


MOVING_RULES: Rules = {
    "seal": (
        "the old logs are sealed before the last copy",
        lambda: [(Switching, "_seal", _seal_nothing)],
    ),
    "last-copy": (
        "what is left is copied once the old logs are sealed",
        lambda: [(Switching, "_copy", _copy_unsealed(Switching._copy))],
    ),
    "written": (
        "what is written of rows that were compared is compared again",
        lambda: [(Written, "note", lambda *_: None)],
    ),
    "retry-rows": (
        "all kinds of rows are copied, those of retries, say",
        lambda: [
            (keys, "MOVED_KINDS", _WITHOUT_RETRIES),
            (moving, "WHOLE", _WHOLE_WITHOUT_RETRIES),
        ],
    ),
    "entries": (
        "all kinds of rows are copied, those of KV topics, say",
        lambda: [
            (keys, "MOVED_KINDS", _WITHOUT_ENTRIES),
            (moving, "SINGLE", _SINGLE_WITHOUT_ENTRIES),
        ],
    ),
    "gone": (
        "what is gone from the old logs goes from the new ones",
        lambda: [(moving, "_send", _send_rows(moving._send))],
    ),
    "cut": (
        "ranges in which rows went since they were compared are compared again",
        lambda: [(Written, "note", _note_rows(Written.note))],
    ),
    "sought": (
        "what was leased before a group was moved can't be claimed",
        lambda: [(claim, "_is_current", lambda *_: True)],
    ),
    "taken": (
        "a dead letter that is on its way to be taken is not taken again",
        lambda: [(dead_letter, "_free", _letters_of)],
    ),
    "named": (
        "a switch names its new logs before they are made",
        lambda: [(ClusterCatalog, "_begin_switch", _make_first(ClusterCatalog._begin_switch))],
    ),
    "sealed": (
        "nobody is served from a log that is sealed",
        lambda: [(NodeLoop, "is_moving", _is_coming)],
    ),
    "coming": (
        "nobody is served from a log that is being filled",
        lambda: [(NodeLoop, "is_moving", _is_sealed)],
    ),
    "revision": (
        "a topic is switched from the entry on for which its logs are sealed",
        lambda: [(Switching, "_switch_over", _switch_whatever)],
    ),
    "unseal": (
        "who unseals a log has entered its topic anew before",
        lambda: [(Switching, "_unseal", _unseal_alone)],
    ),
    "held": (
        "a replicated log stays sealed for as long as the entry is the one for which it is",
        lambda: [(reconciling, "_is_held", _never)],
    ),
    "led-anew": (
        "what a node leased before it led a partition anew is void",
        lambda: [(Partition, "leads", lambda *_: True)],
    ),
}
"""Name of a rule, what it says, and what to replace to be without it."""
