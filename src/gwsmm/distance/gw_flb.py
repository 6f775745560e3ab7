"""The first lower bound of the Gromov-Wasserstein loss."""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.bounds import eccentricity_signature
from gwsmm.distance.space import Cost, Normalisation, Quantity, of_loss, space, title
from gwsmm.types import STRICT, Cloud, Pair


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwFlb:
    """W2² in one dimension between the eccentricities e(i) = √(Σ C[i, k]² w[k]) of two clouds.

    It is below the loss Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l] of every coupling T: for fixed i
    and j the root of Σ (C1[i, k] − C2[j, l])² T[k, l] is at least |e1(i) − e2(j)| (triangle
    inequality), and the sum of |e1(i) − e2(j)|² T[i, j] is least for sorted eccentricities. Also
    below the third bound, and neither always above nor always below the second. O(n² d) per
    cloud and O(bins) per pair: choose it to screen very many pairs. It sees which points are far
    out, and nothing of which points are near one another; zero does not mean equal clouds.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; with `none` the
            spread of the features weighs as much as their shape.
        quantity: `loss`: of the loss; `root`: of its square root; `half_root`: of half the root.
        bins: parts of [0, 1] over which a quantile function is averaged; averages only lower the
            bound, and no longer do where bins are a multiple of both
            clouds' sizes (uniform weights).

    Source: Mémoli (2011), "Gromov-Wasserstein distances and the metric approach to object
    matching", section 6.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    bins: Annotated[int, Field(ge=1)]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return f"{title('GW', self.quantity)}, first lower bound"

    def prepare(self, subject: Cloud) -> NDArray[np.float64]:
        """[bins]: see `eccentricity_signature`."""
        return eccentricity_signature(space(subject, self.cost, self.normalisation), self.bins)

    def __call__(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> Pair:
        """The bound for two signatures."""
        value = of_loss(float(((a - b) ** 2).sum()), self.quantity)
        return Pair(value, bound=value)
