"""Gromov-Wasserstein over couplings of low nonnegative rank."""

from dataclasses import dataclass as plain
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.anchors import (
    Anchored,
    anchored,
    explore,
    in_order,
    lifted,
    lower_bound,
    spread,
)
from gwsmm.distance.descent import descend
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

Array = NDArray[Any]

_STARTS = 24  # between the clusters
_LIFTED = 3  # of the best starts that go on to all points, each with the groups of either cloud
_ASCENDED = 2  # of these, after a first matching for fixed masses
_SHIFTS = (0.5, 0.1, 0.02, 0.004)  # largest relative change of a group's mass, tried in this order
_TOLERANCE = 1e-5  # a relative gain below this is none
_STEPS = 500


@plain(frozen=True, eq=False)
class Grouped:
    """A space with its clusters and its costs as the product of matrices.

    Attributes:
        anchored: the space and its clusters.
        factors: their product is the cost matrix: two of d + 2 columns for squared Euclidean costs
            of many points, else the matrix itself.
    """

    anchored: Anchored
    factors: tuple[Array, ...]

    def costs_times(self, columns: Array) -> Array:
        """[n, r]: the cost matrix times these columns."""
        for factor in reversed(self.factors):
            columns = factor @ columns
        return columns

    @property
    def is_fine(self) -> bool:
        """No cluster holds two different points."""
        return not self.anchored.anchors.space.costs.diagonal().any()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwLowrank:
    """The loss Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l] over couplings T = Q diag(1/g) Rᵀ.

    Q [n, r] and R [m, r] are nonnegative and couple the points of each cloud with r groups of
    masses g. T is blurred: its loss is an upper bound of the unrestricted one, whose least value
    falls with r, and a cloud is at zero from itself only where r is at least its points.

    The best of many couplings between r k-means clusters of each cloud are lifted. From there R and
    Q by turns solve the linear problem at their gradient, a full conditional gradient step on a
    function that is convex in each, and g moves by mirror ascent, with Q and R following. Only
    gains are accepted: no value is above that of its start. The network simplex makes all marginals
    exact. Where r is at least the distinct points of one cloud, every coupling has this form and
    the unrestricted descent of `gw_exact` is used.

    A step is O(r (n + m) d) for squared Euclidean costs, whose matrix factorises exactly with d + 2
    columns, O(r (n² + m²)) for others, and two linear problems of r (n + m) arcs; preparing a cloud
    is O(n² d). Choose it to compare clouds by their coarse shape, or for several thousand points;
    `gw_exact` is lower and no slower up to a thousand.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; with `none` the
            spread of the features weighs as much as their shape.
        quantity: `loss`: the objective; `root`: its square root; `half_root`: half the root.
        rank: r, the number of groups.
        seed: of the random starts between the clusters.

    Source: problem and factorisation: Scetbon, Peyré and Cuturi (2022), "Linear-time Gromov
    Wasserstein distances using low rank couplings and costs"; the steps of Q and R are those of
    Vayer et al. (2019), algorithm 2, in place of their mirror descent.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    rank: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return f"{title('GW', self.quantity)}, rank {self.rank}"

    def prepare(self, subject: Cloud) -> Grouped:
        """The cloud's costs and clusters."""
        whole = space(subject, self.cost, self.normalisation)
        n, d = subject.points.shape
        factored = self.cost == "squared_euclidean" and 2 * (d + 2) < n
        factors = _factors(subject.points, whole.costs) if factored else (whole.costs,)
        return Grouped(anchored(subject.points, whole, self.rank), factors)

    def __call__(self, a: Grouped, b: Grouped) -> Pair:
        """The quantity between two spaces."""
        if not in_order(a.anchored.anchors, b.anchored.anchors):  # for a symmetric value
            a, b = b, a
        one, other = a.anchored, b.anchored
        explored = explore(one.anchors, other.anchors, _STARTS, self.seed)
        couplings = [each.coupling for each in explored]
        if a.is_fine or b.is_fine:
            ended = [_unrestricted(one, other, coupling) for coupling in couplings]
        else:
            problem = _Problem(a, b)
            starts = [each for one in couplings[:_LIFTED] for each in problem.starts(one)]
            starts = sorted(map(problem.rematched, starts), key=lambda each: -each.value)
            ended = [problem.ascend(each) for each in starts[:_ASCENDED]]
        best = min(ended, key=lambda each: each.loss)
        return Pair(
            of_loss(best.loss, self.quantity),
            converged=best.converged,
            iterations=best.iterations,
            bound=of_loss(lower_bound(one.anchors, other.anchors), self.quantity),
            starts=_STARTS,
            spread=spread([each.loss for each in ended]),
            marginal_error=best.marginal_error,
        )


def _factors(points: Array, costs: Array) -> tuple[Array, Array]:
    """[n, d + 2] and [d + 2, n], whose product is the normalised squared Euclidean costs."""
    centred = points - points.mean(axis=0)  # cancels less
    squares = (centred**2).sum(axis=1)
    factor = costs.sum() / (2 * len(points) * squares.sum() or 1.0)  # of the normalisation
    ones = np.ones_like(squares)
    left = np.column_stack([squares, ones, -2 * centred]) * factor
    return left, np.column_stack([ones, squares, centred]).T


@plain(frozen=True, eq=False)
class _Found:
    """Where one start ended."""

    loss: float
    iterations: int
    converged: bool
    marginal_error: float


def _unrestricted(a: Anchored, b: Anchored, coupling: Array) -> _Found:
    """The minimum over all couplings that one of the clusters leads to."""
    found = descend(a.space, b.space, lifted(a, b, coupling))
    off = marginal_error(a.space.weights, b.space.weights, found.coupling)
    return _Found(found.loss, found.iterations, found.converged, off)


@plain(frozen=True, eq=False)
class _State:
    """Q, g and R, F = ⟨C1 T C2, T⟩ of their coupling, and its derivatives by each."""

    q: Array
    g: Array
    r: Array
    value: float
    by_q: Array
    by_g: Array
    by_r: Array


class _Problem:
    """F over Q, g and R; the loss is a constant minus 2 F."""

    def __init__(self, a: Grouped, b: Grouped) -> None:
        self.a, self.b = a, b
        self.p, self.w = a.anchored.space.weights, b.anchored.space.weights

    def starts(self, coupling: Array) -> tuple[_State, _State]:
        """A coupling of the clusters as groups that are the clusters of one cloud or the other."""
        one, other = self.a.anchored, self.b.anchored
        p, w = one.anchors.space.weights, other.anchors.space.weights
        first = self._at(one.blocks.toarray() * p, p, other.blocks @ coupling.T)
        return first, self._at(one.blocks @ coupling, w, other.blocks.toarray() * w)

    def rematched(self, state: _State) -> _State:
        """R and Q by turns anew for the same masses, until neither gains."""
        while moved := self._rematched_once(state):
            state = moved
        return state

    def ascend(self, state: _State) -> _Found:
        """From a start until no step gains."""
        steps = 1
        while (moved := self._rematched_once(state) or self._shifted(state)) and steps < _STEPS:
            state, steps = moved, steps + 1
        energy = self.a.anchored.anchors.energy + self.b.anchored.anchors.energy
        loss = energy - 2 * state.value
        return _Found(loss, steps, steps < _STEPS, self._marginal_error(state))

    def _marginal_error(self, state: _State) -> float:
        rows = state.q @ (state.r.sum(axis=0) / state.g) - self.p
        columns = state.r @ (state.q.sum(axis=0) / state.g) - self.w
        return float(max(np.abs(rows).max(), np.abs(columns).max()))

    def _rematched_once(self, state: _State) -> _State | None:
        """R, and if that gains nothing Q, anew for the same masses."""
        moved = self._at(state.q, state.g, self._vertex(self.w, state.g, state.by_r)[0])
        if _gains(moved, state):
            return moved
        moved = self._at(self._vertex(self.p, state.g, state.by_q)[0], state.g, state.r)
        return moved if _gains(moved, state) else None

    def _shifted(self, state: _State) -> _State | None:
        """Masses moved along the gradient of the best F that they allow, Q and R following."""
        duals = self._vertex(self.p, state.g, state.by_q)[1]
        duals = duals + self._vertex(self.w, state.g, state.by_r)[1]
        slope = state.by_g + duals
        slope = slope - state.g @ slope
        largest = np.abs(slope).max()
        for shift in _SHIFTS if largest > 0 else ():
            g = state.g * np.exp(shift * slope / largest)
            g /= g.sum()
            q, r = self._vertex(self.p, g, state.by_q)[0], self._vertex(self.w, g, state.by_r)[0]
            moved = self._at(q, g, r)
            if _gains(moved, state):
                return moved
        return None

    def _at(self, q: Array, g: Array, r: Array) -> _State:
        costs_q, costs_r = self.a.costs_times(q), self.b.costs_times(r)
        between_q, between_r = q.T @ costs_q, r.T @ costs_r  # summed costs between groups
        masses = np.outer(g, g)
        both = between_q * between_r / masses
        by_q = 2 * costs_q @ (between_r / masses)
        by_r = 2 * costs_r @ (between_q / masses)
        return _State(q, g, r, float(both.sum()), by_q, -2 * both.sum(axis=1) / g, by_r)

    def _vertex(self, weights: Array, g: Array, gains: Array) -> tuple[Array, Array]:
        """The coupling of points and groups with the largest Σ gains, and the groups' duals."""
        from ot.lp import emd

        coupling, log = emd(weights, g, gains.max() - gains, numItermax=10**7, log=True)
        return coupling, -log["v"]


def _gains(moved: _State, state: _State) -> bool:
    return moved.value > state.value + _TOLERANCE * abs(state.value)
