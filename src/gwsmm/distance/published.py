"""Gromov-Wasserstein as the authors ran it."""

import warnings
from typing import ClassVar

from pydantic.dataclasses import dataclass

from gwsmm.distance.space import (
    Cost,
    Normalisation,
    Quantity,
    Space,
    marginal_error,
    of_loss,
    space,
    title,
)
from gwsmm.types import STRICT, Cloud, Pair

_MAX_ITERATIONS = 10_000
_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Published:
    """min over couplings T of Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l], from one start.

    POT's conditional gradient (network simplex inside, exact line search) from the product
    coupling. The problem is not convex: the value is that of one local minimum, up to several
    times the least one. O(n³ log n) per iteration, O(n²) memory. Choose it to reproduce the paper.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; `none` lets the
            spread of the features dominate, as published.
        quantity: `loss`: the objective (published); `root`: its square root, a metric on clouds;
            `half_root`: half the root, which POT's documentation calls the distance.

    Source: Peyré, Cuturi and Solomon (2016), eq. 7; POT `ot.gromov.gromov_wasserstein`; the
    authors' `gw_distance_AIED.ipynb`.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("GW", self.quantity)

    def prepare(self, subject: Cloud) -> Space:
        """The cloud's cost matrix; see `space`."""
        return space(subject, self.cost, self.normalisation)

    def __call__(self, a: Space, b: Space) -> Pair:
        """The quantity between two spaces."""
        from ot.gromov import gromov_wasserstein

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # POT warns of what `converged` says
            plan, log = gromov_wasserstein(
                a.costs,
                b.costs,
                a.weights,
                b.weights,
                "square_loss",
                symmetric=True,
                max_iter=_MAX_ITERATIONS,
                tol_rel=_TOLERANCE,
                tol_abs=_TOLERANCE,
                log=True,
            )
        iterations = len(log["loss"]) - 1
        return Pair(
            of_loss(float(log["gw_dist"]), self.quantity),
            converged=iterations < _MAX_ITERATIONS,
            iterations=iterations,
            marginal_error=marginal_error(a.weights, b.weights, plan),
        )
