"""Gromov-Wasserstein of the part of two clouds that fits: outliers are left out."""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.anchors import spread
from gwsmm.distance.bounds import profile_signatures
from gwsmm.distance.space import Cost, Normalisation, Quantity, Space, of_loss, space, title
from gwsmm.types import STRICT, Cloud, Pair

_BINS = 32  # of a point's distribution of distances
_TOLERANCE = 1e-9  # of the costs' scale
_MAX_ITERATIONS = 1_000

Array = NDArray[np.float64]


@plain_dataclass(frozen=True, eq=False)
class Prepared:
    """A space with what every pair asks of it.

    Attributes:
        space: costs and weights.
        squared: [n, n], the costs' squares.
        profiles: [n, bins], the distribution of each point's distances.
    """

    space: Space
    squared: Array
    profiles: Array


@plain_dataclass(frozen=True, eq=False)
class _Ended:
    plan: Array
    loss: float
    converged: bool
    iterations: int


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwPartial:
    """min over T of Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l] where T carries `mass` in all.

    T ≥ 0 has row sums at most p and column sums at most q. Conditional gradient: each step solves
    the linear problem of the gradient at the current plan by a network simplex, with one more point
    per cloud that takes the mass left out, then minimises exactly on the segment between the two
    plans. The loss is not convex, nor, as what is left out changes, concave: the value is the
    least of the starts, an upper bound of the least loss. The starts are the product coupling, the
    plan that matches the points' distributions of distances and the two plans that these lead to
    at mass one, where nothing is left out, each scaled to `mass`.

    O(n³ log n) per iteration, O(n²) memory; d enters the costs alone. Choose it where some
    responses (empty, off topic) are unlike all others in one cloud and should not decide what is
    near; the mass left out should be at least their share, and twice that to be safe.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; the outliers count
            in all three, in the median least.
        quantity: `loss`, `root` or `half_root`; see `Published`.
        mass: share of each cloud that is compared; one: plain Gromov-Wasserstein.
        normalise: divide the loss by mass², the loss of the compared parts as clouds of their own,
            so that values of different masses compare. The least loss never falls as mass grows,
            divided or not.

    Source: Chapel, Alaya and Gasso (2020), Partial optimal transport with applications on
    positive-unlabeled learning, section 4; Gong, Nietert and Goldfeld (2025), Robust alignment via
    partial Gromov-Wasserstein distances.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    mass: Annotated[float, Field(gt=0, le=1)]
    normalise: bool

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("partial GW" if self.normalise else "undivided partial GW", self.quantity)

    def prepare(self, subject: Cloud) -> Prepared:
        """The cloud's costs and each point's distribution of distances."""
        each = space(subject, self.cost, self.normalisation)
        return Prepared(each, each.costs**2, profile_signatures(each, _BINS))

    def __call__(self, a: Prepared, b: Prepared) -> Pair:
        """The quantity between two spaces, the same in either order."""
        from scipy.spatial.distance import cdist

        a, b = sorted((a, b), key=_size)
        problem = _Problem(a, b, self.mass)
        product = np.outer(a.space.weights, b.space.weights)
        matched = problem.linear(cdist(a.profiles, b.profiles, "sqeuclidean"))
        ended = [problem.descend(self.mass * product), problem.descend(matched)]
        if self.mass < 1:
            whole = _Problem(a, b, 1.0)
            matched = whole.linear(cdist(a.profiles, b.profiles, "sqeuclidean"))
            ended += [
                problem.descend(self.mass * whole.descend(start).plan)
                for start in (product, matched)
            ]
        best = min(ended, key=lambda each: each.loss)
        loss = best.loss / self.mass**2 if self.normalise else best.loss
        return Pair(
            of_loss(loss, self.quantity),
            converged=best.converged,
            iterations=best.iterations,
            starts=len(ended),
            spread=spread([max(0.0, each.loss) for each in ended]),
            marginal_error=problem.error(best.plan),
        )


def _size(each: Prepared) -> tuple[int, float]:
    """Differs between clouds, but not with the order of their points, up to rounding."""
    return len(each.space.weights), float(each.space.weights @ each.squared @ each.space.weights)


class _Problem:
    """Two spaces and the mass of their partial coupling."""

    def __init__(self, a: Prepared, b: Prepared, mass: float) -> None:
        self.a, self.b, self.mass = a, b, mass
        self.p, self.q = (
            a.space.weights,
            b.space.weights * (a.space.weights.sum() / b.space.weights.sum()),
        )
        self.enough = _TOLERANCE * float(self.p @ a.squared @ self.p + self.q @ b.squared @ self.q)

    def linear(self, costs: Array) -> Array:
        """The partial coupling of the least Σ costs T."""
        from ot.lp import emd

        costs = costs - costs.min()  # a constant, as the mass is fixed; the solver needs costs ≥ 0
        if self.mass == 1:
            return np.asarray(emd(self.p, self.q, costs, numItermax=10**7))
        # Costs are not negative, so any positive cost of the last cell keeps it empty.
        extended = np.pad(costs, (0, 1))
        extended[-1, -1] = costs.max() or 1.0
        left = np.full(1, self.p.sum() - self.mass)
        rows, columns = np.concatenate([self.p, left]), np.concatenate([self.q, left])
        return np.asarray(emd(rows, columns, extended, numItermax=10**7)[:-1, :-1])

    def descend(self, plan: Array) -> _Ended:
        """Conditional gradient until a step gains nothing."""
        product = self._product(plan)
        for iterations in range(1, _MAX_ITERATIONS + 1):
            gradient = 2 * self._applied(plan, product)
            change = self.linear(gradient) - plan
            slope = float(np.vdot(gradient, change))
            if slope >= -self.enough:
                return _Ended(plan, self._loss(plan, product), True, iterations)
            changed = self._product(change)
            curvature = float(np.vdot(self._applied(change, changed), change))
            # The least of slope t + curvature t² on [0, 1], where the slope is negative.
            length = min(1.0, -slope / (2 * curvature)) if curvature > 0 else 1.0
            plan, product = plan + length * change, product + length * changed
        return _Ended(plan, self._loss(plan, product), False, _MAX_ITERATIONS)

    def error(self, plan: Array) -> float:
        """How far the plan misses its mass or exceeds the weights, at most."""
        rows, columns = plan.sum(1) - self.p, plan.sum(0) - self.q
        return float(max(abs(plan.sum() - self.mass), rows.max(), columns.max(), 0.0))

    def _product(self, plan: Array) -> Array:
        """C1 T C2, one of the two products over the entries of T alone where it is sparse."""
        from scipy.sparse import csr_array

        sparse = np.count_nonzero(plan) < plan.size / 10
        left = csr_array(plan) @ self.b.space.costs if sparse else plan @ self.b.space.costs
        return np.asarray(self.a.space.costs @ left)

    def _applied(self, plan: Array, product: Array) -> Array:
        """Σ (C1[i, k] − C2[j, l])² T[k, l] for all i and j: half the gradient at T."""
        rows, columns = self.a.squared @ plan.sum(1), self.b.squared @ plan.sum(0)
        applied: Array = rows[:, None] + columns - 2 * product
        return applied

    def _loss(self, plan: Array, product: Array) -> float:
        return float(np.vdot(self._applied(plan, product), plan))
