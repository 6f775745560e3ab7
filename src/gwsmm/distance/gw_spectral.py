"""A lower bound of the Gromov-Wasserstein loss from spectra."""

from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.bounds import spectral_signature
from gwsmm.distance.space import Cost, Normalisation, Quantity, of_loss, space, title
from gwsmm.types import STRICT, Cloud, Pair


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GwSpectral:
    """2 W2²(r1, r2) + 2 (mean r1 − mean r2)² + 4 |λ1 − λ2|² of two clouds.

    With r the points' squared distances from the cloud's centre, in the space where the costs are
    squared Euclidean, and λ its variances along the principal axes, falling. It is below the loss
    Σ (C1[i, k] − C2[j, l])² T[i, j] T[k, l] of every coupling T, which is the sum of such terms for
    centred costs; the nearest of the bounds in practice where clouds have the same spread and
    another shape, and neither always above nor always below the others. O(n³) per cloud and
    O(bins + eigenvalues) per pair: choose it to screen very many pairs.

    Attributes:
        cost: distance within a cloud; `cosine` is one minus the cosine.
        normalisation: divide each cloud's costs by their mean, median or max; with `none` the
            spread of the features weighs as much as their shape.
        quantity: `loss`: of the loss; `root`: of its square root; `half_root`: of half the root.
        bins: parts of [0, 1] over which the quantile function of r is averaged; averages only
            lower the bound.
        eigenvalues: how many of the largest are compared; fewer only lower the bound.

    Source: see `spectral_signature`.
    """

    compares: ClassVar[str] = "clouds"

    cost: Cost
    normalisation: Normalisation
    quantity: Quantity
    bins: Annotated[int, Field(ge=1)]
    eigenvalues: Annotated[int, Field(ge=1)]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return f"{title('GW', self.quantity)}, spectral lower bound"

    def prepare(self, subject: Cloud) -> NDArray[np.float64]:
        """[bins + 1 + eigenvalues]: see `spectral_signature`."""
        costs = space(subject, self.cost, self.normalisation)
        return spectral_signature(costs, self.bins, self.eigenvalues)

    def __call__(self, a: NDArray[np.float64], b: NDArray[np.float64]) -> Pair:
        """The bound for two signatures."""
        value = of_loss(float(((a - b) ** 2).sum()), self.quantity)
        return Pair(value, bound=value)
