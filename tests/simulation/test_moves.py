"""
Random histories of a cluster whose topics move, with its real shell, in virtual time: none may
break an invariant, and rules are taken out, to see that their absence is noticed. More seeds:
`make simulate ARGS=--moves`.
"""

import pytest

from sandglass.testing.moving_rules import MOVING_RULES
from sandglass.testing.simulate import MOVES, find_violation
from sandglass.testing.simulated_moves import simulate_moves

SEEDS = range(4)
FIRST_SEED = {"led-anew": 1}
"""Where the search for a history that misses a rule begins, if it isn't 0, to be quick."""

FOUND_WITHIN = 24
"""Seeds; most are missed in the first."""

MOST_DANGEROUS = ("gone", "last-copy", "sealed")
"""Without them messages are lost, or handed out twice, whenever a topic moves."""

RULES = [
    pytest.param(rule, marks=() if rule in MOST_DANGEROUS else pytest.mark.fault)
    for rule in sorted(MOVING_RULES)
]


def test_no_history_of_topics_that_move_breaks_an_invariant() -> None:
    reports = [simulate_moves(seed) for seed in SEEDS]

    for report in reports:
        assert not report.violation, (
            f"python -m sandglass.testing.simulate --moves --seed {report.seed}: {report}"
        )
    assert sum(report.message_count for report in reports) > 500
    assert sum(report.crash_count for report in reports) > 8
    assert sum(report.moved_count for report in reports) > 4
    assert sum(report.sealed_count for report in reports) > 4
    assert sum(report.claimed_count for report in reports) > 100
    assert sum(report.rerouted_count for report in reports) > 50
    assert sum(report.letter_count for report in reports) > 20
    assert sum(report.entry_count for report in reports) > 400
    assert sum(report.sought_count for report in reports) > 10
    assert sum(report.redriven_count for report in reports) > 20
    assert sum(report.purged_count for report in reports) > 5
    assert sum(report.cut_count for report in reports) > 10
    assert simulate_moves(SEEDS[0]) == reports[0]


@pytest.mark.parametrize("rule", RULES)
def test_the_absence_of_a_rule_of_moving_is_noticed(rule: str) -> None:
    first = FIRST_SEED.get(rule, 0)

    report = find_violation(range(first, first + FOUND_WITHIN), rule, MOVES)

    assert report is not None, f"nobody misses {rule}"
    # Whatever else breaks is a fault of what stands in for the rule.
    assert report.violation.startswith(("Violation", "AssertionError")), report
