"""
Random histories of a node in virtual time: none may break an invariant, and each rule of the
core is taken out once, to see that its absence is noticed.
"""

import pytest

from sandglass.testing.rules import RULES, without
from sandglass.testing.simulate import find_violation
from sandglass.testing.simulation import simulate

SEED_COUNT = 300
PART_COUNT = 10
FIRST_SEED = {
    "applied": 58,
    "clamp": 19,
    "closed": 10,
    "going": 49,
    "retry-bound": 10,
    "start-shifts": 62,
    "voiding": 258,
}
"""Where the search for a history that misses a rule begins, if it isn't 0, to be quick."""

FOUND_WITHIN = 40
"""Seeds."""


@pytest.mark.parametrize("part", range(PART_COUNT))
def test_no_history_breaks_an_invariant(part: int) -> None:
    each = SEED_COUNT // PART_COUNT

    report = find_violation(range(part * each, (part + 1) * each))

    assert report is None, (
        f"python -m sandglass.testing.simulate --seed {report.seed}: {report}"
    )


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_absence_of_a_rule_is_noticed(rule: str) -> None:
    first = FIRST_SEED.get(rule, 0)

    report = find_violation(range(first, first + FOUND_WITHIN), rule)

    assert report is not None, f"nobody misses {rule}"
    # Whatever else breaks is a fault of what stands in for the rule.
    assert report.violation.startswith(("Violation", "AssertionError")), report


def test_a_rule_is_back_when_its_context_ends() -> None:
    before = simulate(5)

    with without("done"):
        assert simulate(5).violation

    assert simulate(5) == before


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = simulate(7), simulate(7)

    assert first == second
    assert first.digest != simulate(8).digest


def test_histories_are_rich_enough_to_mean_something() -> None:
    reports = [simulate(seed) for seed in range(16)]

    assert sum(report.crash_count for report in reports) > 10
    assert sum(report.step_count for report in reports) > 10
    assert sum(report.message_count for report in reports) > 1000
    assert sum(report.refused_count for report in reports) > 10
    assert sum(report.deleted_count for report in reports) > 3
    assert sum(report.dropped_count for report in reports) > 5
    assert sum(report.redriven_count for report in reports) > 10
    assert sum(report.purged_count for report in reports) > 5
    assert sum(report.drained_count for report in reports) > 10
    assert sum(report.resumed_count for report in reports) > 3
    assert sum(report.claimed_count for report in reports) > 100
    assert sum(report.rerouted_count for report in reports) > 3
