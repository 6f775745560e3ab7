"""Exact Gromov-Wasserstein by conditional gradient, as the authors ran it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from gwsmm.types import STRICT, Cloud, InputError, Pair

_MAX_ITERATIONS = 10_000
_TOLERANCE = 1e-9
Metric = Literal["euclidean", "sqeuclidean", "cosine"]
_METRICS: dict[str, Metric] = {
    "euclidean": "euclidean",
    "squared_euclidean": "sqeuclidean",
    "cosine": "cosine",
}
_SCALES: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "mean": np.mean,
    "median": np.median,
    "max": np.max,
}


@plain_dataclass(frozen=True, eq=False)
class Space:
    """A metric measure space: pairwise costs [n, n] and weights [n]."""

    costs: NDArray[np.float64]
    weights: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwExact:
    """min over couplings T of Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l].

    Solved by POT's conditional gradient (network simplex inside, exact line search) from the
    product coupling. The problem is not convex: the value is that of a local minimum. Costs
    O(n³ log n) per iteration and O(n²) memory; for clouds of up to about a thousand points.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; `none` lets the
            spread of the features dominate, as published.
        quantity: `loss`: the objective (published); `root`: its square root, a metric on clouds;
            `half_root`: half the root, which POT's documentation calls the distance.

    Source: Peyré, Cuturi and Solomon (2016), eq. 7; POT `ot.gromov.gromov_wasserstein`; the
    authors' `gw_distance_AIED.ipynb`.
    """

    cost: Literal["euclidean", "squared_euclidean", "cosine"]
    normalisation: Literal["none", "mean", "median", "max"]
    quantity: Literal["loss", "root", "half_root"]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return {"loss": "GW loss", "root": "GW root", "half_root": "half GW root"}[self.quantity]

    def prepare(self, cloud: Cloud) -> Space:
        """The cloud's cost matrix, computed once per item.

        Raises:
            InputError: a feature is not finite.
        """
        from scipy.spatial.distance import cdist

        wrong = ~np.isfinite(cloud.points).all(axis=1)
        if wrong.any():
            raise InputError(
                f"item {cloud.name!r}: the features of response {int(wrong.argmax())} are not "
                "finite; its encoder diverged in fine-tuning: lower finetune.learning_rate"
            )
        costs = cdist(cloud.points, cloud.points, _METRICS[self.cost])
        if not np.isfinite(costs).all():  # the solver would call such clouds equal
            raise InputError(
                f"item {cloud.name!r}: the {self.cost} cost between its features is not finite, "
                "as the cosine of a zero vector is not: set distance.cost=euclidean"
            )
        return Space(costs / self._scale(costs), cloud.weights)

    def __call__(self, a: Space, b: Space) -> Pair:
        """The quantity between two spaces."""
        from ot.gromov import gromov_wasserstein

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # POT warns of what `converged` says
            _, log = gromov_wasserstein(
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
        loss = max(0.0, float(log["gw_dist"]))
        iterations = len(log["loss"]) - 1
        return Pair(self._of_loss(loss), iterations < _MAX_ITERATIONS, iterations)

    def _scale(self, costs: NDArray[np.float64]) -> float:
        if self.normalisation == "none":
            return 1.0
        return float(_SCALES[self.normalisation](costs)) or 1.0  # all points in one place

    def _of_loss(self, loss: float) -> float:
        root = float(np.sqrt(loss))
        return {"loss": loss, "root": root, "half_root": root / 2}[self.quantity]
