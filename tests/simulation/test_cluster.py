"""
Random histories of a cluster in virtual time: none may break an invariant, and each rule of the
replicated log is taken out once, to see that its absence is noticed.
"""

import pytest

from sandglass.testing.cluster_rules import CLUSTER_RULES
from sandglass.testing.simulate import CLUSTER, find_violation
from sandglass.testing.simulated_cluster import simulate_cluster

SEED_COUNT = 500
PART_COUNT = 10
FIRST_SEED = {"margin": 40, "stream": 18}
"""Where the search for a history that misses a rule begins, if it isn't 0, to be quick."""

FOUND_WITHIN = 200
"""Seeds. Most are missed within the first ten."""


@pytest.mark.parametrize("part", range(PART_COUNT))
def test_no_history_of_a_cluster_breaks_an_invariant(part: int) -> None:
    each = SEED_COUNT // PART_COUNT

    report = find_violation(range(part * each, (part + 1) * each), kind=CLUSTER)

    assert report is None, (
        f"python -m sandglass.testing.simulate --cluster --seed {report.seed}: {report}"
    )


@pytest.mark.parametrize("rule", sorted(CLUSTER_RULES))
def test_the_absence_of_a_rule_is_noticed(rule: str) -> None:
    first = FIRST_SEED.get(rule, 0)

    report = find_violation(range(first, first + FOUND_WITHIN), rule, CLUSTER)

    assert report is not None, f"nobody misses {rule}"
    # Whatever else breaks is a fault of what stands in for the rule.
    assert report.violation.startswith(("Violation", "AssertionError")), report


def test_the_same_seed_gives_the_same_history_of_a_cluster() -> None:
    first, second = simulate_cluster(7), simulate_cluster(7)

    assert first == second
    assert first.digest != simulate_cluster(8).digest


def test_histories_of_a_cluster_are_rich_enough_to_mean_something() -> None:
    reports = [simulate_cluster(seed) for seed in range(30, 60)]

    assert sum(report.message_count for report in reports) > 1000
    assert sum(report.crash_count for report in reports) > 30
    assert sum(report.epoch_count for report in reports) > 60
    assert sum(report.stale_count for report in reports) > 0
    assert sum(report.early_count for report in reports) > 0
    assert sum(report.restored_count for report in reports) > 5
    assert sum(report.snapshot_count for report in reports) > 30
    assert sum(report.lost_count for report in reports) > 5
    assert sum(report.handed_over_count for report in reports) > 5
    assert sum(report.outdated_count for report in reports) > 0
    assert sum(report.overlapped_count for report in reports) > 500
    assert sum(report.torn_count for report in reports) > 10
    assert sum(report.claimed_count for report in reports) > 3
    assert sum(report.frozen_count for report in reports) > 3
