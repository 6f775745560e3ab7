"""The third lower bound of the Gromov-Wasserstein loss."""

import math
from dataclasses import dataclass as plain
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.bounds import profile_signatures
from gwsmm.distance.space import (
    Cost,
    Normalisation,
    Quantity,
    marginal_error,
    of_loss,
    space,
    title,
)
from gwsmm.types import STRICT, Cloud, Pair


@plain(frozen=True, eq=False)
class Profiles:
    """The distances that each point sees, [n, bins], and the points' weights [n]."""

    rows: NDArray[np.float64]
    weights: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwTlb:
    """min over couplings T of Σ T[i, j] W2²(C1[i, :], C2[j, :]), rows as distributions.

    W2² in one dimension compares how point i of one cloud and point j of the other see their
    clouds. For fixed i and j, Σ (C1[i, k] − C2[j, l])² T[k, l] is the cost of a coupling of the
    two rows, hence at least their W2²: the bound is below the loss Σ (C1[i, k] − C2[j, l])²
    T[i, j] T[k, l] of every coupling, and at or above the first and the second bound. Rows are
    averaged to `bins` numbers each, so that all W2² are squared Euclidean distances: O(n² (d +
    log n)) per cloud, O(n m bins) and one network simplex, O(n³ log n), per pair. Choose it as
    the tightest of the three, or as a convex stand-in for the loss that has no local minima.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; with `none` the
            spread of the features weighs as much as their shape.
        quantity: `loss`: of the loss; `root`: of its square root; `half_root`: of half the root.
        bins: parts of [0, 1] over which a quantile function is averaged; averages only lower the
            bound, and no longer do where bins are a multiple of both
            clouds' sizes (uniform weights).

    Source: Mémoli (2011), "Gromov-Wasserstein distances and the metric approach to object
    matching", section 6.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    bins: Annotated[int, Field(ge=1)]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return f"{title('GW', self.quantity)}, third lower bound"

    def prepare(self, subject: Cloud) -> Profiles:
        """What each point sees; see `profile_signatures`."""
        whole = space(subject, self.cost, self.normalisation)
        return Profiles(profile_signatures(whole, self.bins), whole.weights)

    def __call__(self, a: Profiles, b: Profiles) -> Pair:
        """The bound for two clouds."""
        from ot.lp import emd
        from scipy.spatial.distance import cdist

        costs = cdist(a.rows, b.rows, "sqeuclidean")
        coupling, log = emd(a.weights, b.weights, costs, numItermax=10**7, log=True)
        value = of_loss(float(log["cost"]), self.quantity)
        converged = log["warning"] is None
        return Pair(
            value,
            converged=converged,
            bound=value if converged else math.nan,  # short of the minimum it bounds nothing
            marginal_error=marginal_error(a.weights, b.weights, coupling),
        )
