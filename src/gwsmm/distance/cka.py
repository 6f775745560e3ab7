"""Centred kernel alignment: how alike two encoders place the same responses."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from gwsmm.distance.common import ROUNDING, Rows, centred, check_same
from gwsmm.types import STRICT, Cloud, InputError, Pair


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
        scale = own**-0.25 if own > ROUNDING else 0.0
        return Rows(rows.name, rows.n, rows.values * scale)

    def __call__(self, a: Rows, b: Rows) -> Pair:
        """One minus the alignment of two encoders."""
        check_same(a, b)
        if not a.values.any() and not b.values.any():
            return Pair(0.0)
        return Pair(max(0.0, 1 - _hsic(a.values, b.values, self.debiased)))


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
