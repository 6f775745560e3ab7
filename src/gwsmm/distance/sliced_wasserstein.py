"""Sliced Wasserstein: how far mass moves between two clouds, in the encoders' own coordinates."""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from gwsmm.distance.space import check_finite, of_loss, title
from gwsmm.types import STRICT, Cloud, Pair


@plain_dataclass(frozen=True, eq=False)
class Shadows:
    """A cloud on lines: positions [n, number of lines] and weights [n] that sum to one."""

    positions: NDArray[np.float64]
    weights: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SlicedWasserstein:
    """The mean over directions θ of W₂²(θᵀx, θᵀy), the least cost Σ T[i, j] (θᵀxᵢ − θᵀyⱼ)².

    The directions are drawn uniformly from the sphere, the same for every pair; on a line the
    least cost is that of sorted points. Each item has its own responses, as many as it has, with
    weights. Unchanged by translating both clouds alike, up to the draw by rotating both, and NOT
    by translating or rotating one: coordinates are compared as they are. That has a meaning
    because all encoders start from the same pretrained model; across models it has none.
    O(n d p) per item and O(n p log n) per pair for p directions.

    Choose it to see what forgetting coordinates, as Gromov-Wasserstein does, gains or loses.

    Attributes:
        projections: p; the error of the draw falls as 1 / √p.
        seed: of the draw.
        quantity: `loss`: the mean of W₂², or `root`: its square root, which keeps the triangle
            inequality.

    Source: Rabin et al. (2011); Bonneel et al. (2015); POT `ot.lp.wasserstein_1d`.
    """

    compares: ClassVar[str] = "clouds"

    projections: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    quantity: Literal["loss", "root"]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return title("sliced W2", self.quantity)

    def prepare(self, subject: Cloud) -> Shadows:
        """The cloud on every line.

        Raises:
            InputError: a feature is not finite.
        """
        check_finite(subject)
        random = np.random.default_rng(self.seed)
        lines = random.normal(size=(subject.points.shape[1], self.projections))
        lines /= np.linalg.norm(lines, axis=0)
        return Shadows(subject.points @ lines, subject.weights)

    def __call__(self, a: Shadows, b: Shadows) -> Pair:
        """The quantity between two clouds."""
        from ot.lp import wasserstein_1d

        costs = wasserstein_1d(a.positions, b.positions, a.weights, b.weights, p=2)
        return Pair(of_loss(float(np.mean(costs)), self.quantity))
