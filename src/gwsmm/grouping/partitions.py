"""All partitions of items into groups of given sizes, and random ones."""

from collections import Counter
from collections.abc import Iterator, Sequence
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


def drawn(names: Sequence[str], sizes: Sequence[int], random: np.random.Generator) -> Groups:
    """A partition of the items into groups of these sizes, all of them equally likely."""
    order = iter([names[i] for i in random.permutation(len(names))])
    return tuple(tuple(next(order) for _ in range(size)) for size in sizes)
