"""
`python -m sandglass.testing.simulate`: random histories in virtual time, by seed.

    make simulate SEEDS=5000
    python -m sandglass.testing.simulate --seed 17             one history again, with its
    report python -m sandglass.testing.simulate --without inflight    with a rule of the core
    taken out

Exit code 0 if no history broke an invariant; with `--without`, if one did: a rule whose absence
nobody notices is not tested.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

from sandglass.core import dispatch, keys
from sandglass.core.done import DoneRanges
from sandglass.core.group import Group, RetryPart
from sandglass.core.offset import INDEX_BITS
from sandglass.core.partition import Partition
from sandglass.testing.simulation import Report, simulate

Patch = tuple[Any, str, Callable[..., Any]]
"""(where, which name, what stands there instead)."""


def _bound_without_in_flight(partition: Partition) -> int:
    return partition.now_ms << INDEX_BITS | partition.last_index


def _bound_by_assigned(partition: Partition) -> int:
    bound = partition.now_ms << INDEX_BITS | partition.assigned_index
    for landing in partition.in_flight:
        if landing.lowest is not None and landing.lowest <= bound:
            bound = landing.lowest - 1
    return bound


_lead = Partition.lead


def _lead_without_promise(
    partition: Partition, epoch: int, promised: int, wall_ms: int
) -> None:
    _lead(partition, epoch, 0, wall_ms)


_begin_lease = dispatch._begin_lease  # pyright: ignore[reportPrivateUsage]  # taken out below


def _begin_lease_reaching_ahead(
    group: Group,
    consumer: Any,
    slices: Any,
    turn: dispatch.Turn,
    *,
    high: int | None = None,
    retry: RetryPart | None = None,
) -> None:
    _begin_lease(group, consumer, slices, turn, high=high, retry=retry)
    if retry is None:
        prefix = keys.rows_prefix(group.partition, group.channel)
        first = keys.at(prefix, group.cursor)
        for key, _ in turn.view.range(first, keys.after_prefix(prefix)):
            lease = turn.deliveries[-1].lease
            group.cursor = lease.high = keys.row_place(key)[0]
            return


def _retry_end_without_moves(group: Group, steady_ms: int) -> int:
    return steady_ms + 1


def _unclamped(group: Group, until_ms: int) -> int:
    return until_ms


def _skip_nothing(done: DoneRanges, offset: int) -> tuple[int, int | None]:
    return max(offset, done.floor), None


def _no_wait(*_: Any) -> int:
    return 0


RULES: dict[str, Patch] = {
    "inflight": (Partition, "read_bound", _bound_without_in_flight),
    "applied": (Partition, "read_bound", _bound_by_assigned),
    "promise": (Partition, "lead", _lead_without_promise),
    "move": (dispatch, "wait_ms", _no_wait),
    "tile": (dispatch, "_begin_lease", _begin_lease_reaching_ahead),
    "retry-bound": (Group, "retry_end", _retry_end_without_moves),
    "clamp": (Group, "retry_clamp", _unclamped),
    "done": (DoneRanges, "skip", _skip_nothing),
}
"""
Rules of the core that can be taken out, each of which has lost, doubled or hastened messages:
reads stay below what is in flight; the bound goes by applied indexes; a promise counts as
closed; what waits for the clock is moved; tiles never reach ahead; retry scans stay below moves
in flight; a move's due time stays above the retry cursor; what is done is skipped.
"""


@contextmanager
def without(rule: str) -> Iterator[None]:
    """Takes a rule out of the core, for as long as the block lasts."""
    owner, name, instead = RULES[rule]
    original = getattr(owner, name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        setattr(owner, name, original)


def find_violation(seeds: range, rule: str = "") -> Report | None:
    """The first history among `seeds` that breaks an invariant, or None."""
    for seed in seeds:
        report = _simulate(seed, rule)
        if report.violation:
            return report
    return None


def _simulate(seed: int, rule: str) -> Report:
    if not rule:
        return simulate(seed)
    with without(rule):
        try:
            return simulate(seed)
        except Exception as error:  # noqa: BLE001  # a core without a rule may break anyhow
            return replace(Report(seed), violation=f"{type(error).__name__}: {error}")


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Random histories in virtual time.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--without", choices=sorted(RULES), default="", help="take a rule out")
    options = parser.parse_args()
    if options.seed is not None:
        report = _simulate(options.seed, options.without)
        print(report)
        return int(bool(report.violation) != bool(options.without))
    started = perf_counter()
    message_count = crash_count = bad_count = 0
    for seed in range(options.first, options.first + options.seeds):
        report = _simulate(seed, options.without)
        message_count += report.message_count
        crash_count += report.crash_count
        if report.violation:
            bad_count += 1
            print(f"seed {seed}: {report.violation}", flush=True)
    took_s = perf_counter() - started
    print(
        f"{options.seeds} seeds, {message_count} messages, {crash_count} crashes,"
        f" {bad_count} violations in {took_s:.0f} s"
    )
    return int(bool(bad_count) != bool(options.without))


if __name__ == "__main__":
    sys.exit(main())
