"""Fused Gromov-Wasserstein: distances within each cloud, and features that all items share."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.space import (
    Cost,
    Normalisation,
    Space,
    check_finite,
    marginal_error,
    of_loss,
    space,
    title,
)
from gwsmm.distance.subjects import CloudWithFeatures
from gwsmm.types import STRICT, Cloud, Pair

NodeFeatures = Literal["embedding", "label_statistics", "label_names"]
FusedQuantity = Literal["loss", "root"]
Start = Literal["product", "wasserstein", "profiles"]
Starts = Annotated[tuple[Start, ...], Field(min_length=1)]
Array = NDArray[np.float64]

_LEVELS = (np.arange(100) + 0.5) / 100  # at which a profile's quantiles are taken
_MAX_ITERATIONS = 10_000
_MAX_PIVOTS = 1_000_000
_TOLERANCE = 1e-9


@plain_dataclass(frozen=True, eq=False)
class FeaturedSpace:
    """A metric measure space with features of its points.

    Attributes:
        space: costs [n, n] and weights [n].
        features: [n, k], in a space common to all items.
        scale: what this cloud gives to the scale of the feature cost; see `common_scale`.
        profiles: [n, 100], quantiles of each point's costs to the others.
    """

    space: Space
    features: Array
    scale: float
    profiles: Array


@plain_dataclass(frozen=True, eq=False)
class Solution:
    """A coupling at which a descent ended, and its objective."""

    plan: Array
    loss: float
    iterations: int
    converged: bool


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwFused:
    """min over T of (1 − α) Σ M[i, j] T[i, j] + α Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l].

    M is the squared Euclidean cost between features in a space that all items share, C1 and C2 the
    distances within the clouds of the items' own encoders. POT's conditional gradient (network
    simplex inside, exact line search) from several starts, of which the least value counts: the
    problem is not convex. O(n³ log n) per iteration and O(n² k) for M, O(n²) memory. Choose it
    where responses that mean the same should be coupled, and not only clouds of the same shape.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max, and then also the
            feature cost by its mean within the two clouds (not cloud by cloud, which would end
            their common space); `none`: neither. In high dimension, where the distances of a cloud
            are nearly equal, the structure term stays the smaller one: raise alpha.
        quantity: `loss`: the objective; `root`: its square root, of which the least over all
            couplings is a metric up to isometry where 0 < alpha < 1 and normalisation is `none`.
        alpha: 0: the features alone (Wasserstein); 1: the distances alone (Gromov-Wasserstein).
        features: of a response: `embedding`: its vector under the pretrained encoder;
            `label_statistics`: share and logarithm of the number of the item's labels that it
            shows; `label_names`: 0 or 1 for every label name of all items, where equal names mean
            the same.
        starts: `product` of the weights; `wasserstein`: the best coupling of the features;
            `profiles`: the best coupling of each point's sorted distances.

    Source: Vayer et al. (2019), Optimal transport for structured data; Vayer et al. (2020), Fused
    Gromov-Wasserstein distance for structured objects; POT `ot.gromov.fused_gromov_wasserstein`.
    Profiles: the third lower bound of Mémoli (2011).
    """

    cost: Cost
    normalisation: Normalisation
    quantity: FusedQuantity
    alpha: Annotated[float, Field(ge=0, le=1)]
    features: NodeFeatures
    starts: Starts

    @property
    def compares(self) -> str:
        """Clouds, with the features that were chosen."""
        return f"clouds_with_{self.features}"

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("FGW", self.quantity)

    def prepare(self, subject: CloudWithFeatures) -> FeaturedSpace:
        """The cloud's cost matrix, features and profiles; see `featured_space`."""
        return featured_space(subject, self.cost, self.normalisation)

    def __call__(self, a: FeaturedSpace, b: FeaturedSpace) -> Pair:
        """The quantity between two clouds with features; its bound is that of the features."""
        a, b = in_order(a, b)
        cost = feature_cost(*common_scale(a, b))
        found = [
            descend(a, b, cost, self.alpha, starting_plan(start, a, b, cost))
            for start in self.starts
        ]
        least = float(np.sum(cost * best_plan(a, b, cost)))
        return as_pair(a, b, found, self.quantity, bound=(1 - self.alpha) * least)


def featured_space(
    subject: CloudWithFeatures, cost: Cost, normalisation: Normalisation
) -> FeaturedSpace:
    """The cloud's costs, as in `space`, with its features and profiles.

    Raises:
        InputError: a point or a feature is not finite.
    """
    cloud = subject.cloud
    check_finite(Cloud(cloud.name, subject.features, cloud.weights))
    structure = space(cloud, cost, normalisation)
    # The mean of |x - x'|² over pairs of responses is twice the variance.
    centred = subject.features - cloud.weights @ subject.features
    within = 2 * float(cloud.weights @ (centred**2).sum(axis=1))
    scale = 1.0 if normalisation == "none" else within
    return FeaturedSpace(structure, subject.features, scale, _profiles(structure))


def in_order(a: FeaturedSpace, b: FeaturedSpace) -> tuple[FeaturedSpace, FeaturedSpace]:
    """The two in the order of their content, so that ties are broken alike from both sides.

    Features made of labels are equal for many responses, and so are then the vertices of a step.
    """
    one, other = ((each.features.tobytes(), each.space.costs.tobytes()) for each in (a, b))
    return (a, b) if one <= other else (b, a)


def common_scale(a: FeaturedSpace, b: FeaturedSpace) -> tuple[Array, Array]:
    """Both clouds' features, divided so that |x - x'|² within the clouds is 1 in the mean."""
    scale = (a.scale + b.scale) / 2 or 1.0  # zero: in each cloud all features are equal
    return a.features / np.sqrt(scale), b.features / np.sqrt(scale)


def feature_cost(x: Array, y: Array) -> Array:
    """[n, m]: the squared Euclidean distances."""
    from scipy.spatial.distance import cdist

    cost: Array = cdist(x, y, "sqeuclidean")
    return cost


def starting_plan(start: Start, a: FeaturedSpace, b: FeaturedSpace, cost: Array) -> Array:
    """[n, m]: the coupling of this name, where `cost` is that of the features."""
    if start == "product":
        return np.outer(a.space.weights, b.space.weights)
    return best_plan(a, b, cost if start == "wasserstein" else feature_cost(a.profiles, b.profiles))


def best_plan(a: FeaturedSpace, b: FeaturedSpace, cost: Array) -> Array:
    """[n, m]: a coupling T of least Σ cost · T."""
    import ot

    plan: Array = ot.emd(a.space.weights, b.space.weights, cost, numItermax=_MAX_PIVOTS)
    return plan


def descend(a: FeaturedSpace, b: FeaturedSpace, cost: Array, alpha: float, plan: Array) -> Solution:
    """The local minimum of the fused objective that conditional gradient reaches from `plan`."""
    from ot.gromov import fused_gromov_wasserstein

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # POT warns of what `converged` says
        plan, log = fused_gromov_wasserstein(
            cost,
            a.space.costs,
            b.space.costs,
            a.space.weights,
            b.space.weights,
            "square_loss",
            symmetric=True,
            alpha=alpha,
            G0=plan,
            log=True,
            max_iter=_MAX_ITERATIONS,
            tol_rel=_TOLERANCE,
            tol_abs=_TOLERANCE,
            numItermaxEmd=_MAX_PIVOTS,
        )
    iterations = len(log["loss"]) - 1
    # POT's own value is a sum of improvements, in which rounding adds up.
    value = (1 - alpha) * float(np.sum(cost * plan)) + alpha * structure_loss(a, b, plan)
    return Solution(plan, value, iterations, iterations < _MAX_ITERATIONS)


def structure_loss(a: FeaturedSpace, b: FeaturedSpace, plan: Array) -> float:
    """Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l], not negative."""
    p, q = plan.sum(axis=1), plan.sum(axis=0)
    own = p @ a.space.costs**2 @ p + q @ b.space.costs**2 @ q
    return max(0.0, float(own - 2 * np.sum((a.space.costs @ plan @ b.space.costs) * plan)))


def as_pair(
    a: FeaturedSpace,
    b: FeaturedSpace,
    found: Sequence[Solution],
    quantity: FusedQuantity,
    bound: float,
) -> Pair:
    """The best of the solutions, and how far they lie apart; the bound is one of the loss."""
    best = min(found, key=lambda each: each.loss)
    values = [of_loss(each.loss, quantity) for each in found]
    least, most = min(values), max(values)
    return Pair(
        least,
        converged=best.converged,
        iterations=best.iterations,
        bound=min(of_loss(bound, quantity), least) if np.isfinite(bound) else bound,
        starts=len(found),
        spread=(most - least) / least if least > 0 else 0.0,
        marginal_error=marginal_error(a.space.weights, b.space.weights, best.plan),
    )


def _profiles(structure: Space) -> Array:
    order = structure.costs.argsort(axis=1)
    rising = np.take_along_axis(structure.costs, order, axis=1)
    reached = structure.weights[order].cumsum(axis=1)
    at = np.array([np.searchsorted(row, _LEVELS) for row in reached])
    last = len(rising) - 1  # rounding may leave the sum of the weights below the last level
    return np.take_along_axis(rising, np.minimum(at, last), axis=1)
