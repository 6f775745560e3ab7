"""Gromov-Wasserstein of many pairs at once, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass as plain
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.anchors import spread
from gwsmm.distance.descent import Descended, Start, descend, vertex
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
from gwsmm.types import STRICT, Cloud, InputError, Pair

if TYPE_CHECKING:
    from torch import Tensor

_QUANTILES = 64  # of each point's distances to the others
_WARMEST = 0.1  # where ε starts: below it the descent keeps to the basin of its start
_COOLING = 0.8
_SCALINGS = 20  # Sinkhorn iterations between two absorptions
_MAX_ROUNDS = 250  # of so many, per step
_MAX_STEPS = 1_000
_TOLERANCE = 1e-3  # of the mass: what a step still moves, and what its marginals lack
_TINY = 1e-30  # keeps a scaling finite where a kernel has underflowed


@plain(frozen=True, eq=False)
class Centred:
    """A space with its points in the order of their mean cost, and C = mean + e 1ᵀ + 1 eᵀ + R.

    Attributes:
        space: costs and weights.
        mean: of the costs under the weights.
        spread: standard deviation of the costs.
        eccentricities: e [n]: each point's mean cost, less `mean`.
        residual: R [n, n], whose weighted row sums are zero.
        profiles: [n, _QUANTILES]: quantiles of each point's costs, less their weighted mean.
    """

    space: Space
    mean: float
    spread: float
    eccentricities: NDArray[np.float64]
    residual: NDArray[np.float64]
    profiles: NDArray[np.float64]

    @property
    def rank(self) -> tuple[int, float, float]:
        """What decides which of two spaces is the first, so that a pair has one order."""
        return len(self.space.weights), self.spread, self.mean


@plain(frozen=True, eq=False)
class Problem:
    """R descents side by side, padded with points of no weight and no cost.

    Attributes:
        residuals: [R, n, n] and [R, m, m]; divided by the spread, as the eccentricities are.
        eccentricities: [R, n, 1] and [R, 1, m].
        weights: [R, n] and [R, m].
    """

    residuals: tuple[Tensor, Tensor]
    eccentricities: tuple[Tensor, Tensor]
    weights: tuple[Tensor, Tensor]

    def of(self, rows: Tensor) -> Problem:
        """The problem of these descents alone."""
        (r, s), (e, h), (p, q) = self.residuals, self.eccentricities, self.weights
        return Problem((r[rows], s[rows]), (e[rows], h[rows]), (p[rows], q[rows]))

    def similarity(self, plan: Tensor) -> Tensor:
        """R1 T R2 + e1 e2ᵀ: minus a quarter of the loss's gradient, but for rows and columns."""
        return self.residuals[0] @ plan @ self.residuals[1] + self.linear

    @property
    def linear(self) -> Tensor:
        """e1 e2ᵀ, the similarity at the product coupling."""
        return self.eccentricities[0] * self.eccentricities[1]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Batched:
    """min over couplings T of Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l], many pairs at a time.

    With C = μ + e 1ᵀ + 1 eᵀ + R as in `Centred`, the loss of a coupling is

        (μ1 − μ2)² + σ1² + σ2² − 2 ⟨R1 T R2, T⟩ − 4 e1ᵀ T e2,

    and is concave in T for the three costs, so it lies below its tangents. Each step minimises the
    tangent less ε times the entropy of T: by Sinkhorn's scalings, their potentials kept from step
    to step and absorbed in the log domain, while ε falls to its final value. A descent has
    converged when a step at the final ε moves less than 0.1 % of the mass and the marginals lack
    less than that; it then leaves the batch. Two descents per pair: from the product coupling,
    whose tangent matches the eccentricities as 1-D transport does, and from the similarity of the
    sorted distance profiles. Each plan is then rounded to its marginals and the least loss kept.

    O(n³) per step in matrix products, about thirty steps, O(n²) memory per pair and descent.
    Choose it for very many pairs where there is a GPU; on a CPU it costs some ten times
    `published` at n = 300, for lower minima, and batches gain nothing but with small clouds.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; or `none`.
        quantity: `loss`, its square `root`, or `half_root`.
        epsilon: the final weight of the entropy, as a fraction of 4 σ1 σ2, with σ the standard
            deviation of a cloud's costs.
        polish: go on from every rounded plan on the CPU, as `gw_exact` does, to a vertex that no
            step improves. Without it a value is that of an entropic plan:
            never below the polished one, and above zero for equal clouds.
        together: pairs per batch.
        device: `cpu`, `cuda`, or `auto`: `cuda` if it is there.

    Source: Peyré, Cuturi and Solomon (2016), section 2.3 (projected mirror descent); Rioux,
    Goldfeld and Kato (2024) on the centred form; Altschuler, Weed and Rigollet (2017), algorithm 2
    (rounding); Mémoli (2011) on profiles; Maron and Lipman (2018) on concavity and full steps.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    epsilon: Annotated[float, Field(gt=0, le=1)]
    polish: bool
    together: Annotated[int, Field(ge=1)]
    device: Literal["auto", "cpu", "cuda"]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("GW", self.quantity)

    def prepare(self, subject: Cloud) -> Centred:
        """The cloud's costs, sorted and centred.

        Raises:
            InputError: a feature is not finite, or there is no CUDA device where one is asked for.
        """
        self._place()
        return _centred(space(subject, self.cost, self.normalisation))

    def __call__(self, a: Centred, b: Centred) -> Pair:
        """The quantity between two spaces."""
        return self.solve([(a, b)])[0]

    def solve(self, pairs: Sequence[tuple[Centred, Centred]]) -> list[Pair]:
        """The quantity of each pair, whatever else is in the batch."""
        ordered = [(a, b) if a.rank <= b.rank else (b, a) for a, b in pairs]
        batches = [ordered[at : at + self.together] for at in range(0, len(pairs), self.together)]
        return [pair for batch in batches for pair in self._batch(batch)]

    def _place(self) -> str:
        import torch

        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise InputError(
                "distance.device=cuda, and PyTorch sees no CUDA device: set distance.device=auto"
            )
        return "cuda" if self.device != "cpu" and there else "cpu"

    def _batch(self, pairs: Sequence[tuple[Centred, Centred]]) -> list[Pair]:
        import torch

        like = torch.empty(0, device=self._place(), dtype=torch.float64)
        problem, start = _problem(pairs, like)
        plans, steps, converged = _descend(problem, start, self.epsilon)
        plans = _rounded(plans, *problem.weights)
        found = plans.cpu().numpy().reshape(2, len(pairs), *plans.shape[1:])
        steps, converged = (each.reshape(2, len(pairs)) for each in (steps, converged))
        return [
            self._least(a, b, found[:, i], steps[:, i].tolist(), converged[:, i].tolist())
            for i, (a, b) in enumerate(pairs)
        ]

    def _least(
        self,
        a: Centred,
        b: Centred,
        plans: NDArray[np.float64],
        steps: Sequence[int],
        converged: Sequence[bool],
    ) -> Pair:
        """The pair's least value over its starts."""
        ended = []
        for padded, taken, done in zip(plans, steps, converged, strict=True):
            plan = padded[: len(a.space.weights), : len(b.space.weights)]
            if self.polish:
                found = _polished(a, b, plan)
                at = found.loss, taken + found.iterations, found.converged, found.coupling
            else:
                at = _loss(a, b, plan), taken, done, plan
            ended.append((of_loss(at[0], self.quantity), *at[1:]))
        value, iterations, reached, best = min(ended, key=lambda each: each[0])
        return Pair(
            value,
            converged=reached,
            iterations=iterations,
            starts=len(ended),
            spread=spread([each[0] for each in ended]),
            marginal_error=marginal_error(a.space.weights, b.space.weights, best),
        )


def _centred(given: Space) -> Centred:
    """The space as a batch needs it; sorted, so that shuffling a cloud changes nothing at all."""
    order = np.argsort(given.costs @ given.weights, kind="stable")
    costs, weights = np.ascontiguousarray(given.costs[np.ix_(order, order)]), given.weights[order]
    means = costs @ weights
    mean = float(weights @ means)
    apart = means - mean
    near = np.argsort(costs, axis=1, kind="stable")
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    profiles = np.empty((len(weights), _QUANTILES))
    for i, row in enumerate(near):
        at = np.searchsorted(np.cumsum(weights[row]), levels)
        profiles[i] = costs[i, row[np.minimum(at, len(row) - 1)]]
    return Centred(
        Space(costs, weights),
        mean,
        float(np.sqrt(weights @ (costs - mean) ** 2 @ weights)),
        apart,
        costs - mean - apart[:, None] - apart,
        profiles - weights @ profiles,
    )


def _problem(pairs: Sequence[tuple[Centred, Centred]], like: Tensor) -> tuple[Problem, Tensor]:
    """The descents of all pairs from the product coupling, then those from the profiles."""
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))

    def both(side: Sequence[Centred], name: str) -> Tensor:
        arrays = [getattr(each, name) / (each.spread or 1.0) for each in side]
        return _padded(arrays, like).repeat(2, *[1] * arrays[0].ndim)

    def weights(side: Sequence[Centred]) -> Tensor:
        return _padded([each.space.weights for each in side], like).repeat(2, 1)

    problem = Problem(
        (both(first, "residual"), both(second, "residual")),
        (
            both(first, "eccentricities").unsqueeze(2),
            both(second, "eccentricities").unsqueeze(1),
        ),
        (weights(first), weights(second)),
    )
    start = both(first, "profiles") @ both(second, "profiles").mT / _QUANTILES
    start[: len(pairs)] = problem.linear[: len(pairs)]
    return problem, start


def _padded(arrays: Sequence[NDArray[np.float64]], like: Tensor) -> Tensor:
    """The arrays in one tensor, each followed by zeros."""
    import torch

    shape = np.max([array.shape for array in arrays], axis=0)
    padded = np.zeros((len(arrays), *shape))
    for i, array in enumerate(arrays):
        padded[i][tuple(map(slice, array.shape))] = array
    return torch.as_tensor(padded).to(like)


def _descend(problem: Problem, similarity: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Each descent's plan, how many steps it took and whether it converged."""
    import torch

    p, q = problem.weights
    plans = p.unsqueeze(2) * q.unsqueeze(1)
    steps = torch.full((len(plans),), _MAX_STEPS)
    converged = torch.zeros(len(plans), dtype=torch.bool)
    rows = torch.arange(len(plans), device=plans.device)
    plan, potential, now = plans, q.log(), max(_WARMEST, epsilon)
    for step in range(1, _MAX_STEPS + 1):
        before = plan
        plan, potential = _transport(similarity / now, p, q, potential)
        plans[rows] = plan
        if now == epsilon:
            moved = (plan - before).abs().sum((1, 2))
            going = torch.maximum(moved, _lacking(plan, p)) >= _TOLERANCE
            done = rows[~going].cpu()
            steps[done], converged[done] = step, True
            if not going.any():
                break
            if len(done):
                rows, plan, potential = rows[going], plan[going], potential[going]
                problem = problem.of(going)
                p, q = problem.weights
        similarity = problem.similarity(plan)
        cooler = max(_COOLING * now, epsilon)
        potential, now = potential * (now / cooler), cooler
    return plans, steps, converged


def _transport(scaled: Tensor, p: Tensor, q: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
    """Sinkhorn's plans for similarities in units of ε, and their column potentials.

    Each until its marginals are right: with fewer scalings the steps of the descent can cycle.
    """
    import torch

    plan, potential = torch.empty_like(scaled), potential.clone()
    rows = torch.arange(len(plan), device=plan.device)
    for _ in range(_MAX_ROUNDS):
        plan[rows], potential[rows] = _scaled(scaled[rows], p[rows], q[rows], potential[rows])
        rows = rows[_lacking(plan[rows], p[rows]) >= _TOLERANCE]
        if not len(rows):
            break
    return plan, potential


def _scaled(scaled: Tensor, p: Tensor, q: Tensor, potential: Tensor) -> tuple[Tensor, Tensor]:
    """Some scalings from a column potential, whose columns end exact.

    Both potentials once in the log domain, where nothing underflows, then scalings of the kernel
    that they leave. Points of no weight have potential −∞ and no mass.
    """
    import torch

    rows = p.log() - torch.logsumexp(scaled + potential.unsqueeze(1), 2)
    columns = q.log() - torch.logsumexp(scaled + rows.unsqueeze(2), 1)
    kernel = torch.exp(scaled + rows.unsqueeze(2) + columns.unsqueeze(1))
    v = torch.ones_like(q).unsqueeze(2)
    for _ in range(_SCALINGS):
        u = p.unsqueeze(2) / (kernel @ v).clamp_min(_TINY)
        v = q.unsqueeze(2) / (kernel.mT @ u).clamp_min(_TINY)
    return u * kernel * v.mT, columns + v.squeeze(2).log()


def _lacking(plan: Tensor, p: Tensor) -> Tensor:
    """Σ |row sum − weight| of each plan."""
    return (plan.sum(2) - p).abs().sum(1)


def _rounded(plan: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """The plans moved onto their marginals, by no more than twice what they lack."""
    plan = plan * (p / plan.sum(2).clamp_min(_TINY)).clamp_max(1).unsqueeze(2)
    plan = plan * (q / plan.sum(1).clamp_min(_TINY)).clamp_max(1).unsqueeze(1)
    lacking = (p - plan.sum(2)).clamp_min(0), (q - plan.sum(1)).clamp_min(0)
    mass = lacking[0].sum(1).clamp_min(_TINY)
    return plan + lacking[0].unsqueeze(2) * (lacking[1] / mass.unsqueeze(1)).unsqueeze(1)


def _loss(a: Centred, b: Centred, plan: NDArray[np.float64]) -> float:
    """The loss of a coupling, in O(n³)."""
    apart = (a.mean - b.mean) ** 2 + a.spread**2 + b.spread**2
    linear = a.eccentricities @ plan @ b.eccentricities
    return float(apart - 2 * np.sum(a.residual @ plan @ b.residual * plan) - 4 * linear)


def _polished(a: Centred, b: Centred, plan: NDArray[np.float64]) -> Descended:
    """The vertex that a plan leads to and that no step improves."""
    one, other = a.space, b.space
    corner = vertex(one, other, one.costs @ plan @ other.costs)
    duals = np.zeros(len(one.weights)), np.zeros(len(other.weights))
    i, j = np.nonzero(corner)
    return descend(one, other, Start(one.costs @ corner @ other.costs, duals, (i, j)))
