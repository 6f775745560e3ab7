"""Gromov-Wasserstein by conditional gradient from many starts, coarse to fine."""

from typing import Annotated, ClassVar

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

_TINY = 200  # arcs up to which every minimum is carried to the end
_CHEAP = 4  # that are, at least, where the points are the anchors


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwExact:
    """min over couplings T of Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l].

    Many starts descend between k-means anchors of the two clouds, where a step costs O(K³); the
    best are lifted to all points and descend there by conditional gradient with full steps (the
    loss is concave in T for these costs), sparse couplings and a linear programme that is solved
    on few arcs; at the end partners are exchanged pairwise until no exchange helps. The problem is
    NP-hard: the value is that of the best minimum found, an upper bound, at or below that of a
    single start in practice. About O(n² K) and ten to forty steps of O(n²) to O(n³). The choice
    wherever it can be afforded, up to several thousand points per cloud.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; with `none` the
            spread of the features weighs as much as their shape.
        quantity: `loss`: the objective; `root`: its square root, a metric on clouds; `half_root`:
            half the root, which POT's documentation calls the distance.
        anchors: at most, per cloud; smaller clouds are their own anchors.
        starts: between the anchors: the product, matched distance profiles, the eight ways to
            match principal axes, then random vertices.
        lifted: how many of the best go on to all points, where these are not the anchors.
        seed: of the random starts.

    Source: Peyré, Cuturi and Solomon (2016), eq. 7; Vayer et al. (2019), algorithm 2; concavity:
    Maron and Lipman (2018), theorem 1; quantised start: Chowdhury, Miller and Needham (2021).
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    anchors: Annotated[int, Field(ge=2)]
    starts: Annotated[int, Field(ge=1)]
    lifted: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("GW", self.quantity)

    def prepare(self, subject: Cloud) -> Anchored:
        """The cloud's costs and anchors."""
        costs = space(subject, self.cost, self.normalisation)
        return anchored(subject.points, costs, self.anchors)

    def __call__(self, a: Anchored, b: Anchored) -> Pair:
        """The quantity between two spaces."""
        if not in_order(a.anchors, b.anchors):
            a, b = b, a
        explored = explore(a.anchors, b.anchors, self.starts, self.seed)
        ended = [
            descend(a.space, b.space, lifted(a, b, each.coupling))
            for each in explored[: self._carried(a, b)]
        ]
        best = min(ended, key=lambda each: each.loss)
        energy = a.anchors.energy + b.anchors.energy
        return Pair(
            of_loss(best.loss, self.quantity),
            converged=best.converged,
            iterations=best.iterations,
            bound=of_loss(lower_bound(a.anchors, b.anchors), self.quantity),
            starts=self.starts,
            spread=spread([energy - 2 * each.value for each in explored]),
            marginal_error=marginal_error(a.space.weights, b.space.weights, best.coupling),
        )

    def _carried(self, a: Anchored, b: Anchored) -> int:
        """How many minima between the anchors go on to all points."""
        if len(a.labels) * len(b.labels) <= _TINY:
            return self.starts
        return max(self.lifted, _CHEAP) if a.small and b.small else self.lifted
