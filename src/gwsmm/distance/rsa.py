"""Representational similarity analysis: do two encoders find the same responses unlike?"""

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from gwsmm.distance.common import Rows, check_same
from gwsmm.distance.space import space
from gwsmm.types import STRICT, Cloud, Pair

_DIGITS = 12


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Rsa:
    """1 − the correlation of the dissimilarities c(xᵢ, xₖ) and c(yᵢ, yₖ) over the pairs i < k.

    xᵢ and yᵢ are the features of response i under two encoders. In [0, 2]. Unchanged by rotation,
    reflection and isotropic scaling of either cloud; by translation with `euclidean`; by a factor
    of its own for every response with `cosine`; by any increasing function of the dissimilarities
    with `spearman`, by any increasing linear one with `pearson`. Every response counts alike. A
    cloud whose dissimilarities are all equal has no correlation: it is 1 from any other and 0 from
    another such. O(n² d) per item, O(n²) per pair and in memory.

    Choose it where only the order of "more alike" and "less alike" should matter, and where a few
    directions of large variance would decide CKA.

    Attributes:
        correlation: `spearman` (of ranks) or `pearson`.
        cost: dissimilarity of two responses; `cosine` is one minus the cosine.

    Source: Kriegeskorte, Mur and Bandettini (2008).
    """

    compares: ClassVar[str] = "common"

    correlation: Literal["spearman", "pearson"]
    cost: Literal["euclidean", "cosine"]

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return f"1 - {self.correlation} RSA"

    def prepare(self, subject: Cloud) -> Rows:
        """The standardised dissimilarities or their ranks; see `space`."""
        from scipy.spatial.distance import squareform
        from scipy.stats import rankdata

        costs = squareform(space(subject, self.cost, "none").costs, checks=False)
        scale = 1.0 if self.cost == "cosine" else float(np.abs(subject.points).max())
        costs = np.round(costs / (scale or 1.0), _DIGITS)  # rounding must not break ties
        values = rankdata(costs) if self.correlation == "spearman" else costs
        return Rows(subject.name, len(subject.points), _standardised(values))

    def __call__(self, a: Rows, b: Rows) -> Pair:
        """One minus the correlation of two encoders' dissimilarities."""
        check_same(a, b)
        if not a.values.any() and not b.values.any():
            return Pair(0.0)
        return Pair(max(0.0, 1 - float(a.values @ b.values)))


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean zero and norm one; zero where all are equal or there are none."""
    if (values == values[:1]).all():
        return np.zeros_like(values)
    centred = values - values.mean()
    standardised: NDArray[np.float64] = centred / np.linalg.norm(centred)
    return standardised
