"""All partitions of items into groups of given sizes, and random ones."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from math import factorial, prod

import numpy as np

from gwsmm.grouping.candidates import Group

Groups = tuple[Group, ...]


def sizes_of(groups: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """The sizes of groups, the largest first."""
    return tuple(sorted((len(group) for group in groups), reverse=True))


def count(sizes: Sequence[int]) -> int:
    """How many partitions have groups of these sizes."""
    alike = prod(factorial(of) for of in Counter(sizes).values())
    return factorial(sum(sizes)) // (prod(factorial(size) for size in sizes) * alike)


def every(names: Sequence[str], sizes: Sequence[int]) -> Iterator[Groups]:
    """Every partition of the items into groups of these sizes, once."""
    if not names:
        yield ()
        return
    first, rest = names[0], names[1:]
    for size in sorted(set(sizes), reverse=True):
        left = list(sizes)
        left.remove(size)
        for others in combinations(rest, size - 1):
            remaining = [name for name in rest if name not in others]
            for groups in every(remaining, left):
                yield ((first, *others), *groups)


@lru_cache(maxsize=1 << 16)
def fit(sizes: tuple[int, ...], rooms: tuple[int, ...]) -> bool:
    """Whether groups can be put whole into rooms, as many into one as it holds.

    Args:
        sizes: of the groups, the largest first.
        rooms: how many items each holds, in ascending order.
    """
    if not sizes:
        return True
    if sum(room for room in rooms if room >= sizes[-1]) < sum(sizes):
        return False
    first, rest = sizes[0], sizes[1:]
    if first == 1:
        return True
    for at, room in enumerate(rooms):
        if room >= first and room not in rooms[:at]:  # rooms of one size are alike
            left = tuple(sorted((*rooms[:at], room - first, *rooms[at + 1 :])))
            if fit(rest, left):
                return True
    return False


def drawn(names: Sequence[str], sizes: Sequence[int], random: np.random.Generator) -> Groups:
    """A partition of the items into groups of these sizes, all of them equally likely."""
    order = iter([names[i] for i in random.permutation(len(names))])
    return tuple(tuple(next(order) for _ in range(size)) for size in sizes)
