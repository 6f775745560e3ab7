"""Groups that are joined two at a time, always the two whose union costs least."""

from collections.abc import Callable, Sequence
from itertools import combinations

from gwsmm.grouping.candidates import Group

Cost = Callable[[Sequence[Group]], Sequence[float]]
"""What each of these groups costs; asked once for every group."""


def agglomerated(names: Sequence[str], encoders: int, cost: Cost) -> list[Group]:
    """Join the two groups whose union costs least more than they do, until so many are left.

    O(N²) groups are asked for at first and O(N) after every join. Of equal unions, the first in
    the order of `names` is taken.
    """
    groups: list[Group] = [(name,) for name in names]
    known = dict[Group, float]()
    while len(groups) > encoders:
        pairs = list(combinations(groups, 2))
        unions = [union(names, *pair) for pair in pairs]
        ask = [group for group in dict.fromkeys((*groups, *unions)) if group not in known]
        known |= dict(zip(ask, cost(ask), strict=True))
        one, other = min(
            pairs, key=lambda pair: known[union(names, *pair)] - known[pair[0]] - known[pair[1]]
        )
        groups = [group for group in groups if group not in (one, other)]
        groups.append(union(names, one, other))
        groups.sort(key=lambda group: names.index(group[0]))
    return groups


def union(names: Sequence[str], one: Group, other: Group) -> Group:
    """Both groups as one, in the order of the item set."""
    return tuple(sorted((*one, *other), key=names.index))
