"""Centred kernel alignment: how alike two encoders place the same responses."""

from dataclasses import dataclass as plain_dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from gwsmm.distance.space import check_finite
from gwsmm.types import STRICT, Cloud, InputError, Pair

_ROUNDING = 1e-12


@plain_dataclass(frozen=True, eq=False)
class Rows:
    """What one encoder makes of the common responses.

    Attributes:
        name: the item's.
        n: how many responses.
        values: of the responses [n, d], or of their pairs [n · (n − 1) / 2].
    """

    name: str
    n: int
    values: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Cka:
    """1 − HSIC(X, Y) / √(HSIC(X, X) · HSIC(Y, Y)), with HSIC(X, Y) = ‖Xᵀ Y‖²_F: linear CKA.

    X [n, d] and Y [n, e] are the features of the same n responses under two encoders, every column
    centred. Unchanged by translation, rotation, reflection and isotropic scaling of either cloud,
    but not by other linear maps; every response counts alike. A cloud whose points are all equal
    is 1 from any other and 0 from another such. O(n d e) per pair, O(n² (d + e)) where d or e ≥ n.

    The usual first choice for encoders that read the same input; the directions of largest
    variance decide.

    Attributes:
        debiased: estimate each HSIC without bias, which needs four responses. Without it the value
            is in [0, 1] and features that have nothing in common look alike unless n is many times
            d: independent normal ones are 0.57 apart at n = 512, d = 384. With it they are 1 apart
            on average, and the value is in [0, 2].

    Source: Kornblith et al. (2019), section 3; the estimate: Song et al. (2012), in the
    feature-space form of the code of Kornblith et al.
    """

    compares: ClassVar[str] = "common"

    debiased: bool

    @property
    def title(self) -> str:
        """The quantity under a name of its own."""
        return "1 - debiased linear CKA" if self.debiased else "1 - linear CKA"

    def prepare(self, subject: Cloud) -> Rows:
        """The features, scaled so that HSIC(X, X) = 1, or zero where it is.

        Raises:
            InputError: a feature is not finite, or there are fewer than four responses to debias.
        """
        rows = centred(subject)
        if self.debiased and rows.n < 4:
            raise InputError(
                f"item {rows.name!r}: debiased CKA needs four common responses, not {rows.n}: "
                "set distance.debiased=false or features.common=512"
            )
        own = _hsic(rows.values, rows.values, self.debiased)
        scale = own**-0.25 if own > _ROUNDING else 0.0
        return Rows(rows.name, rows.n, rows.values * scale)

    def __call__(self, a: Rows, b: Rows) -> Pair:
        """One minus the alignment of two encoders."""
        check_same(a, b)
        if not a.values.any() and not b.values.any():
            return Pair(0.0)
        return Pair(max(0.0, 1 - _hsic(a.values, b.values, self.debiased)))


def centred(cloud: Cloud) -> Rows:
    """The features less their mean, ‖values‖_F = 1; zero where all points are equal.

    Raises:
        InputError: a feature is not finite.
    """
    check_finite(cloud)
    points = cloud.points - cloud.points.mean(axis=0)
    spread = float(np.linalg.norm(points))
    if spread <= _ROUNDING * float(np.linalg.norm(cloud.points)):  # that of the mean, no spread
        return Rows(cloud.name, len(points), np.zeros_like(points))
    return Rows(cloud.name, len(points), points / spread)


def check_same(a: Rows, b: Rows) -> None:
    """Refuse clouds that cannot be of the same responses.

    Raises:
        InputError: they have different numbers of rows.
    """
    if a.n != b.n:
        raise InputError(
            f"items {a.name!r} and {b.name!r}: {a.n} and {b.n} rows of features are not of the "
            "same responses: give each encoder the same texts in the same order"
        )


def _hsic(x: NDArray[np.float64], y: NDArray[np.float64], debiased: bool) -> float:
    """Σ K ∘ L of the Gram matrices K = X Xᵀ and L = Y Yᵀ, up to a factor that CKA is free of."""
    n = len(x)
    if max(x.shape[1], y.shape[1]) < n:
        biased = float(np.sum((x.T @ y) ** 2))
    else:
        biased = float(np.sum((x @ x.T) * (y @ y.T)))
    if not debiased:
        return biased
    # Song et al. leave the diagonals out; these are they.
    own_x, own_y = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
    together = float(own_x.sum() * own_y.sum()) / ((n - 1) * (n - 2))
    return biased - n / (n - 2) * float(own_x @ own_y) + together
