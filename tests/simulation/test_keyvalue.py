"""
Random histories of a KV topic with crashes: each is linearizable for each key, and the log
gives the same rows again. What would break that is put in once, to see that it is noticed.
"""

from collections.abc import Callable
from itertools import count
from typing import Any
from unittest.mock import patch

import pytest

from sandglass.core import entry, keys
from sandglass.core.record import Delete, Put
from sandglass.core.view import Changes, Overlay
from sandglass.testing.simulated_keys import KeysReport, simulate_keys
from sandglass.testing.simulated_node import SimulatedNode

SEED_COUNT = 80
PART_COUNT = 4
FOUND_WITHIN = 10


def find_violation(seeds: range) -> KeysReport | None:
    return next((report for report in map(simulate_keys, seeds) if report.violation), None)


@pytest.mark.parametrize("part", range(PART_COUNT))
def test_no_history_of_keys_breaks_an_invariant(part: int) -> None:
    each = SEED_COUNT // PART_COUNT

    report = find_violation(range(part * each, (part + 1) * each))

    assert report is None, f"simulate_keys({report.seed}): {report.violation}"


def test_the_same_seed_gives_the_same_history_of_keys() -> None:
    first, second = simulate_keys(3), simulate_keys(3)

    assert first == second
    assert first.digest != simulate_keys(4).digest


def test_histories_of_keys_are_rich_enough_to_mean_something() -> None:
    reports = [simulate_keys(seed) for seed in range(5)]

    assert sum(report.crash_count for report in reports) > 50
    assert sum(report.lost_count for report in reports) > 50
    assert sum(report.read_count for report in reports) > 2000


# --- what must be noticed ---------------------------------------------------------------------

_find, _apply_delete, _append = entry.find, entry.apply_delete, SimulatedNode.append


def _first_stays(partition: int, put: Put, changes: Changes) -> None:
    prefix = keys.entries_prefix(partition, put.channel)
    for place, (key, message) in enumerate(zip(put.keys, put.messages, strict=True)):
        columns = keys.entry_columns(put.first_index + place, put.produced_ms)
        changes.rows.setdefault(keys.entry_key(prefix, key), columns + message)


def _always_existed(partition: int, delete: Delete, scratch: Overlay) -> list[bool]:
    return [True for _ in _apply_delete(partition, delete, scratch)]


def _delete_nothing(partition: int, delete: Delete, scratch: Overlay) -> list[bool]:
    return [False] * len(delete.keys)


def _find_written(partition: int, channel: str, key: Any, view: Any) -> Any:
    """Past what is applied and not yet in the store."""
    return _find(partition, channel, key, view.below)


def _answer_undurable(self: SimulatedNode) -> bool:
    is_started = _append(self)
    for waiting in self.syncing if is_started else ():
        if waiting.done is not None and isinstance(waiting.record.operations[0], Put):
            waiting.done()
            waiting.done = None
    return is_started


_numbers = count(1)


def _columns_by_chance(revision: int, produced_ms: int) -> bytes:
    return keys._ENTRY.pack(0, revision, next(_numbers))


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (entry, "apply_put", _first_stays),
        (entry, "apply_delete", _always_existed),
        (entry, "apply_delete", _delete_nothing),
        (entry, "find", _find_written),
        (SimulatedNode, "append", _answer_undurable),
        (keys, "entry_columns", _columns_by_chance),
        (keys, "entry_key", lambda prefix, key: prefix + key[0] + b"\0" + key[1]),
        (keys, "entry_key", lambda prefix, key: prefix + key[0] + b"\0\0" + key[1]),
    ],
)
def test_what_breaks_an_invariant_of_keys_is_noticed(
    owner: object, name: str, wrong: Callable[..., Any]
) -> None:
    with patch.object(owner, name, wrong):
        report = find_violation(range(FOUND_WITHIN))

    assert report is not None, f"nobody misses {name}"
