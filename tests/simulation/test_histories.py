"""
Random histories of a node in virtual time: none may break an invariant, and each rule of the
core is taken out once, to see that its absence is noticed.
"""

import pytest

from sandglass.testing.simulate import RULES, find_violation
from sandglass.testing.simulation import simulate

SEED_COUNT = 160
PART_COUNT = 8
FOUND_WITHIN = dict.fromkeys(RULES, 60) | {"applied": 0}
"""
Seeds within which a history without the rule goes wrong. `applied` needs a crash while the
clock stands back, in the very millisecond: `make simulate ARGS='--without applied'` looks for
longer.
"""


@pytest.mark.parametrize("part", range(PART_COUNT))
def test_no_history_breaks_an_invariant(part: int) -> None:
    each = SEED_COUNT // PART_COUNT

    report = find_violation(range(part * each, (part + 1) * each))

    assert report is None, (
        f"python -m sandglass.testing.simulate --seed {report.seed}: {report}"
    )


@pytest.mark.parametrize("rule", [rule for rule, count in FOUND_WITHIN.items() if count])
def test_the_absence_of_a_rule_is_noticed(rule: str) -> None:
    report = find_violation(range(FOUND_WITHIN[rule]), rule)

    assert report is not None, f"nobody misses {rule}"


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = simulate(7), simulate(7)

    assert first == second
    assert first.digest != simulate(8).digest


def test_histories_are_rich_enough_to_mean_something() -> None:
    reports = [simulate(seed) for seed in range(10)]

    assert sum(report.crash_count for report in reports) > 10
    assert sum(report.step_count for report in reports) > 10
    assert sum(report.message_count for report in reports) > 1000
