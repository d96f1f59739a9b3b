"""
Which members hold the replicas of a partition, when their number or one of them changes.

Who stays keeps its place in the order, so that leaders stay where they are; who comes stands
behind, and is the one that holds the fewest so far.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from sandglass.cluster.placed import Placed


def held_counts(placed: Iterable[Placed]) -> Counter[str]:
    """How many replicas each member holds."""
    return Counter(name for each in placed for names in each.replicas for name in names)


def with_factor(
    names: Sequence[str], factor: int, able: Collection[str], held: Counter[str]
) -> tuple[str, ...]:
    """
    So many replicas of a partition that these members hold now, the first to lead first. Where
    some go, those that are not `able` go first, and then the last ones.

    Args:
        able: who may get replicas; `factor` of them at least where more are wanted.
        held: is counted on, for the next partition.
    """
    kept = [name for name in names if name in able]
    rest = [name for name in names if name not in able]
    # One that is away for a while keeps its replica where nothing has to go.
    stay = {*kept[:factor], *rest[: max(0, factor - len(kept))]}
    found = [name for name in names if name in stay]
    while len(found) < factor:
        heir = fewest((name for name in able if name not in found), held)
        found.append(heir)
    return tuple(found)


def fewest(names: Iterable[str], held: Counter[str]) -> str:
    """Of these the one that holds the fewest replicas; it counts as holding one more."""
    heir = min(names, key=lambda name: (held[name], name))
    held[heir] += 1
    return heir
