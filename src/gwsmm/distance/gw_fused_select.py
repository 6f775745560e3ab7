"""Fused Gromov-Wasserstein that may suppress the features that tell the items apart."""

import math
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.gw_fused import (
    Array,
    FeaturedSpace,
    FusedQuantity,
    NodeFeatures,
    Solution,
    Starts,
    as_pair,
    common_scale,
    descend,
    feature_cost,
    featured_space,
    in_order,
    starting_plan,
    structure_loss,
)
from gwsmm.distance.space import Cost, Normalisation, title
from gwsmm.distance.subjects import CloudWithFeatures
from gwsmm.types import STRICT, InputError, Pair

Penalty = Literal["lasso", "ridge", "simplex"]
Groups = Annotated[int, Field(ge=1)] | tuple[tuple[Annotated[int, Field(ge=0)], ...], ...]

_TOLERANCE = 1e-9
_SLIGHT = 1e-10  # of the largest cost: a strength that is lost in the rounding of the costs


@plain_dataclass(frozen=True, eq=False)
class Selection:
    """Where an alternation ended.

    Attributes:
        solution: the coupling and the objective, penalty included.
        weights: suppression weight of each feature, 0: kept, 1: suppressed.
        trace: the objective after every half step since the weights were first set.
    """

    solution: Solution
    weights: Array
    trace: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwFusedSelect:
    """min over T and w of (1 − α) Σ_r (1 − w_r) c_r(T) + α G(T) + λ R(w), 0 ≤ w ≤ 1.

    G is the Gromov-Wasserstein term, c_r(T) = Σ |x_i^r − y_j^r|² T[i, j] the cost of feature r, and
    both are scaled as in `GwFused`. This is our reading of "fused GW with feature selection" (Lee,
    Yu, Li and Clark 2026), made from its abstract: check it against the paper before citing it.

    Alternating minimisation from the FGW coupling (w = 0): the weights in closed form, then the
    coupling by conditional gradient from the last one. The objective never rises, hence
    α G(T) ≤ value, and value ≤ FGW from the same start, save for the simplex with λ > 0. With
    C_r = (1 − α) c_r, `lasso` (R = Σ w_r) gives w_r = 1 if C_r > λ else 0; `ridge` (R = Σ w_r²)
    gives min(C_r / 2λ, 1); `simplex` (Σ w_r = budget, R = Σ w_r²) gives all to the largest C_r if
    λ = 0, else the Euclidean projection of C / 2λ. O(n³ log n) per iteration as `GwFused`, and
    O(n² k) per alternation. Choose it where a few features set the items apart (topic words) that
    should not keep them from a common encoder. A value of 0 does not mean equal features.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: see `GwFused`; after it all C_r sum to about 1 − α.
        quantity: `loss`: the objective, penalty included; `root`: its square root.
        alpha: 0: the features alone; 1: the distances alone.
        features: `embedding`, `label_statistics` or `label_names`; see `GwFused`.
        starts: `product`, `wasserstein` or `profiles`, each followed to its end; see `GwFused`.
        penalty: on the weights: `lasso` keeps or suppresses, `ridge` suppresses by degrees,
            `simplex` suppresses in all as much as the budget says.
        strength: λ, in the unit of a C_r.
        budget: sum of the weights under `simplex`, at most one per group; else without meaning.
        groups: features that share one weight, whose C_r is their sum: so many neighbours each,
            1: every feature by itself; or lists of feature numbers, where a feature that is in
            none is by itself.
        max_iterations: alternations at most.
    """

    cost: Cost
    normalisation: Normalisation
    quantity: FusedQuantity
    alpha: Annotated[float, Field(ge=0, le=1)]
    features: NodeFeatures
    starts: Starts
    penalty: Penalty
    strength: Annotated[float, Field(ge=0)]
    budget: Annotated[float, Field(gt=0)]
    groups: Groups
    max_iterations: Annotated[int, Field(ge=1)]

    def __post_init__(self) -> None:
        if not isinstance(self.groups, int):
            listed = [r for group in self.groups for r in group]
            if twice := [r for i, r in enumerate(listed) if r in listed[:i]]:
                raise InputError(f"distance.groups: feature {twice[0]} is there more than once")

    @property
    def compares(self) -> str:
        """Clouds, with the features that were chosen."""
        return f"clouds_with_{self.features}"

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("fsFGW", self.quantity)

    def prepare(self, subject: CloudWithFeatures) -> FeaturedSpace:
        """The cloud's cost matrix, features and profiles.

        Raises:
            InputError: a point or a feature is not finite, or a group names an unknown feature.
        """
        self.group_of(subject.features.shape[1])
        return featured_space(subject, self.cost, self.normalisation)

    def __call__(self, a: FeaturedSpace, b: FeaturedSpace) -> Pair:
        """The quantity between two clouds with features; iterations are those of the couplings."""
        a, b = in_order(a, b)
        cost = feature_cost(*common_scale(a, b))
        found = [self.select(a, b, starting_plan(start, a, b, cost)) for start in self.starts]
        solutions = [each.solution for each in found]
        return as_pair(a, b, solutions, self.quantity, bound=math.nan)

    def select(self, a: FeaturedSpace, b: FeaturedSpace, plan: Array) -> Selection:
        """The end of the alternation from this coupling."""
        x, y = common_scale(a, b)
        group_of = self.group_of(x.shape[1])
        step = descend(a, b, feature_cost(x, y), self.alpha, plan)
        iterations, steady = step.iterations, step.converged
        costs, structure = self._terms(a, b, x, y, group_of, step.plan)
        weights = suppression(costs, self.penalty, self.strength, self.budget)
        trace = [self._objective(costs, structure, weights)]
        settled = False
        for _ in range(self.max_iterations):
            kept = np.sqrt(1 - weights)[group_of]
            step = descend(a, b, feature_cost(x * kept, y * kept), self.alpha, step.plan)
            iterations, steady = iterations + step.iterations, step.converged
            costs, structure = self._terms(a, b, x, y, group_of, step.plan)
            trace.append(self._objective(costs, structure, weights))
            weights = suppression(costs, self.penalty, self.strength, self.budget)
            trace.append(self._objective(costs, structure, weights))
            settled = trace[-3] - trace[-1] <= _TOLERANCE * trace[-3]
            if settled:
                break
        solution = Solution(step.plan, trace[-1], iterations, settled and steady)
        return Selection(solution, weights[group_of], tuple(trace))

    def group_of(self, k: int) -> NDArray[np.intp]:
        """[k]: the number of each feature's group.

        Raises:
            InputError: a group names a feature that is not there.
        """
        if isinstance(self.groups, int):
            return np.arange(k) // self.groups
        leader = np.arange(k)  # the first feature of each group
        for group in self.groups:
            if unknown := [r for r in group if r >= k]:
                raise InputError(
                    f"distance.groups: there is no feature {unknown[0]}; the items have {k}, "
                    "numbered from 0"
                )
            leader[list(group)] = group[:1]
        return np.unique(leader, return_inverse=True)[1]

    def _terms(
        self,
        a: FeaturedSpace,
        b: FeaturedSpace,
        x: Array,
        y: Array,
        group_of: NDArray[np.intp],
        plan: Array,
    ) -> tuple[Array, float]:
        """The scaled feature cost of each group, and the scaled structure term."""
        each = (1 - self.alpha) * cost_by_feature(x, y, plan)
        costs = np.zeros(group_of.max() + 1)
        np.add.at(costs, group_of, each)
        return costs, self.alpha * structure_loss(a, b, plan)

    def _objective(self, costs: Array, structure: float, weights: Array) -> float:
        penalty = weights.sum() if self.penalty == "lasso" else (weights**2).sum()
        return float((1 - weights) @ costs + structure + self.strength * penalty)


def cost_by_feature(x: Array, y: Array, plan: Array) -> Array:
    """[k]: Σ |x_i^r − y_j^r|² T[i, j] of each feature r, without an array of n · m · k numbers."""
    p, q = plan.sum(axis=1), plan.sum(axis=0)
    centre = (p @ x + q @ y) / 2  # smaller numbers, of which less is lost in the difference
    x, y = x - centre, y - centre
    costs: Array = p @ x**2 + q @ y**2 - 2 * np.sum(x * (plan @ y), axis=0)
    return costs.clip(min=0)


def suppression(costs: Array, penalty: Penalty, strength: float, budget: float) -> Array:
    """The weights in [0, 1] that minimise −Σ w_r C_r + λ R(w); under `simplex` of this sum."""
    if penalty == "lasso":
        return (costs > strength).astype(np.float64)
    if penalty == "ridge":
        if strength == 0:
            return (costs > 0).astype(np.float64)
        return (costs / (2 * strength)).clip(max=1)
    total = min(budget, len(costs))
    if 2 * strength <= _SLIGHT * costs.max():
        weights = np.empty(len(costs))
        weights[np.argsort(-costs, kind="stable")] = np.clip(total - np.arange(len(costs)), 0, 1)
        return weights
    # w = clip((C − τ) / 2λ, 0, 1): its sum is linear between the τ where a weight meets 0 or 1.
    corners = np.sort(np.concatenate([costs, costs - 2 * strength]))[::-1]
    sums = np.clip((costs - corners[:, None]) / (2 * strength), 0, 1).sum(axis=1)
    threshold = float(np.interp(total, sums, corners))
    return ((costs - threshold) / (2 * strength)).clip(0, 1)
