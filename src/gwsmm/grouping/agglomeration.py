"""Plans that are made by joining groups two at a time."""

from collections.abc import Callable, Sequence
from itertools import combinations

from gwsmm.grouping.candidates import Group
from gwsmm.grouping.partitions import Groups

Cost = Callable[[Sequence[Group]], Sequence[float]]
"""What each of these groups costs; asked once for every group."""


def agglomerated(names: Sequence[str], encoders: int, cost: Cost, beam: int = 1) -> Groups:
    """The cheapest plan that is found by joining two groups at a time until so many are left.

    After every join the `beam` cheapest plans are kept; with one, the two groups are joined whose
    union costs least more than they do. O(N²) groups are asked for at first and O(beam · N) after
    every join. Of equal plans, the first in the order of `names` is taken.
    """
    plans: list[Groups] = [tuple((name,) for name in names)]
    known = dict(zip(plans[0], cost(plans[0]), strict=True))
    for _ in range(len(names) - encoders):
        joined = dict.fromkeys(each for plan in plans for each in _joined(names, plan))
        asked = list(dict.fromkeys(g for plan in joined for g in plan if g not in known))
        known |= dict(zip(asked, cost(asked), strict=True))
        plans = sorted(joined, key=lambda plan: sum(known[group] for group in plan))[:beam]
    return plans[0]


def _joined(names: Sequence[str], plan: Groups) -> list[Groups]:
    """Every plan in which two groups of this one are joined, all in the order of the items."""
    found = []
    for one, other in combinations(plan, 2):
        union = tuple(sorted((*one, *other), key=names.index))
        groups = [*(group for group in plan if group not in (one, other)), union]
        found.append(tuple(sorted(groups, key=lambda group: names.index(group[0]))))
    return found
