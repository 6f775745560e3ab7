"""What Gromov-Wasserstein compares: the distances within each cloud, on a common scale."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gwsmm.types import Cloud, InputError

Array = NDArray[np.float64]
Cost = Literal["euclidean", "squared_euclidean", "cosine"]
Normalisation = Literal["none", "mean", "median", "max"]
Quantity = Literal["loss", "root", "half_root"]

_METRICS: dict[str, Literal["euclidean", "sqeuclidean", "cosine"]] = {
    "euclidean": "euclidean",
    "squared_euclidean": "sqeuclidean",
    "cosine": "cosine",
}
_SCALES: dict[str, Callable[[Array], float]] = {
    "mean": np.mean,
    "median": np.median,
    "max": np.max,
}


@dataclass(frozen=True, eq=False)
class Space:
    """A metric measure space: pairwise costs [n, n] and weights [n] that sum to one."""

    costs: Array
    weights: Array


def space(cloud: Cloud, cost: Cost, normalisation: Normalisation) -> Space:
    """The cloud's costs: `cosine` is one minus the cosine; divided by their mean, median or max.

    Raises:
        InputError: a feature is not finite.
    """
    from scipy.spatial.distance import pdist, squareform

    check_finite(cloud)
    costs = squareform(pdist(cloud.points, _METRICS[cost]))
    if not np.isfinite(costs).all():  # a solver would call such clouds equal
        raise InputError(
            f"item {cloud.name!r}: the {cost} cost between its features is not finite, "
            "as the cosine of a zero vector is not: set distance.cost=euclidean"
        )
    scale = 1.0 if normalisation == "none" else float(_SCALES[normalisation](costs))
    return Space(costs / (scale or 1.0), cloud.weights)  # zero: all points in one place


def check_finite(cloud: Cloud) -> None:
    """Refuse features that are not finite.

    Raises:
        InputError: names the item and the response.
    """
    wrong = ~np.isfinite(cloud.points).all(axis=1)
    if wrong.any():
        raise InputError(
            f"item {cloud.name!r}: the features of response {int(wrong.argmax())} are not "
            "finite; its encoder diverged in fine-tuning: lower finetune.learning_rate"
        )


def marginal_error(p: Array, q: Array, coupling: Any) -> float:
    """The largest deviation of a dense or sparse coupling's sums from the weights."""
    rows, columns = coupling.sum(axis=1) - p, coupling.sum(axis=0) - q
    return float(max(np.abs(rows).max(), np.abs(columns).max()))


def of_loss(loss: float, quantity: Quantity) -> float:
    """The quantity that belongs to a loss, which rounding may have taken below zero."""
    root = float(np.sqrt(max(0.0, loss)))
    return {"loss": max(0.0, loss), "root": root, "half_root": root / 2}[quantity]


def title(name: str, quantity: Quantity) -> str:
    """The quantity's own name: `GW loss`, `GW root` or `half GW root`."""
    return {"loss": f"{name} loss", "root": f"{name} root", "half_root": f"half {name} root"}[
        quantity
    ]
