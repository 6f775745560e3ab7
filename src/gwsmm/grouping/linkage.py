"""Hierarchical clustering of the items by their distances."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, permutations
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.grouping.candidates import Candidates
from gwsmm.grouping.partitions import fit
from gwsmm.types import STRICT, Distances, InputError, Item, Plan, partition

Method = Literal["average", "single", "complete", "ward"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Linkage:
    """Agglomerative clustering on 1 − similarity, cut at a number of groups or at a height.

    Attributes:
        method: distance between groups; `average` is published. `ward` joins what adds least to the
            squared distances from the groups' centres, and is refused where the items cannot be
            points of a Euclidean space at these distances.
        encoders: exactly this many groups remain.
        threshold: groups are merged up to this dissimilarity, in [0, 1] of the largest distance;
            of `ward`, whose heights grow with the groups, as scipy has it.
        storage: this share of the encoders remains, rounded down. All count as equally large, and
            what items keep apart (private parts, heads) is not counted, so that the share of bytes
            is another one, which the results say. Exactly one of `encoders`, `threshold` and
            `storage` is given.
        largest: no group is joined beyond so many items, e.g. 2 for pairs, 3 for trios at most,
            nor so that the others could not become few enough; None: no limit.

    Source: the merge-plan function of the authors' `gw_distance_AIED.ipynb`; scipy.
    """

    method: Method
    encoders: Annotated[int, Field(ge=1)] | None
    threshold: Annotated[float, Field(ge=0, le=1)] | None
    storage: Annotated[float, Field(gt=0, le=1)] | None
    largest: Annotated[int, Field(ge=2)] | None

    def __post_init__(self) -> None:
        given = [each for each in (self.encoders, self.threshold, self.storage) if each is not None]
        if len(given) != 1:
            raise ValueError(
                "give one of `encoders`, `threshold` and `storage` and set the others to null, "
                f"not encoders={self.encoders}, threshold={self.threshold} and "
                f"storage={self.storage}"
            )

    def check(self, items: Sequence[Item]) -> None:
        """Refuse more encoders than items, and fewer than one or than the largest groups need."""
        check_encoders(self.encoders, len(items))
        wanted = self.groups_of(len(items))
        if wanted == 0:
            raise InputError(
                f"grouping.storage={self.storage}: not one encoder of {len(items)} fits into that: "
                f"give at least {math.ceil(1000 / len(items)) / 1000}"
            )
        if wanted and self.largest and wanted * self.largest < len(items):
            raise InputError(
                f"grouping.largest={self.largest}: {wanted} encoders for {len(items)} items need "
                f"groups of {-(-len(items) // wanted)}: give so many, or more encoders"
            )

    def groups_of(self, items: int) -> int | None:
        """How many groups of so many items remain; None: that hangs on the distances."""
        if self.storage is not None:
            return int(self.storage * items + 1e-9)
        return self.encoders

    def __call__(self, distances: Distances, candidates: Candidates) -> Plan:
        """Cluster the items by their distances."""
        return self.of(distances)

    def of(self, distances: Distances) -> Plan:
        """The plan, of the distances alone."""
        dissimilarity = 1 - distances.similarity()
        source = f"{self.method} linkage of the {distances.quantity}"
        return cut(dissimilarity, distances.names, self, source)


def into(encoders: int, method: Method) -> Linkage:
    """The linkage into so many groups of any size."""
    return Linkage(method=method, encoders=encoders, threshold=None, storage=None, largest=None)


def check_encoders(encoders: int | None, items: int) -> None:
    """Refuse more encoders than there are items.

    Raises:
        InputError: there are too few items.
    """
    if encoders is not None and encoders > items:
        raise InputError(
            f"grouping.encoders={encoders}: there are only {items} items, and every encoder "
            f"needs one: give at most {items}"
        )


def cut(
    dissimilarity: NDArray[np.float64], names: Sequence[str], rule: Linkage, source: str
) -> Plan:
    """The plan that a linkage of this [N, N] dissimilarity gives.

    Args:
        dissimilarity: symmetric, zero on the diagonal.
        names: of the N items.
        rule: the linkage method, and where the tree is cut.
        source: what the plan says of its origin.

    Raises:
        InputError: Ward's method is asked for where it is not defined.
    """
    if len(names) == 1:
        return partition([names], names, source)
    if rule.method == "ward":
        _check_euclidean(dissimilarity)
    groups = (
        _scipys_groups(dissimilarity, rule)
        if rule.largest is None
        else _limited_groups(dissimilarity, rule, rule.largest)
    )
    return partition([[names[i] for i in group] for group in groups], names, source)


def _check_euclidean(dissimilarity: NDArray[np.float64]) -> None:
    """Refuse what no points of a Euclidean space have as distances, by classical scaling."""
    n = len(dissimilarity)
    centre = np.eye(n) - 1 / n
    eigenvalues = np.linalg.eigvalsh(-0.5 * centre @ dissimilarity**2 @ centre)
    if eigenvalues[0] < -1e-9 * max(eigenvalues[-1], 1e-300):
        raise InputError(
            "grouping.method=ward: the items cannot be points of a Euclidean space at these "
            "distances, so Ward's method is not defined; choose average, single or complete"
        )


def _scipys_groups(dissimilarity: NDArray[np.float64], rule: Linkage) -> list[list[int]]:
    from scipy.cluster.hierarchy import cut_tree, fcluster, linkage
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(dissimilarity, checks=False), rule.method)
    if rule.threshold is not None:
        numbers = fcluster(tree, rule.threshold, "distance").tolist()
    else:
        # cut_tree gives exactly this many groups, also where heights are tied; fcluster does not.
        wanted = rule.groups_of(len(dissimilarity)) or 1
        numbers = cut_tree(tree, n_clusters=[wanted]).ravel().tolist()
    return [
        [i for i, own in enumerate(numbers) if own == number] for number in sorted(set(numbers))
    ]


def _limited_groups(
    dissimilarity: NDArray[np.float64], rule: Linkage, largest: int
) -> list[list[int]]:
    """Join the two nearest groups that may be joined, as scipy does where there is no limit.

    Two may be joined if so few groups as are wanted can still be made of what is there then.
    """
    groups = [[i] for i in range(len(dissimilarity))]
    wanted = rule.groups_of(len(groups))
    rooms = (largest,) * (wanted or len(groups))
    between = _BETWEEN[rule.method]
    while len(groups) > (wanted or 1):
        allowed = _joinable([len(group) for group in groups], rooms)
        pairs = [(a, b) for a, b in combinations(groups, 2) if (len(a), len(b)) in allowed]
        apart = [between(dissimilarity, *pair) for pair in pairs]
        if rule.threshold is not None and (not pairs or min(apart) > rule.threshold):
            break
        one, other = pairs[int(np.argmin(apart))]
        groups = [group for group in groups if group not in (one, other)] + [[*one, *other]]
    return groups


def _joinable(sizes: Sequence[int], rooms: tuple[int, ...]) -> set[tuple[int, int]]:
    """Of groups of these sizes, those of any two whose union leaves all fitting into the rooms."""
    found = set()
    for one, other in {*permutations(sizes, 2)}:
        left = Counter(sizes) - Counter([one, other]) + Counter([one + other])
        if fit(tuple(sorted(left.elements(), reverse=True)), rooms):
            found.add((one, other))
    return found


def _ward(d: NDArray[np.float64], a: list[int], b: list[int]) -> float:
    """√(2 |a| |b| / (|a| + |b|)) times the distance of the centres, as scipy has it."""
    squares = d**2
    own = [squares[np.ix_(group, group)].mean() / 2 for group in (a, b)]
    centres = squares[np.ix_(a, b)].mean() - sum(own)
    return float(np.sqrt(max(0.0, 2 * len(a) * len(b) / (len(a) + len(b)) * centres)))


_BETWEEN: Mapping[str, Callable[[NDArray[np.float64], list[int], list[int]], float]] = {
    "average": lambda d, a, b: float(d[np.ix_(a, b)].mean()),
    "single": lambda d, a, b: float(d[np.ix_(a, b)].min()),
    "complete": lambda d, a, b: float(d[np.ix_(a, b)].max()),
    "ward": _ward,
}
