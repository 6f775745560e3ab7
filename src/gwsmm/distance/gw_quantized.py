"""Gromov-Wasserstein between anchors: an upper bound in milliseconds."""

from typing import Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.anchors import (
    Anchored,
    Anchors,
    anchored,
    anchors_of,
    explore,
    gradient_of,
    in_order,
    lower_bound,
    spread,
)
from gwsmm.distance.descent import loss, vertex
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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwQuantized:
    """min over couplings T that are constant on blocks of Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l].

    Each cloud is gathered around k-means anchors; many starts descend between the anchors, and the
    loss of the best, spread evenly over the points of each block, is the value. It is the loss of
    a coupling of all points, so an upper bound of the exact value; it shrinks towards it as
    anchors are added, and is not zero between equal clouds. O(n² K) per cloud, then O(K³) per
    step and pair whatever the number of points.

    With `lift`, that coupling is followed by one linear step on all points, which can only lower
    the loss (it is concave in T for these costs) and takes most of what is between it and the
    exact value: equal clouds come near zero. O(n³) per pair, a few times less than `gw_exact`.
    Choose it for hundreds of items: without lift where clouds are large and differ much.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max.
        quantity: `loss`, its `root`, or `half_root`.
        anchors: at most, per cloud.
        starts: the product, matched distance profiles, the eight ways to match principal axes,
            then random vertices.
        lift: end on all points.
        seed: of the random starts.

    Source: Chowdhury, Miller and Needham (2021), "Quantized Gromov-Wasserstein"; the block means
    as costs, which make the coarse problem a restriction of the full one, are ours.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    anchors: Annotated[int, Field(ge=2)]
    starts: Annotated[int, Field(ge=1)]
    lift: bool
    seed: Annotated[int, Field(ge=0)]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("quantized GW", self.quantity)

    def prepare(self, subject: Cloud) -> Anchored | Anchors:
        """The cloud's anchors, with all its points where they are needed."""
        costs = space(subject, self.cost, self.normalisation)
        found = anchored(subject.points, costs, self.anchors)
        return found if self.lift else found.anchors

    def __call__(self, a: Anchored | Anchors, b: Anchored | Anchors) -> Pair:
        """The quantity between two clouds."""
        from scipy.sparse import csr_array

        if not in_order(anchors_of(a), anchors_of(b)):
            a, b = b, a
        one, other = anchors_of(a), anchors_of(b)
        explored = explore(one, other, self.starts, self.seed)
        losses = [one.energy + other.energy - 2 * each.value for each in explored]
        least, error = losses[0], 0.0
        if isinstance(a, Anchored) and isinstance(b, Anchored):
            coupling = vertex(a.space, b.space, gradient_of(a, b, explored[0].coupling))
            least = loss(a.space, b.space, csr_array(coupling))
            error = marginal_error(a.space.weights, b.space.weights, coupling)
        return Pair(
            of_loss(least, self.quantity),
            iterations=explored[0].steps + self.lift,
            bound=of_loss(lower_bound(one, other), self.quantity),
            starts=self.starts,
            spread=spread(losses),
            marginal_error=error,
        )
