"""Hierarchical clustering of the items by their distances."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, Distances, InputError, Plan, partition

Method = Literal["average", "single", "complete"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Linkage:
    """Agglomerative clustering on 1 − similarity, cut at a number of groups or at a height.

    Attributes:
        method: distance between groups; `average` is published.
        encoders: exactly this many groups remain.
        threshold: groups are merged up to this dissimilarity, in [0, 1] of the largest distance.
            Exactly one of `encoders` and `threshold` is given.

    Source: the merge-plan function of the authors' `gw_distance_AIED.ipynb`; scipy.
    """

    method: Method
    encoders: Annotated[int, Field(ge=1)] | None
    threshold: Annotated[float, Field(ge=0, le=1)] | None

    def __post_init__(self) -> None:
        if (self.encoders is None) == (self.threshold is None):
            raise ValueError(
                "give either `encoders` or `threshold` and set the other to null, "
                f"not encoders={self.encoders} and threshold={self.threshold}"
            )

    def check(self, names: Sequence[str]) -> None:
        """Refuse more encoders than items; see `Grouping`."""
        check_encoders(self.encoders, names)

    def __call__(self, distances: Distances) -> Plan:
        """Cluster the items by their distances."""
        dissimilarity = 1 - distances.similarity()
        source = f"{self.method} linkage of the {distances.quantity}"
        return cut(dissimilarity, distances.names, self, source)


def check_encoders(encoders: int | None, names: Sequence[str]) -> None:
    """Refuse more encoders than there are items.

    Raises:
        InputError: there are too few items.
    """
    if encoders is not None and encoders > len(names):
        raise InputError(
            f"grouping.encoders={encoders}: there are only {len(names)} items, and every encoder "
            f"needs one: give at most {len(names)}"
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
    """
    from scipy.cluster.hierarchy import cut_tree, fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(names) == 1:
        return partition([names], names, source)
    tree = linkage(squareform(dissimilarity, checks=False), rule.method)
    if rule.threshold is not None:
        numbers = fcluster(tree, rule.threshold, "distance").tolist()
    else:
        # cut_tree gives exactly this many groups, also where heights are tied; fcluster does not.
        numbers = cut_tree(tree, n_clusters=[rule.encoders or 1]).ravel().tolist()
    groups = [
        [name for name, own in zip(names, numbers, strict=True) if own == number]
        for number in sorted(set(numbers))
    ]
    return partition(groups, names, source)
