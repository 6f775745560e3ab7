"""Gromov-Wasserstein smoothed by an entropy, which finds better minima than one exact start."""

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.sinkhorn import Array, Scaled, rounded, sinkhorn
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

_RATIO = 0.7  # of one ε of the annealing to the one before
_TOLERANCE = 1e-5  # of the loss, in units of the costs' variance, and of the marginals' L1 error
_COARSE = 1e-2  # of the marginals' L1 error while ε still falls
_MAX_ITERATIONS = 500
_MAX_SINKHORN = 50  # per iteration; the next one goes on from its potentials


@plain_dataclass(frozen=True, eq=False)
class Prepared:
    """A space with what every pair asks of it.

    Attributes:
        space: costs and weights; points of no weight left out.
        variance: of the costs under the weights.
        own: the pair of the space with itself, by its loss; nothing where it is not asked for.
    """

    space: Space
    variance: float
    own: Pair


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwEntropic:
    """The loss Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l] of the T with the least loss − ε H(T).

    H is the entropy −Σ T log T, or, with the same minimiser, minus the divergence from the product
    coupling. From that coupling on, T becomes the coupling that Sinkhorn's algorithm finds for the
    gradient of the loss at T, first at an ε of the costs' variance, then, step by step, at 0.7 of
    the one before, down to `epsilon`, where it is repeated. For the costs offered here the loss is
    concave on the couplings (Euclidean, squared Euclidean and cosine distances are conditionally
    negative definite), so that such a step can only lower the objective. Annealing takes T past
    poor local minima: at a small ε the loss is often below that of exact descent from one start.

    The plan is rounded to the exact marginals and the value is its loss without the entropy: the
    value, unless debiased, is an upper bound of the least loss. `converged`: in the last step the
    objective changed by at most 1e-5 of the costs' variance (the mean of the two spaces), and
    before rounding the plan missed the marginals by at most 1e-5 of the mass.

    O(n³) per iteration, for two matrix products and Newton's steps, O(n²) memory; d enters the
    costs alone. Choose it where a blurred comparison is wanted that noise in single responses does
    not move, or as a second opinion on the exact solver. An ε near one compares little but means.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max.
        quantity: `loss`, `root` or `half_root`; see `Published`.
        method: `pgd`: mirror descent, which ends at a minimum of loss − ε H; `ppa`: from there
            proximal steps, each with ε times the divergence from the plan before in the entropy's
            place; they end near a minimum of the loss itself, at or below that of `pgd`.
        epsilon: in units of the mean of the two spaces' variances of costs, and so the same for
            raw and for normalised costs.
        debias: subtract the mean of the two values of each space against itself, which entropy
            keeps above zero, and clip at zero. Equal clouds then get zero, but the value bounds the
            least loss from neither side, and it can be zero for clouds that differ by less than
            the blur.

    Source: Peyré, Cuturi and Solomon (2016), Gromov-Wasserstein averaging of kernel and distance
    matrices, section 3; Xu, Luo, Zha and Carin (2019), Gromov-Wasserstein learning for graph
    matching and node embedding, section 3.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    method: Literal["pgd", "ppa"]
    epsilon: Annotated[float, Field(gt=0)]
    debias: bool

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        name = {"pgd": "entropic GW", "ppa": "proximal GW"}[self.method]
        return title(f"debiased {name}" if self.debias else name, self.quantity)

    def prepare(self, subject: Cloud) -> Prepared:
        """The costs, their variance and, to debias, the loss against itself."""
        whole = space(subject, self.cost, self.normalisation)
        kept = whole.weights > 0  # a logarithm is taken of them
        each = Space(whole.costs[np.ix_(kept, kept)], whole.weights[kept])
        mean = each.weights @ each.costs @ each.weights
        variance = float(each.weights @ (each.costs - mean) ** 2 @ each.weights)
        own = self._solve(each, each, variance) if self.debias else Pair(0.0)
        return Prepared(each, variance, own)

    def __call__(self, a: Prepared, b: Prepared) -> Pair:
        """The quantity between two spaces, the same in either order."""
        a, b = sorted((a, b), key=lambda each: (len(each.space.weights), each.variance))
        found = self._solve(a.space, b.space, (a.variance + b.variance) / 2)
        return Pair(
            of_loss(found.value - (a.own.value + b.own.value) / 2, self.quantity),
            converged=found.converged and a.own.converged and b.own.converged,
            iterations=found.iterations,
            marginal_error=found.marginal_error,
        )

    def _solve(self, a: Space, b: Space, variance: float) -> Pair:
        """The loss of the rounded plan."""
        if variance == 0:  # all costs are zero, and so is the loss of any coupling
            return Pair(0.0)
        problem = _Problem(a, b, variance, self.epsilon)
        state = problem.mirror_descent()
        return problem.rounded(problem.proximal_point(state) if self.method == "ppa" else state)


@plain_dataclass(frozen=True, eq=False)
class _State:
    """A plan on the way.

    Attributes:
        costs: what Sinkhorn's algorithm was given.
        scaled: what it made of them.
        product: C1 T C2 of its plan T.
        iterations: so far.
        converged: as `GwEntropic` says.
    """

    costs: Array
    scaled: Scaled
    product: Array
    iterations: int
    converged: bool


class _Problem:
    """Two spaces and how much entropy their coupling is given."""

    def __init__(self, a: Space, b: Space, variance: float, epsilon: float) -> None:
        self.a, self.b = a, b
        self.variance, self.epsilon = variance, epsilon * variance
        self.enough = _TOLERANCE * variance

    def mirror_descent(self) -> _State:
        """From the product coupling, by falling ε, to a minimum of loss − ε H."""
        n, m = len(self.a.weights), len(self.b.weights)
        product = np.outer(self.a.costs @ self.a.weights, self.b.weights @ self.b.costs)
        potentials, before = np.zeros(m), np.inf
        epsilon = max(self.variance, self.epsilon)
        for iterations in range(1, _MAX_ITERATIONS + 1):
            last = epsilon == self.epsilon
            state = self._step(np.zeros((n, m)), product, epsilon, potentials, iterations)
            plan = state.scaled.plan
            objective = self._loss(plan, state.product) + epsilon * _information(plan)
            if last and self._settled(before - objective, state):
                return replace(state, converged=True)
            before = objective if last else np.inf
            product, potentials = state.product, state.scaled.g
            epsilon = max(self.epsilon, _RATIO * epsilon)
        return state

    def proximal_point(self, state: _State) -> _State:
        """From there, each step with the divergence from the plan before in the entropy's place."""
        before, reached = self._loss(state.scaled.plan, state.product), state.converged
        for iterations in range(state.iterations + 1, _MAX_ITERATIONS + 1):
            scaled = state.scaled
            kept = state.costs - scaled.f[:, None] - scaled.g  # -ε log T
            state = self._step(kept, state.product, self.epsilon, scaled.g, iterations)
            loss = self._loss(state.scaled.plan, state.product)
            if self._settled(before - loss, state):
                return replace(state, converged=reached)
            before = loss
        return replace(state, converged=False)

    def rounded(self, state: _State) -> Pair:
        """The loss of the coupling nearby."""
        p, q = self.a.weights, self.b.weights
        plan = rounded(state.scaled.plan, p, q)
        return Pair(
            self._loss(plan, self.a.costs @ plan @ self.b.costs),
            converged=state.converged,
            iterations=state.iterations,
            marginal_error=marginal_error(p, q, plan),
        )

    def _step(
        self, kept: Array, product: Array, epsilon: float, potentials: Array, iterations: int
    ) -> _State:
        """The coupling of least <gradient + kept, T> − ε H(T)."""
        costs = kept - 4 * product  # the gradient's other terms have one index: marginals fix them
        scaled = sinkhorn(
            costs,
            (self.a.weights, self.b.weights),
            epsilon,
            g=potentials,
            tolerance=_TOLERANCE if epsilon == self.epsilon else _COARSE,
            limit=_MAX_SINKHORN,
        )
        product = self.a.costs @ scaled.plan @ self.b.costs
        return _State(costs, scaled, product, iterations, converged=False)

    def _settled(self, gain: float, state: _State) -> bool:
        return abs(gain) <= self.enough and state.scaled.error <= _TOLERANCE

    def _loss(self, plan: Array, product: Array) -> float:
        """Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l], given the product C1 T C2."""
        p, q = plan.sum(1), plan.sum(0)
        squares = p @ self.a.costs**2 @ p + q @ self.b.costs**2 @ q
        return float(squares - 2 * np.vdot(product, plan))


def _information(plan: Array) -> float:
    """Σ T log T, minus the entropy."""
    return float(np.vdot(plan, np.log(np.maximum(plan, np.finfo(float).tiny))))
