"""The second lower bound of the Gromov-Wasserstein loss."""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.bounds import distance_signature
from gwsmm.distance.space import Cost, Normalisation, Quantity, of_loss, space, title
from gwsmm.types import STRICT, Cloud, Pair


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwSlb:
    """W2² in one dimension between the distributions of all distances within two clouds.

    It is below the loss Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l] of every coupling T, as T ⊗ T
    couples the two distributions, and below the third bound. O(n² (d + log n)) per cloud and
    O(bins) per pair: choose it to screen very many pairs, or where only the histogram of distances
    matters. Clouds whose distances are the same in another arrangement are at zero.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; with `none` the
            spread of the features weighs as much as their shape.
        quantity: `loss`: of the loss; `root`: of its square root; `half_root`: of half the root.
        bins: parts of [0, 1] over which a quantile function is averaged; averages only lower the
            bound, and no longer do where bins are a multiple of both
            clouds' squared sizes (uniform weights).

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
        return f"{title('GW', self.quantity)}, second lower bound"

    def prepare(self, subject: Cloud) -> NDArray[np.float64]:
        """[bins]: see `distance_signature`."""
        return distance_signature(space(subject, self.cost, self.normalisation), self.bins)

    def __call__(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> Pair:
        """The bound for two signatures."""
        value = of_loss(float(((a - b) ** 2).sum()), self.quantity)
        return Pair(value, bound=value)
