"""
`python -m sandglass.testing.simulate`: random histories in virtual time, by seed.

    make simulate SEEDS=5000
    python -m sandglass.testing.simulate --seed 17            one history again
    python -m sandglass.testing.simulate --without inflight   with a rule taken out
    python -m sandglass.testing.simulate --cluster            of a cluster, not of one node
    python -m sandglass.testing.simulate --moves              of topics that move in a cluster

Exit code 0 if no history broke an invariant; with `--without`, if one did: a rule whose absence
nobody notices is not tested.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from sandglass.testing.cluster_rules import CLUSTER_RULES
from sandglass.testing.moving_rules import MOVING_RULES
from sandglass.testing.rules import RULES, Rules, without
from sandglass.testing.simulated_cluster import ClusterReport, simulate_cluster
from sandglass.testing.simulated_moves import MovesReport, simulate_moves
from sandglass.testing.simulation import simulate
from sandglass.testing.world import Report

AnyReport = Report | ClusterReport | MovesReport


@dataclass(frozen=True, slots=True)
class Kind:
    """What is simulated, and the rules that can be taken out of it."""

    simulate: Callable[[int], AnyReport]
    rules: Rules


NODE = Kind(simulate, RULES)
CLUSTER = Kind(simulate_cluster, CLUSTER_RULES)
MOVES = Kind(simulate_moves, MOVING_RULES)


def find_violation(seeds: range, rule: str = "", kind: Kind = NODE) -> AnyReport | None:
    """The first history among `seeds` that breaks an invariant, or None."""
    for seed in seeds:
        report = _simulate(seed, rule, kind)
        if report.violation:
            return report
    return None


def _simulate(seed: int, rule: str, kind: Kind) -> AnyReport:
    with without(rule, kind.rules):
        return kind.simulate(seed)


def main() -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Random histories in virtual time.")
    parser.add_argument("--seeds", type=int, default=1000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--seed", type=int, help="this one alone")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--cluster", action="store_true", help="members that share a log")
    kinds.add_argument("--moves", action="store_true", help="topics that move between logs")
    rules = RULES | CLUSTER_RULES | MOVING_RULES
    parser.add_argument(
        "--without",
        choices=sorted(rules),
        default="",
        help="; ".join(f"{name}: {rule[0]}" for name, rule in rules.items()),
    )
    options = parser.parse_args()
    kind = MOVES if options.moves else CLUSTER if options.cluster else NODE
    if options.without and options.without not in kind.rules:
        parser.error(f"{options.without} is no rule of these histories")
    if options.seed is not None:
        report = _simulate(options.seed, options.without, kind)
        print(report)
        return int(bool(report.violation) != bool(options.without))
    started = perf_counter()
    message_count = crash_count = bad_count = 0
    for seed in range(options.first, options.first + options.seeds):
        report = _simulate(seed, options.without, kind)
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
